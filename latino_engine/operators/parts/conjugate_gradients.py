"""Conjugate gradients: the prox of a linear operator that nothing known diagonalises."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from latino_engine import ops

_LARGE_GAMMA = 1e6
_ROUNDING = 4.0  # a residual of this many ulp of ||M|| ||x|| is as small as the arithmetic allows


def conjugate_gradients(
    normal: Callable[[Tensor], Tensor], rhs: Tensor, start: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, float]:
    """Solves M x = rhs for a symmetric positive definite M, every image of the batch for itself.

    An image stops when ||rhs - M x|| <= tol ||rhs||. Where max_iter comes first, a residual no
    larger than the rounding error of M x, where float32 ends, does not count as missed.

    Args:
        normal: x -> M x, (B, ...), block-diagonal over the batch.
        rhs, start: (B, ...), real.
        tol: relative residual.
        max_iter: the most applications of M beyond the first.

    Returns:
        x, and the largest relative residual of an image that missed it (0 if none did).

    Source: Hestenes, Stiefel, *Methods of conjugate gradients for solving linear systems* (1952).
    """
    x, r = start, rhs - normal(start)
    p, rr = r, _dot(r, r)
    goal = tol**2 * _dot(rhs, rhs)
    norm2 = torch.ones_like(goal)  # M = I + gamma A^T A is at least 1
    for iteration in range(max_iter + 1):
        active = ~(rr <= goal)  # NaN never stops, so that it is reported
        if not bool(active.any()):
            return x, 0.0
        if iteration == max_iter:
            break
        q = normal(p)
        alpha = _ratio(active, rr, _dot(p, q))
        norm2 = torch.maximum(norm2, _ratio(active, _dot(q, q), _dot(p, p)))
        x, r = x + alpha * p, r - alpha * q
        rr, last = _dot(r, r), rr
        p = r + _ratio(active, rr, last) * p
    rounding = (_ROUNDING * torch.finfo(rr.dtype).eps) ** 2 * norm2 * _dot(x, x)
    missed = active & ~(rr <= rounding)
    relative = torch.sqrt(rr / _dot(rhs, rhs).clamp(min=torch.finfo(rr.dtype).tiny))
    return x, float(relative[missed].max()) if bool(missed.any()) else 0.0


def _ratio(active: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a / b for the images still running, 0 for the others, whose b may be 0."""
    return torch.where(active, a / torch.where(active, b, torch.ones_like(b)), 0.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every image, (B, 1, 1, ...)."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def proximal_solve(
    normal: Callable[[Tensor], Tensor],
    v: Tensor,
    back_projected: Tensor,
    gamma: float | Tensor,
    tol: float,
    max_iter: int,
) -> Tensor:
    """(I + gamma A^T A) x = v + gamma A^T y from x = v; a warning where max_iter was too few.

    normal: x -> A^T A x; back_projected: A^T y, as v; gamma: a number or (B,). Differentiable in v,
    back_projected and gamma: the backward pass solves the same system for the gradient.
    """
    weight = ops.per_image(gamma, v)
    # Of a large gamma the squares in the loop would leave float32: the system is divided by it.
    unit = torch.where(weight > _LARGE_GAMMA, weight, torch.ones_like(weight))
    is_divided = bool((unit != 1.0).any())

    def system(x: Tensor) -> Tensor:
        return x / unit + weight / unit * normal(x) if is_divided else x + weight * normal(x)

    def solve(rhs: Tensor, start: Tensor) -> Tensor:
        with torch.no_grad():
            x, missed = conjugate_gradients(system, rhs, start, tol, max_iter)
        _warn_if_missed(missed, tol, max_iter)
        return x

    rhs = v / unit + weight / unit * back_projected if is_divided else v + weight * back_projected
    x = solve(rhs.detach(), v.detach())
    if not (torch.is_grad_enabled() and rhs.requires_grad):
        return x
    # dx = M^-1 d(rhs - M x), x held fixed on the right: a zero that carries this gradient. The loop
    # itself has no such gradient, since it may stop at its start.
    residual = rhs - system(x)
    zero = residual - residual.detach()
    zero.register_hook(lambda g: solve(g, torch.zeros_like(g)))  # type: ignore[no-untyped-call]
    return x + zero


def _warn_if_missed(missed: float, tol: float, max_iter: int) -> None:
    if missed > 0.0 or math.isnan(missed):
        warnings.warn(
            f"conjugate gradients stopped after {max_iter} iterations at a relative residual of "
            f"{missed:.1e}, above tol={tol:g}; raise max_iter or tol, or check that A_adjoint is "
            "the adjoint of A",
            UserWarning,
            stacklevel=6,  # the caller of prox
        )


def best_scale(back_projected: Tensor, projected: Tensor) -> Tensor:
    """argmin_s ||s A A^T y - y|| of every image, ||A^T y||^2 / ||A A^T y||^2: (B, 1, 1, 1)."""
    energy = back_projected.square().flatten(1).sum(1)
    image_energy = (projected.abs() ** 2).flatten(1).sum(1)
    safe = torch.where(image_energy > 0, image_energy, torch.ones_like(image_energy))
    return (energy / safe).reshape(-1, 1, 1, 1)
