"""Schedules as data: which noise levels and step sizes, in which order. float64, internal units.

Every sigma here is a standard deviation in the internal range [-1, 1]. Nothing in this file touches
an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latino_engine.errors import InvalidArgument, invalid
from latino_engine.ops.philox import inner_position, reverse_position

Scalar: TypeAlias = float | Tensor  # a number, or one for each image: (B,) float64

DEFAULT_ZETA = 0.9
INPAINTING_R = 13.0  # the authors' step size for masks [UD2M, section 5]


@dataclass(frozen=True)
class InnerStep:
    """One Langevin iteration: anchor, prox, noise, denoise.

    Attributes:
        gamma: weight of the data step; exactly 0.0 skips the prox.
        sigma_delta: noise level handed to the denoiser.
        c: the noise added is c * sigma_delta: 1 as published; sqrt(2) samples the posterior in the
            limit of small steps.
        x_weight: weight of x against x_t in the combined anchor,
            (1/rho^2) / (1/rho^2 + 1/sigma_n^2).
        noise_step: position of this noise in the random stream.
    """

    gamma: Scalar
    sigma_delta: Scalar
    c: float
    x_weight: Scalar
    noise_step: int

    @property
    def noise_scale(self) -> Scalar:
        """c sigma_delta, the standard deviation of the noise that is added."""
        return self.c * self.sigma_delta

    @property
    def skips_prox(self) -> bool:
        """Whether gamma is the number 0: v itself takes the place of the prox."""
        return isinstance(self.gamma, float) and self.gamma == 0.0


@dataclass(frozen=True)
class OuterStep:
    """The inner iterations at one diffusion time, and the reverse step that leaves it.

    Attributes:
        inner: the inner iterations.
        sigma_n: noise level of x_t, or None where there is no x_t anchor (LATINO).
        sigma_next: noise level after the reverse step, or None at the last time.
        zeta: share of fresh noise in the reverse step.
        noise_step: position of the reverse step's noise in the random stream.
    """

    inner: tuple[InnerStep, ...]
    sigma_n: float | None = None
    sigma_next: float | None = None
    zeta: float = DEFAULT_ZETA
    noise_step: int = 0


@dataclass(frozen=True)
class Schedule:
    """All that `latino_engine.sampler.sample_posterior` needs besides the problem.

    Attributes:
        outer: outer steps, the noisiest first.
        final_gamma: weight of a last prox, or None for none.
    """

    outer: tuple[OuterStep, ...]
    final_gamma: Scalar | None = None

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return sum(len(outer.inner) for outer in self.outer)

    @property
    def sigma_start(self) -> float | None:
        """Noise level of the initial state x_t; None where the schedule has no x_t."""
        return self.outer[0].sigma_n

    def denoiser_sigmas(self) -> list[float]:
        """Every noise level at which the denoiser is called (the largest over the batch)."""
        levels = (inner.sigma_delta for outer in self.outer for inner in outer.inner)
        return [float(torch.as_tensor(level).max()) for level in levels]


#: sigma_y (internal, a number or (B,)) -> Schedule
ScheduleBuilder: TypeAlias = Callable[[Scalar], Schedule]


def sigmas_of(betas: Sequence[float] | np.ndarray) -> np.ndarray:
    """sigma_t = sqrt((1 - abar_t) / abar_t), abar_t = prod_{s <= t} (1 - beta_s): (T,) float64.

    Raises:
        ValueError: a beta outside (0, 1).
    """
    b = np.asarray(betas, dtype=np.float64)
    if b.ndim != 1 or len(b) < 2 or not bool(((b > 0) & (b < 1)).all()):
        raise invalid("betas", "two or more numbers in (0, 1)", "others", "correct the schedule")
    alpha_bar = np.cumprod(1.0 - b)
    sigmas: np.ndarray = np.sqrt((1.0 - alpha_bar) / alpha_bar)
    return sigmas


def linear_beta_sigmas(
    num_times: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """sigma of every time, beta evenly spaced from beta_start to beta_end: (T,).

    Source: Ho et al. (2020), section 4.
    """
    return sigmas_of(np.linspace(beta_start, beta_end, num_times, dtype=np.float64))


def few_step_times(num_outer: int, num_times: int = 1000) -> list[int]:
    """t_k = (k k T) // (N N) for k = N..1, the first minus 1: the quadratic grid of the authors.

    Raises:
        ValueError: num_outer < 1, or so many that two times coincide.
    """
    if num_outer < 1:
        raise invalid("steps", "at least 1", num_outer, "choose the number of outer steps")
    times = [(k * k * num_times) // (num_outer * num_outer) for k in range(num_outer, 0, -1)]
    times[0] -= 1
    if len(set(times)) < num_outer:
        limit = int(2 * num_times**0.5)  # t_1 = 0 and t_2 = 4 T / N^2 must differ
        raise invalid("steps", f"at most {limit}", num_outer, "use fewer outer steps")
    return times


def few_step_sigmas(num_outer: int, table: Sequence[float] | None = None) -> list[float]:
    """The noise levels of `few_step_times`, the largest first: 157.4, 2.555, 0.380 for N = 3.

    Args:
        num_outer: N >= 1.
        table: sigma of every training time; None takes linear betas with T = 1000.
    """
    sigmas = linear_beta_sigmas() if table is None else np.asarray(table, dtype=np.float64)
    return [float(sigmas[t]) for t in few_step_times(num_outer, len(sigmas))]


def ud2m_schedule(
    sigma_y: Scalar,
    sigmas: Sequence[float],
    unfold: int,
    *,
    r: Sequence[Sequence[Scalar]] | float = 1.0,
    d: Sequence[Sequence[Scalar]] | float = 1.0,
    lam: Sequence[Sequence[Scalar]] | float = 1.0,
    c: float = 1.0,
    zeta: float = DEFAULT_ZETA,
    time_shift: Sequence[Sequence[float]] | None = None,
    sigma_table: Sequence[float] | None = None,
) -> Schedule:
    """The unfolded schedule: N outer steps of K Langevin iterations [UD2M, Alg. 1].

    rho^2 = r^2 sigma_y^2 sigma_n^2 / (sigma_y^2 + sigma_n^2), sigma_delta = d rho,
    w = 1/rho^2 + 1/sigma_n^2, gamma = 1 / (lambda sigma_y^2 w).

    Args:
        sigma_y: noise level of the measurement, internal units, a number or (B,).
        sigmas: sigma_n of the outer steps, the largest first.
        unfold: K >= 1.
        r, d, lam: step sizes, a number or an (N, K) table indexed [n][k] with n = 0 the noisiest.
        c: factor on the Langevin noise.
        zeta: share of fresh noise in the reverse steps.
        time_shift: (N, K) table in training times, or None: sigma_delta is then d times the noise
            level that lies so many times after the one of rho / r in `sigma_table`.
        sigma_table: sigma of every training time, increasing.
    """
    if unfold < 1:
        raise invalid("unfold", "at least 1", unfold, "choose the inner iterations per outer step")
    outer = []
    for n, sigma_n in enumerate(sigmas):
        inner = []
        for k in range(unfold):
            radius, spread, weight = (_entry(table, n, k) for table in (r, d, lam))
            rho2 = radius**2 * sigma_y**2 * sigma_n**2 / (sigma_y**2 + sigma_n**2)
            w = 1.0 / rho2 + 1.0 / sigma_n**2
            level: Scalar = rho2**0.5
            if time_shift is not None and sigma_table is not None:
                level = shifted_sigma(level / radius, time_shift[n][k], sigma_table)
            gamma, x_weight = 1.0 / (weight * sigma_y**2 * w), 1.0 / (rho2 * w)
            position = inner_position(k, n, unfold)
            inner.append(InnerStep(gamma, spread * level, c, x_weight, position))
        sigma_next = sigmas[n + 1] if n + 1 < len(sigmas) else None
        position = reverse_position(n, unfold)
        outer.append(OuterStep(tuple(inner), sigma_n, sigma_next, zeta, position))
    return Schedule(tuple(outer))


def shifted_sigma(sigma: Scalar, shift: float, table: Sequence[float]) -> Scalar:
    """The noise level `shift` training times after sigma, in times 1 .. T - 1 of the table.

    Source: the authors' learned time offsets [UD2M, section 4], between times instead of at them.
    """
    times, levels = np.arange(len(table)), np.asarray(table, dtype=np.float64)
    found = np.interp(np.asarray(torch.as_tensor(sigma).cpu()), levels, times)
    moved = np.interp(np.clip(found + shift, 1, len(table) - 1), times, levels)
    return torch.from_numpy(moved) if isinstance(sigma, Tensor) else float(moved)


def latino_schedule(sigma_y: Scalar, sigmas: Sequence[float], *, c: float = 1.0) -> Schedule:
    """Zero-shot LATINO: u = denoise(x + sigma_k eps, sigma_k), x = prox(u, y, gamma_k).

    gamma_k = sigma_k^2 / sigma_y^2.

    The prox that follows the k-th denoising opens the next row, so that one sampler serves both
    schedules: the first row has none (gamma = 0) and the last prox is `final_gamma`.

    Args:
        sigma_y: noise level of the measurement, internal units, a number or (B,).
        sigmas: noise levels, the largest first, internal units.
        c: factor on the Langevin noise.

    Source: LATINO (arXiv:2503.12615), Alg. 1.
    """
    if not len(sigmas):
        raise invalid("steps", "at least 1", 0, "choose the number of network evaluations")
    gammas: list[Scalar] = [0.0, *(sigma**2 / sigma_y**2 for sigma in sigmas)]
    inner = tuple(
        InnerStep(gammas[k], sigma, c, 1.0, inner_position(k)) for k, sigma in enumerate(sigmas)
    )
    return Schedule((OuterStep(inner),), final_gamma=gammas[-1])


def log_spaced(first: float, last: float, count: int) -> list[float]:
    """`count` noise levels from `first` down to `last`, evenly spaced in the logarithm."""
    if count < 1:
        raise invalid("steps", "at least 1", count, "choose the number of network evaluations")
    return [float(s) for s in np.geomspace(first, last, count)] if count > 1 else [float(first)]


def _entry(table: Sequence[Sequence[Scalar]] | float, n: int, k: int) -> Scalar:
    if isinstance(table, int | float):
        return float(table)
    try:
        return table[n][k]
    except IndexError:
        raise InvalidArgument(
            f"r, d, lam: expected a row for outer step {n} and a column for iteration {k}, got a "
            "smaller table; give one number for all, or N x K numbers"
        ) from None


def schedule_rows(schedule: Schedule) -> dict[str, Any]:
    """A schedule as JSON types: its outer steps with their rows, and the last prox."""

    def plain(value: Any) -> Any:
        return value.tolist() if isinstance(value, Tensor) else value

    found = []
    for outer in schedule.outer:
        rows = [{name: plain(value) for name, value in vars(row).items()} for row in outer.inner]
        found.append({**vars(outer), "inner": rows})
    return {"outer": found, "final_gamma": plain(schedule.final_gamma)}
