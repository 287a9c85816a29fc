"""Any linear operator a user brings: conjugate gradients for the prox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from latino_engine.errors import invalid, invalid_type
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_iterations,
    as_noise_std,
    as_tolerance,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    common_batch,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.conjugate_gradients import proximal_solve
from latino_engine.operators.parts.own_model import check_own_model
from latino_engine.operators.protocol import DataStep, Operator


@dataclass(frozen=True, eq=False, repr=False, init=False)
class LinearOperator(Operator):
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
    kind = "LinearOperator"
    takes_complex = True

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
        tol, max_iter = as_tolerance(tol), as_iterations(max_iter)
        sigma_y = as_noise_std(noise_std)
        object.__setattr__(self, "forward", A)
        object.__setattr__(self, "adjoint", A_adjoint)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "tol", tol)
        object.__setattr__(self, "max_iter", max_iter)
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))

    def __repr__(self) -> str:
        name = getattr(self.forward, "__qualname__", type(self.forward).__name__)
        sigma_y = show_noise_std(self.noise_std)
        return f"LinearOperator({name}, {sigma_y}, tol={self.tol:g}, max_iter={self.max_iter})"

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
        self.check_measurement(y)
        x = self.adjoint(y)
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[0] != y.shape[0]:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            expected = f"a tensor ({y.shape[0]}, C, H, W)"
            raise invalid("A_adjoint(y)", expected, got, "return an image for each measurement")
        return x

    def data_step(self, y: Tensor) -> DataStep:
        """Conjugate gradients on (I + gamma A^T A) x = v + gamma A^T y, A^T y computed once."""
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

    def take(self, index: Tensor) -> LinearOperator:
        """The noise levels of the images `index`, 1-D int64; A and A_adjoint as they are."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        sigma_y = pick_noise_std(self.noise_std, index)
        return LinearOperator(self.forward, self.adjoint, sigma_y, self.tol, self.max_iter)

    def check_model(self, y: Tensor) -> None:
        """Raises where A and A_adjoint are no pair, or the model depends on the batch."""
        check_own_model(self, y)

    def _normal(self, x: Tensor) -> Tensor:
        return self.adjoint(self.forward(x))
