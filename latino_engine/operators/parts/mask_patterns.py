"""Masks of pixels and of k-space columns, functions of their size and a seed."""

from __future__ import annotations

import torch
from torch import Tensor

CENTRE_SHARE = 0.32  # of the measured k-space columns: 8 % of all at 4x, 4 % at 8x, as in fastMRI


def random_pixels(fraction: float, size: tuple[int, int], seed: int) -> Tensor:
    """Exactly round(fraction H W) pixels are missing, all sets of them equally likely."""
    height, width = size
    num_missing = min(round(fraction * height * width), height * width - 1)
    mask = torch.ones(height * width)
    mask[_permutation(height * width, seed)[:num_missing]] = 0.0
    return mask.reshape(height, width)


def centred_box(box: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """A box of this size is missing, centred; half a pixel up and left where it must be."""
    top, left = (size[0] - box[0]) // 2, (size[1] - box[1]) // 2
    mask = torch.ones(size)
    mask[top : top + box[0], left : left + box[1]] = 0.0
    return mask


def random_columns(acceleration: float, size: tuple[int, int], seed: int) -> Tensor:
    """round(W / acceleration) columns of k-space: 32 % of them around DC, the others at random."""
    height, width = size
    num_columns = max(round(width / acceleration), 1)
    num_centre = max(round(CENTRE_SHARE * width / acceleration), 1)
    first = (width - num_centre + 1) // 2  # DC, at width // 2, lies in their middle
    centre = torch.arange(first, first + num_centre)
    order = _permutation(width, seed)
    others = order[~torch.isin(order, centre)][: num_columns - num_centre]
    columns = torch.zeros(width)
    columns[torch.cat((centre, others))] = 1.0
    return columns.repeat(height, 1)


def _permutation(length: int, seed: int) -> Tensor:
    """From a generator of its own, unrelated to the noise of `measure` and of the sampler."""
    return torch.randperm(length, generator=torch.Generator("cpu").manual_seed(seed))
