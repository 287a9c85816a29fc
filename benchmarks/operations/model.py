"""An operator of this package beside plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.operations import eager
from benchmarks.operations.case import BOUND, Provider

GAMMA, NOISE_STD = 3.0, 0.02
CG_BOUND = 1e-4  # both sides stop at a relative residual of 1e-6


@dataclass(frozen=True)
class Model:
    """An operator beside plain torch.

    Attributes:
        name: of the class, with what sets it apart.
        op: of this package.
        channels: of its images.
        plain: {"A": x -> y, "A_adjoint": y -> x, "prox": (v, y) -> z}.
        prox_bound: largest relative error of the prox.
    """

    name: str
    op: Any
    channels: int
    plain: Mapping[str, Provider]
    prox_bound: float = BOUND


def closed(
    name: str,
    op: Any,
    channels: int,
    A: Callable[..., Tensor],
    A_adjoint: Callable[..., Tensor],
    prox: Callable[..., Tensor],
    parameter: Tensor,
    *more: int,
) -> Model:
    """A model whose prox is a formula; each function takes the parameter behind the image."""
    plain = {
        "A": lambda x: A(x, parameter.to(x), *more),
        "A_adjoint": lambda y: A_adjoint(y, parameter.to(y), *more),
        "prox": lambda v, y: prox(v, y, parameter.to(v), *more, GAMMA),
    }
    return Model(name, op, channels, plain)


def iterative(
    name: str,
    op: Any,
    channels: int,
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
) -> Model:
    """A model whose prox in plain torch is conjugate gradients."""

    def prox(v: Tensor, y: Tensor) -> Tensor:
        return eager.cg_prox(v, y, A, A_adjoint, GAMMA, 1e-12 if v.dtype == torch.float64 else 1e-6)

    return Model(name, op, channels, {"A": A, "A_adjoint": A_adjoint, "prox": prox}, CG_BOUND)
