"""The noise level of an image from the image itself."""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine.errors import invalid

#: High-pass filter of Daubechies' wavelet with two vanishing moments.
_DB2 = (-0.48296291314469025, 0.836516303737469, -0.22414386804185735, -0.12940952255092145)
_QUARTILE = 0.6744897501960817  # of the standard normal distribution: P(|n| < it) = 1/2
_FEWEST = 64  # wavelets that a median is taken of


def wavelet_noise_std(y: Tensor, seen: Tensor | None = None) -> Tensor:
    """Standard deviation of white noise in images: (B,) float64, the mean over the channels.

    The median of |d| / 0.6745, d the diagonal wavelets of the finest scale, which see noise and of
    a photograph only its sharpest textures: those raise the estimate, most of all where the noise
    is small. Equal to skimage.restoration.estimate_sigma(average_sigmas=True).

    Args:
        y: (B, C, H, W), any range.
        seen: (B|1, C|1, H, W), 1 where y was observed; wavelets that reach further are left out.

    Raises:
        ValueError: fewer than 64 wavelets that see only what was observed.

    Source: Donoho, Johnstone, *Ideal spatial adaptation by wavelet shrinkage*, Biometrika 81(3),
    1994.
    """
    d = _diagonal(y.double())
    use = d != 0.0  # exact zeros are flat or saturated pixels, which hold no noise
    if seen is not None:
        kept = seen.to(y).double().expand_as(y)
        reach = _bands(kept, (1.0,) * len(_DB2))
        use &= reach == float(len(_DB2) ** 2)
    levels = []
    for image, chosen in zip(d.abs(), use, strict=True):
        channels = [c[u] for c, u in zip(image, chosen, strict=True)]
        fewest = min(len(c) for c in channels)
        if fewest < _FEWEST:
            expected = f"an image with {_FEWEST} wavelets to estimate it from"
            remedy = "state the noise level as a number"
            raise invalid("noise_std", expected, f"{fewest} that see nothing else", remedy)
        medians = [_median(c) / _QUARTILE for c in channels]
        levels.append(torch.stack(medians).mean())
    return torch.stack(levels).cpu()


def _diagonal(y: Tensor) -> Tensor:
    """Diagonal wavelets of the finest scale, the image reflected at its border."""
    return _bands(y, _DB2)


def _bands(y: Tensor, taps: tuple[float, ...]) -> Tensor:
    """sum_j taps[j] x[2 k + 1 - j] along both axes."""
    for axis in (-2, -1):
        length = y.shape[axis]
        first = 2 * torch.arange((length + len(taps) - 1) // 2, device=y.device) + 1
        total = torch.zeros_like(y.index_select(axis, _inside(first, length)))
        for j, tap in enumerate(taps):
            total = total + tap * y.index_select(axis, _inside(first - j, length))
        y = total
    return y


def _inside(place: Tensor, length: int) -> Tensor:
    """d c b a | a b c d | d c b a."""
    place = place % (2 * length)
    return torch.where(place < length, place, 2 * length - 1 - place)


def _median(values: Tensor) -> Tensor:
    """The mean of the two in the middle where their number is even."""
    ordered = values.sort().values
    n = len(ordered)
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])
