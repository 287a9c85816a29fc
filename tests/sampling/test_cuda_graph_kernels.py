"""Captured samplers whose data step, noise and reverse step are the CUDA kernels, on the shim.

The shim runs the unmodified .cu files on the CPU; each launch is kept by the stand-in for CUDA and
run again at a replay, on the same addresses.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from cuda_shim.fixtures import compiled_shim  # noqa: F401  (fixture `shim`)
from graph_machines import StandIn
from graph_stand_in import Launching

import latino_engine as le
from latino_engine.ops import cpu_extension, cuda_extension

pytestmark = pytest.mark.usefixtures("one_thread", "extension")

OWN, OTHER = (64, 64), (12, 20)  # sizes of our own transforms, and of torch.fft
STEPS = {"sampler": "ud2m", "steps": 2, "unfold": 2}


@pytest.fixture
def extension(shim, monkeypatch):
    shim.set_order(2, 1)
    monkeypatch.setattr(cpu_extension, "missing", lambda: "hidden")
    monkeypatch.setattr(cuda_extension, "_load", lambda: (Launching(shim), None))


def mask(size):
    return (torch.rand(size, generator=torch.Generator().manual_seed(5)) < 0.6).double()


#: name -> (operator for a size, channels, what the data step launches for OWN and for OTHER)
FUSED = {
    "blur": (
        lambda size: le.Blur.motion(5, 0.05, seed=2),
        3,
        ["fourier_prox_noise"],
        ["combine_anchors", "fourier_combine", "langevin_noise"],
    ),
    "super-resolution": (
        lambda size: le.SuperResolution(2, 0.05),
        3,
        ["alias_prox_noise"],
        ["combine_anchors", "alias_combine", "langevin_noise"],
    ),
    "inpainting": (
        lambda size: le.Inpainting(mask(size), 0.1),
        3,
        ["masked_prox_noise"],
        ["masked_prox_noise"],
    ),
    "MRI of complex images": (
        lambda size: le.MRI(mask(size), 0.05),
        2,
        ["fourier_mask_prox_noise"],
        ["combine_anchors", "kspace_combine", "langevin_noise"],
    ),
    "MRI of real images": (
        lambda size: le.MRI(mask(size), 0.05),
        1,
        ["fourier_prox_noise"],
        ["combine_anchors", "fourier_combine", "langevin_noise"],
    ),
}


def measured(op, channels, size, seed):
    x = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(seed))
    return op.measure(x, seed=seed)


@pytest.mark.parametrize("size", [OWN, OTHER], ids=["own kernels", "torch.fft"])
@pytest.mark.parametrize("name", FUSED)
def test_a_replay_launches_the_kernels_and_is_the_eager_call(name, size):
    make, channels, *launched = FUSED[name]
    op = make(size)
    captured, eager = StandIn().engines(channels=channels)
    for seed in (1, 2**63 + 11):
        y = measured(op, channels, size, seed % 97)
        options = {"num_samples": 1, "seed": seed, "image_ids": [3, 700], **STEPS}
        found, expected = captured.sample(y, op, **options), eager.sample(y, op, **options)
        assert found.about["execution"] == "CUDA graph"
        assert torch.equal(found.samples, expected.samples)
    (graph,) = captured.network.driver.graphs
    extension = {name for name in graph.names() if hasattr(cuda_extension.extension(), name)}
    counts = Counter(name for name in graph.names() if name in extension)
    inner = launched[size == OTHER]
    start = Counter({"langevin_noise": 1, "reverse_step": 1})
    assert counts == start + Counter({kernel: 4 for kernel in inner})


def test_every_row_of_the_table_is_used_once():
    """The counter on the device, which only the launches move, ends behind the last row."""
    op = le.Blur.motion(5, 0.05, seed=2)
    captured, _ = StandIn().engines()
    y = measured(op, 3, OTHER, 1)
    for seed in range(3):
        captured.sample(y, op, num_samples=1, seed=seed, **STEPS)
        (worker,) = captured.network.pool._free
        (sampler,) = worker.graphs.values()
        steps = sampler.buffers.steps
        steps.check()
        assert steps.counter.tolist() == [6, 0, 0] and len(steps.rows) == 6
