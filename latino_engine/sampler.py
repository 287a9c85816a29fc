"""The sampler: the equation of DESIGN section 2 and nothing else. Inference and training run this
function.

x_t <- sigma_N eps;  x <- init
for n = N..1:   x <- estimate(x_t, sigma_n, y);  if n > 1: x_t <- reverse(x, x_t)
return x        (or one last prox of x, in zero-shot LATINO)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.protocol import DataStep
from latino_engine.ops.philox import START_STEP
from latino_engine.schedule import InnerStep, OuterStep, Scalar, Schedule

#: (x_noisy, sigma) -> x0_hat
Denoiser: TypeAlias = Callable[[Tensor, Scalar], Tensor]


class Noise(Protocol):
    """The random stream; `latino_engine.sampling.noise_stream.NoiseStream` is the engine's."""

    def langevin(self, z: Tensor, scale: Scalar, step: int) -> Tensor:
        """z + scale * eps_step."""

    def inner(
        self, fused: Callable[..., Tensor], x: Tensor, x_t: Tensor | None, step: InnerStep
    ) -> Tensor:
        """What `langevin` does behind the prox, by a data step that takes the noise along."""

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps_step)."""


def estimate(
    x: Tensor,
    x_t: Tensor | None,
    outer: OuterStep,
    data_step: DataStep,
    denoise: Denoiser,
    noise: Noise,
) -> Tensor:
    """A draw from p(x_0 | y, x_t) by unfolded Langevin iterations, started at x [UD2M, Fig. 2]."""
    for step in outer.steps:
        x = denoise(_propose(x, x_t, step, data_step, noise), step.sigma_delta)
    return x


def _propose(
    x: Tensor, x_t: Tensor | None, step: InnerStep, data_step: DataStep, noise: Noise
) -> Tensor:
    """z + c sigma_delta eps, z = prox(v, y, gamma), v = both anchors as one."""
    skip = isinstance(step.gamma, float) and step.gamma == 0.0
    fused = getattr(data_step, "with_noise", None)
    if fused is not None and not skip:
        return noise.inner(fused, x, x_t, step)
    v = x if x_t is None else ops.combine_anchors(x, x_t, step.x_weight)
    z = v if skip else data_step(v, step.gamma)
    return noise.langevin(z, step.noise_scale, step.noise_step)


def sample_posterior(
    x: Tensor, schedule: Schedule, data_step: DataStep, denoise: Denoiser, noise: Noise
) -> Tensor:
    """One draw from p(x_0 | y) for each image of the batch [UD2M, Alg. 1; LATINO, Alg. 1].

    Args:
        x: the initial estimate, (B, C, H, W), internal range.
        schedule: the rows to run; its nfe is the number of calls of `denoise`.
        data_step: (v, gamma) -> argmin gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2.
        denoise: (x_noisy, sigma) -> x0_hat.
        noise: the random stream.

    Returns:
        (B, C, H, W), not clamped.
    """
    start = schedule.sigma_start
    x_t = None if start is None else noise.langevin(torch.zeros_like(x), start, START_STEP)
    for outer in schedule.outer:
        x = estimate(x, x_t, outer, data_step, denoise, noise)
        if x_t is not None and outer.sigma_next is not None:
            x_t = noise.reverse(x, x_t, outer)
    return x if schedule.final_gamma is None else data_step(x, schedule.final_gamma)
