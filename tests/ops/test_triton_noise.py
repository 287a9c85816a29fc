"""The noise of the Triton kernels: integers bit for bit, normals, invariances."""

from __future__ import annotations

import pytest
import torch
from triton_copies import (
    SEED,
    SHAPES,
    STEP,
    Kernels,
    Size,
    assert_close,
    every_dtype,
    every_shape,
    ids,
    interpreter_or_gpu,  # noqa: F401  (a fixture)
    normals,
    per_pair,
    rounding,
)

from latino_engine import ops
from latino_engine.ops import cpu_extension, philox


@pytest.mark.parametrize("seed", [0, 2**63 + 11, 2**64 - 1])
def test_integers_are_the_same(kernels: Kernels, seed: int) -> None:
    for step, shape in ((0, (3, 2, 5, 9)), (STEP, (1, 1, 24, 48))):
        found = kernels.launch("philox_integers", seed, *ids(shape[0]), step, shape)
        expected = torch.stack(philox.philox_integers(seed, *ids(shape[0]), step, shape), dim=-1)
        assert torch.equal(found.to(torch.int64) & 0xFFFFFFFF, expected)


def test_known_answer(kernels: Kernels) -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    found = kernels.launch("philox_integers", 0, zero, zero, 0, (1, 1, 1, 1)).flatten()
    words = [int(word) & 0xFFFFFFFF for word in found]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@every_shape
def test_gaussian_noise(kernels: Kernels, shape: Size) -> None:
    identity = (SEED, *ids(shape[0]), STEP)
    found = kernels.launch("gaussian_noise", *identity, shape)
    assert found.dtype == torch.float32
    assert float((found - normals(shape)).abs().max()) <= 1e-6
    if cpu_extension.missing() is None:  # the same polynomials in the same order
        assert torch.equal(found, ops.gaussian_noise(*identity, shape, backend="cpu"))


def test_many_normals(kernels: Kernels) -> None:
    shape = (1, 3, 64, 96)
    found = kernels.launch("gaussian_noise", SEED, *ids(1), STEP, shape)
    assert float((found - normals(shape)).abs().max()) <= 1e-6
    assert abs(float(found.mean())) < 4 / found.numel() ** 0.5
    assert abs(float(found.var()) - 1) < 4 * (2 / found.numel()) ** 0.5


@every_dtype
def test_gaussian_noise_of_other_types(kernels: Kernels, dtype: torch.dtype) -> None:
    for shape in SHAPES[:2]:
        out = torch.empty(shape, dtype=dtype)
        found = kernels.launch("gaussian_noise", SEED, *ids(shape[0]), STEP, shape, out=out)
        assert found.dtype == dtype
        assert_close(found, normals(shape), rounding(dtype, kernels))


def test_batches_and_chunks_draw_the_same(kernels: Kernels) -> None:
    pairs, size = 4, (2, 5, 24)
    images, samples = ids(pairs)
    z, scale = torch.randn(pairs, *size), torch.rand(pairs)
    whole = kernels.launch("langevin_noise", z, scale, SEED, images, samples, STEP)
    for order in ([2], [3, 0], [1, 2, 3]):
        part = (z[order], scale[order], SEED, images[order], samples[order], STEP)
        assert torch.equal(kernels.launch("langevin_noise", *part), whole[order])


def test_steps_and_seeds_are_unrelated(kernels: Kernels) -> None:
    shape = (1, 1, 48, 64)
    draws = [
        kernels.launch("gaussian_noise", seed, *ids(1), step, shape).flatten()
        for seed, step in ((SEED, 1), (SEED, 2), (SEED + 1, 1))
    ]
    correlation = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0).abs().max()
    assert float(correlation) < 4 / draws[0].numel() ** 0.5


@every_shape
def test_langevin_noise(kernels: Kernels, shape: Size) -> None:
    z, scale = torch.randn(shape), torch.rand(shape[0])
    found = kernels.launch("langevin_noise", z, scale, SEED, *ids(shape[0]), STEP)
    assert_close(found, z + per_pair(scale) * normals(shape), 0.0)


@every_dtype
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_langevin_noise_in_place(kernels: Kernels, shape: Size, dtype: torch.dtype) -> None:
    z, scale = torch.randn(shape).to(dtype), torch.tensor([[0.3]])
    state = kernels.there(z.clone())
    wrapper = kernels.module("langevin_noise").launch_langevin_noise
    identity = (SEED, *ids(shape[0]), torch.tensor([7]))
    found = wrapper(state, *map(kernels.there, (scale, *identity)), out=state)
    assert found is state and found.dtype == dtype
    expected = z.double() + 0.3 * normals(shape, 7)
    assert_close(found.cpu(), expected, rounding(dtype, kernels))


def test_a_step_on_the_device(kernels: Kernels) -> None:
    shape = SHAPES[1]
    z, scale, identity = torch.randn(shape), torch.rand(2), (SEED, *ids(2))
    for step in (3, STEP):
        there = torch.tensor([step])
        for op, *rest in (
            ("langevin_noise", z, scale),
            ("reverse_step", z, z.flip(0), 0.4, 0.5, 0.9),
        ):
            found = kernels.launch(op, *rest, *identity, there)
            assert torch.equal(found, kernels.launch(op, *rest, *identity, step))
        found = kernels.launch("gaussian_noise", *identity, there, shape)
        assert torch.equal(found, kernels.launch("gaussian_noise", *identity, step, shape))


@pytest.mark.gpu
def test_more_than_2_31_entries() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    on_gpu = Kernels("latino_engine.kernels", "cuda")
    shape, identity = (3, 1, 2**15, 2**15 + 8), (SEED, *ids(3), 3)
    draw = on_gpu.module("gaussian_noise").launch_gaussian_noise
    out = torch.empty(shape, dtype=torch.float16, device="cuda")
    draw(SEED, *map(on_gpu.there, identity[1:3]), 3, shape, out=out)
    last = [on_gpu.there(t[2:]) for t in ids(3)]
    alone = draw(SEED, *last, 3, (1, *shape[1:]), out=torch.empty_like(out[2:]))
    assert torch.equal(out[2:], alone)
