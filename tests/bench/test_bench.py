"""The command bench: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import contextmanager

import psutil
import pytest
from PIL import Image
from rich.console import Console
from tiny import tiny_prior

import latino_engine as le
from latino_engine.bench import runner, table
from latino_engine.bench.neighbour import busy_neighbour
from latino_engine.bench.options import BenchOptions
from latino_engine.bench.problem import check_plans
from latino_engine.bench.report import tables
from latino_engine.bench.runner import bench_engine
from latino_engine.bench.trace import Recorder
from latino_engine.cli import program
from latino_engine.errors import UserError
from latino_engine.manifest import MANIFEST, read_manifest, write_manifest
from latino_engine.runtimes import AHEAD_OF_TIME, installed
from latino_engine.sampling.options import Sampling

QUICK = ["--size", 16, "--repeats", 3, "--warmup", 1, "--steps", 2, "--threads", 1]
STAGES = {"prox", "noise", "denoise", "other"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16, backend="onnxruntime", threads=1)
    return path


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = program.run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_the_json_object(run, engine):
    status, out, _ = run("bench", engine, *QUICK, "--json")
    report = json.loads(out)
    assert status == 0
    assert set(report["latency_ms"]) >= {"p50", "p95", "p99"}
    assert set(report["stages_ms"]) == STAGES
    assert report["nfe"] == 2 and report["peak_bytes"] > 2**20
    assert report["machine"]["cores"] >= 1 and "torch" in report["versions"]
    latency, cold = report["latency_ms"], report["cold_start_ms"]
    assert 0 < latency["p20"] <= latency["p50"] <= latency["p95"] <= latency["p99"]
    assert min(value for name, value in report["stages_ms"].items() if name != "noise") > 0
    assert cold["total"] > cold["import"] > 0 and cold["first_sample"] > 0
    # The child is still starting when the parent's clock runs.
    assert cold["total"] > cold["import"] + cold["load"] + cold["first_sample"]
    network = report["against_peak"]["denoise"]
    rate = network["flops"] / (1e6 * network["ms"])
    assert network["gflops"] == pytest.approx(rate)
    share = 100 * rate / report["peaks"]["matrix_gflops"]
    assert network["percent_of_matrix_rate"] == pytest.approx(share)


def test_all_combinations_and_runtimes(engine):
    options = BenchOptions(
        size=(16, 20),
        batches=(1, 3),
        num_samples=(1, 2),
        backends=("all",),
        repeats=4,
        sampling=Sampling(steps=1),
        threads=1,
        cold=False,
    )
    seen = []
    measured = bench_engine(engine, options, lambda done, total: seen.append((done, total)))
    runtimes = measured.report["runtimes"]
    others = set(installed()) - {"onnxruntime", *AHEAD_OF_TIME}
    assert list(runtimes) == ["onnxruntime", *sorted(others)]  # the chosen one first
    for name, found in runtimes.items():
        sizes = [(row["batch"], row["num_samples"]) for row in found["throughput"]]
        assert sizes == [(1, 1), (1, 2), (3, 1), (3, 2)]
        assert len(measured.latencies_ms[name]) == 4
        names = [span.name for span in measured.spans[name]]
        assert names.count("sample") == 4 and names.count("denoise") == 4
        for row in found["throughput"]:
            pairs = row["batch"] * row["num_samples"]
            assert row["samples_per_s"] == pytest.approx(1e3 * pairs / row["latency_ms"]["p50"])
            latency = row["latency_ms"]
            assert latency["p50"] <= latency["p95"] <= latency["p99"]
            assert row["process_peak_bytes"] > 0
        assert found["cold_start_ms"] is None and found["peak_bytes"] > 0
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_beside_a_neighbour(run, engine, monkeypatch):
    seen = []

    @contextmanager
    def watched():
        with busy_neighbour() as process:
            seen.append(process)
            yield process

    monkeypatch.setattr(runner, "busy_neighbour", watched)
    status, out, _ = run("bench", engine, *QUICK, "--no-cold", "--neighbour", "--json")
    report = json.loads(out)
    assert status == 0 and len(seen) == 1 and not psutil.pid_exists(seen[0])
    alone, beside = report["latency_ms"], report["beside_neighbour"]
    ratio = beside["latency_ms"]["p50"] / alone["p50"]
    assert beside["times_alone"] == pytest.approx(ratio) and ratio > 0.0
    assert set(report["wait_policy"]) == {"onnxruntime and openvino", "OpenMP (torch, operators)"}
    metrics = {row["metric"]: row["unit"] for row in table.rows_of(report)}
    assert metrics["latency_beside_neighbour"] == "ms"
    assert metrics["beside_neighbour"] == "times alone"


def test_the_tables_fit_into_100_columns(run, engine):
    more = [
        "--no-cold",
        "--neighbour",
        "--batch",
        "1,2",
        "--backend",
        "all",
        "--operator",
        "sr:factor=2",
    ]
    status, out, _ = run("bench", engine, *QUICK, *more)
    assert status == 0
    assert max(len(line) for line in out.splitlines()) <= 100
    for word in (
        "times alone",
        "asleep",
        "p95",
        "denoise",
        "outside",
        "samples/s",
        "GFLOP/s",
        "onnxruntime",
    ):
        assert word in out
    combinations = [line for line in out.splitlines() if line.count("│") == 9]
    assert len(combinations) >= 4, "a line for each batch and runtime"
    assert "…" not in out and "on device" not in out


def test_memory_of_a_device_is_a_column_of_its_own(engine):
    options = BenchOptions(
        size=(16, 16), repeats=2, warmup=1, sampling=Sampling(steps=1), threads=1, cold=False
    )
    report = bench_engine(engine, options).report
    report["runtimes"]["onnxruntime"]["peak_device_bytes"] = 123_456_789
    console = Console(width=100, file=io.StringIO())
    for part in tables(report):
        console.print(part)
    text = console.file.getvalue()
    assert "on device" in text and " 123 " in text
    assert ("peak_device_memory", "bytes") in {
        (r["metric"], r["unit"]) for r in table.rows_of(report)
    }


def test_the_files(run, engine, tmp_path):
    files = {name: tmp_path / "new" / f"b.{name}" for name in ("csv", "trace", "plot")}
    named = [part for name, path in files.items() for part in (f"--{name}", path)]
    for _ in range(2):
        assert run("bench", engine, *QUICK, "--no-cold", *named)[0] == 0
    rows = table.read_rows(files["csv"])
    assert tuple(rows[0]) == table.COLUMNS
    assert [row["metric"] for row in rows].count("latency") == 2  # the second run is added
    first = rows[0]
    assert float(first["p20"]) <= float(first["value"]) <= float(first["p80"])
    assert json.loads(first["machine"])["cores"] >= 1 and first["shape"] == "1x1x16x16"
    events = json.loads(files["trace"].read_text())["traceEvents"]
    calls = [e for e in events if e["name"] == "sample"]
    inside = [e for e in events if e["name"] == "denoise"]
    assert len(calls) == 3 and len(inside) == 6  # two evaluations in each of three calls
    for event in inside:
        assert any(
            c["ts"] <= event["ts"] and event["ts"] + event["dur"] <= c["ts"] + c["dur"]
            for c in calls
        )
    assert Image.open(files["plot"]).size == (1440, 960)


def test_conjugate_gradients_are_not_counted(run, engine, tmp_path):
    grey = tmp_path / "grey.engine"
    le.compile(tiny_prior(1), grey, image_size=16, backend="onnxruntime", threads=1)
    arguments = [grey, *QUICK, "--no-cold", "--json", "--operator"]
    status, out, _ = run("bench", *arguments, "mri:acceleration=2")
    assert status == 0 and json.loads(out)["against_peak"]["prox"]["flops"] > 0
    status, out, _ = run("bench", *arguments, "jpeg:quality=30")
    assert status == 0 and json.loads(out)["against_peak"]["prox"]["flops"] > 0


MISTAKES = {
    "batch": (["--batch", 0], "error: batch: expected counts of at least 1, got '0'; write e.g. 4"),
    "batches": (["--batch", "1,x"], "error: batch: expected counts of at least 1, got '1,x'"),
    "samples": (["--num-samples", "0"], "error: num_samples: expected counts of at least 1"),
    "repeats": (["--repeats", 0], "error: repeats: expected at least 1, got 0; choose how often"),
    "warmup": (["--warmup", -1], "error: warmup: expected at least 0, got -1"),
    "size": (["--size", "big"], "error: size: expected a side such as 256, or 256x320, got 'big'"),
    "small": (["--size", "2"], "error: size: expected sides of at least 4, the multiple of 'tiny'"),
    "nothing": (["--size", "0"], "error: size: expected sides of at least 1, got 0x0"),
    "huge": (
        ["--size", "200000"],
        "error: size: expected an image that fits into the free memory, got 200000x200000",
    ),
    "many": (
        ["--batch", "9999999999"],
        "error: batch: expected images that fit into the free memory (",
    ),
    "factor": (["--operator", "sr:factor=3"], "error: x: expected"),
    "operator": (["--operator", "blurr"], "error: operator: expected one of "),
    "backend": (["--backend", "cudnn"], "error: backend: expected one of "),
    "unfold": (["--unfold", 2], "error: unfold: expected None for the sampler 'latino', got 2"),
    "device": (["--device", "tpu"], "error: device: expected None, 'cpu' or 'cuda', got 'tpu'"),
    "threads": (["--threads", 0], "error: threads: expected at least 1, got 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(run, engine, tmp_path, name):
    more, beginning = MISTAKES[name]
    status, out, err = run(
        "bench", engine, *QUICK, "--no-cold", *more, "--csv", tmp_path / "b.csv", "--json"
    )
    assert (status, out) == (2, "")
    assert err.startswith(beginning), err
    assert err.count("\n") == 1
    assert not (tmp_path / "b.csv").exists()


def test_an_engine_that_is_none(run, tmp_path):
    status, _, err = run("bench", tmp_path / "no.engine")
    assert status == 2 and err.startswith("error: engine: expected the folder of an engine, got ")


@pytest.mark.parametrize("name", ["csv", "trace", "plot"])
def test_outputs_that_cannot_be_written_are_refused_first(run, engine, tmp_path, monkeypatch, name):
    def never(*_, **__):
        raise AssertionError("measured before the output was known to be writable")

    monkeypatch.setattr("latino_engine.bench.runner.bench_engine", never)
    (tmp_path / "file").write_text("")
    status, _, err = run("bench", engine, f"--{name}", tmp_path / "file" / "out")
    assert status == 2 and err.count("\n") == 1
    assert err.startswith(f"error: {name}: cannot write {tmp_path}/file/out: a part of this path")


def test_two_outputs_are_two_files(run, engine, tmp_path):
    twice, other = tmp_path / "b.png", tmp_path / "new" / ".." / "b.png"
    status, out, err = run("bench", engine, *QUICK, "--csv", twice, "--plot", other)
    assert (status, out) == (2, "") and not twice.exists()
    assert err == (
        f"error: plot: expected another file than --csv, got {other}; choose another name\n"
    )


def test_a_csv_of_someone_else_is_left_alone(run, engine, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("a,b\n1,2\n")
    status, _, err = run("bench", engine, *QUICK, "--csv", mine)
    assert status == 2 and mine.read_text() == "a,b\n1,2\n"
    expected = f"error: csv: expected a new file or a table of measurements, got {mine}, which has"
    assert err.startswith(expected)


def edited(engine, target, **fields):
    """A copy of the engine whose manifest says something else, hashes in order."""
    shutil.copytree(engine, target)
    body = read_manifest(target)
    (target / MANIFEST).unlink()
    for name in ("files", "format_version"):
        body.pop(name)
    write_manifest(target, body | fields)
    return target


def test_a_runtime_that_the_engine_does_not_serve(run, engine):
    status, _, err = run("bench", engine, *QUICK, "--backend", "tensorrt")
    assert status == 2 and err.startswith("error: backend: expected one that ")


def test_a_runtime_that_is_not_installed(run, engine, tmp_path, monkeypatch):
    about = read_manifest(engine)["runtimes"]["onnxruntime"]
    other = edited(
        engine, tmp_path / "gpu.engine", backend="tensorrt", runtimes={"tensorrt": about}
    )
    monkeypatch.setattr("latino_engine.runtimes._present", lambda package: False)
    status, out, err = run("bench", other, *QUICK, "--json")
    assert (status, out) == (2, "")
    assert err == (
        "error: backend: expected one that is installed here, got 'tensorrt', whose package "
        "tensorrt_rtx is missing; install it with: pip install 'latino-engine[tensorrt]'\n"
    )


def test_an_engine_of_another_machine(run, engine, tmp_path, monkeypatch):
    made = {**read_manifest(engine)["machine"], "processor": "an abacus"}
    other = edited(engine, tmp_path / "other.engine", machine=made)
    monkeypatch.setattr("latino_engine.bench.runner.machine", lambda: {"processor": "a slide rule"})
    status, out, err = run("bench", other, *QUICK, "--no-cold")
    assert (status, out) == (2, "")
    assert err == (
        "error: engine: expected one that was compiled on this machine (a slide rule), got "
        "'other.engine', compiled on another (an abacus); compile it here, or measure it as it is "
        "with --any-machine\n"
    )
    status, out, _ = run("bench", other, *QUICK, "--no-cold", "--any-machine")
    assert status == 0 and "compiled on another machine" in out
    monkeypatch.undo()
    status, out, _ = run("bench", engine, *QUICK, "--no-cold")
    assert status == 0 and "compiled on another machine" not in out and "note" not in out
    status, out, _ = run("bench", engine, *QUICK, "--size", 20, "--no-cold")
    assert status == 0 and "its runtime was chosen at 16x16" in out


def test_an_engine_for_a_gpu_without_one(run, engine, tmp_path):
    about = read_manifest(engine)["runtimes"]["onnxruntime"]
    runtimes = {"tensorrt": {**about, "plans": {}}}
    other = edited(engine, tmp_path / "gpu.engine", backend="tensorrt", runtimes=runtimes)
    status, out, err = run("bench", other, *QUICK)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: backend: expected one that runs on this machine, got 'tensorrt'")


def test_a_size_that_no_plan_was_built_for(run, engine, tmp_path):
    about = read_manifest(engine)["runtimes"]["onnxruntime"]
    profiles = [
        {"batch": [1, 1, 1], "height": [16, 16, 16], "width": [32, 32, 32]},
        {"batch": [2, 4, 8], "height": [16, 64, 128], "width": [16, 64, 128]},
    ]
    plans = {"denoiser.tensorrt.sm_89.fp32.plan": {"profiles": profiles}}
    runtimes = {"tensorrt": {**about, "plans": plans}}
    other = edited(engine, tmp_path / "gpu.engine", backend="tensorrt", runtimes=runtimes)
    status, out, err = run("bench", other, *QUICK, "--size", "132x64")
    assert (status, out) == (2, "")
    assert err == (
        "error: size: expected 16x16 to 128x128, what the engine's plans were built for, got "
        "132x64; compile the engine with this --image-size\n"
    )
    check_plans(runtimes["tensorrt"], tiny_prior().spec, (125, 16))  # padded to 128


def test_calls_inside_a_graph_are_told_by_their_mean(engine, monkeypatch):
    """A replayed graph shows no block of its own: the stages of the call are all there is."""
    monkeypatch.setattr(Recorder, "lengths", hide_stages(Recorder.lengths))
    options = BenchOptions(
        size=(16, 16), repeats=3, warmup=1, sampling=Sampling(steps=2), threads=1, cold=False
    )
    found = bench_engine(engine, options).report
    mean = found["denoise_call_ms"]["p50"]
    assert 0.4 * found["stages_ms"]["denoise"] <= mean <= 0.6 * found["stages_ms"]["denoise"]


def hide_stages(lengths):
    return lambda self, name: lengths(self, name) if name == "sample" else []


def test_a_child_that_fails_is_one_sentence(run, engine, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    status, out, err = run("bench", engine, *QUICK, "--json")
    assert (status, out) == (2, "")
    assert err.startswith("error: cold start: expected a fresh process that draws one sample with")


def test_the_options_of_loading_reach_it(engine, run, monkeypatch):
    rebuilt, loaded = [], []

    def load(folder, backend, **options):
        loaded.append((backend, options))
        raise UserError("loaded")

    monkeypatch.setattr(runner, "rebuild_unfit_plans", lambda folder, name: rebuilt.append(name))
    monkeypatch.setattr(runner, "load", load)
    bench = ["bench", engine, "--backend", "torch", "--size", "16", "--threads", "1"]
    assert run(*bench)[::2] == (2, "error: loaded\n") and not rebuilt
    assert run(*bench, "--rebuild", "--torch-compile")[::2] == (2, "error: loaded\n")
    assert rebuilt == ["torch"]  # before the engine is read
    options = {"device": None, "threads": 1, "torch_compile": False}
    assert loaded == [("torch", options), ("torch", {**options, "torch_compile": True})]
