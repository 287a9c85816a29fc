"""LATINO in a latent space as published: times, step sizes delta, and the prompt's search, as data.

Source: Spagnoletti, Prost, Almansa, Papadakis, Pereyra (2025), arXiv:2503.12615, and the values of
the authors' public code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from latino_engine.errors import invalid
from latino_engine.operators import Blur, SuperResolution
from latino_engine.operators.protocol import Operator
from latino_engine.ops.philox import inner_position
from latino_engine.schedule import InnerStep, OuterStep, Scalar, Schedule

NUM_TIMES = 1000
DEFAULT_STEPS = 8
_WIDE_BLUR = 10.0  # std of a kernel in pixels from which the authors take the other row
_LOW_NOISE = 0.05  # public noise level below which the prompt's search takes the other row


@dataclass(frozen=True)
class DeltaRule:
    """The step size delta at a diffusion time t: `above` where t > switch, else `below`.

    Attributes:
        switch: a time.
        above, below: the factor on either side.
        by_residual: delta is the factor times ||A x - y|| of the decoded image x, internal units.
        over_sigma: delta is further divided by sigma_y, internal units.
    """

    switch: int
    above: float
    below: float
    by_residual: bool = False
    over_sigma: bool = False

    def factor(self, time: int) -> float:
        """The factor at a time."""
        return self.above if time > self.switch else self.below


#: LATINO's delta by problem, for the 8 times 999, 874, .. 124 and images of 1024 x 1024.
DELTAS = {
    "sr16": DeltaRule(300, 0.3, 0.2, by_residual=True),
    "sr32": DeltaRule(300, 0.15, 0.3, by_residual=True),
    "gaussian": DeltaRule(400, 5e-4, 2e-4, by_residual=True),
    "gaussian-wide": DeltaRule(400, 7e-4, 3e-4, by_residual=True),
    "motion": DeltaRule(400, 4e-4, 2e-4, by_residual=True),
    "motion-noisy": DeltaRule(400, 5e-5, 9e-5, by_residual=True),
    "inpainting": DeltaRule(500, 1.0, 0.5),
    "other": DeltaRule(200, 0.01, 1.0),
}

#: LATINO-PRO's delta by problem: (in the chains of the prompt's search, in the last chain).
PRO_DELTAS = {
    "sr16": (DeltaRule(300, 6e-4, 9e-4, True, True), DeltaRule(300, 6e-4, 9e-4, True, True)),
    "sr32": (DeltaRule(300, 1.5e-2, 9e-3, True, True), DeltaRule(300, 1.5e-2, 9e-3, True, True)),
    "sr16-noisy": (DeltaRule(500, 5e-2, 8e-3, True, True), DeltaRule(700, 6e-2, 2e-2, True, True)),
    "sr32-noisy": (DeltaRule(300, 0.15, 0.09, True, True), DeltaRule(300, 0.15, 0.09, True, True)),
    "gaussian": (DeltaRule(500, 4e-3, 2e-3, True), DeltaRule(400, 4e-4, 4e-4, True)),
    "gaussian-wide": (DeltaRule(400, 2e-2, 2e-3, True), DeltaRule(400, 2e-2, 2e-3, True)),
    "gaussian-noisy": (DeltaRule(500, 8e-3, 5e-3, True), DeltaRule(400, 8e-3, 5e-3, True)),
    "motion": (DeltaRule(500, 4e-4, 5e-4, True), DeltaRule(400, 5e-4, 9e-4, True)),
    "other": (DeltaRule(200, 0.01, 1.0), DeltaRule(200, 0.01, 1.0)),
}


@dataclass(frozen=True)
class PromptSearch:
    """LATINO-PRO's stochastic approximation of the most likely prompt embedding.

    c <- projection of c + step_j g on the ball of `radius` around the first c, token by token,
    with g the sum of all normalised gradients so far; step_j = step max(decay^max(0, j - hold),
    floor).

    Attributes:
        updates: how many updates of the prompt.
        times: diffusion times of the chain between two updates.
        step, decay, hold, floor: the step sizes.
        radius: Euclidean, for the embedding of one token.
        kept_tokens: so many tokens at the beginning stay ("a photo of" and the start).
    """

    updates: int = 15
    times: tuple[int, ...] = (999, 749, 499, 249)
    step: float = 0.08
    decay: float = 0.9
    hold: int = 10
    floor: float = 0.001
    radius: float = 15.0
    kept_tokens: int = 4

    def step_size(self, update: int) -> float:
        """The step size of an update, counted from 0."""
        return self.step * max(self.decay ** max(0, update - self.hold), self.floor)


def latent_times(steps: int | None) -> tuple[int, ...]:
    """999, 874, .. 124 for 8 steps, the published times; in general 999 - k (1000 // steps).

    Raises:
        ValueError: fewer than one step, or more than there are times.
    """
    steps = DEFAULT_STEPS if steps is None else steps
    if not 1 <= steps <= NUM_TIMES:
        remedy = f"leave it out for the published {DEFAULT_STEPS}"
        raise invalid("steps", f"1 to {NUM_TIMES}", steps, remedy)
    return tuple(NUM_TIMES - 1 - k * (NUM_TIMES // steps) for k in range(steps))


def problem_name(operator: Operator, pro: bool = False) -> str:
    """The row of the published table for an operator."""
    known = PRO_DELTAS if pro else DELTAS
    noisy = pro and float(torch.as_tensor(operator.noise_std).max()) >= _LOW_NOISE
    row = _ROWS.get(operator.kind)
    name = "other" if row is None else row(operator, noisy)
    name = f"{name}-noisy" if noisy else name
    return name if name in known else "other"


def _enlarging_row(operator: SuperResolution, noisy: bool) -> str:
    return "sr16" if operator.factor <= 16 else "sr32"


def _blur_row(operator: Blur, noisy: bool) -> str:
    wide = _kernel_std(operator) >= _WIDE_BLUR
    return "gaussian-wide" if wide and not noisy else "gaussian"


def latent_schedule(
    sigma_y: Scalar, times: Sequence[int], table: Sequence[float], factors: Sequence[Scalar]
) -> Schedule:
    """Zero-shot LATINO at diffusion times: gamma_k = delta_k (1 - abar_k) / sigma_y^2, and the
    first row without a data step, since the prox follows the denoiser.

    Args:
        sigma_y: noise level of the measurement, internal units, a number or (B,).
        times: the largest first.
        table: sigma of every time, the latent's.
        factors: delta of every time.

    Source: LATINO (arXiv:2503.12615), Alg. 1.
    """
    sigmas = [float(table[time]) for time in times]
    gammas: list[Scalar] = [
        factor * (sigma**2 / (1.0 + sigma**2)) / sigma_y**2
        for sigma, factor in zip(sigmas, factors, strict=True)
    ]
    before: list[Scalar] = [0.0, *gammas[:-1]]
    steps = tuple(
        InnerStep(before[k], sigma, 1.0, 1.0, inner_position(k)) for k, sigma in enumerate(sigmas)
    )
    return Schedule((OuterStep(steps),), final_gamma=gammas[-1])


def _kernel_std(operator: Blur) -> float:
    """Standard deviation of the kernel along an axis, pixels, the largest over the batch."""
    kernel = operator.kernel.double().abs()
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in kernel.shape[-2:])
    mass = kernel.sum(dim=(-2, -1)).clamp_min(1e-12)
    spread = 0.0
    for place, other in ((rows, -1), (columns, -2)):
        profile = kernel.sum(dim=other) / mass[..., None]
        mean = (profile * place).sum(-1, keepdim=True)
        spread = max(spread, float((profile * (place - mean) ** 2).sum(-1).max()))
    return float(spread**0.5)


#: (operator, noisy) -> the row of the published tables, by `Operator.kind`.
_ROWS: dict[str, Callable[[Any, bool], str]] = {
    "SuperResolution": _enlarging_row,
    "Blur": _blur_row,
    "Inpainting": lambda operator, noisy: "inpainting",
}
