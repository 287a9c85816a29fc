"""The orthonormal Walsh-Hadamard transform of images, and its order by sequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard_2d(x: Tensor) -> Tensor:
    """H_h x H_w / sqrt(h w), Sylvester's order, own inverse; the last two sides powers of two."""
    return _along(_along(x, -1), -2)


def _along(x: Tensor, dim: int) -> Tensor:
    """The butterflies of one axis, log2(n) sweeps over it."""
    x = x.movedim(dim, -1)
    n, shape = x.shape[-1], x.shape
    half = 1
    while half < n:
        pairs = x.reshape(*shape[:-1], n // (2 * half), 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = torch.stack((a + b, a - b), dim=-2).reshape(shape)
        half *= 2
    return (x / math.sqrt(n)).movedim(-1, dim)


def sequencies(n: int) -> Tensor:
    """The number of sign changes in each row of Sylvester's matrix of order n, (n,) int64.

    It is the inverse Gray code of the bit-reversed row number.
    """
    row = torch.arange(n, dtype=torch.int64, device="cpu")
    reversed_bits = torch.zeros_like(row)
    for bit in range(n.bit_length() - 1):
        reversed_bits |= ((row >> bit) & 1) << (n.bit_length() - 2 - bit)
    changes = reversed_bits.clone()
    for shift in range(1, n.bit_length()):
        changes ^= reversed_bits >> shift
    return changes


def sequency_order(height: int, width: int) -> Tensor:
    """Flat coefficient numbers of an image, (height width,), the slowest patterns first.

    Ordered by the sum of the squared sequencies relative to the sides; ties by place.
    """
    rows = sequencies(height).double() / height
    columns = sequencies(width).double() / width
    return torch.argsort((rows[:, None] ** 2 + columns**2).flatten(), stable=True)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()
