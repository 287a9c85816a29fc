"""Which family a combination of operators, or an operator that does not say so, belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latino_engine.operators.protocol import Family, Operator

_CLOSE = 1e-3  # relative; CG and projectors of users are not exact


def family_of_chain(operators: Sequence[Operator]) -> Family:
    """That of the parts that change the image, where it is one, else "unknown".

    A blur before a mask deblurs: what the mask hides is the smaller part of the problem.
    """
    found = {op.family for op in operators} - {"denoising"}
    return "deblurring" if found == {"deblurring", "inpainting"} else _only(found)


def family_of_stack(operators: Sequence[Operator]) -> Family:
    """That of all parts where it is one, else "unknown"."""
    return _only({op.family for op in operators})


def seen_family(operator: Operator, like: Tensor) -> Family:
    """What A does to images of this shape, seen by a few bright pixels and by noise.

    The same answer at every pixel is a convolution ("deblurring", or "denoising" where it is one
    pixel), at every s-th pixel a smaller image ("super-resolution"); a product with 0 and 1 is
    "inpainting". Anything else is "unknown".
    """
    height, width = like.shape[-2:]
    row, column = height // 2, width // 2
    first = operator.A(_bright(like, row, column))
    if first.ndim != 4 or first.shape[1] != like.shape[1] or first.is_complex():
        return "unknown"
    factor = height // max(1, first.shape[-2])
    if factor < 1 or first.shape[-2:] != (height // factor, width // factor):
        return "unknown"
    row, column = row - row % factor, column - column % factor
    first = operator.A(_bright(like, row, column))
    moved = operator.A(_bright(like, row + factor, column - factor))
    if _alike(first.roll((1, -1), (-2, -1)), moved):
        if factor > 1:
            return "super-resolution"
        spread = first.abs() > _CLOSE * first.abs().amax()
        one_pixel = int(spread.sum()) <= first.shape[0] * first.shape[1]
        return "denoising" if one_pixel else "deblurring"
    return "inpainting" if factor == 1 and _is_mask(operator, like) else "unknown"


def _is_mask(operator: Operator, like: Tensor) -> bool:
    mask = operator.A(torch.ones_like(like))
    random = torch.rand(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    binary = bool(((mask - mask.round()).abs() < _CLOSE).all())
    return binary and _alike(mask * random, operator.A(random))


def _bright(like: Tensor, row: int, column: int) -> Tensor:
    """Images with one bright pixel in every channel."""
    image = torch.zeros_like(like)
    image[..., row, column] = 1.0
    return image


def _alike(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().amax() <= _CLOSE * b.abs().amax().clamp(min=1e-12))


def _only(found: set[Family]) -> Family:
    if not found:
        return "denoising"
    return next(iter(found)) if len(found) == 1 else "unknown"
