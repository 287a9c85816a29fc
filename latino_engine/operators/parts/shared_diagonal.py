"""The exact prox of combined operators that one transform diagonalises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.checks import check_anchor, check_gamma
from latino_engine.operators.protocol import Basis, DataStep, Operator


def shared_diagonal(operators: Sequence[Operator]) -> tuple[Basis, ...]:
    """Where A^T A is diagonal for each of these operators, and so for their sum or their chain."""
    first, *others = operators
    return tuple(basis for basis in first.diagonal if all(basis in op.diagonal for op in others))


def diagonal_step(
    where: Basis, normal: Callable[[Tensor], Tensor], back_projected: Tensor
) -> DataStep:
    """The prox for one A^T y: (v + gamma A^T y) / (1 + gamma diag(A^T A)) where that is diagonal.

    The diagonal is A^T A of an image of ones, or the spectrum of A^T A of one bright pixel.
    """
    expected, dtype = tuple(back_projected.shape), back_projected.dtype
    if where == "pixels":
        power = normal(torch.ones_like(back_projected))
    else:
        point = torch.zeros_like(back_projected)
        point[..., 0, 0] = 1.0
        power = torch.fft.rfft2(normal(point)).real.clamp(min=0.0)
        spectrum = torch.fft.rfft2(back_projected)

    def step(v: Tensor, gamma: float | Tensor) -> Tensor:
        check_anchor(v, expected, dtype)
        check_gamma(gamma)
        if where == "frequencies":
            return ops.fourier_prox(v, power, spectrum, gamma)
        weight = ops.per_image(gamma, v)
        return (v + weight * back_projected) / (1.0 + weight * power)

    return step
