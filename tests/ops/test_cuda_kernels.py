"""The CUDA kernels: right at every size, in any order of threads, by the launches they claim.

test_cuda_gpu.py runs the same tests on a GPU.
"""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
import torch
from cuda_shim import cases
from cuda_shim.cases import (
    IDENTITY,
    Size,
    alias_case,
    fourier_case,
    ids,
    kspace_case,
    masked_case,
    normals,
    relative_error,
)
from cuda_shim.fixtures import compiled_shim, shim_as_device  # noqa: F401  (fixtures)

from latino_engine import ops
from latino_engine.ops import cpu_extension
from latino_engine.ops.cuda_extension import fourier_path, recorded_launches
from latino_engine.ops.noise import launch_gaussian_noise
from latino_engine.ops.step_table import StepTable

SIDES = (64, 128, 256, 512, 1024)
SIZES = tuple(itertools.product(SIDES, SIDES))
LARGEST = ((2048, 64), (64, 2048))
ODD_SIZES = ((48, 80), (63, 65), (4096, 2), (2, 4096), (1, 1), (1, 7))
BOUND = 2e-6  # relative to max |expected|; the worst seen is 6e-7
NOISE_BOUND = 1e-6


def planes_for(height: int, width: int) -> tuple[int, int]:
    """Pairs and channels: several of both where that is cheap."""
    return (2, 3) if height * width <= 2**14 else (1, 2) if height * width <= 2**17 else (1, 1)


def kernels_of(case: cases.Case, bound: float = BOUND) -> list[str]:
    """The kernels that ran; the result is checked."""
    with recorded_launches() as launches:
        error = case.error()
    assert error <= bound, f"{case.name}: {error:.2e}"
    return [launch.kernel for launch in launches]


# ---- the inner steps -------------------------------------------------------------------------


@pytest.mark.parametrize("size", (*SIZES, *LARGEST), ids=str)
def test_fourier_prox_noise(device: str, size: tuple[int, int]) -> None:
    height, width = size
    assert kernels_of(fourier_case((*planes_for(*size), *size), device=device)) == [
        f"fourier_rows_forward<{width}>",
        f"fourier_columns<{height}>",
        f"fourier_rows_inverse<{width}>",
    ]
    assert fourier_path(*size) == "own kernels"


# Every kernel, and widths with one and with several tiles of columns.
ALIAS_HEIGHTS = tuple((h, s) for h in SIDES for s in (2, 4, 8) if s < 8 or h <= 512)
ALIAS_SIZES = tuple(
    (h, w, s) for h, s in ALIAS_HEIGHTS for w in sorted({64, 256, h}) if h * w <= 2**18
)


@pytest.mark.parametrize("size", ALIAS_SIZES, ids=str)
def test_alias_prox_noise(device: str, size: tuple[int, int, int]) -> None:
    height, width, factor = size
    case = alias_case((*planes_for(height, width), height, width), factor, device=device)
    assert kernels_of(case) == [
        f"fourier_rows_forward<{width}>",
        f"alias_columns<{height}, {factor}>",
        f"fourier_rows_inverse<{width}>",
    ]


@pytest.mark.parametrize("size", (*SIZES, *LARGEST), ids=str)
def test_fourier_mask_prox_noise(device: str, size: tuple[int, int]) -> None:
    height, width = size
    assert kernels_of(kspace_case((planes_for(*size)[0], 2, *size), device=device)) == [
        f"kspace_rows_forward<{width}>",
        f"kspace_columns<{height}>",
        f"kspace_rows_inverse<{width}>",
    ]


@pytest.mark.parametrize("size", (*ODD_SIZES, (32, 64), (64, 96)), ids=str)
def test_other_sizes_take_torch_fft(device: str, size: tuple[int, int]) -> None:
    run = "4" if size[1] % 8 == 0 else "1"
    end = f"langevin_noise<{run}>"
    fourier = fourier_case((2, 3, *size), device=device)
    assert kernels_of(fourier) == ["combine_anchors", "fourier_combine", end]
    kspace = kspace_case((2, 2, *size), device=device)
    assert kernels_of(kspace) == ["combine_anchors", "kspace_combine", end]
    assert fourier_path(*size) == "torch.fft"


@pytest.mark.parametrize("size", ((60, 30, 3), (64, 64, 16), (1024, 64, 8), (10, 6, 1)), ids=str)
def test_other_factors_take_torch_fft(device: str, size: tuple[int, int, int]) -> None:
    *sides, factor = size
    ran = kernels_of(alias_case((2, 2, *sides), factor, device=device))
    assert ran[:2] == ["combine_anchors", "alias_combine"] and ran[2].startswith("langevin_noise<")
    assert fourier_path(*sides, factor) == "torch.fft"


@pytest.mark.parametrize("lead", ((1, 1), (2, 1), (1, 3), (2, 3)), ids=str)
@pytest.mark.parametrize("size", (*ODD_SIZES, (64, 64), (17, 24)), ids=str)
def test_masked_prox_noise(device: str, size: tuple[int, int], lead: tuple[int, int]) -> None:
    run = 4 if size[1] % 8 == 0 else 1
    case = masked_case((2, 3, *size), lead=lead, device=device)
    assert kernels_of(case) == [f"masked_prox_noise<{run}>"]


def test_without_a_state_and_with_shared_constants(device: str) -> None:
    shape = (2, 3, 64, 128)
    for case in (
        fourier_case(shape, with_state=False, device=device),
        fourier_case(shape, shared=True, device=device),
        fourier_case((2, 3, 6, 10), with_state=False, shared=True, device=device),
        alias_case(shape, 2, shared=True, device=device),
        alias_case((2, 3, 9, 6), 3, shared=True, device=device),
        kspace_case((2, 2, 64, 128), shared=True, device=device),
        kspace_case((2, 2, 7, 10), shared=True, device=device),
        masked_case(shape, with_state=False, device=device),
    ):
        kernels_of(case)


def test_planes_beyond_the_grid(device: str) -> None:
    case = masked_case((66, 1000, 1, 2), device=device)
    assert kernels_of(case) == ["masked_prox_noise<1>"]


def test_order_of_threads_changes_no_bit(device: str, shim: ModuleType) -> None:
    found = []
    for order, seed in ((0, 1), (1, 1), (2, 1), (2, 2)):
        shim.set_order(order, seed)
        builders = (
            fourier_case((1, 2, 64, 128), device=device),
            alias_case((1, 1, 128, 64), 4, device=device),
            kspace_case((1, 2, 128, 64), device=device),
        )
        found.append([case.run("cuda") for case in builders])
    assert all(map(torch.equal, found[0] * 3, [t for later in found[1:] for t in later]))


# ---- the noise and the other pointwise operations ----------------------------------------------

NOISE_SHAPES = ((1, 1, 1, 1), (2, 3, 5, 7), (3, 1, 28, 28), (1, 3, 129, 264), (2, 2, 64, 1))
every_shape = pytest.mark.parametrize("shape", NOISE_SHAPES, ids=str)


def identity(shape: Size, device: str) -> tuple[int, torch.Tensor, torch.Tensor, int]:
    return (IDENTITY[0], *ids(shape[0], device), IDENTITY[1])


@every_shape
def test_gaussian_noise(device: str, shape: Size) -> None:
    found = ops.gaussian_noise(*identity(shape, device), shape, backend="cuda").cpu()
    assert np.abs(found.double().numpy() - normals(shape)).max() <= NOISE_BOUND
    if cpu_extension.missing() is None:  # the same header: the same bits
        assert torch.equal(found, ops.gaussian_noise(*identity(shape, "cpu"), shape, backend="cpu"))


def test_noise_inside_the_fourier_steps(device: str) -> None:
    """With x = 0, gamma = 0 and scale = 1 the step is its noise."""
    for shape in ((2, 2, 64, 64), (1, 2, 64, 256)):
        zero = torch.zeros(shape, device=device)
        power = torch.ones(1, 1, shape[2], shape[3] // 2 + 1, device=device)
        mask = torch.ones(1, 1, *shape[2:], device=device)
        args = (zero, None, 1.0)
        rest = (0.0, 1.0, *identity(shape, device))
        for found in (
            ops.fourier_prox_noise(*args, power, power + 0j, *rest, backend="cuda"),
            ops.fourier_mask_prox_noise(*args, mask, zero[:1], *rest, backend="cuda"),
            ops.masked_prox_noise(*args, mask, zero[:1], *rest, backend="cuda"),
        ):
            assert np.abs(found.double().cpu().numpy() - normals(shape)).max() <= NOISE_BOUND


@every_shape
def test_langevin_noise_and_reverse_step(device: str, shape: Size) -> None:
    x, x_t = torch.randn(2, *shape).to(device).unbind(0)
    scale = torch.rand(shape[0], device=device)
    found = ops.langevin_noise(x, scale, *identity(shape, device), backend="cuda")
    per_pair = scale.cpu().double().numpy()[:, None, None, None]
    expected = x.cpu().double().numpy() + per_pair * normals(shape)
    assert relative_error(found, expected) <= NOISE_BOUND
    found = ops.reverse_step(x, x_t, 0.7, 0.4, 0.9, *identity(shape, device), backend="cuda")
    doubles = (x.cpu().double(), x_t.cpu().double(), 0.7, 0.4, 0.9)
    exact = ops.reverse_step(*doubles, *identity(shape, "cpu"), backend="torch")
    assert relative_error(found, exact.numpy()) <= NOISE_BOUND


@pytest.mark.parametrize("seed", (0, 7, 2**32 + 5, 2**63, 2**64 - 1))
def test_a_seed_on_the_device_is_the_seed_of_the_host(device: str, seed: int) -> None:
    """Bit for bit, in every kernel that draws; a captured graph reads it there."""
    shape = (2, 2, 64, 64)
    x, x_t = torch.randn(2, *shape).to(device).unbind(0)
    small, small_t = x[..., :7, :10].contiguous(), x_t[..., :7, :10].contiguous()
    power, folded = torch.rand(1, 1, 64, 33).to(device), torch.rand(1, 1, 32, 32).to(device)
    h = torch.fft.fft2(torch.randn(1, 1, 64, 64).to(device))
    mask = (torch.rand(1, 1, 64, 64) < 0.5).float().to(device)
    there = torch.tensor([seed - 2**64 if seed >= 2**63 else seed], device=device)
    runs = (
        (ops.launch_fourier_prox_noise, (x, x_t, power, power + 0j)),
        (ops.launch_alias_prox_noise, (x, x_t, h, folded, h, 2)),
        (ops.launch_fourier_mask_prox_noise, (x, x_t, mask, x[:1])),
        (ops.launch_masked_prox_noise, (x, x_t, mask, x[:1])),
        (ops.launch_langevin_noise, (x,)),
        (ops.launch_langevin_noise, (small,)),
        (ops.launch_reverse_step, (x, x_t)),
        (ops.launch_reverse_step, (small, small_t)),
        (launch_gaussian_noise, (torch.empty_like(x),)),
    )
    for run, images in runs:
        host, on_device, other = (
            run(*images, StepTable.single(x.device, (0.4, 2.0, 0.3), 9), (s, *ids(2, device)))
            .cpu()
            .clone()
            for s in (seed, there, there ^ 1)
        )
        assert torch.equal(host, on_device), run.__name__
        assert not torch.equal(host, other), run.__name__


def test_offsets_without_alignment_take_single_pixels(device: str) -> None:
    shape = (1, 1, 8, 8)
    memory = torch.randn(65, device=device)
    z = memory[1:].view(shape)
    steps = StepTable.single(z.device, (0.0, 0.0, 0.5), IDENTITY[1])
    who = (IDENTITY[0], *ids(1, device))
    with recorded_launches() as launches:
        found = ops.launch_langevin_noise(z, steps, who)
    assert [launch.kernel for launch in launches] == ["langevin_noise<1>"]
    assert relative_error(found, z.cpu().double().numpy() + 0.5 * normals(shape)) <= NOISE_BOUND


# ---- images in 16 bits -------------------------------------------------------------------------


def test_16_bit_conversions(shim: ModuleType) -> None:
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    finite = patterns[patterns.isfinite()].float()
    for value in (*finite[::97].tolist(), 0.0, -0.0, 6e-8, 2.9e-8, 65519.0, 65520.0, 1e9, 1.00049):
        for dtype, bits in (
            (torch.float16, shim.float16_bits(value)),
            (torch.bfloat16, shim.bfloat16_bits(value)),
        ):
            expected = torch.tensor(value).to(dtype).view(torch.int16)
            assert bits == int(expected) % 2**16, value
    for index in range(0, 2**16, 53):
        if patterns[index].isfinite():
            assert shim.float16_value(index) == float(patterns[index])


# ---- what is claimed of launches and memory ------------------------------------------------------


def test_three_launches_and_28_bytes_per_pixel(device: str) -> None:
    shape = (8, 3, 64, 128)
    pixels = 8 * 3 * 64 * 128
    for case in (
        fourier_case(shape, shared=True, device=device),
        alias_case(shape, 2, shared=True, device=device),
        kspace_case((8, 2, 64, 128), shared=True, device=device),
    ):
        with recorded_launches() as launches:
            case.run("cuda")
        count = pixels if "kspace" not in case.name else 8 * 2 * 64 * 128
        assert [launch.image_bytes / count for launch in launches] == [12, 8, 8]
        # The constants, 12 bytes for each of the W/2 + 1 columns, are shared by all planes.
        assert sum(launch.constant_bytes for launch in launches) <= 12 * 64 * 130
    with recorded_launches() as launches:
        masked_case(shape, device=device).run("cuda")
    assert [launch.image_bytes / pixels for launch in launches] == [12]


# ---- the table of steps --------------------------------------------------------------------------


def test_one_table_serves_every_step(device: str) -> None:
    """What a captured graph does: the same call, the next row."""
    shape = (2, 2, 64, 64)
    x, x_t = torch.randn(2, *shape).to(device).unbind(0)
    power = torch.rand(1, 1, 64, 33, device=device)
    mask = (torch.rand(1, 1, 64, 64) < 0.5).float().to(device)
    y = torch.randn(1, 2, 64, 64, device=device)
    columns = torch.rand(3, 4, 2, device=device)  # (scalar, step, pair)
    noise_steps = [3, 2**32 - 1, 0, 8]
    who = (IDENTITY[0], *ids(2, device))
    for run, single, constants in (
        (ops.launch_fourier_prox_noise, ops.fourier_prox_noise, (power, power + 0j)),
        (ops.launch_fourier_mask_prox_noise, ops.fourier_mask_prox_noise, (mask, y)),
        (ops.launch_masked_prox_noise, ops.masked_prox_noise, (mask, y)),
    ):
        steps = StepTable.of(list(columns), noise_steps)
        for i, noise_step in enumerate(noise_steps):
            assert steps.position == i
            found = run(x, x_t, *constants, steps, who)
            weight, gamma, scale = columns[:, i]
            rest = (gamma, scale, *who, noise_step)
            assert torch.equal(found, single(x, x_t, weight, *constants, *rest, backend="cuda"))
        steps.check()
        assert steps.counter.tolist() == [4, 0, 0]
        steps.rewind()
        assert torch.equal(steps.counter.cpu(), torch.zeros(3, dtype=torch.int32))


def test_a_step_beyond_the_table(device: str) -> None:
    x = torch.randn(1, 1, 8, 8, device=device)
    steps = StepTable.single(x.device, (0.0, 0.0, 0.5), 3)
    who = (1, *ids(1, device))
    first = ops.launch_langevin_noise(x, steps, who)
    with pytest.raises(ValueError, match=r"^step: expected 0 <= step < 1, got 1; rewind the table"):
        ops.launch_langevin_noise(x, steps, who)
    steps.position = 0  # as in a replayed graph, whose steps the host does not count
    assert torch.equal(ops.launch_langevin_noise(x, steps, who), first)
    with pytest.raises(IndexError, match="expected at most 1 steps between two rewinds"):
        steps.check()
    steps.rewind()
    steps.check()
    assert repr(steps) == "StepTable(1 steps, 1 pairs, next 0)"
    steps.counter[0] = -1  # a damaged counter: no memory before the table is read either
    assert torch.equal(ops.launch_langevin_noise(x, steps, who), first)
    with pytest.raises(IndexError, match="call rewind"):
        steps.check()


def test_a_table_needs_a_noise_step_for_each_step() -> None:
    columns = [torch.rand(2, 1) for _ in range(3)]
    for noise_steps, got in (
        ([1], "one for each of 2 steps, at least one, got 1; match the columns"),
        ([0, -1], "values in [0, 2^32), got -1..0; count the steps from 0"),
        ([2**32, 5], f"values in [0, 2^32), got 5..{2**32}; count the steps from 0"),
    ):
        with pytest.raises(ValueError) as caught:
            StepTable.of(columns, noise_steps)
        assert str(caught.value) == f"noise_steps: expected {got}"
    with pytest.raises(ValueError, match=r"^noise_steps: expected one for each of 0 steps, at le"):
        StepTable.of([c[:0] for c in columns], [])
