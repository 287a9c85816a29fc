"""Where the quads of an image lie: the tile of a program, and the launch that covers all planes.

A quad is the pixels (2j, w), (2j + 1, w), (2j, w + half), (2j + 1, w + half), half = ceil(W / 2). A
program owns BLOCK quads of one plane as a tile (BLOCK / VECTOR, VECTOR): VECTOR = 4 neighbouring
columns where W is a multiple of 8, so that every access of a thread is one vector, else 1.

Offsets are an int64 start, the same for a whole program, plus an int32 tile: planes and images may
pass 2^31 entries at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from .launching import Config, blocks_for


@triton.jit
def locate(channels, height, width, across, tiles, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """(pair, channel, plane, start, rows, width, down, column, quad) of this program.

    `start` is the offset in the plane of the program's first pair of rows, `rows` the number of
    rows from there on; a quad lies `down` pairs of rows below it, at `column`.
    """
    half = across * VECTOR
    if VECTOR > 1:
        width = 2 * half  # as a product it tells the compiler that rows are aligned
    program = tl.program_id(0)
    plane = program // tiles
    pair = plane // channels
    first = (program - plane * tiles).to(tl.uint32) * (BLOCK // VECTOR)  # in runs of a plane
    top = first // across.to(tl.uint32)
    behind = (first - top * across.to(tl.uint32)).to(tl.int32)
    run = behind + tl.arange(0, BLOCK // VECTOR)
    down = run // across
    column = (run - down * across)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    down = down[:, None]
    quad = top * half.to(tl.uint32) + (down * half + column).to(tl.uint32)
    start = top.to(tl.int64) * 2 * width
    rows = (height - top.to(tl.int64) * 2).to(tl.int32)
    return pair, plane - pair * channels, plane, start, rows, width, down, column, quad


@triton.jit
def lane_tile(LANE: tl.constexpr, rows, width, across, down, column, VECTOR: tl.constexpr):
    """(offset from `start`, whether the pixel exists) for one lane of the quads."""
    row = down * 2 + (LANE % 2)
    if LANE >= 2:
        column = column + across * VECTOR
    exists = row < rows
    if VECTOR == 1:
        exists = exists & (column < width)  # odd W: the last quad of a row has no right half
    return row * width + column, exists


@dataclass(frozen=True)
class QuadLaunch:
    """The grid, the integers and the constants of `locate` for an image (P, C, H, W)."""

    grid: tuple[int]
    sizes: tuple[int, int, int, int, int]  # channels, height, width, across, tiles
    vector: int

    @classmethod
    def over(cls, image: Tensor, config: Config) -> QuadLaunch:
        """Covers every quad of every plane once."""
        pairs, channels, height, width = image.shape
        vector = 4 if width % 8 == 0 else 1
        across = (width + 1) // 2 // vector
        tiles = blocks_for((height + 1) // 2 * across * vector, config.block)
        return cls((pairs * channels * tiles,), (channels, height, width, across, tiles), vector)


def noise_arguments(
    seed: int, image_ids: Tensor, sample_ids: Tensor, step: int | Tensor
) -> tuple[Tensor, Tensor, int | Tensor, int, int]:
    """image_ids, sample_ids, noise step and the seed's halves, as a kernel takes them.

    Words are given as int32 of the same bits: a kernel is then compiled once for all of them.
    """
    word = step if isinstance(step, Tensor) else _signed(step)
    return image_ids, sample_ids, word, _signed(seed & 0xFFFFFFFF), _signed(seed >> 32)


def _signed(word: int) -> int:
    """The int32 with the bits of a word."""
    return (word ^ 0x80000000) - 0x80000000
