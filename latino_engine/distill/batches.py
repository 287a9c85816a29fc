"""Batches by number: a batch is a function of (seed, step) alone, so that a resumed run sees the
very images that an uninterrupted one would have seen.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.image_io.datasets import Bytes, ImageSource


def draw_batch(
    source: ImageSource,
    batch: int,
    crop: int,
    flip: bool,
    seed: int,
    step: int,
    smallest_scale: float = 1.0,
    turn: bool = False,
) -> Tensor:
    """Batch number `step`: random squares of random images, (batch, C, crop, crop) in [-1, 1].

    Args:
        source: the images.
        batch: how many squares.
        crop: their side.
        flip: mirror each left to right with probability one half.
        seed, step: what the draw depends on, alone.
        smallest_scale: each image is made smaller by a factor from here to 1 (its logarithm
            uniform), but never smaller than the crop; 1 leaves the images as they are.
        turn: turn each by a random multiple of 90 degrees.
    """
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
    squares = []
    for index in random.integers(len(source), size=batch):
        pixels = source.image(int(index))
        side = crop
        if smallest_scale < 1.0:
            scale = float(np.exp(random.uniform(np.log(smallest_scale), 0.0)))
            side = min(round(crop / scale), *pixels.shape[1:])
        top = int(random.integers(pixels.shape[1] - side + 1))
        left = int(random.integers(pixels.shape[2] - side + 1))
        square = pixels[:, top : top + side, left : left + side]
        square = square if side == crop else _smaller(square, crop)
        square = square[:, :, ::-1] if flip and random.random() < 0.5 else square
        squares.append(np.rot90(square, int(random.integers(4)), (1, 2)) if turn else square)
    return torch.from_numpy(np.stack(squares)).float() / 127.5 - 1.0


def check_scale(smallest_scale: float) -> None:
    """Raises `InvalidArgument` if smallest_scale is not above 0 and at most 1."""
    if not 0.0 < smallest_scale <= 1.0:
        remedy = "1 leaves the images as they are"
        raise invalid("smallest_scale", "a number above 0, at most 1", smallest_scale, remedy)


def _smaller(square: Bytes, side: int) -> Bytes:
    """The square at another size: bicubic, low-passed against aliasing."""
    large = torch.from_numpy(square.copy())[None].float()
    shrunk = F.interpolate(large, (side, side), mode="bicubic", antialias=True)
    pixels: Bytes = shrunk[0].round().clamp(0.0, 255.0).to(torch.uint8).numpy()
    return pixels
