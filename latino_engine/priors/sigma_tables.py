"""Beta schedules of discrete-time diffusion models, as tables of sigma; float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from latino_engine.errors import invalid
from latino_engine.schedule import linear_beta_sigmas, sigmas_of

_MAX_BETA = 0.999


def scaled_linear_sigmas(num_times: int, beta_start: float, beta_end: float) -> np.ndarray:
    """sqrt(beta) evenly spaced. Source: Rombach et al. (2022), latent diffusion."""
    return sigmas_of(np.linspace(beta_start**0.5, beta_end**0.5, num_times, dtype=np.float64) ** 2)


def cosine_sigmas(num_times: int = 1000) -> np.ndarray:
    """abar(u) = cos^2((u + 0.008) / 1.008 pi / 2), beta_t = 1 - abar((t+1)/T) / abar(t/T) <= 0.999.

    Source: Nichol & Dhariwal (2021), Eq. 17.
    """

    def alpha_bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    times = range(num_times)
    return sigmas_of(
        [
            min(1.0 - alpha_bar((t + 1) / num_times) / alpha_bar(t / num_times), _MAX_BETA)
            for t in times
        ]
    )


#: The two schedules of guided-diffusion, T = 1000.
NAMED: dict[str, Callable[[], np.ndarray]] = {
    "linear": linear_beta_sigmas,
    "cosine": cosine_sigmas,
}


def named_sigmas(schedule: str) -> tuple[float, ...]:
    """The table of a schedule by name, T = 1000.

    Raises:
        ValueError: another name.
    """
    if schedule not in NAMED:
        known = " or ".join(repr(name) for name in NAMED)
        raise invalid("schedule", known, repr(schedule), "choose the one it was trained with")
    return tuple(float(s) for s in NAMED[schedule]())
