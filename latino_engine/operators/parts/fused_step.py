"""A data step as a function of tensors alone, and one fused with the anchors and the noise."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from latino_engine.operators.parts.checks import check_anchor, check_gamma

_Step = TypeVar("_Step", bound="FixedStep")


@dataclass(frozen=True, eq=False, kw_only=True)
class FixedStep:
    """The prox for one y: a fixed sequence of tensor operations on its constants.

    Two steps of one `formula`, with constants of the same shapes, differ in the contents of their
    constants alone, so that one captured CUDA graph serves both.

    Attributes:
        formula: names the function, with the numbers that shape it.
        shape, dtype: of the images it takes.
        constants: all tensors that it reads beside v; leading axis 1 where all images share them.
        prox: (v, *constants, gamma) -> z.
        check: (v, shape, dtype) raises the sentence for a v that does not belong to this y.
    """

    formula: tuple[Hashable, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    constants: tuple[Tensor, ...]
    prox: Callable[..., Tensor]
    check: Callable[[Tensor, tuple[int, ...], torch.dtype], None] = check_anchor

    def __call__(self, v: Tensor, gamma: float | Tensor) -> Tensor:
        """argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2."""
        self.check(v, self.shape, self.dtype)
        check_gamma(gamma)
        return self.prox(v, *self.constants, gamma)

    def for_batch(self: _Step, batch: int) -> _Step:
        """The same step for `batch` images, which share the constants of the one that it has."""
        return replace(self, shape=(batch, *self.shape[1:]))

    def in_units(self, scale: float, offset: float) -> FixedStep:
        """The step on scale v + offset: both squares of the prox scale alike, gamma stays."""

        def prox(v: Tensor, *rest: Tensor) -> Tensor:
            return scale * self.prox((v - offset) / scale, *rest) + offset

        formula = ("in units", scale, offset, *self.formula)
        return FixedStep(
            formula=formula,
            shape=self.shape,
            dtype=self.dtype,
            constants=self.constants,
            prox=prox,
            check=self.check,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FusedStep(FixedStep):
    """A `FixedStep` that also comes as a whole inner step of the sampler.

    Attributes:
        inner: (x, x_t, x_weight, *constants, gamma, scale, seed=, image_ids=, sample_ids=, step=,
            out=) -> prox(x_weight x + (1 - x_weight) x_t) + scale eps; without x_t, of x alone.
        launch: (x, x_t, *constants, steps=, noise=): the same by `ops.launch_<op>`,
            its scalars the next row of a `StepTable`.
        transforms: whose transforms run, see `ops.transforms_of`; "" where there are none.
    """

    inner: Callable[..., Tensor]
    launch: Callable[..., Tensor]
    transforms: str = ""

    def __repr__(self) -> str:
        size, dtype = " x ".join(map(str, self.shape)), str(self.dtype).removeprefix("torch.")
        ops = f", transforms={self.transforms!r}" if self.transforms else ""
        return f"FusedStep({size} {dtype}{ops})"
