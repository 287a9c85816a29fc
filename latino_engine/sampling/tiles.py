"""Images larger than the network's share of memory: overlapping tiles, blended smoothly.

Only the denoiser sees tiles; the data step and the noise stay those of the whole image. At a seam
the outer quarter of the overlap, where a tile's network has seen its own border, is dropped on
either side, and the middle half is blended by a raised cosine. A network whose output at a pixel
depends on no pixel further than overlap / 4 therefore gives the very image that it gives untiled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latino_engine.errors import invalid, whole_number

_SHARE_OF_OVERLAP = 4  # by default a quarter of the tile


@dataclass(frozen=True)
class Tiles:
    """How an image is cut.

    Attributes:
        side: of a tile, pixels, a multiple of the prior's size_multiple.
        overlap: the least that neighbours share, pixels.
        multiple: the prior's size_multiple; every tile starts at a multiple of it, so that a
            strided network sees the same grid as in the whole image.
        batch: the most tiles that go through the network together.
    """

    side: int
    overlap: int
    multiple: int
    batch: int

    def smaller_batch(self) -> Tiles:
        """The same tiles, half as many at a time."""
        return replace(self, batch=max(1, self.batch // 2))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the tiles of an image whose sides are multiples of `multiple`."""
        return min(self.side, height), min(self.side, width)


def make_tiles(
    tile: int | None, overlap: int | None, multiple: int, max_batch: int
) -> Tiles | None:
    """The user's options, checked; None where the network is to see whole images.

    Raises:
        ValueError, TypeError: a side or an overlap that the network cannot take.
    """
    if tile is None:
        if overlap is not None:
            raise invalid("overlap", "None without tile", overlap, "give tile too, or leave it out")
        return None
    side = whole_number("tile", tile)
    if side < 2 * multiple or side % multiple:
        nearest = max(2 * multiple, side + -side % multiple)
        expected = f"a multiple of {multiple}, at least {2 * multiple}, as the prior wants"
        raise invalid("tile", expected, side, f"use {nearest}")
    most = side - multiple
    if overlap is None:
        shared = side // _SHARE_OF_OVERLAP
        return Tiles(side, max(multiple, shared - shared % multiple), multiple, max_batch)
    shared = whole_number("overlap", overlap)
    if not 0 <= shared <= most or shared % multiple:
        expected = f"a multiple of {multiple} between 0 and {most} for tiles of {side}"
        raise invalid("overlap", expected, shared, "leave it out to have a quarter of the tile")
    return Tiles(side, shared, multiple, max_batch)


def tile_starts(length: int, tiles: Tiles) -> list[int]:
    """First pixels of the tiles along an axis of this length, evenly spread."""
    side = min(tiles.side, length)
    if length == side:
        return [0]
    steps = math.ceil((length - side) / (tiles.side - tiles.overlap))
    last = (length - side) // tiles.multiple
    return [tiles.multiple * (i * last // steps) for i in range(steps + 1)]


def blend_weights(length: int, tiles: Tiles) -> Tensor:
    """Weights of every tile along an axis, (tiles, side) float64; at each pixel they sum to 1."""
    side, starts = min(tiles.side, length), tile_starts(length, tiles)
    weights = torch.ones(len(starts), side, dtype=torch.float64)
    for i, (left, right) in enumerate(itertools.pairwise(starts)):
        shared = left + side - right
        rise = _rise(shared)
        weights[i + 1, :shared] *= rise
        weights[i, side - shared :] *= rise.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + side] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start : start + side]  # 1 already where no more than two tiles meet
    return weights


def _rise(shared: int) -> Tensor:
    """From 0 to 1 over the middle half of `shared` pixels; rise + reversed rise = 1."""
    centre = torch.arange(shared, dtype=torch.float64) + 0.5 - shared / 2
    t = (centre / max(1, shared - 2 * (shared // 4)) + 0.5).clamp(0.0, 1.0)
    return 0.5 - 0.5 * torch.cos(math.pi * t)


def denoise_tiles(
    network: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, tiles: Tiles
) -> Tensor:
    """network(x, sigma) for x (B, C, H, W), its sides multiples of `tiles.multiple`, by tiles.

    No more than tiles.batch tiles exist at a time, and one image for the result.

    Args:
        network: (x, sigma (P,)) -> x0_hat, for any P.
        x: (B, C, H, W).
        sigma: (B,).
        tiles: how to cut.
    """
    height, width = x.shape[-2:]
    side_h, side_w = tiles.shape(height, width)
    rows, columns = tile_starts(height, tiles), tile_starts(width, tiles)
    row_weights = blend_weights(height, tiles).to(x)[:, :, None]
    column_weights = blend_weights(width, tiles).to(x)
    if len(rows) == len(columns) == 1:
        return network(x, sigma)
    places = [
        (b, i, j) for b in range(x.shape[0]) for i in range(len(rows)) for j in range(len(columns))
    ]
    out = torch.zeros_like(x)
    for first in range(0, len(places), tiles.batch):
        some = places[first : first + tiles.batch]
        windows = [
            (
                b,
                slice(None),
                slice(rows[i], rows[i] + side_h),
                slice(columns[j], columns[j] + side_w),
            )
            for b, i, j in some
        ]
        batch = torch.stack([x[window] for window in windows])
        found = network(batch, sigma[[b for b, _, _ in some]])
        for window, (_, i, j), image in zip(windows, some, found, strict=True):
            out[window] += row_weights[i] * column_weights[j] * image
    return out
