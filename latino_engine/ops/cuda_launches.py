"""Queues the launches of one fused operation; its scalars are the next row of a `StepTable`.

This is what an engine captures in a CUDA graph: no tensor is read by the host, and one graph serves
every step. Power-of-two sides from 64 to 2048 take three launches of our own transforms; every
other size takes torch.fft, with the same formulas in pointwise kernels. `fourier_path` chooses.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from latino_engine.ops.cuda_extension import extension, fourier_path
from latino_engine.ops.step_table import StepTable

#: (seed, image_ids, sample_ids), ids int64 (P,) on the device; the seed a number, or int64 (1,)
#: there, which a captured graph reads at every replay
Identity: TypeAlias = tuple[int | Tensor, Tensor, Tensor]


def run_fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    power: Tensor,
    back_projected: Tensor,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.fourier_prox_noise` with the next row; x, x_t, out also in 16 bits."""
    _, channels, height, width = x.shape
    out = torch.empty_like(x) if out is None else out
    table, kernels, stream = steps.arguments(), extension(), stream_of(x)
    constants = (power, back_projected)
    with on_device(x):
        if fourier_path(height, width) == "own kernels":
            spectrum = _spectrum(x, channels, width // 2)
            kernels.fourier_prox_noise(x, x_t, *constants, table, noise, spectrum, out, stream)
        else:
            V = torch.fft.rfft2(_anchor(x, x_t, table, stream))
            kernels.fourier_combine(x, V, *constants, table, stream)
            z = torch.fft.irfft2(V, s=(height, width)).contiguous()
            kernels.langevin_noise(z, table, noise, out, stream)
    steps.position += 1
    return out


def run_alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    factor: int,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.alias_prox_noise` with the next row; x, x_t, out also in 16 bits."""
    _, channels, height, width = x.shape
    out = torch.empty_like(x) if out is None else out
    table, kernels, stream = steps.arguments(), extension(), stream_of(x)
    constants = (h, folded_power, back_projected, factor)
    with on_device(x):
        if fourier_path(height, width, factor) == "own kernels":
            spectrum = _spectrum(x, channels, width // 2)
            kernels.alias_prox_noise(x, x_t, *constants, table, noise, spectrum, out, stream)
        else:
            V = torch.fft.fft2(_anchor(x, x_t, table, stream))
            kernels.alias_combine(x, V, *constants, table, stream)
            z = torch.fft.ifft2(V).real.contiguous()
            kernels.langevin_noise(z, table, noise, out, stream)
    steps.position += 1
    return out


def run_fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    mask: Tensor,
    y: Tensor,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.fourier_mask_prox_noise` with the next row; x, x_t, out also in 16 bits."""
    _, _, height, width = x.shape
    out = torch.empty_like(x) if out is None else out
    table, kernels, stream = steps.arguments(), extension(), stream_of(x)
    axes = (-2, -1)
    with on_device(x):
        if fourier_path(height, width) == "own kernels":
            spectrum = _spectrum(x, 1, width)
            kernels.fourier_mask_prox_noise(x, x_t, mask, y, table, noise, spectrum, out, stream)
        else:
            v = _anchor(x, x_t, table, stream)
            image = torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=axes)
            V = torch.fft.fftshift(torch.fft.fft2(image, norm="ortho"), dim=axes).contiguous()
            kernels.kspace_combine(x, V, mask, y, table, stream)
            image = torch.fft.ifft2(torch.fft.ifftshift(V, dim=axes), norm="ortho")
            image = torch.fft.fftshift(image, dim=axes)
            z = torch.cat((image.real, image.imag), dim=1)
            kernels.langevin_noise(z, table, noise, out, stream)
    steps.position += 1
    return out


def run_masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    mask: Tensor,
    y: Tensor,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.masked_prox_noise` in one launch; x, x_t, out also in 16 bits."""
    out = torch.empty_like(x) if out is None else out
    with on_device(x):
        inputs = (x, x_t, mask, y, steps.arguments(), noise)
        extension().masked_prox_noise(*inputs, out, stream_of(x))
    steps.position += 1
    return out


def run_langevin_noise(
    z: Tensor, steps: StepTable, noise: Identity, *, out: Tensor | None = None
) -> Tensor:
    """z + scale eps in one launch; z, out also in 16 bits."""
    out = torch.empty_like(z) if out is None else out
    with on_device(z):
        extension().langevin_noise(z, steps.arguments(), noise, out, stream_of(z))
    steps.position += 1
    return out


def run_gaussian_noise(out: Tensor, steps: StepTable, noise: Identity) -> Tensor:
    """out = eps in one launch; out also in 16 bits."""
    with on_device(out):
        extension().gaussian_noise(steps.arguments(), noise, out, stream_of(out))
    steps.position += 1
    return out


def run_reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    steps: StepTable,
    noise: Identity,
    *,
    clamp: tuple[float, float] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.reverse_step` in one launch; rows are (sigma_next, kept, renewed)."""
    out = torch.empty_like(x_t) if out is None else out
    bounds = clamp or (-math.inf, math.inf)
    with on_device(x_t):
        images = (x0_hat, x_t, *bounds)
        extension().reverse_step(*images, steps.arguments(), noise, out, stream_of(x_t))
    steps.position += 1
    return out


def _spectrum(x: Tensor, channels: int, columns: int) -> Tensor:
    size = (x.shape[0], channels, x.shape[2], columns)
    return torch.empty(size, dtype=torch.complex64, device=x.device)


def _anchor(
    x: Tensor, x_t: Tensor | None, table: tuple[Tensor, Tensor, int], stream: int
) -> Tensor:
    """x_weight x + (1 - x_weight) x_t in float32."""
    if x_t is None and x.dtype == torch.float32:
        return x
    v = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    extension().combine_anchors(x, x_t, table, v, stream)
    return v


def stream_of(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return 0
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The tensor's device as the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
