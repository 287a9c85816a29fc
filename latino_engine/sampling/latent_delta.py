"""The step size delta of a latent prior: from what a caller says to a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from latino_engine.errors import invalid, invalid_type
from latino_engine.operators.protocol import Operator
from latino_engine.priors.latent.latent_schedule import (
    DELTAS,
    DeltaRule,
    latent_schedule,
    problem_name,
)
from latino_engine.schedule import Scalar, Schedule, ScheduleBuilder

#: None for the published row of the operator, the name of a row, a rule, a number, or one for each
#: step.
Delta: TypeAlias = "str | float | Sequence[float] | DeltaRule | None"


def delta_rule(delta: Delta, op: Operator) -> DeltaRule | tuple[float, ...]:
    """The step sizes for an operator: a rule, or one number for each step.

    Raises:
        ValueError, TypeError: a delta that is none of `Delta`, or below 0.
    """
    if delta is None:
        return DELTAS[problem_name(op)]
    if isinstance(delta, DeltaRule):
        return delta
    if isinstance(delta, str):
        if delta not in DELTAS:
            known = ", ".join(DELTAS)
            raise invalid("delta", f"one of {known}", repr(delta), "choose one of these")
        return DELTAS[delta]
    try:
        numbers = np.asarray(delta, dtype=np.float64)
    except (TypeError, ValueError):
        got = type(delta).__name__
        raise invalid_type("delta", "a number, or one for each step", got, "give numbers") from None
    if numbers.ndim > 1 or not bool((np.isfinite(numbers) & (numbers >= 0)).all()):
        raise invalid("delta", "finite numbers >= 0", delta, "0 leaves the data out")
    if numbers.ndim == 0:
        return DeltaRule(0, float(numbers), float(numbers))
    return tuple(float(number) for number in numbers)


def plain_delta(delta: Delta) -> Any:
    """delta as JSON has it; a rule by the name of its row."""
    if isinstance(delta, DeltaRule):
        return next((name for name, rule in DELTAS.items() if rule == delta), repr(delta))
    return delta if delta is None or isinstance(delta, str | float) else np.array(delta).tolist()


def weighs_by_residual(rule: DeltaRule | tuple[float, ...]) -> bool:
    """Whether gamma is that of the rule times the norm of the residual."""
    return isinstance(rule, DeltaRule) and rule.by_residual


def latent_builder(
    rule: DeltaRule | tuple[float, ...], times: Sequence[int], table: Sequence[float]
) -> ScheduleBuilder:
    """sigma_y -> the schedule at these times, with the noise levels of the table.

    Raises:
        ValueError: a delta for each step, and not as many as there are times.
    """
    if isinstance(rule, tuple) and len(rule) != len(times):
        expected = f"a number, or one for each of the {len(times)} steps"
        raise invalid("delta", expected, f"{len(rule)} numbers", "give as many as steps")

    def build(sigma_y: Scalar) -> Schedule:
        if isinstance(rule, tuple):
            return latent_schedule(sigma_y, times, table, rule)
        factors = [rule.factor(time) for time in times]
        scaled = [factor / sigma_y if rule.over_sigma else factor for factor in factors]
        return latent_schedule(sigma_y, times, table, scaled)

    return build
