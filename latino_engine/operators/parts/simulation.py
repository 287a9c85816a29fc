"""Reproducible measurement noise."""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.checks import known_noise_std
from latino_engine.ops.philox import MAX_CHANNELS, MEASURE_STEP


def add_measurement_noise(y: Tensor, noise_std: float | Tensor, seed: int) -> Tensor:
    """y + noise_std * eps, eps a function of (seed, image, pixel); y (B, ...), real or complex.

    Of a complex number both the real and the imaginary part get noise of this standard deviation.
    noise_std = 0 gives y itself.
    """
    ops.check_seed(seed)
    known_noise_std(noise_std)
    if isinstance(noise_std, float) and noise_std == 0:
        return y
    real = torch.view_as_real(y) if y.is_complex() else y
    batch = real.shape[0]
    images = torch.arange(batch, dtype=torch.int64, device=y.device)
    eps = ops.gaussian_noise(
        seed, images, torch.zeros_like(images), MEASURE_STEP, _folded(tuple(real.shape))
    )
    scale = torch.as_tensor(noise_std, dtype=real.dtype, device=y.device)
    eps = eps.to(real.dtype).reshape(real.shape)
    noisy = real + scale.reshape(-1, *([1] * (real.ndim - 1))) * eps
    return torch.view_as_complex(noisy) if y.is_complex() else noisy


def _folded(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(B, ...) as (B, C, H, W): short shapes get axes of 1, the middle of long ones is joined."""
    batch, *rest = shape
    width = rest.pop() if rest else 1
    height = rest.pop() if rest else 1
    channels = 1
    for n in rest:
        channels *= n
    if channels > MAX_CHANNELS:
        return batch, 1, channels * height, width
    return batch, channels, height, width
