"""The steps of a chain, run one after the other: plain, and fused where the operator has it so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.checks import check_gamma
from latino_engine.operators.parts.fused_step import FusedStep
from latino_engine.operators.protocol import DataStep
from latino_engine.ops.philox import START_STEP
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.schedule import InnerStep, OuterStep, Scalar


@dataclass(eq=False)
class PlainSteps:
    """Anchors, prox and noise as three operations; gradients pass where those of `noise` let them.

    Attributes:
        data_step: the prox for one y.
        noise: the random stream of the chain.
    """

    data_step: DataStep
    noise: NoiseStream

    def start(self, x: Tensor, sigma: float) -> Tensor:
        """x_t = sigma eps."""
        return self.noise.langevin(torch.zeros_like(x), sigma, START_STEP)

    def propose(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """z + c sigma_delta eps, z = `prox_of` the two anchors."""
        z = self.prox_of(x, x_t, inner)
        return self.noise.langevin(z, inner.noise_scale, inner.noise_step)

    def prox_of(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """prox(v, y, gamma) of v = a x + (1 - a) x_t; v itself where the row skips its prox."""
        v = x if x_t is None else ops.combine_anchors(x, x_t, inner.x_weight)
        return v if inner.skips_prox else self.data_step(v, inner.gamma)

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps)."""
        return self.noise.reverse(x0_hat, x_t, outer)

    def finish(self, x: Tensor, gamma: Scalar) -> Tensor:
        """prox(x, y, gamma)."""
        return self.data_step(x, gamma)


class EagerSteps(PlainSteps):
    """`PlainSteps` whose proposal is one operation where the data step is a `FusedStep`."""

    def propose(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """z + c sigma_delta eps; a fused one is written into the memory of x where that is ours."""
        step, noise = self.data_step, self.noise
        if inner.skips_prox or not isinstance(step, FusedStep):
            return super().propose(x, x_t, inner)
        check_gamma(inner.gamma)
        return step.inner(
            *(x, x_t, inner.x_weight, *step.constants, inner.gamma, inner.noise_scale),
            seed=noise.seed,
            image_ids=noise.image_ids,
            sample_ids=noise.sample_ids,
            step=inner.noise_step,
            out=noise.memory_of(x),
        )
