"""The noise: published integers, an independent recipe, its statistics, and its invariances."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import InvalidArgument, InvalidType
from latino_engine.ops import cpu_extension
from latino_engine.ops import philox as noise

ROOT = Path(__file__).resolve().parents[2]
MASK = 0xFFFFFFFF
Draw = Callable[..., Tensor]

# counter, key, output: "philox4x32 10" in the known-answer file of Random123
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.fixture(params=["torch", "cpu"])
def draw(request: pytest.FixtureRequest) -> Draw:
    """gaussian_noise on one backend."""
    if request.param == "cpu" and cpu_extension.missing():
        pytest.skip(str(cpu_extension.missing()))
    return lambda *arguments: ops.gaussian_noise(*arguments, backend=request.param)


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 in Python's own integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def normal_by_definition(
    seed: int, image: int, sample: int, step: int, size: tuple[int, int], c: int, h: int, w: int
) -> float:
    """One pixel, straight from the definition of the layout."""
    half = math.ceil(size[1] / 2)
    quad, lane = (h // 2) * half + w % half, (h % 2) + 2 * (w // half)
    words = philox((quad, c + 1024 * image, sample, step), (seed & MASK, seed >> 32))
    u = [((r >> 9) + 0.5) * 2.0**-23 for r in words]
    radius = math.sqrt(-2.0 * math.log(u[0 if lane < 2 else 2]))
    angle = 2.0 * math.pi * u[1 if lane < 2 else 3]
    return radius * (math.cos(angle) if lane % 2 == 0 else math.sin(angle))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected
    words = noise.philox4x32(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in words) == expected
    if cpu_extension.missing() is None:
        from latino_engine import _cpu

        assert _cpu.philox4x32(counter, key) == expected


@pytest.mark.parametrize("seed", [0, 2**63 + 11, 2**64 - 1])
def test_compiled_integers_are_the_same(seed: int) -> None:
    if cpu_extension.missing():
        pytest.skip(str(cpu_extension.missing()))
    from latino_engine import _cpu

    images, samples, shape = (
        torch.tensor([0, 2**22 - 1]),
        torch.tensor([2**32 - 1, 7]),
        (2, 3, 5, 9),
    )
    found = _cpu.philox_integers(seed, images.numpy(), samples.numpy(), 2**32 - 1, shape)
    expected = torch.stack(noise.philox_integers(seed, images, samples, 2**32 - 1, shape))
    assert np.array_equal(found, expected.numpy().astype(np.uint32))


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1), (1, 5), (6, 1), (3, 2), (2, 9)])
@pytest.mark.parametrize("seed", [0, 12345, 2**32, 2**64 - 1])
def test_every_pixel_follows_the_definition(draw: Draw, seed: int, size: tuple[int, int]) -> None:
    images, samples, step, channels = [0, 2**22 - 1, 3], [2**32 - 1, 0, 7], 2**32 - 1, 2
    found = draw(seed, images, samples, step, (3, channels, *size))
    expected = np.empty((3, channels, *size))
    for p, c, h, w in np.ndindex(*expected.shape):
        identity = (seed, images[p], samples[p], step)
        expected[p, c, h, w] = normal_by_definition(*identity, size, c, h, w)
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert np.abs(found.numpy() - expected).max() < 1e-6


def test_the_recipe_itself_is_float64() -> None:
    ids = torch.tensor([5])
    found = noise.philox_normals(9, ids, ids, 4, (1, 1, 3, 3))
    expected = [
        [normal_by_definition(9, 5, 5, 4, (3, 3), 0, h, w) for w in range(3)] for h in range(3)
    ]
    assert np.abs(found[0, 0].numpy() - np.array(expected)).max() < 1e-14


def test_many_chunks_are_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.arange(5)
    whole = noise.philox_normals(1, ids, ids, 2, (5, 2, 6, 7))
    monkeypatch.setattr(noise, "_CHUNK_QUADS", 25)
    assert torch.equal(noise.philox_normals(1, ids, ids, 2, (5, 2, 6, 7)), whole)


def test_moments_and_distribution(draw: Draw) -> None:
    x = draw(2024, [0, 1], [0, 0], 1, (2, 3, 257, 255)).double().flatten().numpy()
    n = len(x)
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(stats.skew(x)) < 4 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(x)) < 4 * math.sqrt(24 / n)
    assert stats.kstest(x, "norm").pvalue > 0.01
    assert 4.0 < np.abs(x).max() < 5.77  # sqrt(-2 ln 2^-24) is the largest possible


def test_each_lane_is_normal(draw: Draw) -> None:
    x = draw(77, [0], [0], 1, (1, 1, 256, 256))[0, 0].double().numpy()
    for lane in (x[0::2, :128], x[1::2, :128], x[0::2, 128:], x[1::2, 128:]):
        assert stats.kstest(lane.ravel(), "norm").pvalue > 0.01


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r times sqrt(n): about standard normal for independent draws."""
    pair = torch.stack((a.double().flatten(), b.double().flatten()))
    return abs(float(torch.corrcoef(pair)[0, 1])) * math.sqrt(a.numel())


@pytest.mark.parametrize("lag", [(0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (0, 64), (1, 64), (64, 0)])
def test_pixels_are_uncorrelated(draw: Draw, lag: tuple[int, int]) -> None:
    x = draw(3, [0], [0], 1, (1, 3, 128, 128))
    shifted = torch.roll(x, lag, dims=(2, 3))
    assert correlation(x, shifted) < 4
    assert correlation(x**2, shifted**2) < 4  # Box-Muller's pairs share a radius


def test_identities_are_uncorrelated(draw: Draw) -> None:
    shape = (1, 2, 64, 64)
    base = draw(10, [4], [6], 8, shape)
    others = (
        draw(11, [4], [6], 8, shape),
        draw(10 + 2**32, [4], [6], 8, shape),
        draw(10, [5], [6], 8, shape),
        draw(10, [4], [7], 8, shape),
        draw(10, [4], [6], 9, shape),
        draw(10, [6], [4], 8, shape),
        base.flip(1),  # another channel
    )
    for other in others:
        assert correlation(base, other) < 4
        assert correlation(base**2, other**2) < 4


def test_a_draw_does_not_depend_on_its_batch(draw: Draw) -> None:
    images, samples = [3, 0, 3, 9, 1], [0, 1, 2, 0, 5]
    together = draw(1, images, samples, 4, (5, 3, 33, 18))
    order = [4, 2, 0, 3, 1]
    shuffled = draw(1, [images[i] for i in order], [samples[i] for i in order], 4, (5, 3, 33, 18))
    assert torch.equal(shuffled, together[order])
    for i in range(5):
        alone = draw(1, [images[i]], [samples[i]], 4, (1, 3, 33, 18))
        assert torch.equal(alone[0], together[i])


def test_a_channel_does_not_depend_on_how_many_there_are(draw: Draw) -> None:
    assert torch.equal(
        draw(1, [0], [0], 0, (1, 1, 9, 8)), draw(1, [0], [0], 0, (1, 3, 9, 8))[:, :1]
    )


def test_torch_generator_is_untouched(draw: Draw) -> None:
    before = torch.get_rng_state()
    draw(1, [0], [0], 0, (1, 3, 32, 32))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 0, 4, 4), (1, 3, 0, 4), (1, 3, 4, 0)])
def test_empty_shapes(draw: Draw, shape: tuple[int, ...]) -> None:
    assert draw(1, [0] * shape[0], [0] * shape[0], 0, shape).shape == shape


def test_ids_of_any_integer_type(draw: Draw) -> None:
    expected = draw(1, [2], [3], 0, (1, 1, 4, 4))
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        ids = torch.tensor([2], dtype=dtype), torch.tensor([3], dtype=dtype)
        assert torch.equal(draw(1, *ids, 0, (1, 1, 4, 4)), expected)
    strided = torch.tensor([2, 9, 4, 9])[::2]
    assert torch.equal(draw(1, strided, [3, 3], 0, (2, 1, 4, 4))[:1], expected)


def test_the_furthest_tail() -> None:
    """Beyond 4.5 deviations, where a float32 normal is coarsest."""
    if cpu_extension.missing():
        pytest.skip(str(cpu_extension.missing()))
    worst = 0.0
    for image in range(64):
        arguments = (17, torch.tensor([image]), torch.tensor([0]), 0, (1, 1, 256, 256))
        exact = noise.philox_normals(*arguments)
        if exact.abs().max() > 4.5:
            found = ops.gaussian_noise(*arguments, backend="cpu")
            worst = max(worst, float((found - exact).abs().max()))
    assert 0.0 < worst < 7.5e-7


def test_langevin_noise_is_z_plus_scaled_noise(draw: Draw) -> None:
    z, scale = torch.randn(2, 3, 9, 7), torch.tensor([0.5, 2.0])
    eps = ops.gaussian_noise(5, [0, 1], [2, 3], 6, z.shape)
    found = ops.langevin_noise(z, scale, 5, [0, 1], [2, 3], 6)
    assert (found - (z + scale[:, None, None, None] * eps)).abs().max() < 1e-6
    found = ops.langevin_noise(z, 0.25, 5, [0, 1], [2, 3], 6)
    assert (found - (z + 0.25 * eps)).abs().max() < 1e-6


def test_langevin_noise_is_differentiable() -> None:
    z = torch.randn(1, 1, 3, 3, requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    ops.langevin_noise(z, scale, 5, [0], [0], 6).sum().backward()
    eps = ops.gaussian_noise(5, [0], [0], 6, z.shape)
    assert z.grad is not None and torch.equal(z.grad, torch.ones_like(z))
    assert scale.grad is not None and abs(float(scale.grad - eps.sum())) < 1e-5


def test_langevin_noise_in_float64() -> None:
    z = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    found = ops.langevin_noise(z, 1.0, 5, [0], [0], 6)
    assert found.dtype == torch.float64
    assert (found - ops.gaussian_noise(5, [0], [0], 6, z.shape)).abs().max() < 1e-6


RIGHT: dict[str, object] = {
    "seed": 1,
    "image_ids": [0],
    "sample_ids": [0],
    "step": 0,
    "shape": (1, 1, 4, 4),
}
# the argument, its value, and the sentence after "argument: expected "
WRONG_VALUES = (
    ("seed", -1, "0 <= seed < 2^64, got -1; choose another seed"),
    ("seed", 2**64, f"0 <= seed < 2^64, got {2**64}; choose another seed"),
    ("step", 2**32, f"0 <= step < 2^32, got {2**32}; count the steps from 0"),
    ("step", -1, "0 <= step < 2^32, got -1; count the steps from 0"),
    ("image_ids", [2**22], f"values in [0, {2**22}), got {2**22}..{2**22}; renumber the images"),
    ("sample_ids", [2**32], f"values in [0, {2**32}), got {2**32}..{2**32}; renumber the images"),
    ("sample_ids", [-1], f"values in [0, {2**32}), got -1..-1; renumber the images"),
    ("image_ids", [0, 1], "length 1, got shape (2,); give one id per image"),
    ("sample_ids", [[0]], "length 1, got shape (1, 1); give one id per image"),
    ("shape", (1, 4, 4), "(P, C, H, W), got (1, 4, 4); give four sizes"),
    ("shape", (1, 1, -4, 4), "(P, C, H, W), got (1, 1, -4, 4); give four sizes"),
    ("shape", (1, 1025, 1, 1), "at most 1024 channels, got 1025; split the channels"),
    (
        "shape",
        (1, 1, 2**17, 2**17),
        "fewer than 2^32 quads per plane, got (1, 1, 131072, 131072); split the image",
    ),
)
WRONG_TYPES = (
    ("seed", 1.0, "an integer, got float; give a whole number"),
    ("seed", True, "an integer, got bool; give a whole number"),
    ("step", 0.5, "an integer, got float; give a whole number"),
    ("image_ids", [0.0], "integers, got torch.float32; give whole numbers"),
    ("sample_ids", [True], "integers, got torch.bool; give whole numbers"),
)


@pytest.mark.parametrize(("name", "value", "text"), WRONG_VALUES)
def test_values_refused(draw: Draw, name: str, value: object, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        draw(*{**RIGHT, name: value}.values())
    assert str(caught.value) == f"{name}: expected {text}"


@pytest.mark.parametrize(("name", "value", "text"), WRONG_TYPES)
def test_types_refused(draw: Draw, name: str, value: object, text: str) -> None:
    with pytest.raises(InvalidType) as caught:
        draw(*{**RIGHT, name: value}.values())
    assert str(caught.value) == f"{name}: expected {text}"


def test_langevin_noise_refuses_what_is_no_image() -> None:
    with pytest.raises(InvalidArgument, match=r"^shape: expected \(P, C, H, W\), got \(4, 4\); "):
        ops.langevin_noise(torch.zeros(4, 4), 1.0, 1, [0], [0], 0)
    with pytest.raises(InvalidType, match=r"^z: expected float32 or float64, got torch.complex64"):
        ops.langevin_noise(torch.zeros(1, 1, 4, 4) + 0j, 1.0, 1, [0], [0], 0)
    with pytest.raises(InvalidArgument, match=r"^scale: expected a number or a tensor of shape"):
        ops.langevin_noise(torch.zeros(2, 1, 4, 4), torch.ones(3), 1, [0, 1], [0, 1], 0)


# The kernels compiled for one instruction set, against the extension that chose its own.
HARNESS = """
#include "cpu/kernels.h"
extern "C" void harness(unsigned long long seed, const unsigned* images, const unsigned* samples,
                        long pairs, long channels, long height, long width, const float* z,
                        const float* scale, float* noise, float* langevin, float* prox) {
  const latino::PhiloxKey key{unsigned(seed), unsigned(seed >> 32)};
  const latino::cpu::NoiseIdentity identity{key, images, samples, 9};
  const latino::cpu::Shape shape{pairs, channels, height, width};
  const latino::cpu::Broadcast one{z, 0, 0};
  latino::cpu::gaussian_noise(identity, shape, noise, 1);
  latino::cpu::langevin_noise(identity, shape, z, {scale, 1}, langevin, 1);
  latino::cpu::masked_prox(shape, {z, one, one, {scale, 1}}, prox, 1);
}
"""
# x86-64-v3 has fused multiply-adds: the build must not use them
TARGETS = {
    "plain": ["-O1", "-fno-tree-vectorize"],
    "avx2+fma": ["-O3", "-march=x86-64-v3"],
    "avx512": ["-O3", "-march=x86-64-v4"],
}


def runs_here(target: str) -> bool:
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else []
    needed = {"plain": (), "avx2+fma": ("avx2", "fma", "bmi2"), "avx512": ("avx512f", "avx512vl")}
    return all(flag in flags for flag in needed[target])


@pytest.mark.parametrize("target", TARGETS)
def test_every_instruction_set_gives_the_same_bits(target: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if cpu_extension.missing() or compiler is None or not runs_here(target):
        pytest.skip(f"needs the extension, g++ and a processor with {target}")
    source, library = tmp_path / "harness.cpp", tmp_path / "harness.so"
    source.write_text(HARNESS)
    csrc = ROOT / "csrc"
    sources = [source, *sorted((csrc / "cpu").glob("*.cpp"))]
    flags = ["-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-DLATINO_SINGLE_TARGET"]
    command = [compiler, *TARGETS[target], *flags, f"-I{csrc}", f"-I{csrc / 'include'}"]
    subprocess.run([*map(str, [*command, *sources]), "-o", str(library)], check=True)

    shape, seed = (2, 3, 61, 73), 2**64 - 5
    images, samples = torch.tensor([0, 3]), torch.tensor([2**31, 9])
    z, scale = torch.rand(shape), torch.tensor([0.5, 3.0])
    outputs = [torch.empty(shape) for _ in range(3)]
    words = [array.numpy().astype(np.uint32) for array in (images, samples)]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in words]
    tensors = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (z, scale, *outputs)]
    sizes = map(ctypes.c_long, shape)
    ctypes.CDLL(str(library)).harness(ctypes.c_ulonglong(seed), *pointers, *sizes, *tensors)

    expected = (
        ops.gaussian_noise(seed, images, samples, 9, shape, backend="cpu"),
        ops.langevin_noise(z, scale, seed, images, samples, 9, backend="cpu"),
        ops.masked_prox(z, z[0, 0], z[0, 0], scale, backend="cpu"),
    )
    assert all(map(torch.equal, outputs, expected))


# ---- the table of positions --------------------------------------------------------------------


@pytest.mark.parametrize(("outer", "unfold"), [(1, 1), (3, 3), (4, 2), (2, 7)])
def test_no_two_draws_of_a_chain_share_a_position(outer: int, unfold: int) -> None:
    """Counted by hand: the start, then each outer step's inner draws and its reverse draw."""
    positions = [noise.START_STEP]
    for i in range(outer):
        positions += [noise.inner_position(k, i, unfold) for k in range(unfold)]
        positions.append(noise.reverse_position(i, unfold))
    assert positions == list(range(1 + outer * (unfold + 1)))
    assert [noise.inner_position(k) for k in range(5)] == [1, 2, 3, 4, 5]
    assert [noise.search_position(j) for j in range(3)] == [65536, 131072, 196608]
    assert noise.MEASURE_STEP == 4294967295 not in positions
