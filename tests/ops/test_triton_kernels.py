"""The Triton kernels against the specification; their noise stands in test_triton_noise.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton_copies import (
    DTYPES,
    SEED,
    SHAPES,
    STEP,
    Kernels,
    Size,
    assert_close,
    every_dtype,
    ids,
    interpreted_package,
    interpreter_or_gpu,  # noqa: F401  (a fixture)
    per_pair,
    rounding,
)

from latino_engine import ops
from latino_engine.ops import alias_fold
from latino_engine.ops.step_table import StepTable

# ---- steps -------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_reverse_step(kernels: Kernels, shape: Size, dtype: torch.dtype) -> None:
    x0, x_t = (torch.randn(shape).to(dtype) for _ in range(2))
    sigma_n, sigma_next, zeta = 0.7, 0.4, 0.9
    kept, renewed = (1 - zeta) ** 0.5 / sigma_n, zeta**0.5
    identity = (SEED, *ids(shape[0]), STEP)
    found = kernels.launch("reverse_step", x0, x_t, sigma_next, kept, renewed, *identity)
    assert found.dtype == dtype
    scalars = (sigma_n, sigma_next, zeta)
    expected = ops.reverse_step(x0.double(), x_t.double(), *scalars, *identity, backend="torch")
    assert_close(found, expected, rounding(dtype, kernels))


@dataclass(frozen=True)
class Masked:
    """An inner step of inpainting: which tensors are shared, and whether there is a state."""

    shape: Size = (2, 3, 5, 7)
    mask_lead: tuple[int, int] = (1, 1)
    y_lead: tuple[int, int] = (1, 1)
    table_pairs: int = 1
    with_state: bool = True
    dtype: torch.dtype = torch.float32

    def tensors(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3)
        size = self.shape[2:]
        x = torch.randn(self.shape, generator=generator).to(self.dtype)
        x_t = torch.randn(self.shape, generator=generator).to(self.dtype)
        mask = (torch.rand(*self.mask_lead, *size, generator=generator) < 0.5).float()
        y = torch.randn(*self.y_lead, *size, generator=generator)
        rows = torch.rand(3, self.table_pairs, 4, generator=generator)
        rows[..., 1] *= 200.0  # gamma
        return {"x": x, "x_t": x_t if self.with_state else None, "mask": mask, "y": y, "rows": rows}

    def expected(self, step: int, noise_step: int) -> Tensor:
        t = {name: v if v is None else v.double() for name, v in self.tensors().items()}
        weight, gamma, scale = (per_pair(t["rows"][step, :, i]) for i in range(3))
        identity = (SEED, *ids(self.shape[0]), noise_step)
        anchors = (t["x"], t["x_t"], weight.flatten())
        rest = (t["mask"], t["y"], gamma.flatten(), scale.flatten(), *identity)
        return ops.masked_prox_noise(*anchors, *rest, backend="torch")


MASKED = (
    *(Masked(shape=shape) for shape in SHAPES),
    Masked(mask_lead=(2, 3), y_lead=(2, 3), table_pairs=2),
    Masked(shape=(2, 3, 6, 24), mask_lead=(2, 1), y_lead=(1, 3), table_pairs=2),
    Masked(shape=(2, 3, 6, 24), mask_lead=(1, 3), y_lead=(2, 1), with_state=False),
    *(Masked(shape=s, dtype=d, table_pairs=2) for d in DTYPES[1:] for s in SHAPES[:2]),
)


@pytest.mark.parametrize("case", MASKED, ids=str)
def test_masked_prox_noise(kernels: Kernels, case: Masked) -> None:
    t = case.tensors()
    counter = kernels.there(torch.tensor([1, 0, 0], dtype=torch.int32))
    noise_steps = torch.tensor([0, STEP, 9])
    inputs = (t["x"], t["x_t"], t["mask"], t["y"], t["rows"], noise_steps, counter)
    found = kernels.launch("masked_prox_noise", *inputs, SEED, *ids(case.shape[0]))
    assert found.dtype == case.dtype
    assert_close(found, case.expected(1, STEP), rounding(case.dtype, kernels))
    assert counter.tolist() == [2, 0, 0]


def test_one_table_serves_all_steps(kernels: Kernels) -> None:
    case = Masked(shape=(2, 1, 45, 64), table_pairs=2)  # four programs share the counter
    t = case.tensors()
    columns = t["rows"].unbind(-1)[:3]
    steps = StepTable.of(list(columns), [5, 2**31 + 1, STEP])
    rows, counter = kernels.there(steps.rows), kernels.there(steps.counter)
    table = (rows.view(torch.float32), rows[:, 0, 3], counter)
    inputs = (t["x"], t["x_t"], t["mask"], t["y"], *table, SEED, *ids(2))
    for step, noise_step in enumerate((5, 2**31 + 1, STEP)):
        assert counter.tolist() == [step, 0, 0]
        found = kernels.launch("masked_prox_noise", *inputs)
        assert_close(found, case.expected(step, noise_step), 0.0)
    last = kernels.launch("masked_prox_noise", *inputs)  # beyond the end: the last row, and a flag
    assert torch.equal(last, found) and counter.tolist() == [4, 0, 1]
    counter.copy_(torch.tensor([-1, 0, 0]))  # damaged: no memory before the table is read either
    last = kernels.launch("masked_prox_noise", *inputs)
    assert torch.equal(last, found) and counter.tolist() == [0, 0, 1]


def test_masked_prox_noise_in_place(kernels: Kernels) -> None:
    case = Masked(shape=(2, 2, 7, 24))
    t = {name: kernels.there(value) for name, value in case.tensors().items()}
    table = (t["rows"], torch.tensor([4, 5, 6]), torch.zeros(3, dtype=torch.int32))
    table = tuple(map(kernels.there, table))
    wrapper = kernels.module("masked_prox_noise").launch_masked_prox_noise
    inputs = (t["x"], t["x_t"], t["mask"], t["y"], *table, SEED, *map(kernels.there, ids(2)))
    assert wrapper(*inputs, out=t["x_t"]) is t["x_t"]
    assert_close(t["x_t"].cpu(), case.expected(0, 4), 0.0)


# ---- spectra -----------------------------------------------------------------------------------


def rough_kernel(lead: tuple[int, int], height: int, width: int) -> Tensor:
    """Lopsided kernels of sum 1: symmetry would hide a missing conjugate."""
    kernel = torch.rand(*lead, height, width, dtype=torch.float64) ** 8
    return kernel / kernel.sum((-2, -1), keepdim=True)


@pytest.mark.parametrize("lead", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("size", [(5, 7), (16, 30), (33, 40)], ids=str)
def test_fourier_prox(kernels: Kernels, size: tuple[int, int], lead: tuple[int, int]) -> None:
    v = torch.randn(2, 3, *size, dtype=torch.float64)
    h = torch.fft.rfft2(rough_kernel(lead, *size))
    back = h.conj() * torch.fft.rfft2(torch.randn(*lead, *size, dtype=torch.float64))
    for gamma in (torch.tensor([3.0, 190.0]), torch.tensor([[40.0]])):
        spectrum = kernels.there(torch.fft.rfft2(v).to(torch.complex64))
        constants = (h.abs().square().float(), back.to(torch.complex64), gamma)
        apart = kernels.launch("fourier_prox", spectrum, *constants)
        expected = ops.fourier_prox(v, h.abs() ** 2, back, gamma.flatten(), backend="torch")
        assert_close(torch.fft.irfft2(apart, s=size), expected, 0.0)
        wrapper = kernels.module("fourier_prox").launch_fourier_prox
        assert wrapper(spectrum, *map(kernels.there, constants), out=spectrum) is spectrum
        assert torch.equal(spectrum.cpu(), apart)


@pytest.mark.parametrize("lead", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("size", [(6, 10, 2), (30, 36, 2), (9, 15, 3), (16, 8, 4)], ids=str)
def test_alias_prox(kernels: Kernels, size: tuple[int, int, int], lead: tuple[int, int]) -> None:
    height, width, factor = size
    v = torch.randn(2, 2, height, width, dtype=torch.float64)
    h = torch.fft.fft2(rough_kernel(lead, height, width))
    y = torch.randn(*lead, height // factor, width // factor, dtype=torch.float64)
    back = h.conj() * torch.fft.fft2(y).repeat(1, 1, factor, factor)
    power = alias_fold(h.abs() ** 2, factor)
    gamma = torch.tensor([3.0, 60.0])
    spectrum = kernels.there(torch.fft.fft2(v).to(torch.complex64))
    constants = (h.to(torch.complex64), power.float(), back.to(torch.complex64), gamma, factor)
    apart = kernels.launch("alias_prox", spectrum, *constants)
    expected = ops.alias_prox(v, h, power, back, gamma, factor, backend="torch")
    assert_close(torch.fft.ifft2(apart).real, expected, 0.0, bound=2e-6)
    wrapper = kernels.module("alias_prox").launch_alias_prox
    assert wrapper(spectrum, *map(kernels.there, constants), out=spectrum) is spectrum
    assert torch.equal(spectrum.cpu(), apart)


@pytest.mark.parametrize("leads", [(1, 1), (2, 1), (1, 2), (2, 2)], ids=str)
@pytest.mark.parametrize("size", [(5, 7), (16, 30), (3, 300), (1, 1)], ids=str)
def test_fourier_mask_prox(kernels: Kernels, size: tuple[int, int], leads: tuple[int, int]) -> None:
    v = torch.randn(2, 2, *size, dtype=torch.float64)
    mask = (torch.rand(leads[0], 1, *size) < 0.5).double()
    y = torch.randn(leads[1], 2, *size, dtype=torch.float64)
    gamma, axes = torch.tensor([3.0, 60.0]), (-2, -1)
    image = torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=axes)
    spectrum = kernels.there(torch.fft.fft2(image).to(torch.complex64))
    constants = (mask.float(), y.float(), gamma, float(size[0] * size[1]) ** 0.5)
    apart = kernels.launch("fourier_mask_prox", spectrum, *constants)
    found = torch.fft.fftshift(torch.fft.ifft2(apart), dim=axes)
    rest = (gamma, 0.0, SEED, *ids(2), STEP)  # no noise
    expected = ops.fourier_mask_prox_noise(v, None, 1.0, mask, y, *rest, backend="torch")
    assert_close(torch.cat((found.real, found.imag), dim=1), expected, 0.0)
    wrapper = kernels.module("fourier_mask_prox").launch_fourier_mask_prox
    assert wrapper(spectrum, *map(kernels.there, constants), out=spectrum) is spectrum
    assert torch.equal(spectrum.cpu(), apart)


# ---- every configuration -----------------------------------------------------------------------


def operations() -> dict[str, Callable[[Kernels], Any]]:
    """One launch of each operation."""
    shape = (1, 1, 17, 48)
    z, identity = torch.linspace(-2, 2, 17 * 48).reshape(shape), (SEED, *ids(1), 3)
    spectrum = torch.fft.rfft2(z)
    power, gamma = spectrum.abs(), torch.tensor([2.0])
    full, kept = torch.fft.fft2(z[:, :, :16]), torch.ones(1, 1, 8, 24)
    mask = (z[:, :, :16] > 0).float()
    both = torch.cat((z[:, :, :16], z.flip(2)[:, :, :16]), dim=1)
    table = (torch.rand(1, 1, 4), torch.tensor([3]))
    scalars = (0.4, 0.5, 0.9)

    def masked(k: Kernels) -> Any:
        counter = torch.zeros(3, dtype=torch.int32)
        rest = (*table, counter, *identity[:3])
        return k.launch("masked_prox_noise", z, z.flip(2), (z > 0).float(), z, *rest)

    return {
        "gaussian_noise": lambda k: k.launch("gaussian_noise", *identity, shape),
        "langevin_noise": lambda k: k.launch("langevin_noise", z, gamma, *identity),
        "reverse_step": lambda k: k.launch("reverse_step", z, z.flip(2), *scalars, *identity),
        "masked_prox_noise": masked,
        "fourier_prox": lambda k: k.launch("fourier_prox", spectrum, power, spectrum, gamma),
        "alias_prox": lambda k: k.launch("alias_prox", full, full / 99, kept, full, gamma, 2),
        "fourier_mask_prox": lambda k: k.launch("fourier_mask_prox", full, mask, both, gamma, 7.0),
    }


@pytest.mark.parametrize("op", sorted(operations()))
def test_every_launch_shape_gives_the_same_bits(
    kernels: Kernels, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, module = operations()[op], kernels.module(op)
    results = []
    for block in (32, module.CONFIG.block, 2 * module.CONFIG.block):  # many tiles, few, one
        monkeypatch.setattr(module, "CONFIG", replace(module.CONFIG, block=block))
        found = run(kernels)
        results.append(found if isinstance(found, tuple) else (found,))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


# ---- beyond 2^31 entries -----------------------------------------------------------------------

LARGE = ((3, 1, 2**15, 2**15 + 8), (1, 1, 2**16, 2**16 + 8))  # images, one plane


class Enough(Exception):
    """Ends the interpreter's walk over a grid."""


@pytest.fixture
def last_program(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The interpreter runs the last program of a grid alone and moves no image.

    Gives the largest addresses that were read and written.
    """
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    place, load = builder.set_grid_idx, builder.create_masked_load
    largest = {"read": 0, "written": 0}

    def set_grid_idx(x: int, y: int, z: int) -> None:
        if x > 0:
            raise Enough
        place(builder.grid_dim[0] - 1, y, z)

    def note(kind: str, pointers: Any, mask: Any) -> None:
        largest[kind] = max(largest[kind], *pointers.data[mask.data].tolist())

    def create_masked_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        if pointers.data.size == 1:
            return load(pointers, mask, *rest)  # a scalar of the step
        note("read", pointers, mask)
        kind = pointers.get_element_ty()
        zeros = np.zeros(pointers.data.shape, interpreter._get_np_dtype(kind))
        return interpreter.TensorHandle(zeros, kind)

    def create_masked_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> None:
        if pointers.data.size > 1:
            note("written", pointers, mask)

    monkeypatch.setattr(builder, "set_grid_idx", set_grid_idx)
    monkeypatch.setattr(builder, "create_masked_load", create_masked_load)
    monkeypatch.setattr(builder, "create_masked_store", create_masked_store)
    return largest


def large_launches(shape: Size) -> dict[str, tuple[tuple[Any, ...], int]]:
    """Arguments and bytes of an output; every large tensor is one number, many times."""
    pairs, _, height, width = shape
    number = torch.zeros(1, dtype=torch.complex64)
    image, full = number.real.expand(shape), number.expand(shape)
    spectrum = number.expand(pairs, 1, height, width // 2 + 1)
    power, kept = spectrum[:1].real, image[:1, :, : height // 2, : width // 2]
    scalars, identity = torch.zeros(pairs), (SEED, *ids(pairs))
    table = (torch.zeros(1, pairs, 4), torch.tensor([3]), torch.zeros(3, dtype=torch.int32))
    size = 4 * image.numel()
    return {
        "gaussian_noise": ((*identity, 3, shape), size),
        "langevin_noise": ((image, scalars, *identity, 3), size),
        "reverse_step": ((image, image, 0.4, 0.5, 0.9, *identity, 3), size),
        "masked_prox_noise": ((image, image, image[:1], image[:1], *table, *identity), size),
        "fourier_prox": ((spectrum, power, spectrum, scalars), 8 * spectrum.numel()),
        "alias_prox": ((full, full[:1], kept, full[:1], scalars, 2), 2 * size),
        "fourier_mask_prox": ((full, image[:1], image[:1], scalars, 1.0), 2 * size),
    }


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("op", sorted(large_launches(LARGE[0])))
def test_the_last_entry_is_the_last_address(
    op: str, shape: Size, last_program: dict[str, int]
) -> None:
    kernels = Kernels(interpreted_package(), "cpu")
    arguments, size = large_launches(shape)[op]
    out = next((a for a in arguments if isinstance(a, Tensor) and a.ndim == 4), None)
    out = torch.zeros(1).expand(shape) if out is None else out
    wrapper = getattr(kernels.module(op), f"launch_{op}")
    with pytest.raises(Exception, match="Enough"):
        wrapper(*arguments, out=out)
    last = out.data_ptr() + size - 4
    assert size > 2**31 and last_program["written"] == last
    assert last_program["read"] == (0 if op == "gaussian_noise" else last)


def test_the_interpreter_leaves_the_language_as_it_was() -> None:
    """Kernels compiled later in the session meet Triton's own functions."""
    import triton.language as tl

    owners = (tl, tl.core, tl.math, tl.tensor)
    before = [dict(vars(owner)) for owner in owners]
    Kernels(interpreted_package(), "cpu").launch("gaussian_noise", SEED, *ids(1), 3, (1, 1, 4, 4))
    after = [dict(vars(owner)) for owner in owners]
    assert all(
        was[name] is now[name] for was, now in zip(before, after, strict=True) for name in was
    )
