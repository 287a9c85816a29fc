"""How far a quantised DCT coefficient is from the true one: Laplacian laws, one per table entry."""

from __future__ import annotations

import torch
from torch import Tensor

_POINTS = 128  # of the midpoint rule inside one cell
_PRIOR_BLOCKS = 4.0  # the typical law counts as much as so many blocks of the image
_STEEPEST = 60.0  # q / b beyond which a law is a point
#: A typical photograph's b at frequency r = |(u, v)|: scale * r^-power, and at r = 0; levels of
#: 0..255, orthonormal DCT; luminance, then both chrominances.
_LUMINANCE_LAW = (60.0, 1.55, 400.0)
_CHROMINANCE_LAW = (9.0, 1.6, 135.0)


def typical_scales(channels: int) -> Tensor:
    """The Laplacian's scale b = E |c| of every entry for a typical photograph, (channels, 8, 8)."""
    k = torch.arange(8, dtype=torch.float64, device="cpu")
    radius = (k[:, None] ** 2 + k**2).sqrt()
    laws = []
    for scale, power, constant in [_LUMINANCE_LAW] + [_CHROMINANCE_LAW] * (channels - 1):
        law = scale * radius.clamp(min=1.0) ** -power
        law[0, 0] = constant
        laws.append(law)
    return torch.stack(laws)


def fitted_scales(levels: Tensor, tables: Tensor, typical: Tensor) -> Tensor:
    """The most likely scale of every entry, given the image's own levels.

    With t = exp(-q / 2b) a level is 0 with probability 1 - t and +-n with t^(2n-1) (1 - t^2) in
    all; the likelihood of N0 zeros and N1 others of sum S is largest at a root of
    (N0 + N1 + 2S) t^2 + N0 t - (2S - N1) = 0. The typical law adds its expected counts.

    Args:
        levels: integers (B, C, R, 8, S, 8).
        tables: q, (C, 8, 8).
        typical: b of `typical_scales`, (C, 8, 8).

    Source: Price, Rabbani, *Biased reconstruction for JPEG decoding*, IEEE Signal Process.
    Lett. 6(12), 1999.
    """
    size = levels.abs().double()
    ones = (size > 0).sum(dim=(2, 4)).double()  # (B, C, 8, 8)
    zeros = float(levels.shape[2] * levels.shape[4]) - ones
    total = size.sum(dim=(2, 4))
    t = torch.exp(-tables / (2.0 * typical))
    zeros, ones = zeros + _PRIOR_BLOCKS * (1.0 - t), ones + _PRIOR_BLOCKS * t
    total = total + _PRIOR_BLOCKS * t / (1.0 - t**2)
    a = zeros + ones + 2.0 * total
    twice = 2.0 * total - ones
    root = 2.0 * twice / (zeros + (zeros**2 + 4.0 * a * twice).sqrt())
    return -tables / (2.0 * torch.log(root.clamp(1e-13, 1.0 - 1e-9)))


def squared_errors(scales: Tensor, tables: Tensor) -> Tensor:
    """E (c - c_y)^2 of Laplacian laws of these scales, c_y the middle of c's cell, (..., 8, 8)."""
    ratio = (tables / scales).clamp(max=_STEEPEST)[..., None]
    place = (torch.arange(_POINTS, dtype=torch.float64, device="cpu") + 0.5) / _POINTS
    place = place.to(scales.device)
    half, whole = 0.5 * place, place - 0.5  # of a width of 1
    inner, outer = torch.exp(-ratio * half), torch.exp(-ratio * place)
    in_zero = (inner * half**2).sum(-1) / inner.sum(-1)
    elsewhere = (outer * whole**2).sum(-1) / outer.sum(-1)
    zeros = 1.0 - torch.exp(-0.5 * ratio[..., 0])
    return (zeros * in_zero + (1.0 - zeros) * elsewhere) * tables**2
