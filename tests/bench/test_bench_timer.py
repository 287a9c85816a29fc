"""The timer, the peak of memory, the listener of stages, the trace, the table and the options."""

from __future__ import annotations

import csv
import json
import mmap
import subprocess

import numpy as np
import psutil
import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.bench import peaks, table, timer
from latino_engine.bench.neighbour import busy_neighbour
from latino_engine.bench.options import BenchOptions
from latino_engine.bench.peak_memory import peak_memory, process_peak_bytes
from latino_engine.bench.trace import Recorder, Span, chrome_trace
from latino_engine.errors import UserError
from latino_engine.sampling.clock import StageClock, listening
from latino_engine.system import machine


def test_quantiles():
    times = [4.0, 1.0, 2.0, 3.0, 5.0]
    found = timer.summary(times)
    assert found["p50"] == 3.0 and found["p20"] == pytest.approx(1.8)
    assert found["p99"] == pytest.approx(4.96)


def test_providers_take_turns():
    order = []
    providers = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = timer.time_in_turn(providers, repeats=3, warmup=2)
    assert "".join(order) == "ab" * 5
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
    assert min(times["a"]) >= 0.0


def test_time_is_in_milliseconds(monkeypatch):
    moments = iter([10.0, 10.25])
    monkeypatch.setattr(timer.time, "perf_counter", lambda: next(moments))
    assert timer.time_once(lambda: None) == 250.0


def test_processor_time_is_apart_from_wall_time(monkeypatch):
    moments = {"perf_counter": iter([10.0, 10.25]), "process_time": iter([1.0, 1.5])}
    for name, found in moments.items():
        monkeypatch.setattr(timer.time, name, lambda found=found: next(found))
    assert timer.wall_and_processor(lambda: None) == (250.0, 500.0)


def test_copies_rotate():
    seen = []
    run = timer.rotating(seen.append, ["a", "b", "c"])
    for _ in range(4):
        run()
    assert seen == ["a", "b", "c", "a"]
    assert timer.cold_copies(lambda: [0], 8, "cpu") == [[0]]


def test_the_machines_rates(monkeypatch):
    monkeypatch.setattr(peaks, "time_once", lambda run, device: run() is None or 2.0)
    found = peaks.machine_peaks(threads=1)
    assert found["matrix_gflops"] == pytest.approx(2 * 1024**3 / 2e-3 / 1e9)
    assert found["copy_gb_per_s"] == pytest.approx(2 * 128 * 2**20 / 2e-3 / 1e9)


def test_peak_memory_sees_what_is_gone_again():
    size = 64 * 2**20
    with peak_memory() as peak, mmap.mmap(-1, size) as block:  # never what malloc kept from before
        np.frombuffer(block, dtype=np.uint8)[:] = 1
    assert peak.host_bytes >= peak.start_bytes + 0.9 * size
    assert peak.device_bytes is None and process_peak_bytes() >= peak.host_bytes


def test_a_listener_sees_every_stage_and_leaves():
    clock, recorder = StageClock(), Recorder()
    with listening(recorder), clock.measure("prox"):
        pass
    with clock.measure("prox"):
        pass
    assert len(recorder.lengths("prox")) == 1
    assert clock.spent["prox"] >= recorder.spans[0].ms


def test_spans_of_a_failed_block_are_kept():
    recorder = Recorder()
    with pytest.raises(ValueError, match="no"), recorder("denoise"):
        raise ValueError("no")
    assert [span.name for span in recorder.spans] == ["denoise"]


def test_the_stages_of_a_call(tmp_path):
    engine = le.compile(tiny_prior(), tmp_path / "e.engine", image_size=16, threads=1)
    op = le.Denoising(0.1)
    recorder = Recorder()
    with listening(recorder):
        post = engine.sample(torch.rand(1, 3, 16, 16), op, num_samples=1, steps=3)
    assert len(recorder.lengths("denoise")) == post.nfe == 3
    for stage in ("prox", "noise", "denoise"):
        assert sum(recorder.lengths(stage)) <= post.stages_ms[stage] <= post.time_ms


def test_chrome_trace():
    lanes = {"torch": [Span("prox", 2.0, 2.5, {"batch": 1})], "ort": [Span("prox", 1.0, 1.25)]}
    found = json.loads(chrome_trace(lanes, {"nfe": 8}))
    blocks = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert [(e["ts"], e["dur"]) for e in blocks] == [(1e6, 5e5), (0.0, 2.5e5)]
    assert blocks[0]["tid"] != blocks[1]["tid"] and blocks[0]["args"] == {"batch": 1}
    names = [e["args"]["name"] for e in found["traceEvents"] if e["ph"] == "M"]
    assert names == ["torch", "ort"] and found["otherData"] == {"nfe": 8}


def test_facts_of_the_machine():
    assert machine.machine_facts()["cores"] >= 1
    assert {"torch", "python", "system"} <= set(machine.software_versions())


def test_no_commit_outside_a_repository(tmp_path):
    assert machine.commit(tmp_path) == ""


def test_a_commit_is_dirty_where_code_differs(tmp_path):
    code, rows = tmp_path / "code.py", tmp_path / "benchmarks" / "results" / "rows.csv"
    rows.parent.mkdir(parents=True)
    for file in (code, rows):
        file.write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = machine.commit(tmp_path)
    assert len(clean) == 12
    rows.write_text("2")  # a table of measurements
    assert machine.commit(tmp_path) == clean
    code.write_text("2")
    assert machine.commit(tmp_path) == f"{clean}-dirty"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_events_and_graphs_on_a_gpu():
    a = torch.ones(64, 64, device="cuda")
    out = torch.zeros_like(a)
    assert timer.time_once(lambda: torch.mm(a, a, out=out), "cuda") > 0.0
    replay = timer.replayed(lambda: torch.mm(a, a, out=out))
    out.zero_()
    replay()
    torch.cuda.synchronize()
    assert float(out[0, 0]) == 64.0
    assert len(timer.cold_copies(lambda: a.clone(), a.numel() * 4, "cuda")) > 1


def test_the_neighbour_is_busy_and_ends():
    with busy_neighbour() as process:
        spent = [psutil.Process(process).cpu_times().user]
        while spent[-1] - spent[0] < 0.05:  # an idle one would never get there
            spent.append(psutil.Process(process).cpu_times().user)
    assert not psutil.pid_exists(process)


def test_options_in_python():
    with pytest.raises(TypeError, match="batch: expected a list of counts, got '4'"):
        BenchOptions(batches="4")
    with pytest.raises(UserError, match="num_samples: expected a list of counts"):
        BenchOptions(num_samples=())
    with pytest.raises(TypeError, match="repeats: expected an integer, got float"):
        BenchOptions(repeats=2.5)


def test_rows_of_the_table_keep_commas_and_quotes(tmp_path):
    path = tmp_path / "t.csv"
    rows = table.stamp([{"name": 'a,"b"', "value": 1.0 / 3}], "abc", {"cores": 2}, {"torch": "2"})
    path.write_bytes(table.appended(path, rows))
    path.write_bytes(table.appended(path, rows))
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2 and found[1]["name"] == 'a,"b"' and found[1]["value"] == "0.333333"
    assert found[0]["commit"] == "abc" and found[0]["status"] == "ok"
