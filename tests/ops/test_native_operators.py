"""The extension's calls of the operators: against float64, the same on every path, safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.ops import cpu_extension

if cpu_extension.missing() is not None:
    pytest.skip(str(cpu_extension.missing()), allow_module_level=True)

from latino_engine import _cpu

BOUND = 2e-6  # largest error over largest entry; measured 3e-7
SIZES = ((16, 16), (16, 256), (256, 16), (32, 64), (64, 128), (512, 32), (32, 2048), (2048, 16))
OTHER_SIZES = ((30, 45), (17, 32), (24, 24), (1, 5))
IDENTITY = (2**40 + 7, [3, 4], [5, 5], 6)
rng = torch.Generator().manual_seed(5)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng)


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def mask_of(size: tuple[int, int], batch: int = 1) -> Tensor:
    return (torch.rand(batch, 1, *size, generator=rng) < 0.5).float()


def doubled(*tensors: Any) -> tuple[Any, ...]:
    """Tensors in float64 or complex128, the rest as it is."""
    return tuple(
        t if not isinstance(t, Tensor) else t.to(torch.complex128) if t.is_complex() else t.double()
        for t in tensors
    )


def calls(size: tuple[int, int]) -> dict[str, tuple[Any, ...]]:
    """Operation -> arguments, two images; what is not observed is NaN."""
    mask, x, z, y = mask_of(size), randn(2, 3, *size), randn(2, 2, *size), randn(2, 2, *size)
    h = torch.fft.rfft2(randn(1, 3, *size))
    hidden = torch.where(mask > 0, y, torch.nan)
    gamma = torch.tensor([2.0, 0.0])
    back = torch.fft.rfft2(randn(2, 3, *size))
    return {
        "convolve": (x, h, False),
        "convolved_spectrum": (x, h, True),
        "fourier_prox": (x, h.abs() ** 2, back, gamma),
        "keep_observed": (hidden, mask),
        "kspace_forward": (z, mask),
        "kspace_adjoint": (hidden, mask, 1),
        "fourier_mask_prox": (z, mask, hidden, gamma),
        "observed_prox": (z, mask, hidden, gamma),
    }


NAMES = tuple(calls((16, 16)))
TRANSFORMS = ("convolve", "convolved_spectrum")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_own_sides(size: tuple[int, int], name: str) -> None:
    assert cpu_extension.has_own_loops(*size)
    given = calls(size)[name]
    expected = getattr(ops, name)(*doubled(*given), backend="torch")
    assert error(getattr(ops, name)(*given, backend="cpu"), expected) <= BOUND


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRANSFORMS])
@pytest.mark.parametrize("size", OTHER_SIZES, ids=str)
def test_other_sides(size: tuple[int, int], name: str) -> None:
    assert not cpu_extension.has_own_loops(*size)
    given = calls(size)[name]
    expected = getattr(ops, name)(*doubled(*given), backend="torch")
    assert error(getattr(ops, name)(*given, backend="cpu"), expected) <= BOUND


@pytest.mark.parametrize("name", TRANSFORMS)
def test_other_sides_go_to_torch(name: str) -> None:
    given = calls((30, 45))[name]
    assert torch.equal(getattr(ops, name)(*given), getattr(ops, name)(*given, backend="torch"))
    with pytest.raises(
        ValueError, match=r"^backend: expected float32 .*, got shape \(2, 3, 30, 45"
    ):
        getattr(ops, name)(*given, backend="cpu")


@pytest.mark.parametrize("channels", [1, 2])
def test_real_and_complex_images(channels: int) -> None:
    x, mask, y = randn(3, channels, 64, 32), mask_of((64, 32), 3), randn(3, 2, 64, 32)
    expected = ops.kspace_forward(*doubled(x, mask), backend="torch")
    assert error(ops.kspace_forward(x, mask, backend="cpu"), expected) <= BOUND
    adjoint = ops.kspace_adjoint(y, mask, channels, backend="cpu")
    assert error(adjoint, ops.kspace_adjoint(*doubled(y, mask), channels, backend="torch")) <= BOUND
    left = (ops.kspace_forward(x, mask, backend="cpu") * y).sum()
    assert float((left - (x * adjoint).sum()).abs()) <= 1e-3  # <A x, y> = <x, A_adjoint y>


@pytest.mark.parametrize("shared", [True, False])
def test_the_inner_step_of_k_space(shared: bool) -> None:
    x, x_t = randn(2, 2, 64, 128), randn(2, 2, 64, 128)
    batch = 1 if shared else 2
    mask, y = mask_of((64, 128), batch), randn(batch, 2, 64, 128)
    scalars = (torch.tensor([2.0, 3.0]), torch.tensor([0.0, 0.7]))
    given = (torch.tensor([0.3, 1.0]), mask, y, *scalars, *IDENTITY)
    for state in (x_t, None):
        found = ops.fourier_mask_prox_noise(x, state, *given, backend="cpu")
        expected = ops.fourier_mask_prox_noise(x, state, *given, backend="torch")
        assert error(found, expected) <= BOUND
        out = x.clone()
        assert ops.fourier_mask_prox_noise(out, state, *given, backend="cpu", out=out) is out
        assert torch.equal(out, found)


def direct(size: tuple[int, int]) -> dict[str, Callable[..., np.ndarray]]:
    """The extension's own functions on fixed arguments: options -> the result."""
    mask, x, z, y = (t.numpy() for t in (mask_of(size), randn(2, 3, *size), *randn(2, 2, 2, *size)))
    h = torch.fft.rfft2(randn(1, 3, *size)).numpy()
    one, scale, ids = np.ones(1, np.float32), np.full(2, 0.5, np.float32), np.arange(2)

    def run(function: Callable[..., None], out: np.ndarray, *given: Any) -> Any:
        def call(num_threads: int = 1, target: str = "") -> np.ndarray:
            result = np.full_like(out, np.nan)
            function(*given, result, num_threads, target)
            return result

        return call

    inner = (z, None, one, mask, y, one, scale, 7, ids, ids, 3)
    return {
        "convolve": run(_cpu.convolve, x, x, h, False),
        "convolved_spectrum": run(_cpu.convolved_spectrum, np.repeat(h, 2, axis=0), x, h, True),
        "kspace_forward": run(_cpu.kspace_forward, z, z, mask),
        "kspace_adjoint": run(_cpu.kspace_adjoint, z, y, mask),
        "kspace_prox_noise": run(_cpu.kspace_prox_noise, z, *inner),
    }


@pytest.mark.parametrize("size", [(16, 32), (128, 16), (64, 256)], ids=str)
def test_instruction_sets_and_threads_agree_to_the_bit(size: tuple[int, int]) -> None:
    for name, call in direct(size).items():
        best = call()
        assert np.isfinite(best).all()
        for target in _cpu.targets():
            assert np.array_equal(call(target=target), best), (name, target)
        for threads in (2, 3, 5):
            assert np.array_equal(call(num_threads=threads), best), (name, threads)


def test_no_noise_is_the_step_without_noise() -> None:
    x, x_t = randn(2, 1, 2, 32, 64)
    mask, y = mask_of((32, 64)), randn(1, 2, 32, 64)
    silent = ops.fourier_mask_prox_noise(x, x_t, 0.25, mask, y, 2.0, 0.0, 1, [0], [0], 0)
    plain = ops.fourier_mask_prox(torch.lerp(x_t, x, 0.25), mask, y, 2.0)
    assert error(silent, plain) <= BOUND


def test_misuse() -> None:
    z, mask = np.zeros((2, 2, 32, 32), np.float32), np.ones((1, 1, 32, 32), np.float32)
    h, half = np.ones((1, 2, 32, 17), np.complex64), np.zeros((2, 2, 32, 17), np.complex64)
    out = z.copy()
    for call in (
        lambda: _cpu.convolve(z, h[..., :9], False, out, 1),
        lambda: _cpu.convolve(z[..., :30].copy(), h, False, out, 1),
        lambda: _cpu.convolve(z, h.real.copy(), False, out, 1),
        lambda: _cpu.convolve(z, h, False, out[..., ::2], 1),
        lambda: _cpu.convolve(z, h, False, out, 0),
        lambda: _cpu.convolve(z, h, False, out, 1, "avx9"),
        lambda: _cpu.convolved_spectrum(z, h, False, half[:1], 1),
        lambda: _cpu.convolved_spectrum(z[:, :, :24, :24].copy(), h, False, half, 1),
        lambda: _cpu.keep_observed(z, mask[..., :16].copy(), out, 1),
        lambda: _cpu.keep_observed(z, out[:1, :1], out, 1),
        lambda: _cpu.kspace_forward(z, mask, z, 1),
        lambda: _cpu.kspace_forward(np.zeros((2, 3, 32, 32), np.float32), mask, out, 1),
        lambda: _cpu.kspace_forward(np.zeros((2, 2, 30, 30), np.float32), mask, out, 1),
        lambda: _cpu.kspace_adjoint(z[:1], mask, out, 1),
        lambda: _cpu.kspace_adjoint(z.astype(float), mask, out, 1),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert not out.any()


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("convolve", (randn(1, 1, 8, 8), torch.ones(1, 1, 8, 4)), r"^h: expected a half-spectrum"),
        ("kspace_forward", (randn(1, 3, 8, 8), mask_of((8, 8))), r"^x: expected \(B, 1\|2, H, W\)"),
        ("kspace_adjoint", (randn(1, 1, 8, 8), mask_of((8, 8))), r"^y: expected \(B, 2, H, W\)"),
        ("kspace_adjoint", (randn(1, 2, 8, 8), mask_of((8, 4))), r"^mask: expected \(1\|1, 1, 8"),
        ("kspace_adjoint", (randn(1, 2, 8, 8), mask_of((8, 8)), 3), r"^channels: expected 1 or 2"),
        (
            "fourier_mask_prox",
            (randn(2, 2, 8, 8), mask_of((8, 8)), randn(3, 2, 8, 8), 1.0),
            r"^y: expected \(2\|1, 2, 8, 8\)",
        ),
    ],
)
def test_refusals(name: str, given: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        getattr(ops, name)(*given)


def test_gradients_go_through_the_operators() -> None:
    """A, A_adjoint and prox of what requires a gradient are torch's, and its adjoint is exact."""
    import latino_engine as le

    mask = mask_of((32, 32))[0, 0]
    for op, channels in (
        (le.Blur.gaussian(1.0, 0.1), 3),
        (le.SuperResolution(2, 0.1), 3),
        (le.Inpainting(mask, 0.1), 3),
        (le.MRI(mask, 0.1), 2),
    ):
        x = randn(1, channels, 32, 32).requires_grad_()
        y = op.A(x)
        weights = randn(*y.shape)
        (y * weights).sum().backward()
        assert x.grad is not None
        assert error(x.grad, op.A_adjoint(weights).detach()) <= 1e-5
        z = op.prox(x, y.detach(), 2.0)
        (through,) = torch.autograd.grad(z.sum(), x)
        assert bool(torch.isfinite(through).all())
