"""The native CPU backend of the operators' own calls; see `latino_engine.ops.cpu_extension`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latino_engine.ops import cpu_extension, reference
from latino_engine.ops.cpu_extension import _array, _empty, _extension, _scalars

OWN_SIDES = "sides of a power of two from 16 to 2048"


def own_sides(height: int, width: int) -> bool:
    """Whether the extension is there and transforms images of this size by its own loops."""
    return cpu_extension.missing() is None and bool(_extension().has_fourier_loops(height, width))


def convolve(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    """As `reference.convolve`, for own sides."""
    out = _empty(x)
    _extension().convolve(_array(x), _array(h), conjugate, _array(out), torch.get_num_threads())
    return out


def convolved_spectrum(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    """As `reference.convolved_spectrum`, for own sides."""
    half = (*x.shape[:-1], x.shape[-1] // 2 + 1)
    out = torch.empty(half, dtype=torch.complex64)
    threads = torch.get_num_threads()
    _extension().convolved_spectrum(_array(x), _array(h), conjugate, _array(out), threads)
    return out


def keep_observed(x: Tensor, mask: Tensor) -> Tensor:
    """As `reference.keep_observed`, for x and mask of four axes."""
    out = _empty(x)
    _extension().keep_observed(_array(x), _array(mask), _array(out), torch.get_num_threads())
    return out


def fourier_prox(v: Tensor, power: Tensor, back_projected: Tensor, gamma: Tensor) -> Tensor:
    """As `reference.fourier_prox`."""
    if cpu_extension.fourier_path(*v.shape[2:]) == "own loops":
        scalars = (_one(), power, back_projected, gamma, _zero())
        return cpu_extension._fourier_by_own_loops(v, None, *scalars, *_nobody(v.shape[0]))
    V = torch.fft.rfft2(v)
    constants = (_array(power), _array(back_projected), _scalars(gamma))
    _extension().fourier_combine(_array(V), *constants, torch.get_num_threads())
    z: Tensor = torch.fft.irfft2(V, s=v.shape[-2:])
    return z


def alias_prox(
    v: Tensor, h: Tensor, folded_power: Tensor, back_projected: Tensor, gamma: Tensor, factor: int
) -> Tensor:
    """As `reference.alias_prox`."""
    spectra = (h, folded_power, back_projected)
    if cpu_extension.fourier_path(v.shape[2], v.shape[3], factor) != "own loops":
        return reference.alias_prox(v, *spectra, gamma, factor)
    rest = (gamma, _zero(), factor, *_nobody(v.shape[0]))
    return cpu_extension._alias_by_own_loops(v, None, _one(), *spectra, *rest)


def kspace_forward(x: Tensor, mask: Tensor) -> Tensor:
    """As `reference.kspace_forward`."""
    batch, channels, *size = x.shape
    if not own_sides(*size):
        if channels == 1:
            return reference.kspace_forward(x, mask)
        V = torch.fft.fft2(_packed(x), norm="ortho")
        return keep_observed(_unpacked(V), mask)
    out = torch.empty((batch, 2, *size), dtype=torch.float32)
    _extension().kspace_forward(_array(x), _array(mask), _array(out), torch.get_num_threads())
    return out


def kspace_adjoint(y: Tensor, mask: Tensor, channels: int) -> Tensor:
    """As `reference.kspace_adjoint`."""
    batch, _, *size = y.shape
    if not own_sides(*size):
        image = _unpacked(torch.fft.ifft2(_packed(keep_observed(y, mask)), norm="ortho"))
        return image[:, :channels].contiguous()
    out = torch.empty((batch, channels, *size), dtype=torch.float32)
    _extension().kspace_adjoint(_array(y), _array(mask), _array(out), torch.get_num_threads())
    return out


def fourier_mask_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """As `reference.fourier_mask_prox`."""
    if not own_sides(*v.shape[2:]):
        y = keep_observed(y, mask)
    rest = (_one(), mask, y, gamma, _zero())
    return cpu_extension.fourier_mask_prox_noise(v, None, *rest, *_nobody(v.shape[0]))


def _packed(x: Tensor) -> Tensor:
    """ifftshift of images (B, 2, H, W) as complex (B, H, W)."""
    batch, _, *size = x.shape
    image = torch.empty((batch, *size), dtype=torch.complex64)
    threads = torch.get_num_threads()
    _extension().kspace_pack(_array(x), None, _scalars(_one()), _array(image), threads)
    return image


def _unpacked(image: Tensor) -> Tensor:
    """fftshift of complex images (B, H, W) in their parts, (B, 2, H, W)."""
    batch, *size = image.shape
    out = torch.empty((batch, 2, *size), dtype=torch.float32)
    seed, images, samples, step = _nobody(batch)
    rest = (seed, _array(images), _array(samples), step, _array(out), torch.get_num_threads())
    _extension().kspace_unpack(_array(image), _scalars(_zero()), *rest)
    return out


@functools.cache
def _one() -> Tensor:
    with torch.inference_mode(False):
        return torch.ones(1)


@functools.cache
def _zero() -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros(1)


@functools.lru_cache(maxsize=64)
def _nobody(pairs: int) -> tuple[Any, ...]:
    """The identity of noise that is not wanted."""
    ids = torch.from_numpy(np.zeros(pairs, np.int64))
    return 0, ids, ids, 0
