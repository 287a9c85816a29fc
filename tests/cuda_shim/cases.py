"""Inner steps with random data, and what they should give, in float64 numpy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latino_engine import ops
from latino_engine.ops.philox import philox_normals

Array = NDArray[np.float64]
Size = tuple[int, int, int, int]
IDENTITY = (12345678901234567890, 7)  # seed and noise step


@dataclass(frozen=True)
class Case:
    """One inner step: `run` gives the result, `expected` is exact but for float32 noise."""

    name: str
    run: Callable[..., Tensor]
    expected: Array

    def error(self, backend: str = "cuda") -> float:
        """max |found - expected| / max |expected|."""
        found = self.run(backend).double().cpu().numpy()
        return float(np.abs(found - self.expected).max() / np.abs(self.expected).max())


def relative_error(found: Tensor, expected: Array) -> float:
    """max |found - expected| / max |expected|."""
    return float(np.abs(found.double().cpu().numpy() - expected).max() / np.abs(expected).max())


def ids(pairs: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Paired ids that are no ranges."""
    images = torch.arange(pairs, device=device) * 977 % 4096
    return images, torch.arange(pairs, device=device) + 2**31


@functools.lru_cache(maxsize=64)
def normals(shape: Size, step: int = IDENTITY[1]) -> Array:
    """The noise by its float64 recipe."""
    return np.asarray(philox_normals(IDENTITY[0], *ids(shape[0]), step, shape))


def rough_kernel(
    rng: np.random.Generator, planes: tuple[int, ...], height: int, width: int
) -> Array:
    """Lopsided kernels of sum 1, (*planes, H, W): symmetry would hide a missing conjugate."""
    rows, columns = np.mgrid[:height, :width]
    distance = (
        np.minimum(rows, height - rows) ** 2 / 8 + np.minimum(columns, width - columns) ** 2 / 3
    )
    kernel = np.exp(-distance) * (1 + 0.3 * np.sin(rows + 2 * columns))
    kernel = kernel * (1 + 0.2 * rng.random((*planes, 1, 1)))
    return np.asarray(kernel / kernel.sum(axis=(-2, -1), keepdims=True))


def _images(rng: np.random.Generator, shape: Size, count: int) -> list[Array]:
    return [rng.standard_normal(shape).astype(np.float32).astype(np.float64) for _ in range(count)]


def _scalars(rng: np.random.Generator, pairs: int) -> list[Array]:
    """x_weight, gamma, scale: (P, 1, 1, 1) with float32 values."""
    weight, gamma = rng.uniform(0.2, 0.8, pairs), rng.uniform(0.5, 200.0, pairs)
    values = (weight, gamma, rng.uniform(0.1, 0.6, pairs))
    return [v.astype(np.float32).astype(np.float64)[:, None, None, None] for v in values]


def _float32(value: Array, device: str) -> Tensor:
    return torch.from_numpy(value.astype(np.float32)).to(device)


def _complex64(value: NDArray[np.complex128], device: str) -> Tensor:
    return torch.from_numpy(value.astype(np.complex64)).to(device)


def _call(x: Array, x_t: Array | None, scalars: list[Array], device: str) -> tuple[list, list]:
    """The tensors x, x_t, x_weight, and gamma, scale."""
    weight, gamma, scale = (_float32(v.ravel(), device) for v in scalars)
    state = None if x_t is None else _float32(x_t, device)
    return [_float32(x, device), state, weight], [gamma, scale]


def fourier_case(
    shape: Size, *, with_state: bool = True, shared: bool = False, device: str = "cpu"
) -> Case:
    """A blur; shared: one constant for all planes."""
    rng = np.random.default_rng(shape[2] * 31 + shape[3])
    pairs, channels, height, width = shape
    x, x_t = _images(rng, shape, 2)
    lead = (1, 1) if shared else (pairs, channels)
    h = np.fft.rfft2(rough_kernel(rng, lead, height, width))
    y = rng.standard_normal((*lead, height, width))
    power = (np.abs(h) ** 2).astype(np.float32).astype(np.float64)
    back = (h.conj() * np.fft.rfft2(y)).astype(np.complex64).astype(np.complex128)
    scalars = weight, gamma, scale = _scalars(rng, pairs)
    v = weight * x + (1 - weight) * x_t if with_state else x
    X = (gamma * back + np.fft.rfft2(v)) / (gamma * power + 1)
    z = np.fft.irfft2(X, s=(height, width))
    head, tail = _call(x, x_t if with_state else None, list(scalars), device)
    constants = [_float32(power, device), _complex64(back, device)]
    identity = (IDENTITY[0], *ids(pairs, device), IDENTITY[1])

    def run(backend: str) -> Tensor:
        return ops.fourier_prox_noise(*head, *constants, *tail, *identity, backend=backend)

    return Case(f"fourier {shape}", run, z + scale * normals(shape))


def alias_case(shape: Size, factor: int, *, shared: bool = False, device: str = "cpu") -> Case:
    """Super-resolution with a lopsided kernel."""
    rng = np.random.default_rng(shape[2] * 31 + shape[3] + factor)
    pairs, channels, height, width = shape
    x, x_t = _images(rng, shape, 2)
    lead = (1, 1) if shared else (pairs, channels)

    def fold(spectrum: NDArray) -> NDArray:
        split = (*spectrum.shape[:2], factor, height // factor, factor, width // factor)
        return spectrum.reshape(split).mean(axis=(2, 4))

    h = np.fft.fft2(rough_kernel(rng, lead, height, width))
    h = h.astype(np.complex64).astype(np.complex128)
    y = np.fft.fft2(rng.standard_normal((*lead, height // factor, width // factor)))
    back = (h.conj() * np.tile(y, (1, 1, factor, factor))).astype(np.complex64)
    power = fold(np.abs(h) ** 2).astype(np.float32).astype(np.float64)
    scalars = weight, gamma, scale = _scalars(rng, pairs)
    b = np.fft.fft2(weight * x + (1 - weight) * x_t) + gamma * back.astype(np.complex128)
    inner = fold(h * b) / (1 + gamma * power)
    X = b - gamma * h.conj() * np.tile(inner, (1, 1, factor, factor))
    z = np.fft.ifft2(X).real
    head, tail = _call(x, x_t, list(scalars), device)
    constants = [_complex64(h, device), _float32(power, device), torch.from_numpy(back).to(device)]
    identity = (IDENTITY[0], *ids(pairs, device), IDENTITY[1])

    def run(backend: str) -> Tensor:
        return ops.alias_prox_noise(*head, *constants, *tail, factor, *identity, backend=backend)

    return Case(f"alias {shape} {factor}", run, z + scale * normals(shape))


def kspace_case(shape: Size, *, shared: bool = False, device: str = "cpu") -> Case:
    """Single-coil MRI: F = fftshift fft2(ifftshift x), orthonormal."""
    rng = np.random.default_rng(shape[2] * 31 + shape[3])
    pairs, channels, height, width = shape
    assert channels == 2
    x, x_t = _images(rng, shape, 2)
    lead, axes = 1 if shared else pairs, (-2, -1)
    mask = (rng.random((lead, 1, height, width)) < 0.4).astype(np.float64)
    (y,) = _images(rng, (lead, 2, height, width), 1)
    scalars = weight, gamma, scale = _scalars(rng, pairs)
    v = weight * x + (1 - weight) * x_t
    image = np.fft.ifftshift(v[:, :1] + 1j * v[:, 1:], axes=axes)
    V = np.fft.fftshift(np.fft.fft2(image, norm="ortho"), axes=axes)
    X = (gamma * mask * (y[:, :1] + 1j * y[:, 1:]) + V) / (gamma * mask + 1)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(X, axes=axes), norm="ortho"), axes=axes)
    z = np.concatenate((image.real, image.imag), axis=1)
    head, tail = _call(x, x_t, list(scalars), device)
    constants = [_float32(mask, device), _float32(y, device)]
    identity = (IDENTITY[0], *ids(pairs, device), IDENTITY[1])

    def run(backend: str) -> Tensor:
        return ops.fourier_mask_prox_noise(*head, *constants, *tail, *identity, backend=backend)

    return Case(f"kspace {shape}", run, z + scale * normals(shape))


def masked_case(
    shape: Size, *, lead: tuple[int, int] = (1, 1), with_state: bool = True, device: str = "cpu"
) -> Case:
    """Inpainting; the mask and y are (*lead, H, W)."""
    rng = np.random.default_rng(shape[2] * 31 + shape[3])
    x, x_t = _images(rng, shape, 2)
    mask = (rng.random((*lead, *shape[2:])) < 0.5).astype(np.float64)
    (y,) = _images(rng, (*lead, *shape[2:]), 1)
    scalars = weight, gamma, scale = _scalars(rng, shape[0])
    v = weight * x + (1 - weight) * x_t if with_state else x
    z = (gamma * mask * y + v) / (gamma * mask + 1)
    head, tail = _call(x, x_t if with_state else None, list(scalars), device)
    constants = [_float32(mask, device), _float32(y, device)]
    identity = (IDENTITY[0], *ids(shape[0], device), IDENTITY[1])

    def run(backend: str) -> Tensor:
        return ops.masked_prox_noise(*head, *constants, *tail, *identity, backend=backend)

    return Case(f"masked {shape} {lead}", run, z + scale * normals(shape))
