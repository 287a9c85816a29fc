"""Several operators in one description: `... then ...` and `... and ...`.

    blur:std=2 then inpaint:random=0.5       one after another, the noise after the last
    blur:std=1 then poisson:peak=50          photon noise behind a blur
    blur:std=2 and sr:factor=4,noise=0.05    two measurements of one image; `noise` is the level
                                             of one of them, else that of the call

`then` binds more tightly than `and`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeAlias, cast

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.bordered_blur import BorderedBlur
from latino_engine.operators.composition import Compose
from latino_engine.operators.parts.checks import ESTIMATE
from latino_engine.operators.poisson import PoissonNoise
from latino_engine.operators.protocol import Operator
from latino_engine.operators.stacking import Stack

NoiseStd: TypeAlias = "float | Tensor"
#: (description of one operator, its noise level, (H, W) of its image) -> the operator.
ParseOne: TypeAlias = Callable[[str, NoiseStd, "tuple[int, int]"], Operator]

_AND, _THEN = re.compile(r"\s+and\s+"), re.compile(r"\s+then\s+")
_EITHER = re.compile(r"(\s+(?:and|then)\s+)")
_VALID = re.compile(r"(?:blur|uniform|motion):(?:.*,)?\s*border\s*=\s*valid\s*(?:,|$)")
_FACTOR = re.compile(r"sr:(?:.*,)?\s*factor\s*=\s*([0-9]+)")


def is_combined(text: str) -> bool:
    """Whether a description holds more than one operator."""
    return _EITHER.search(text) is not None


def pieces(text: str) -> list[str]:
    """The descriptions at even places, what joins them at odd ones."""
    return _EITHER.split(text)


def size_divisor(text: str) -> int:
    """What the sides of an image must be multiples of, to be measured as described."""
    factors = (_FACTOR.match(part.strip()) for part in pieces(text)[::2])
    return math.prod(int(found[1]) for found in factors if found)


def image_size(text: str, measured: tuple[int, int], parse: ParseOne) -> tuple[int, int]:
    """(H, W) of the image behind a first measurement of this size, which each `sr` and each valid
    border made smaller.
    """
    height, width = measured
    for part in reversed(_THEN.split(_AND.split(text)[0])):
        found = _FACTOR.match(part.strip())
        if found:
            height, width = (max(1, int(found[1])) * side for side in (height, width))
        elif _VALID.match(part.strip()):
            kernel = cast(BorderedBlur, parse(part, 0.0, (3 * height, 3 * width))).kernel
            height, width = height + kernel.shape[-2] - 1, width + kernel.shape[-1] - 1
    return height, width


def combine(
    text: str, parse: ParseOne, noise_std: NoiseStd, image_shape: tuple[int, int, int]
) -> Operator:
    """The operator of a description with `then` or `and`.

    Raises:
        InvalidArgument, InvalidType: an operator that cannot be there, in one sentence.
    """
    parts = _AND.split(text)
    if len(parts) == 1:
        description, level = own_noise(text, noise_std)
        return _chain(description, parse, level, image_shape)
    operators = []
    for part in parts:
        description, level = own_noise(part, noise_std)
        operators.append(_chain(description, parse, level, image_shape))
    return Stack(operators, image_shape)


def _chain(
    text: str, parse: ParseOne, noise_std: NoiseStd, image_shape: tuple[int, int, int]
) -> Operator:
    *others, last = _THEN.split(text)
    shape: tuple[int, ...] = image_shape
    operators: list[Operator] = []
    for part in others:
        operators.append(parse(part, 0.0, (shape[-2], shape[-1])))
        _check_inner(part, operators[-1])
        shape = tuple(operators[-1].A(torch.zeros(1, *shape)).shape[1:])
        if len(shape) != 3:
            remedy = "let it be the last"
            raise invalid(f"operator {part}", "an image before `then`", "another y", remedy)
    final = parse(last, noise_std, (shape[-2], shape[-1]))
    if not operators:
        return final
    if isinstance(final, PoissonNoise):
        first = operators[0] if len(operators) == 1 else Compose(operators)
        return PoissonNoise(first, final.peak)
    return Compose([*operators, final])


def _check_inner(text: str, operator: Operator) -> None:
    if not operator.is_linear:
        got = type(operator).__name__
        remedy = "photon noise may be the last; JPEG and phase retrieval stand alone"
        raise invalid(f"operator {text}", "a linear operator before `then`", got, remedy)


def own_noise(text: str, noise_std: NoiseStd) -> tuple[str, NoiseStd]:
    """The description without `noise=`, and the level that it states for its last operator."""
    *before, last = re.split(r"(?<=\s)then\s+", text)
    head, colon, rest = last.partition(":" if ":" in last else ",")
    head = "then ".join([*before, head])
    items = [item.strip() for item in rest.split(",")] if colon else []
    stated = [item for item in items if item.partition("=")[0].strip() == "noise"]
    if not stated:
        return text, noise_std
    value = stated[0].partition("=")[2].strip()
    if value == "auto" and len(stated) == 1:
        return _without(head, items, stated), ESTIMATE
    try:
        level = float(value)
    except ValueError:
        level = -1.0
    if len(stated) > 1 or not (math.isfinite(level) and level >= 0):
        got = "several" if len(stated) > 1 else repr(value)
        raise invalid(
            f"operator {text}, noise", "one number >= 0, or auto", got, "write noise=0.05"
        )
    return _without(head, items, stated), level


def _without(head: str, items: list[str], stated: list[str]) -> str:
    kept = ",".join(item for item in items if item not in stated)
    return f"{head}:{kept}" if kept else head
