"""What operators share whose every entry of y is observed, with Gaussian noise added to it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from latino_engine.operators.linear import proximal_solve
from latino_engine.operators.parts.checks import (
    check_anchor,
    check_finite,
    check_gamma,
    starting_gamma,
)
from latino_engine.operators.parts.simulation import add_measurement_noise
from latino_engine.operators.protocol import DataStep

CG_TOL = 1e-6
CG_MAX_ITER = 500


class FullMeasurement:
    """y = A x + noise_std * eps, nothing of y missing; subclasses bring A, its adjoint and step."""

    noise_std: float | Tensor
    batch_size: int | None

    @property
    def is_linear(self) -> bool:
        """True."""
        return True

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The noise-free measurement."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """The adjoint."""

    @abstractmethod
    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y."""

    @abstractmethod
    def _check_y(self, y: Tensor) -> None:
        """Raise the sentence for a y that this operator cannot have measured."""

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2; gamma >= 0, a number or (B,)."""
        return self.data_step(y)(v, gamma)

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A x + noise_std * eps, reproducible by the seed."""
        return add_measurement_noise(self.A(x), self.noise_std, seed)

    def observed(self, y: Tensor) -> Tensor:
        """y: every entry is observed."""
        self._check_y(y)
        return y

    def num_observed(self, y: Tensor) -> Tensor:
        """Numbers in y of every image, (B,) float64."""
        return torch.full(y.shape[:1], float(y[:1].numel()), dtype=torch.float64, device=y.device)


class SolvedByCG(FullMeasurement):
    """The prox by conjugate gradients from v, to a relative residual of 1e-6."""

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, A_adjoint(y) computed once."""
        back_projected = self.A_adjoint(y)
        check_finite(self.observed(y))

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, tuple(back_projected.shape), back_projected.dtype)
            check_gamma(gamma)
            return proximal_solve(self._normal, v, back_projected, gamma, CG_TOL, CG_MAX_ITER)

        return step

    def _normal(self, x: Tensor) -> Tensor:
        """A^T A x."""
        return self.A_adjoint(self.A(x))

    def _one_prox(self, start: Tensor, y: Tensor) -> Tensor:
        """The data step from a first guess, gamma = (0.1 / sigma_y)^2."""
        return self.prox(start, y, starting_gamma(self.noise_std))
