"""The antialiased resizing of Pillow, torch and MATLAB, as one matrix for each axis."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.parts.point_spread import keys_cubic

#: What a library does where the filter reaches beyond the image: it drops those taps and divides
#: the others by their sum, or it mirrors the image, the edge pixel repeated.
Edge: TypeAlias = Literal["drop", "mirror"]


@dataclass(frozen=True)
class Filter:
    """A filter of unit scale, zero outside of [-support, support], and its library's edges."""

    profile: Callable[[Tensor], Tensor]
    support: float
    edge: Edge


def resize_matrix(name: str, length: int, factor: int) -> Tensor:
    """The matrix (length, factor * length) from an axis of an image to that of its smaller copy.

    Pixel i of the small axis is centred on factor * i + (factor - 1) / 2, and the filter is
    widened by the factor, so that nothing aliases: weights f((j - centre) / factor), divided by
    their sum.

    Args:
        name: one of `LIBRARY_FILTERS`.
        length: pixels of the small axis.
        factor: s >= 1.

    Source: `precompute_coeffs` of Pillow, `_upsample_*_aa` of torch, `contributions` of MATLAB's
    imresize.
    """
    chosen = LIBRARY_FILTERS[name]
    size = factor * length
    centre = factor * torch.arange(length, dtype=torch.float64, device="cpu") + (factor - 1) / 2
    reach = math.ceil(chosen.support * factor)
    offsets = torch.arange(-reach - 1, reach + 2, dtype=torch.float64, device="cpu")
    place = (centre.floor()[:, None] + offsets).long()  # (length, taps)
    weights = chosen.profile((place - centre[:, None]) / factor)
    if chosen.edge == "drop":
        weights = torch.where((place >= 0) & (place < size), weights, 0.0)
        place = place.clamp(0, size - 1)
    else:
        place = place % (2 * size)
        place = torch.where(place < size, place, 2 * size - 1 - place)
    weights = weights / weights.sum(dim=1, keepdim=True)
    matrix = torch.zeros(length, size, dtype=torch.float64, device="cpu")
    return matrix.scatter_add_(1, place, weights)


def centred_profile(name: str, factor: int) -> Tensor:
    """The taps of a filter of `NAMED_FILTERS` around the centre of a small pixel, sum 1: (n,).

    n has the parity of the factor, so that the centre of the taps can lie on that of the pixel.
    """
    chosen = LIBRARY_FILTERS[name]
    count = 2 * math.ceil(chosen.support * factor)
    count -= (count - factor) % 2
    taps = torch.arange(count, dtype=torch.float64, device="cpu") - (count - 1) / 2
    profile = chosen.profile(taps / factor)
    return profile / profile.sum()


def check_filter(name: str, known: tuple[str, ...]) -> str:
    """The name of a kernel that exists."""
    if name not in known:
        expected = (
            '"bicubic", "gaussian", a library\'s filter such as "pillow-bicubic", or an array'
        )
        nearest = difflib.get_close_matches(name, known, n=1)
        remedy = f'did you mean "{nearest[0]}"?' if nearest else "choose one of them"
        raise invalid("kernel", expected, f'"{name}"', remedy)
    return name


def _box(t: Tensor) -> Tensor:
    return (t.abs() <= 0.5).to(t)


def _triangle(t: Tensor) -> Tensor:
    return (1.0 - t.abs()).clamp(min=0.0)


def _hamming(t: Tensor) -> Tensor:
    inside = t.abs() < 1.0
    return torch.where(inside, torch.sinc(t) * (0.54 + 0.46 * torch.cos(math.pi * t)), 0.0)


def _lanczos(lobes: int) -> Callable[[Tensor], Tensor]:
    def profile(t: Tensor) -> Tensor:
        return torch.where(t.abs() < lobes, torch.sinc(t) * torch.sinc(t / lobes), 0.0)

    return profile


#: name -> what the library of that name does; "area" is OpenCV's INTER_AREA for whole factors.
LIBRARY_FILTERS: dict[str, Filter] = {
    "area": Filter(_box, 0.5, "drop"),
    "pillow-box": Filter(_box, 0.5, "drop"),
    "pillow-bilinear": Filter(_triangle, 1.0, "drop"),
    "pillow-hamming": Filter(_hamming, 1.0, "drop"),
    "pillow-bicubic": Filter(keys_cubic, 2.0, "drop"),
    "pillow-lanczos": Filter(_lanczos(3), 3.0, "drop"),
    "torch-bilinear": Filter(_triangle, 1.0, "drop"),
    "torch-bicubic": Filter(keys_cubic, 2.0, "drop"),
    "matlab-box": Filter(_box, 0.5, "mirror"),
    "matlab-bilinear": Filter(_triangle, 1.0, "mirror"),
    "matlab-bicubic": Filter(keys_cubic, 2.0, "mirror"),
    "matlab-lanczos2": Filter(_lanczos(2), 2.0, "mirror"),
    "matlab-lanczos3": Filter(_lanczos(3), 3.0, "mirror"),
}
