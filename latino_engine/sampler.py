"""The sampler: the equation of DESIGN section 2 and nothing else. Inference and training run this
function.

x_t <- sigma_N eps;  x <- init
for n = N..1:   x <- estimate(x_t, sigma_n, y);  if n > 1: x_t <- reverse(x, x_t)
return x        (or one last prox of x, in zero-shot LATINO)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor

from latino_engine.schedule import InnerStep, OuterStep, Scalar, Schedule

#: (x_noisy, sigma) -> x0_hat
Denoiser: TypeAlias = Callable[[Tensor, Scalar], Tensor]


class Steps(Protocol):
    """What the chain of one y does between two evaluations of the denoiser, noise included."""

    def start(self, x: Tensor, sigma: float) -> Tensor:
        """x_t = sigma eps, of the shape of x."""

    def propose(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """z + c sigma_delta eps, z = prox(v, y, gamma), v = x and x_t as one anchor."""

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps)."""

    def finish(self, x: Tensor, gamma: Scalar) -> Tensor:
        """prox(x, y, gamma)."""


def estimate(
    steps: Steps, denoise: Denoiser, outer: OuterStep, x: Tensor, x_t: Tensor | None
) -> Tensor:
    """A draw from p(x_0 | y, x_t) by unfolded Langevin iterations, started at x [UD2M, Fig. 2]."""
    for inner in outer.inner:
        x = denoise(steps.propose(x, x_t, inner), inner.sigma_delta)
    return x


def sample_posterior(steps: Steps, denoise: Denoiser, schedule: Schedule, x: Tensor) -> Tensor:
    """One draw from p(x_0 | y) for each image of the batch [UD2M, Alg. 1; LATINO, Alg. 1].

    Args:
        steps: what happens between two evaluations of the denoiser, for this y.
        denoise: (x_noisy, sigma) -> x0_hat; it is called schedule.nfe times.
        schedule: the rows to run.
        x: the initial estimate, (B, C, H, W), internal range.

    Returns:
        (B, C, H, W), internal range, not clamped.
    """
    x_t = None if schedule.sigma_start is None else steps.start(x, schedule.sigma_start)
    for outer in schedule.outer:
        x = estimate(steps, denoise, outer, x, x_t)
        if x_t is not None and outer.sigma_next is not None:
            x_t = steps.reverse(x, x_t, outer)
    return x if schedule.final_gamma is None else steps.finish(x, schedule.final_gamma)
