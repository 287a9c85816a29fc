"""benchmarks.operations.gpu_kernels without a GPU: a stand-in for CUDA's clock, caches, graphs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.operations import case as operations
from benchmarks.operations import gpu_kernels
from latino_engine.bench import timer

PEAKS = {"copy_gb_per_s": 2000.0, "matrix_gflops": 60000.0}


class Event:
    """A CUDA event on the processor's clock."""

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


@pytest.fixture
def cuda(monkeypatch):
    """`measure` believes that tensors are on a GPU; gives what was waited for and captured."""
    done = {"waits": 0, "captures": 0, "copies": []}

    def wait():
        done["waits"] += 1

    def replayed(run):
        done["captures"] += 1
        return run

    monkeypatch.setattr(timer, "_event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    facts = SimpleNamespace(L2_cache_size=2**16)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(timer, "replayed", replayed)
    copies = timer.cold_copies

    def counted(make, size, device):
        made = copies(make, size, device)
        done["copies"].append((len(made), size))
        return made

    monkeypatch.setattr(timer, "cold_copies", counted)
    monkeypatch.setattr(gpu_kernels, "machine_peaks", lambda device, threads: PEAKS)
    return done


def measured(case, device, seconds):
    assert device == "cpu"
    return operations.measure(case, "cuda", seconds)


@pytest.fixture
def some_cases(monkeypatch):
    chosen = ("langevin_noise", "fourier_prox_noise", "masked_prox_noise")
    fused = gpu_kernels.fused_cases

    def few(*arguments):
        return [case for case in fused(*arguments) if case.name in chosen]

    monkeypatch.setattr(gpu_kernels, "fused_cases", few)
    return chosen


def test_calls_and_graphs_with_cold_caches(cuda, some_cases, capsys, one_thread):
    made, right = gpu_kernels.run([(1, 16)], "cpu", 0.0, False, 1, measured)
    assert right and {row["name"] for row in made} == set(some_cases)
    assert all(row["status"] == "ok" and row["suite"] == "gpu kernels" for row in made)
    modes = {(row["provider"], json.loads(row["details"])["mode"]) for row in made}
    assert {("eager", "call"), ("eager (graph)", "graph"), ("copy", "call")} <= modes
    assert ("cuFFT (graph)", "graph") in modes
    floors = {row["provider"] for row in made if row["name"] == "masked_prox_noise"}
    assert not any(name.startswith("cuFFT") for name in floors)
    # Copies pass three times the cache; each provider of each copy is one graph.
    assert all(count * size > 3 * 2**16 for count, size in cuda["copies"])
    assert cuda["captures"] > len(cuda["copies"]) and cuda["waits"] > 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "copy 2000 GB/s, matrices 60000 GFLOP/s"
    rows = [line.split(" | ") for line in table[4:]]
    assert len(rows) == len(made) and {len(row) for row in rows} == {8}


def test_the_figures_of_a_line():
    case = next(c for c in gpu_kernels.fused_cases(1, 16, 16) if c.name == "masked_prox_noise")
    base = operations.Timing(1e-7, 1e-5, (4.0, 2.0, 3.0))
    found = {"eager": base, "mine": operations.Timing(1e-7, 1e-5, (1.0, 1.5, 1.5), "graph")}
    lines = gpu_kernels.lines(case, found, {"copy_gb_per_s": 1e-6 * case.count.bytes})
    rate = f"{1e-6 * case.count.bytes / 1.5:.0f}"
    assert lines[0][:4] == ("eager", "call", "3.0000", "1.00x")
    assert lines[1] == ("mine", "graph", "1.5000", "2.00x", rate, "67 %")


def test_what_is_wrong_is_not_timed(cuda, some_cases, monkeypatch, capsys, one_thread):
    cases = gpu_kernels.cases

    def with_a_wrong_one(*arguments):
        for case in cases(*arguments):
            ours = next(iter(case.providers.values()))

            def wrong(*given, ours=ours):
                return ours(*given) + 1.0

            yield replace(case, providers={**case.providers, "wrong": wrong})

    monkeypatch.setattr(gpu_kernels, "cases", with_a_wrong_one)
    made, right = gpu_kernels.run([(1, 16)], "cpu", 0.0, False, 1, measured)
    failed = [row for row in made if row["status"] == "failed"]
    assert not right and len(failed) == len(some_cases)
    assert all(row["provider"] == "wrong" and "value" not in row for row in failed)
    assert capsys.readouterr().out.count("FAILED: error") == len(some_cases)


def test_torch_compile_stands_beside(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: run)
    for case in gpu_kernels.cases(1, 16, "cpu", True):
        assert "torch.compile" in case.providers and case.name != "combine_anchors"
        assert ("torch.compile" in case.checked) == ("eager" in case.checked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_is_one_sentence(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        gpu_kernels.main(["--rows", str(tmp_path / "rows.csv")])
    assert caught.value.code == 2 and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == (
        "gpu_kernels: expected an NVIDIA GPU, its driver and torch with CUDA, got none here; "
        "install torch from its CUDA index, or run benchmarks.operations.inner_step for the CPU\n"
    )
    with pytest.raises(SystemExit):
        gpu_kernels.main(["--sizes", "8"])
    assert "expected BATCHxSIDE such as 8x256, got 8" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu(tmp_path):
    gpu_kernels.main(["--sizes", "1x64", "--seconds", "0.05", "--rows", str(tmp_path / "rows.csv")])
    assert (tmp_path / "rows.csv").exists()
