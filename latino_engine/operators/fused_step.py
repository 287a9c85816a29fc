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
        prox: (v, gamma) -> z.
        inner: (x, x_t, x_weight, gamma, scale, seed, image_ids, sample_ids, step)
            -> prox(x_weight x + (1 - x_weight) x_t) + scale eps, without x_t: prox(x) + scale eps.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    prox: Callable[[Tensor, float | Tensor], Tensor]
    inner: Callable[..., Tensor]

    def __call__(self, v: Tensor, gamma: float | Tensor) -> Tensor:
        """argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2."""
        check_anchor(v, self.shape, self.dtype)
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
    ) -> Tensor:
        """Anchors, prox, noise in one operation; identity: seed, image_ids, sample_ids, step."""
        check_anchor(x, self.shape, self.dtype)
        check_gamma(gamma)
        return self.inner(x, x_t, x_weight, gamma, scale, *identity)
