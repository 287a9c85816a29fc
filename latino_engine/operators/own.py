"""Operators that a user wrote: a class of any kind with a noise level and A."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from latino_engine.errors import invalid_type
from latino_engine.operators.parts.checks import (
    as_noise_std,
    check_index,
    check_measured,
    common_batch,
    pick_noise_std,
)
from latino_engine.operators.parts.own_model import check_own_model
from latino_engine.operators.protocol import MEMBERS, Operator

_REMEDY = "wrap your own model in LinearOperator(A, A_adjoint, noise_std)"


class OwnOperator(Operator):
    """A model that does not derive from `Operator`: its own members, defaults for the others.

    Where it does not say so, it is linear if it has an adjoint, its y is judged by its shape alone,
    and the noise level is all that may differ from image to image.
    """

    takes_complex = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.is_linear = hasattr(model, "A_adjoint")
        for name in MEMBERS:
            if name not in ("A", "take") and hasattr(model, name):
                setattr(self, name, getattr(model, name))
        self.noise_std = as_noise_std(model.noise_std)
        if self.batch_size is None:
            self.batch_size = common_batch("noise_std", (), self.noise_std)

    def __repr__(self) -> str:
        return repr(self.model)

    def A(self, x: Tensor) -> Tensor:
        """The model's A."""
        y: Tensor = self.model.A(x)
        return y

    def take(self, index: Tensor) -> Operator:
        """The model's own, else the noise levels of these images and the same model."""
        if hasattr(self.model, "take"):
            return as_operator("op", self.model.take(index))
        if self.batch_size is None:
            return self
        taken = OwnOperator(self.model)
        taken.noise_std = pick_noise_std(self.noise_std, check_index(index, self.batch_size))
        taken.batch_size = common_batch("noise_std", (), taken.noise_std)
        return taken

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is a tensor (B, ...) of the model's batch."""
        check_measured("y", y, self.batch_size)

    def check_model(self, y: Tensor) -> None:
        """Raises where A and A_adjoint are no pair, or the model depends on the batch."""
        if self.is_linear and hasattr(self.model, "A_adjoint"):
            check_own_model(self, y)


def as_operator(name: str, op: Any) -> Operator:
    """An `Operator` as it is; any other class with noise_std, A, and A_adjoint or a prox.

    Raises:
        InvalidType: something else; the sentence says what it lacks.
    """
    if isinstance(op, Operator):
        return op
    lacking = [member for member in ("noise_std", "A") if not hasattr(op, member)]
    if not any(hasattr(op, member) for member in ("A_adjoint", "prox", "data_step")):
        lacking.append("A_adjoint or prox")
    if lacking or isinstance(op, type):
        expected = "an operator such as Blur or Inpainting"
        more = f" without {', '.join(lacking)}" if 0 < len(lacking) < 3 else ""
        raise invalid_type(name, expected, type(op).__name__ + more, _REMEDY)
    return OwnOperator(op)


def as_linear(name: str, op: Any, remedy: str) -> Operator:
    """The same, linear; else `remedy`."""
    if isinstance(op, Operator) or (hasattr(op, "noise_std") and hasattr(op, "A")):
        op = as_operator(name, op)
        if op.is_linear:
            return cast(Operator, op)
    raise invalid_type(name, "a linear operator", type(op).__name__, remedy)
