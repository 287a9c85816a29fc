"""Filling what a mask hides from what it shows."""

from __future__ import annotations

import torch
from torch import Tensor

_MID_GREY = 0.5  # where nothing at all is observed


def fill_from_neighbours(y: Tensor, mask: Tensor, num_sweeps: int = 8) -> Tensor:
    """y where mask = 1, where it is 0 a smooth continuation; y, mask: (B, C, H, W), any sizes.

    A pyramid of normalised 2 x 2 means fills every hole from the finest level that sees something
    (push-pull); sweeps of u <- mean of the four neighbours then smooth the hidden pixels. A channel
    in which nothing is observed becomes mid-grey.

    Source: Gortler, Grzeszczuk, Szeliski, Cohen, *The Lumigraph* (SIGGRAPH 1996), section 3.4.
    """
    seen = torch.where(mask > 0, y, torch.zeros_like(y))  # a hidden NaN would pass a product
    u = _push_pull(seen, mask)
    for _ in range(num_sweeps):
        u = torch.lerp(_mean_of_neighbours(u), seen, mask)
    return u


def _push_pull(values: Tensor, weights: Tensor) -> Tensor:
    """values: already 0 where weights = 0; weights in [0, 1]."""
    height, width = values.shape[-2:]
    if height == 1 and width == 1:
        return torch.where(weights > 0, values, torch.full_like(values, _MID_GREY))
    pad = (0, width % 2 if width > 1 else 0, 0, height % 2 if height > 1 else 0)
    window = (2 if height > 1 else 1, 2 if width > 1 else 1)
    padded = torch.nn.functional.pad(weights, pad)
    mass = torch.nn.functional.avg_pool2d(padded, window)
    total = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(values * weights, pad), window)
    coarse_values = total / torch.where(mass > 0, mass, torch.ones_like(mass))
    coarse_weights = (window[0] * window[1] * mass).clamp(max=1.0)
    coarse = _push_pull(coarse_values, coarse_weights)
    size = [window[0] * coarse.shape[-2], window[1] * coarse.shape[-1]]
    finer = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return torch.lerp(finer[..., :height, :width], values, weights)


def _mean_of_neighbours(u: Tensor) -> Tensor:
    """Mean of the four neighbours, the border repeated."""
    padded = torch.nn.functional.pad(u, (1, 1, 1, 1), mode="replicate")
    vertical = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
    horizontal = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return (vertical + horizontal) / 4.0
