"""One operator after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import check_finite, check_index
from latino_engine.operators.parts.families import family_of_chain
from latino_engine.operators.parts.regularised_start import mid_grey, smooth_estimate
from latino_engine.operators.parts.shared_diagonal import diagonal_step, shared_diagonal
from latino_engine.operators.protocol import DataStep, Operator
from latino_engine.operators.stacking import batch_of, linear_parts


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Compose(Operator):
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
    noise_std: float | Tensor
    batch_size: int | None
    kind = "Compose"

    def __init__(self, operators: Sequence[Operator]) -> None:
        remedy = "photon noise stands around a chain: PoissonNoise(Compose([...]), peak)"
        parts = linear_parts("operators", operators, remedy)
        for i, op in enumerate(parts[:-1]):
            if bool(torch.as_tensor(op.noise_std).any()):
                remedy = "only the last operator adds noise"
                raise invalid(f"operators[{i}].noise_std", "0", op.noise_std, remedy)
        object.__setattr__(self, "operators", parts)
        object.__setattr__(self, "batch_size", batch_of(parts))
        object.__setattr__(self, "noise_std", parts[-1].noise_std)
        object.__setattr__(self, "measures_image", parts[-1].measures_image)
        object.__setattr__(self, "wraps", any(op.wraps for op in parts))
        object.__setattr__(self, "measured_channels", parts[-1].measured_channels)
        object.__setattr__(self, "takes_complex", parts[-1].takes_complex)
        object.__setattr__(self, "family", family_of_chain(parts))
        object.__setattr__(self, "diagonal", shared_diagonal(parts))

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
        if not self.diagonal:
            return super().data_step(y)
        back_projected = self.A_adjoint(y)
        check_finite(self.observed(y))
        return diagonal_step(self.diagonal[0], self._normal, back_projected)

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The smooth image that explains y; see `regularised_start`."""
        back_projected = self.A_adjoint(y)
        grey = self._normal(mid_grey(back_projected))
        return smooth_estimate(self._normal, back_projected - grey, self.noise_std)

    def observed(self, y: Tensor) -> Tensor:
        """What the last operator gives of y."""
        return self.operators[-1].observed(y)

    def num_observed(self, y: Tensor) -> Tensor:
        """What the last operator counts, (B,) float64."""
        return self.operators[-1].num_observed(y)

    def with_noise_std(self, noise_std: float | Tensor) -> Compose:
        """The same chain, its last operator with another noise level."""
        return Compose([*self.operators[:-1], self.operators[-1].with_noise_std(noise_std)])

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        """That of the last operator, (B,) float64."""
        return self.operators[-1].estimate_noise_std(y)

    def take(self, index: Tensor) -> Compose:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Compose([op.take(index) for op in self.operators])

    def check_measurement(self, y: Tensor) -> None:
        """Raises for a y that the last operator cannot have measured."""
        self.operators[-1].check_measurement(y)

    def for_grey(self) -> Compose:
        """The same of every part."""
        grey = [op.for_grey() for op in self.operators]
        same = all(a is b for a, b in zip(grey, self.operators, strict=True))
        return self if same else Compose(grey)

    def enlarged(self, y: Tensor) -> Tensor:
        """y as large as the last operator makes it."""
        return self.operators[-1].enlarged(y)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """What the last operator shows of y."""
        return self.operators[-1].measurement_picture(y)
