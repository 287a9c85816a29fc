"""What the engine asks of an operator, structurally: no base class to inherit from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

#: (v, gamma) -> argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2 for one fixed y.
DataStep: TypeAlias = Callable[[Tensor, "float | Tensor"], Tensor]


@runtime_checkable
class Operator(Protocol):
    """A forward model y = A x + noise, in the public range; frozen and pure.

    x: (B, C, H, W); y: (B, ...). `noise_std` is in public units, a float or (B,). Parameters that
    differ from sample to sample are stored with a leading axis B.
    """

    @property
    def noise_std(self) -> float | Tensor:
        """Standard deviation of the measurement noise, public units, a float or (B,)."""

    @property
    def is_linear(self) -> bool:
        """True where A(a x + b z) = a A(x) + b A(z)."""

    @property
    def batch_size(self) -> int | None:
        """B of the per-sample parameters, None where every parameter is shared."""

    def A(self, x: Tensor) -> Tensor:
        """The noise-free measurement of x."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The adjoint: <A x, y> = <x, A_adjoint y>."""

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2, gamma >= 0 a float or (B,)."""

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, with all that depends on y alone computed once."""

    def initial_estimate(self, y: Tensor) -> Tensor:
        """A regularised inverse of y, (B, C, H, W); never the raw pseudo-inverse."""

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A x + noise_std * eps, reproducible by the seed."""

    def observed(self, y: Tensor) -> Tensor:
        """y with every entry that the model never observed set to 0 (whatever stood there)."""

    def num_observed(self, y: Tensor) -> Tensor:
        """(B,) float64: observed real numbers per image (a complex number counts twice)."""

    def take(self, index: Tensor) -> Operator:
        """The operator of the images `index`, 1-D int64; shared parameters are kept."""
