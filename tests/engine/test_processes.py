"""An engine in other processes, and calls that are stopped."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import subprocess
import sys
import threading

import psutil
import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.errors import EngineInvalid, InvalidArgument, InvalidType, SamplingStopped

Y = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return path


def draw(engine):
    """Two samples; what another process is asked for, too."""
    return engine.sample(Y, le.Blur.gaussian(1.0, 0.05, size=5), 2, seed=3, steps=2).samples


def drawn_elsewhere(engine, results):
    """What runs in another process."""
    results.put(draw(engine).numpy())


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_pickle_is_a_path_and_a_hash(folder, backend):
    engine = le.load(folder, backend=backend, threads=1)
    data = pickle.dumps(engine)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (again.backend, again.threads, again.sha256) == (backend, 1, engine.sha256)
    assert torch.equal(draw(again), draw(engine))


def test_a_pickle_of_an_engine_that_has_changed(folder, tmp_path):
    moved = tmp_path / "moved.engine"
    le.compile(tiny_prior(), moved, image_size=16)
    data = pickle.dumps(le.load(moved))
    le.compile(tiny_prior(), moved, image_size=16, max_batch=2)
    with pytest.raises(InvalidArgument, match="engine: expected the one that was pickled"):
        pickle.loads(data)
    for file in moved.iterdir():
        file.unlink()
    with pytest.raises(EngineInvalid):
        pickle.loads(data)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_engine_travels_to_a_process(folder, method):
    engine = le.load(folder, threads=1)
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=drawn_elsewhere, args=(engine, results))
    process.start()
    found = results.get(timeout=240)
    process.join(60)
    assert process.exitcode == 0
    assert torch.equal(torch.from_numpy(found), draw(engine))


FORK = """
import os, sys, torch
import latino_engine as le
torch.set_num_threads(2)
threads = int(sys.argv[2])
engine = le.load(sys.argv[1], threads=threads)
y, op = torch.full((1, 3, 16, 20), 0.4), le.Blur.gaussian(1.0, 0.05, size=5)
before = engine.sample(y, op, 1, steps=2).samples
if os.fork() == 0:
    try:
        again = engine.sample(y, op, 1, steps=2).samples
        print("same" if torch.equal(again, before) else "other", flush=True)
    except ValueError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("threads", "said"),
    [(2, "engine: expected the process that loaded it, got a fork of it"), (1, "same")],
)
def test_a_fork_answers(folder, threads, said):
    command = [sys.executable, "-c", FORK, str(folder), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout.startswith(said), done.stderr


def test_a_timeout_ends_between_evaluations(folder):
    engine = le.load(folder)
    told = []

    def slow(done, total):
        told.append(done)
        threading.Event().wait(0.05)

    with pytest.raises(
        SamplingStopped, match=r"timeout: expected to finish within 0.2 s, got \d+ of"
    ):
        engine.sample(Y, le.Denoising(0.1), 64, steps=8, progress=slow, timeout=0.2)
    assert 0 < max(told) < 64 * 8
    whole = engine.sample(Y, le.Denoising(0.1), 1, seed=3, steps=2, timeout=600.0)
    plain = engine.sample(Y, le.Denoising(0.1), 1, seed=3, steps=2)
    assert torch.equal(whole.samples, plain.samples)


def test_an_event_ends_it_from_another_thread(folder):
    engine, cancel = le.load(folder), threading.Event()

    def at_the_second(done, total):
        if done >= 2:
            cancel.set()

    with pytest.raises(SamplingStopped, match="a cancel event that was set"):
        engine.sample(Y, le.Denoising(0.1), 64, steps=8, progress=at_the_second, cancel=cancel)
    with pytest.raises(TimeoutError):  # what Python calls it
        engine.sample(Y, le.Denoising(0.1), 1, cancel=cancel)


def test_a_stopped_call_gives_its_memory_back(folder):
    engine = le.load(folder, threads=1)
    y = torch.rand(1, 3, 256, 256)
    process = psutil.Process()

    def stopped():
        with pytest.raises(SamplingStopped):
            engine.sample(y, le.Denoising(0.1), 64, steps=2, timeout=1e-9)
        with pytest.raises(SamplingStopped):
            cancel = threading.Event()
            engine.sample(
                y,
                le.Denoising(0.1),
                64,
                steps=2,
                progress=lambda done, total: cancel.set(),
                cancel=cancel,
            )
        gc.collect()
        return process.memory_info().rss

    stopped()
    first = stopped()
    last = [stopped() for _ in range(4)][-1]
    assert last - first < 64 * 3 * 256 * 256 * 4  # all samples of one call


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", True])
def test_what_is_no_time(folder, timeout):
    with pytest.raises((InvalidArgument, InvalidType), match="timeout: expected seconds"):
        le.load(folder).sample(Y, le.Denoising(0.1), 1, timeout=timeout)
    with pytest.raises(InvalidType, match=r"cancel: expected a threading.Event, got bool"):
        le.load(folder).sample(Y, le.Denoising(0.1), 1, cancel=True)
