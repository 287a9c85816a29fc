"""How far a call of `sample` is from the kernel, in frames of Python."""

from __future__ import annotations

import pytest
import torch
from frames import depths
from tiny import tiny_prior

import latino_engine as le
from latino_engine.ops import cpu_extension
from latino_engine.sampler import sample_posterior

SIDE = 64
#: The operator, and the function of the extension that is its inner step.
INNER_STEPS = {
    "blur": (le.Blur.gaussian(1.0, 0.05), "fourier_prox_noise"),
    "sr": (le.SuperResolution(2, 0.05), "alias_prox_noise"),
    "inpainting": (le.Inpainting(torch.eye(SIDE), 0.05), "masked_prox_noise"),
}
MOST_FROM_SAMPLER = 7
MOST_FROM_SAMPLE = 10

pytestmark = pytest.mark.skipif(
    cpu_extension.missing() is not None, reason=str(cpu_extension.missing())
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> le.Engine:
    path = tmp_path_factory.mktemp("frames") / "a.engine"
    return le.compile(tiny_prior(), path, backend="torch")


@pytest.mark.parametrize("name", INNER_STEPS)
def test_frames_to_the_kernel(engine: le.Engine, name: str) -> None:
    op, function = INNER_STEPS[name]
    y = op.measure(torch.rand(1, 3, SIDE, SIDE))

    def call() -> None:
        engine.sample(y, op, num_samples=1, sampler="ud2m", steps=2, unfold=1)

    inner = depths(call, sample_posterior.__code__)
    assert set(inner) >= {function, "langevin_noise", "reverse_step"}
    assert max(inner.values()) <= MOST_FROM_SAMPLER, inner
    whole = depths(call, le.Engine.sample.__code__)
    assert whole[function] <= MOST_FROM_SAMPLE, whole


def test_the_count_sees_a_frame_more(engine: le.Engine) -> None:
    op, function = INNER_STEPS["inpainting"]
    y = op.measure(torch.rand(1, 3, SIDE, SIDE))

    def call() -> None:
        engine.sample(y, op, num_samples=1, sampler="ud2m", steps=2, unfold=1)

    def outer() -> None:
        call()

    assert depths(outer, outer.__code__)[function] == depths(outer, call.__code__)[function] + 1
