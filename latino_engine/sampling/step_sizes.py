"""Which of an adapter's step sizes suit an operator, and whether its noise was trained for."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from latino_engine import operators
from latino_engine.learned_schedule import LearnedSchedule
from latino_engine.operators.parts.families import seen_family
from latino_engine.operators.protocol import Family, Operator

#: What the operators do to an image, by kind.
_FAMILIES: dict[str, Family] = {
    kind: getattr(operators, kind).family
    for kind in operators.__all__
    if hasattr(getattr(operators, kind), "family")
}
#: Of a family with learned steps, but zero-shot LATINO is better than those by 0.2 dB.
_BETTER_WITHOUT = ("Demosaicing",)
_SLACK = 2.0  # beyond the trained noise levels, in which no harm was seen


def learned_kind(schedule: LearnedSchedule, operator: Operator, image: Tensor) -> str | None:
    """The operator class whose learned step sizes suit this operator; None where none does.

    It is the operator's own class where that was learned, else one that does the same to an image:
    `Operator.family`, or what a user's own A is seen to do to images like `image`. The step sizes
    of another family, or a mean over families, lie below zero-shot LATINO by up to 7 dB.
    """
    if operator.kind in schedule.steps:
        return operator.kind
    family = operator.family
    family = seen_family(operator, image) if family == "unknown" else family
    if operator.kind in _BETTER_WITHOUT or family == "unknown":
        return None
    return next((kind for kind in schedule.steps if _FAMILIES.get(kind) == family), None)


def learned_families(schedule: LearnedSchedule) -> tuple[str, ...]:
    """What the operators with learned step sizes do to an image."""
    return tuple(sorted({_FAMILIES.get(kind, "unknown") for kind in schedule.steps}))


def outside_of(trained: tuple[float, float], noise_std: float | Tensor) -> bool:
    """Whether a noise level lies beyond twice, or below half of, those of the training."""
    levels = torch.as_tensor(noise_std, dtype=torch.float64)
    low, high = trained
    return bool(((levels < low / _SLACK) | (levels > high * _SLACK)).any())


def warn_outside(trained: tuple[float, float], noise_std: float | Tensor) -> None:
    """Says that an adapter meets noise that it was not trained for."""
    levels = torch.as_tensor(noise_std, dtype=torch.float64).reshape(-1)
    low, high = trained
    furthest = float(levels[torch.maximum(low / levels, levels / high).argmax()])
    warnings.warn(
        f"noise_std: expected about {low:g} to {high:g}, for which the adapter was "
        f"trained, got {furthest:g}; the spread of the samples may be wrong there, and "
        "sampler='latino' needs no training",
        UserWarning,
        stacklevel=4,
    )
