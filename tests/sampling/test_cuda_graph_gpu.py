"""Captured samplers, each test on the stand-in for CUDA and, by `pytest -m gpu`, on a GPU."""

from __future__ import annotations

import threading

import pytest
import torch
from graph_machines import MAX_BATCH, make_machine
from tiny import tiny_prior
from tolerances import OTHER_RUNTIME

import latino_engine as le
from latino_engine.compilation.accuracy import BOUNDS, probe_sigmas, relative_errors
from latino_engine.priors.precision import PRECISIONS
from latino_engine.sampling.cuda_graph import NUM_WORKERS

#: Relative: a replay against the eager call. In 16 bits the last digit of an input may turn the
#: rounding of a layer, which is what the bound of the precision allows for.
REPLAY = {**BOUNDS, "fp32": OTHER_RUNTIME}
BACKENDS = ("torch", "torch_compiled", "tensorrt")
RUNTIMES = [(backend, name) for backend in BACKENDS for name in PRECISIONS]
STEPS = {"num_samples": 2, "sampler": "ud2m", "steps": 2, "unfold": 2}


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request, tmp_path, monkeypatch, one_thread):
    return make_machine(request.param, tmp_path, monkeypatch)


def measured(op, seed=0, batch=1, channels=3, size=(16, 24)):
    x = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
    return op.measure(x, seed=seed)


def assert_same(found, expected, precision="fp32"):
    error = (found.samples - expected.samples).norm() / expected.samples.norm()
    assert error <= REPLAY[precision], float(error)


def mask(size=(16, 24)):
    return (torch.rand(size, generator=torch.Generator().manual_seed(5)) < 0.6).double()


OPERATORS = {
    "blur": lambda: (le.Blur.motion(5, 0.05, seed=2), 3),
    "blur with a level for each image": lambda: (le.Blur.gaussian(1.0, [0.05, 0.2]), 3),
    "super-resolution": lambda: (le.SuperResolution(2, 0.05), 3),
    "inpainting": lambda: (le.Inpainting(mask(), 0.1), 3),
    "MRI of complex images": lambda: (le.MRI(mask(), 0.05), 2),
    "MRI of real images": lambda: (le.MRI(mask(), 0.05), 1),
}


@pytest.mark.parametrize("backend, precision", RUNTIMES, ids=map(" ".join, RUNTIMES))
def test_every_runtime_is_the_network_in_its_precision(machine, backend, precision):
    captured, eager = machine.engines(backend, precision)
    prior = tiny_prior()
    errors = relative_errors(captured.denoise, prior, probe_sigmas(prior), 32, 48)
    assert max(errors.values()) <= BOUNDS[precision], errors
    if precision != "fp32":  # at 1e-7 it would still be float32
        assert max(errors.values()) > 1e-5
    op = le.Denoising(0.1)
    y = measured(op)
    found = captured.sample(y, op, seed=3, **STEPS)
    assert found.about["execution"] == "CUDA graph"
    assert_same(found, eager.sample(y, op, seed=3, **STEPS), precision)


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_a_replay_is_the_eager_call(machine, make):
    op, channels = make()
    captured, eager = machine.engines(channels=channels)
    for seed in (1, 2**64 - 1):
        y = measured(op, seed=seed % 97, batch=2, channels=channels)
        found = captured.sample(y, op, seed=seed, **STEPS)
        assert found.about["execution"] == "CUDA graph"
        assert_same(found, eager.sample(y, op, seed=seed, **STEPS))
        latino = {"num_samples": 2, "steps": 3, "seed": seed}
        assert_same(captured.sample(y, op, **latino), eager.sample(y, op, **latino))


@pytest.mark.parametrize("backend", ["torch", "tensorrt"])
def test_seeds_shapes_and_batches_may_change_at_every_call(machine, backend):
    captured, eager = machine.engines(backend)
    op = le.Blur.gaussian(1.0, 0.05, size=5)
    earlier = []
    calls = [((16, 24), 1), ((8, 12), 3), ((16, 24), 1), ((9, 14), 5), ((16, 24), 4), ((8, 12), 3)]
    for seed, (size, count) in enumerate(calls):
        y = measured(op, size=size)
        options = {"num_samples": count, "seed": seed, "steps": 2}
        found = captured.sample(y, op, **options)
        assert_same(found, eager.sample(y, op, **options))
        same_place = [s for s in earlier if s.shape == found.samples.shape]
        assert all((s - found.samples).norm() > 0.01 * s.norm() for s in same_place)
        earlier.append(found.samples)


def test_many_replays_take_no_more_memory(machine):
    captured, _ = machine.engines()
    op = le.Inpainting(mask((8, 8)), 0.1)
    y = measured(op, size=(8, 8))
    per_call = 10
    options = {"num_samples": per_call * MAX_BATCH, "steps": 1}
    first = captured.sample(y, op, **options).samples
    for _ in range(3):
        captured.sample(y, op, **options)
    before = machine.in_use()
    for _ in range(machine.replays // per_call):
        last = captured.sample(y, op, **options).samples
    found = machine.in_use() - before - last.numel() * 4 * (machine.device == "cpu")
    assert found <= 0, f"{found} bytes more"
    assert torch.equal(first, last)


def test_four_threads_draw_what_one_draws(machine):
    """They share operators whose tables hold one size each, so that entries come and go."""
    captured, _ = machine.engines()
    blur, hole = le.Blur.motion(5, 0.05, seed=2), le.Inpainting(mask((16, 16)), 0.1)
    blur._table.capacity = 1
    work = [
        (op, measured(op, seed=n, size=size), {"num_samples": 2, "seed": n, "steps": 2})
        for n in range(4)
        for op, size in ((blur, (16, 16)), (hole, (16, 16)), (blur, (12, 20)))
    ]
    expected = [captured.sample(y, op, **options) for op, y, options in work]
    found = {}

    def call(thread):
        for index in range(thread, len(work) * 2, 4):
            op, y, options = work[index % len(work)]
            found[index] = captured.sample(y, op, **options)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 * len(work)
    for index, post in found.items():
        assert_same(post, expected[index % len(work)])
    assert captured.network.pool._made <= NUM_WORKERS


def test_memory_that_runs_out_is_recovered(machine, monkeypatch):
    captured, eager = machine.engines()
    measuring, _ = machine.engines()
    op, height_width = le.Denoising(0.1), machine.size
    y = measured(op, size=height_width)
    for engine in (captured, eager, measuring):  # the memory goes after this was decided
        monkeypatch.setattr(engine.network, "chunk_size", lambda height, width: MAX_BATCH)
    options = {"num_samples": MAX_BATCH, "steps": 1, "seed": 4}
    expected = eager.sample(y, op, **options)

    def cost(engine, count):
        draw = {**options, "num_samples": count}
        return machine.cost(engine, lambda: engine.sample(y, op, **draw))

    whole, one = cost(measuring, MAX_BATCH), cost(measuring, 1)
    measuring.network.pool = None  # its graphs go
    with machine.squeezed(captured, 0.6 * whole + 0.1 * one):
        found = captured.sample(y, op, **options)
        assert_same(found, expected)
        assert captured.network.pool.limit(height_width, MAX_BATCH) < MAX_BATCH
    with machine.squeezed(captured, 0.75 * one):
        other = le.Inpainting(torch.ones(height_width), 0.1)  # another formula's graph
        found = captured.sample(y, other, **options)
        assert captured.network.pool.limit(height_width, MAX_BATCH) < MAX_BATCH
    assert_same(found, eager.sample(y, other, **options))
    again = captured.sample(y, op, **options)
    assert again.about["execution"] == "CUDA graph"
    assert captured.network.pool.limit(height_width, MAX_BATCH) == MAX_BATCH
    assert_same(again, expected)
