"""The CUDA backend of `latino_engine.ops`: one step, whose scalars are given as numbers or tensors.

An engine that captures a graph keeps a `StepTable` and calls `latino_engine.ops.cuda_launches`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latino_engine.ops import cuda_launches
from latino_engine.ops.cuda_extension import (
    device_type,
    extension,
    fourier_path,
    missing,
    recorded_launches,
    unfit,
)
from latino_engine.ops.cuda_launches import Identity
from latino_engine.ops.step_table import StepTable

__all__ = ["device_type", "fourier_path", "missing", "recorded_launches", "unfit"]


def fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.fourier_prox_noise`."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(power), _plain(back_projected))
    return cuda_launches.run_fourier_prox_noise(
        *images, steps, _identity(seed, image_ids, sample_ids), out=out
    )


def alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    factor: int,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.alias_prox_noise`."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(h), _plain(folded_power), _plain(back_projected))
    return cuda_launches.run_alias_prox_noise(
        *images, factor, steps, _identity(seed, image_ids, sample_ids), out=out
    )


def fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.fourier_mask_prox_noise`."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(mask), _plain(y))
    return cuda_launches.run_fourier_mask_prox_noise(
        *images, steps, _identity(seed, image_ids, sample_ids), out=out
    )


def masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.masked_prox_noise`, for mask and y (P|1, C|1, H, W)."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(mask), _plain(y))
    return cuda_launches.run_masked_prox_noise(
        *images, steps, _identity(seed, image_ids, sample_ids), out=out
    )


def gaussian_noise(
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    shape: tuple[int, int, int, int],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.gaussian_noise`, within 1e-6."""
    out = torch.empty(shape, dtype=torch.float32, device=image_ids.device) if out is None else out
    if out.numel() == 0:
        return out
    steps = StepTable.single(out.device, (0.0, 0.0, 1.0), step)
    return cuda_launches.run_gaussian_noise(out, steps, _identity(seed, image_ids, sample_ids))


def langevin_noise(
    z: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.langevin_noise`, without an array of normals."""
    if z.numel() == 0:
        return z.clone() if out is None else out
    steps = StepTable.single(z.device, (0.0, 0.0, scale), step)
    return cuda_launches.run_langevin_noise(
        _plain(z), steps, _identity(seed, image_ids, sample_ids), out=out
    )


def reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    sigma_n: float,
    sigma_next: float,
    zeta: float,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    clamp: tuple[float, float] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.reverse_step`, without an array of normals."""
    if x_t.numel() == 0:
        return x_t.clone() if out is None else out
    scalars = (sigma_next, math.sqrt(1.0 - zeta) / sigma_n, math.sqrt(zeta))
    steps = StepTable.single(x_t.device, scalars, step)
    images, who = (_plain(x0_hat), _plain(x_t)), _identity(seed, image_ids, sample_ids)
    return cuda_launches.run_reverse_step(*images, steps, who, clamp=clamp, out=out)


def running_moments(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference.running_moments`."""
    updated, deviations = torch.empty(2, *x.shape, device=x.device).unbind(0)
    with cuda_launches.on_device(x):
        inputs = (_plain(mean), _plain(m2), count, _plain(x))
        extension().running_moments(*inputs, updated, deviations, cuda_launches.stream_of(x))
    return updated, deviations


def _plain(tensor: Any) -> Any:
    """The tensor, contiguous and without lazy conjugation; None stays None."""
    if tensor is None:
        return None
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _identity(seed: int, image_ids: Tensor, sample_ids: Tensor) -> Identity:
    return seed, _plain(image_ids.to(torch.int64)), _plain(sample_ids.to(torch.int64))
