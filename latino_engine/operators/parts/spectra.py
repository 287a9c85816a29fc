"""Kernels as spectra: true circular convolution with the kernel's centre at the origin."""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import ArrayLike, as_parameter


def as_kernel(value: ArrayLike) -> Tensor:
    """A kernel (kh, kw) or (B|1, C|1, kh, kw) as (B|1, C|1, kh, kw) float64 on the CPU."""
    kernel = as_parameter("kernel", value)
    if kernel.ndim not in (2, 4) or kernel.numel() == 0:
        expected = "(kh, kw) or (B, C, kh, kw)"
        raise invalid("kernel", expected, tuple(kernel.shape), "index or reshape it")
    return kernel if kernel.ndim == 4 else kernel[None, None]


def check_kernel_fits(kernel: Tensor, size: tuple[int, int]) -> None:
    """A circular convolution needs a kernel no larger than the image."""
    kh, kw = kernel.shape[-2:]
    if kh > size[0] or kw > size[1]:
        expected = f"at most the image's {size[0]} x {size[1]}"
        raise invalid("kernel", expected, f"{kh} x {kw}", "crop the kernel or use a larger image")


def kernel_spectrum(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The half-spectrum (B|1, C|1, H, W//2+1) of a kernel whose pixel (kh//2, kw//2) is the origin.

    y = irfft2(h rfft2(x)) is y[n] = sum_k kernel[k] x[n - (k - centre)], indices modulo (H, W).
    """
    h: Tensor = torch.fft.rfft2(_embedded(kernel, size))
    return h


def kernel_full_spectrum(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """What `kernel_spectrum` gives, at all frequencies: (B|1, C|1, H, W)."""
    h: Tensor = torch.fft.fft2(_embedded(kernel, size))
    return h


def complex_of(like: Tensor) -> torch.dtype:
    """The complex dtype of this real tensor's precision."""
    return torch.complex128 if like.dtype == torch.float64 else torch.complex64


def _embedded(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    check_kernel_fits(kernel, size)
    kh, kw = kernel.shape[-2:]
    padded = torch.nn.functional.pad(kernel, (0, size[1] - kw, 0, size[0] - kh))
    return torch.roll(padded, (-(kh // 2), -(kw // 2)), dims=(-2, -1))
