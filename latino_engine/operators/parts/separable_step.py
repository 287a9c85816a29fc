"""The exact prox of a separable operator, by the singular vectors of its two matrices."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.fused_step import FixedStep

_ROUNDING = 1e-12  # what the other singular values of a product sum to, relative to its own
#: (U, s, V) of a matrix.
SingularParts: TypeAlias = tuple[Tensor, Tensor, Tensor]


def as_product(kernel: Tensor) -> tuple[Tensor, Tensor] | None:
    """The profiles a (kh,) and b (kw,) of a kernel a b^T, to rounding; None for any other one, and
    where kernels differ by image or channel.
    """
    if kernel.shape[:-2].numel() != 1:
        return None
    taps = kernel.reshape(kernel.shape[-2:]).double().cpu()
    u, s, vh = torch.linalg.svd(taps, full_matrices=False)
    if float(s[0]) == 0.0 or float(s[1:].sum()) > _ROUNDING * float(s[0]):
        return None
    return u[:, 0] * s[0].sqrt(), vh[0] * s[0].sqrt()


def singular_parts(matrix: Tensor) -> SingularParts:
    """U (h, h), s (h,), V (H, h) with matrix = U diag(s) V^T, for a wide matrix (h, H)."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh.mT.contiguous()


def separable_step(y: Tensor, rows: SingularParts, columns: SingularParts) -> FixedStep:
    """The prox for y = R x C^T: v + V_R [g a (U_R^T y U_C - a V_R^T v V_C) / (1 + g a^2)] V_C^T.

    a = s_R s_C^T are the singular values of A. The bracket is a correction in the range of A^T
    alone, so that it stays right for any gamma: it ends at the nearest image that measures as y.

    Args:
        y: (B, C, h, w).
        rows, columns: `singular_parts` of R and of C, in the dtype and on the device of y.
    """
    (u_rows, s_rows, v_rows), (u_columns, s_columns, v_columns) = rows, columns
    a = torch.outer(s_rows, s_columns)[None, None]
    seen = u_rows.mT @ y @ u_columns
    return FixedStep(
        formula=("separable_prox",),
        shape=(*y.shape[:2], len(v_rows), len(v_columns)),
        dtype=y.dtype,
        constants=(seen, a, v_rows[None, None], v_columns[None, None]),
        prox=_separable_prox,
    )


def _separable_prox(
    v: Tensor, seen: Tensor, a: Tensor, rows: Tensor, columns: Tensor, gamma: float | Tensor
) -> Tensor:
    weight = ops.per_image(gamma, v)
    missing = seen - a * (rows.mT @ v @ columns)
    correction = missing * (weight * a / (1.0 + weight * a.square()))
    return v + rows @ correction @ columns.mT
