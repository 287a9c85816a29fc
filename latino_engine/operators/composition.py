"""One operator after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import check_finite, check_index
from latino_engine.operators.parts.linear_gaussian import SolvedByCG
from latino_engine.operators.parts.regularised_start import mid_grey, smooth_estimate
from latino_engine.operators.parts.shared_diagonal import diagonal_step, shared_diagonal
from latino_engine.operators.protocol import DataStep, Operator
from latino_engine.operators.stacking import linear_parts


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Compose(SolvedByCG):
    """y = A_n(... A_2(A_1 x)) + noise: linear operators in the order in which light meets them.

    Compose([Blur.gaussian(2.0, 0.0), Inpainting(mask, 0.05)]) blurs first and masks then. Only
    the last one adds noise; the others have noise_std = 0.

    x: as the first operator's; y: as the last one's; float32 or float64, public range.

    The prox is exact where all are circular blurs, or all are masks; else by conjugate gradients.

    Args:
        operators: A_1, ..., A_n, linear, real between them; photon noise stands around them,
            PoissonNoise(Compose([...]), peak).

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    operators: tuple[Operator, ...]
    batch_size: int | None

    def __init__(self, operators: Sequence[Operator]) -> None:
        remedy = "photon noise stands around a chain: PoissonNoise(Compose([...]), peak)"
        parts = linear_parts("operators", operators, remedy)
        for i, op in enumerate(parts[:-1]):
            if bool(torch.as_tensor(op.noise_std).any()):
                remedy = "only the last operator adds noise"
                raise invalid(f"operators[{i}].noise_std", "0", op.noise_std, remedy)
        batches = {op.batch_size for op in parts} - {None}
        if len(batches) > 1:
            got = " and ".join(str(b) for b in sorted(batches, key=str))
            raise invalid("operators", "one batch size", got, "give parameters for every image")
        object.__setattr__(self, "operators", parts)
        object.__setattr__(self, "batch_size", next(iter(batches), None))
        object.__setattr__(self, "noise_std", parts[-1].noise_std)

    def __repr__(self) -> str:
        return f"Compose({', '.join(repr(op) for op in self.operators)})"

    def A(self, x: Tensor) -> Tensor:
        """A_n(... A_1 x)."""
        for op in self.operators:
            x = op.A(x)
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        """A_1^T(... A_n^T y)."""
        for op in reversed(self.operators):
            y = op.A_adjoint(y)
        return y

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y: exact where one transform diagonalises all, else by CG."""
        where = shared_diagonal(self.operators)
        if where is None:
            return super().data_step(y)
        back_projected = self.A_adjoint(y)
        check_finite(self.observed(y))
        return diagonal_step(where, self._normal, back_projected)

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The smooth image that explains y; see `regularised_start`."""
        back_projected = self.A_adjoint(y)
        grey = self._normal(mid_grey(back_projected))
        return smooth_estimate(self._normal, back_projected - grey, self.noise_std)

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A x + noise, reproducible by the seed; 0 where the last operator observes nothing."""
        return self.observed(super().measure(x, seed))

    def observed(self, y: Tensor) -> Tensor:
        """As the last operator."""
        return self.operators[-1].observed(y)

    def num_observed(self, y: Tensor) -> Tensor:
        """As the last operator, (B,) float64."""
        return self.operators[-1].num_observed(y)

    def take(self, index: Tensor) -> Compose:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Compose([op.take(index) for op in self.operators])

    def check_measurement(self, y: Tensor) -> None:
        """Raise the sentence for a y that the last operator cannot have measured."""
        self._check_y(y)

    def _check_y(self, y: Tensor) -> None:
        self.operators[-1].observed(y)
