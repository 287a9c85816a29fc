"""Any linear operator a user brings: conjugate gradients for the prox."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid, invalid_type
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    check_batch,
    check_dtype,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    common_batch,
    pick_noise_std,
    show_noise_std,
    starting_gamma,
)
from latino_engine.operators.parts.simulation import add_measurement_noise
from latino_engine.operators.protocol import DataStep

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

    def system(x: Tensor) -> Tensor:
        return x + weight * normal(x)

    def solve(rhs: Tensor, start: Tensor) -> Tensor:
        with torch.no_grad():
            x, missed = conjugate_gradients(system, rhs, start, tol, max_iter)
        _warn_if_missed(missed, tol, max_iter)
        return x

    rhs = v + weight * back_projected
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


@dataclass(frozen=True, eq=False, repr=False, init=False)
class LinearOperator:
    """y = A x + noise for a user's own A; the prox by conjugate gradients.

    x: (B, C, H, W), float32 or float64, public range; y: (B, ...), any rank, real or complex.

    Args:
        A: x -> (B, ...), linear, every image for itself.
        A_adjoint: y -> (B, C, H, W) with <A x, y> = <x, A_adjoint y> (real part for a complex y).
        noise_std: standard deviation per real number of y, public units, a number or (B,), >= 0.
        tol: the relative residual at which the prox stops.
        max_iter: the most iterations; a UserWarning says when they did not suffice.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    noise_std: float | Tensor
    tol: float
    max_iter: int
    batch_size: int | None

    def __init__(
        self,
        A: Callable[[Tensor], Tensor],
        A_adjoint: Callable[[Tensor], Tensor],
        noise_std: float | ArrayLike,
        tol: float = 1e-6,
        max_iter: int = 200,
    ) -> None:
        functions: tuple[tuple[str, object], ...] = (("A", A), ("A_adjoint", A_adjoint))
        for name, function in functions:
            if not callable(function):
                remedy = "give x -> y for A and y -> x for A_adjoint"
                raise invalid_type(name, "a function", type(function).__name__, remedy)
        if not 0 < tol < 1:
            raise invalid("tol", "a number in (0, 1)", f"{tol:g}", "1e-6 suits most uses")
        if max_iter < 1:
            raise invalid("max_iter", "at least 1", max_iter, "200 suits most uses")
        sigma_y = as_noise_std(noise_std)
        object.__setattr__(self, "forward", A)
        object.__setattr__(self, "adjoint", A_adjoint)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "tol", float(tol))
        object.__setattr__(self, "max_iter", int(max_iter))
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))

    def __repr__(self) -> str:
        name = getattr(self.forward, "__qualname__", type(self.forward).__name__)
        sigma_y = show_noise_std(self.noise_std)
        return f"LinearOperator({name}, {sigma_y}, tol={self.tol:g}, max_iter={self.max_iter})"

    @property
    def is_linear(self) -> bool:
        """True: the user says so."""
        return True

    def A(self, x: Tensor) -> Tensor:
        """The user's A."""
        check_image("x", x, self.batch_size)
        y = self.forward(x)
        if not isinstance(y, Tensor) or y.ndim < 1 or y.shape[0] != x.shape[0]:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise invalid("A(x)", f"a tensor ({x.shape[0]}, ...)", got, "keep the batch axis in A")
        return y

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The user's A_adjoint."""
        self._check_y(y)
        x = self.adjoint(y)
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[0] != y.shape[0]:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            expected = f"a tensor ({y.shape[0]}, C, H, W)"
            raise invalid("A_adjoint(y)", expected, got, "return an image for each measurement")
        return x

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """Conjugate gradients on (I + gamma A^T A) x = v + gamma A^T y, from v; gamma >= 0."""
        return self.data_step(y)(v, gamma)

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, A_adjoint(y) computed once."""
        back_projected = self.A_adjoint(y)
        check_finite(y)

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_image("v", v, self.batch_size)
            if v.shape != back_projected.shape:
                expected = f"{tuple(back_projected.shape)} as A_adjoint(y)"
                raise invalid("v", expected, tuple(v.shape), "v and y belong to one image")
            check_gamma(gamma)
            return proximal_solve(
                self._normal, v, back_projected.to(v.dtype), gamma, self.tol, self.max_iter
            )

        return step

    def initial_estimate(self, y: Tensor) -> Tensor:
        """One prox from the best multiple of A_adjoint(y), gamma = (0.1 / sigma_y)^2."""
        back_projected = self.A_adjoint(y)
        start = best_scale(back_projected, self.A(back_projected)) * back_projected
        return self.prox(start, y, starting_gamma(self.noise_std))

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A(x) + noise_std * eps, reproducible by the seed."""
        return add_measurement_noise(self.A(x), self.noise_std, seed)

    def observed(self, y: Tensor) -> Tensor:
        """y: every entry is observed."""
        return y

    def num_observed(self, y: Tensor) -> Tensor:
        """Numbers in y of every image, (B,) float64; a complex number counts twice."""
        per_entry = 2.0 if y.is_complex() else 1.0
        number = per_entry * y[:1].numel()
        return torch.full(y.shape[:1], number, dtype=torch.float64, device=y.device)

    def take(self, index: Tensor) -> LinearOperator:
        """The noise levels of the images `index`, 1-D int64; A and A_adjoint as they are."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        sigma_y = pick_noise_std(self.noise_std, index)
        return LinearOperator(self.forward, self.adjoint, sigma_y, self.tol, self.max_iter)

    def _normal(self, x: Tensor) -> Tensor:
        return self.adjoint(self.forward(x))

    def _check_y(self, y: Tensor) -> None:
        if not isinstance(y, Tensor) or y.ndim < 1:
            raise invalid_type("y", "a tensor (B, ...)", type(y).__name__, "use torch.as_tensor")
        check_dtype("y", y.real if y.is_complex() else y)
        check_batch("y", y.shape[0], self.batch_size)


def best_scale(back_projected: Tensor, projected: Tensor) -> Tensor:
    """argmin_s ||s A A^T y - y|| of every image, ||A^T y||^2 / ||A A^T y||^2: (B, 1, 1, 1)."""
    energy = back_projected.square().flatten(1).sum(1)
    image_energy = (projected.abs() ** 2).flatten(1).sum(1)
    safe = torch.where(image_energy > 0, image_energy, torch.ones_like(image_energy))
    return (energy / safe).reshape(-1, 1, 1, 1)
