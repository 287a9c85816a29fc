"""A data step that also comes fused with the anchors before it and the noise behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine.operators.checks import check_anchor, check_gamma


@dataclass(frozen=True, eq=False)
class FusedStep:
    """The prox for one y, alone or as a whole inner step of the sampler.

    Attributes:
        shape, dtype: of the images it takes.
        transforms: whose transforms run, see `ops.transforms_of`; "" where there are none.
        prox: (v, gamma) -> z.
        channels: numbers of channels that are taken beside that of `shape`.
        inner: (x, x_t, x_weight, gamma, scale, seed, image_ids, sample_ids, step, out=None)
            -> prox(x_weight x + (1 - x_weight) x_t) + scale eps, without x_t: prox(x) + scale eps.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    prox: Callable[[Tensor, float | Tensor], Tensor]
    inner: Callable[..., Tensor]
    transforms: str = ""
    channels: tuple[int, ...] = ()

    def __repr__(self) -> str:
        size, dtype = " x ".join(map(str, self.shape)), str(self.dtype).removeprefix("torch.")
        ops = f", transforms={self.transforms!r}" if self.transforms else ""
        return f"FusedStep({size} {dtype}{ops})"

    def __call__(self, v: Tensor, gamma: float | Tensor) -> Tensor:
        """argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2."""
        self._check(v)
        check_gamma(gamma)
        return self.prox(v, gamma)

    def with_noise(
        self,
        x: Tensor,
        x_t: Tensor | None,
        x_weight: float | Tensor,
        gamma: float | Tensor,
        scale: float | Tensor,
        *identity: int | Tensor,
        out: Tensor | None = None,
    ) -> Tensor:
        """Anchors, prox, noise in one operation; identity: seed, image_ids, sample_ids, step.

        The result is written into `out` if there is one, which may be x itself.
        """
        self._check(x)
        check_gamma(gamma)
        return self.inner(x, x_t, x_weight, gamma, scale, *identity, out=out)

    def _check(self, v: Tensor) -> None:
        shape = self.shape
        if v.ndim == len(shape) and v.shape[1] in self.channels:
            shape = (shape[0], v.shape[1], *shape[2:])
        check_anchor(v, shape, self.dtype)
