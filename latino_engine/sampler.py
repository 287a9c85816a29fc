"""The sampler: the equation of DESIGN section 2 and nothing else. Inference and training run this function.

x_t <- sigma_N eps;  x <- init
for n = N..1:   x <- estimate(x_t, sigma_n, y);  if n > 1: x_t <- reverse(x, x_t)
return x        (or one last prox of x, in zero-shot LATINO)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.protocol import DataStep
from latino_engine.schedule import OuterStep, Scalar, Schedule

#: (x_noisy, sigma) -> x0_hat
Denoiser: TypeAlias = Callable[[Tensor, Scalar], Tensor]
#: (z, scale, step) -> z + scale * eps_step
Noise: TypeAlias = Callable[[Tensor, Scalar, int], Tensor]


def estimate(
    x: Tensor, x_t: Tensor | None, outer: OuterStep, data_step: DataStep, denoise: Denoiser, noise: Noise
) -> Tensor:
    """A draw from p(x_0 | y, x_t) by unfolded Langevin iterations, started at x [UD2M, Fig. 2]."""
    for step in outer.steps:
        v = x if x_t is None else ops.combine_anchors(x, x_t, step.x_weight)
        skip = isinstance(step.gamma, float) and step.gamma == 0.0
        z = v if skip else data_step(v, step.gamma)
        x = denoise(noise(z, step.c * step.sigma_delta, step.noise_step), step.sigma_delta)
    return x


def sample_posterior(
    x: Tensor, schedule: Schedule, data_step: DataStep, denoise: Denoiser, noise: Noise
) -> Tensor:
    """One draw from p(x_0 | y) for each image of the batch [UD2M, Alg. 1; LATINO, Alg. 1].

    Args:
        x: the initial estimate, (B, C, H, W), internal range.
        schedule: the rows to run; its nfe is the number of calls of `denoise`.
        data_step: (v, gamma) -> argmin gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2.
        denoise: (x_noisy, sigma) -> x0_hat.
        noise: (z, scale, step) -> z + scale * eps, eps standard normal and a function of `step`.

    Returns:
        (B, C, H, W), not clamped.
    """
    start = schedule.sigma_start
    x_t = None if start is None else noise(torch.zeros_like(x), start, 0)
    for outer in schedule.outer:
        x = estimate(x, x_t, outer, data_step, denoise, noise)
        if x_t is not None and outer.sigma_n is not None and outer.sigma_next is not None:
            kept = math.sqrt(1.0 - outer.zeta) * outer.sigma_next / outer.sigma_n
            fresh = math.sqrt(outer.zeta) * outer.sigma_next
            x_t = noise(torch.lerp(x, x_t, kept), fresh, outer.noise_step)
    return x if schedule.final_gamma is None else data_step(x, schedule.final_gamma)
