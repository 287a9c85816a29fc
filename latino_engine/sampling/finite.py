"""Where a sample stopped being a number: the sampler run again with every result looked at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latino_engine.errors import NotFinite
from latino_engine.operators.protocol import DataStep
from latino_engine.sampler import Denoiser, Steps, sample_posterior
from latino_engine.schedule import Scalar, Schedule


class _Found(Exception):
    """Carries the name of the step."""


def is_finite(x: Tensor) -> bool:
    """Whether every entry is a number."""
    return bool(torch.isfinite(x).all())


def not_finite(
    data_step: DataStep,
    steps_of: Callable[[DataStep], Steps],
    denoise: Denoiser,
    schedule: Schedule,
    x_init: Tensor,
) -> NotFinite:
    """The error for samples with NaN or infinite entries; it names the first step that made one.

    Args:
        data_step: the prox of the chunk.
        steps_of: the steps of the sampler around a data step.
        denoise, schedule, x_init: as in `sample_posterior`.
    """
    done = 0

    def watched_step(v: Tensor, gamma: Scalar) -> Tensor:
        z = data_step(v, gamma)
        if not is_finite(z):
            weight = float(torch.as_tensor(gamma).max())
            raise _Found(f"the data step after evaluation {done} (gamma = {weight:.2g})")
        return z

    def watched_denoiser(x: Tensor, sigma: Scalar) -> Tensor:
        nonlocal done
        done += 1
        out = denoise(x, sigma)
        if not is_finite(out):
            level = float(torch.as_tensor(sigma).max())
            raise _Found(f"evaluation {done} of the network (sigma = {level:.2g})")
        return out

    where, remedy = "a step that is right when repeated", "sample again, and report it"
    try:
        sample_posterior(steps_of(watched_step), watched_denoiser, schedule, x_init)
    except _Found as found:
        where = str(found)
        if "network" in where:
            remedy = "compile with precision='fp32', or check the weights of the prior"
        else:
            remedy = "check the units of y and noise_std, and that the operator is finite"
    got = f"NaN or infinity from {where}"
    return NotFinite(f"samples: expected finite numbers, got {got}; {remedy}")
