"""Forward models drawn at random for training: the operator grammar with ranges and choices.

    blur:std=0.8..3           a number drawn evenly from the range at every draw
    sr:factor=2|4             one of the choices
    inpaint:random=0.2..0.8   another mask for every image
    inpaint:box               a box of 1/4 to 1/2 of the side, anywhere, another for every image
    inpaint:box=16            as the command line: centred, always the same
    blur:std=1..2 then poisson:peak=20..100

Everything else is as in `latino_engine.operators.spec`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latino_engine.errors import about, invalid
from latino_engine.operators.combined_spec import pieces
from latino_engine.operators.inpainting import Inpainting
from latino_engine.operators.protocol import Operator
from latino_engine.operators.spec import parse_operator

_ANY_BOX = "inpaint:box"
_BOX_SHARE = (0.25, 0.5)  # of the side
_WHOLE_KEYS = (
    "factor",
    "size",
    "quality",
    "box",
    "seed",
    "grid",
    "angles",
    "masks",
    "oversampling",
)
_SIDE_KEYS = ("factor", "size")  # whether they fit depends on the side, not on their own size
_FEW = 64  # whole numbers of a range that are tried one by one
_LARGEST = 2**53  # whole numbers above it are not exact as floats
_FILE_KEYS = ("kernel", "kernels", "mask")  # names of files, which may hold any character


@dataclass(frozen=True)
class OperatorDraws:
    """What to draw from.

    Attributes:
        operators: descriptions, one of which is drawn for a batch, all equally likely.
        noise_std: (low, high) of the noise level, public units, drawn for every image.
    """

    operators: tuple[str, ...]
    noise_std: tuple[float, float]

    def draw(self, batch: int, size: int, seed: int, step: int, channels: int = 3) -> Operator:
        """The operator of batch number `step`; a function of (seed, step) alone.

        Args:
            batch: images that share the kind and its parameters; noise levels and random masks
                are drawn for each.
            size: side of the images.
            seed, step: what the draw depends on.
            channels: of the images.

        Raises:
            InvalidArgument: a description that cannot be read.
        """
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, step]))
        text = self.operators[int(random.integers(len(self.operators)))]
        levels = random.uniform(*self.noise_std, size=batch)
        fixed = self.noise_std[0] == self.noise_std[1]
        noise_std = self.noise_std[0] if fixed else torch.from_numpy(levels)
        return draw_operator(text, noise_std, batch, size, random, channels)

    def kinds(self, size: int, channels: int) -> tuple[str, ...]:
        """The operator classes that can be drawn, each once.

        Every choice of every description is built and applied once to an image of this size, with
        both ends of its ranges and, for a `factor` (which must divide the side) or `size` (which
        may change it), with the first 64 numbers and the last.

        Raises:
            InvalidArgument: one that cannot be built or applied.
        """
        random = np.random.default_rng(0)
        found: dict[str, None] = {}
        for text in self.operators:
            for concrete in _every_choice(text):
                operator = draw_operator(concrete, self.noise_std[0], 1, size, random, channels)
                with about(f"operator {concrete}", "choose another operator or another --size"):
                    operator.A(torch.zeros(1, channels, size, size))
                found[type(operator).__name__] = None
        return tuple(found)


def parse_draws(operators: Sequence[str], noise_std: str) -> OperatorDraws:
    """Descriptions and a noise level or range ("0.05", "0.01..0.1") as `OperatorDraws`.

    Raises:
        InvalidArgument: no description, or a range that is none.
    """
    if not operators:
        remedy = "give --operator, once for each kind"
        raise invalid("operator", "at least one forward model", "none", remedy)
    low, dots, high = noise_std.partition("..")
    try:
        ends = (float(low), float(high if dots else low))
    except ValueError:
        ends = (-1.0, -1.0)
    if not 0.0 < ends[0] <= ends[1] < float("inf"):
        expected = "a number above 0, or a range such as 0.01..0.1"
        raise invalid("noise_std", expected, repr(noise_std), "write it so")
    return OperatorDraws(tuple(text.strip() for text in operators), ends)


def draw_operator(
    text: str,
    noise_std: float | Tensor,
    batch: int,
    size: int,
    random: np.random.Generator,
    channels: int = 3,
) -> Operator:
    """One operator from a description with ranges and choices.

    Raises:
        InvalidArgument: a description that cannot be read.
    """
    if text == _ANY_BOX:
        return Inpainting(_boxes(batch, size, random), noise_std)
    parts = pieces(text)
    parts[::2] = [_draw_values(part.strip(), random) for part in parts[::2]]
    concrete = "".join(parts)
    # Masks differ from image to image: each has a seed of its own.
    seeds = random.integers(2**31, size=batch).tolist()
    if len(parts) == 1 and concrete.startswith("inpaint:") and "random=" in concrete:
        masks = [parse_operator(concrete, 0.0, (size, size), seed=seed) for seed in seeds]
        stacked = torch.cat([m.mask for m in masks if isinstance(m, Inpainting)])
        return Inpainting(stacked, noise_std)
    return parse_operator(concrete, noise_std, (size, size), seeds[0], channels)


def _draw_values(text: str, random: np.random.Generator) -> str:
    """The description of one operator without ranges and choices."""
    name, _, rest = text.partition(":")
    parts = (item.strip() for item in rest.split(","))
    items = [_draw_value(name, item, random) for item in parts if item]
    return f"{name}:{','.join(items)}" if items else name


def _every_choice(text: str) -> list[str]:
    """The descriptions to try, without ranges and choices: one for each combination."""
    parts = pieces(text)
    choices = [_choices(p) if place % 2 == 0 else [p] for place, p in enumerate(parts)]
    return ["".join(combination) for combination in itertools.product(*choices)]


def _choices(text: str) -> list[str]:
    """Those of one operator."""
    name, colon, rest = text.partition(":")
    choices = []
    for item in rest.split(","):
        key, equals, values = _alternatives(item)
        tried = [one for value in values for one in _tried(name, key, equals, value)]
        choices.append([f"{key}{equals}{one}" for one in tried])
    return [f"{name}{colon}{','.join(items)}" for items in itertools.product(*choices)]


def _tried(name: str, key: str, equals: str, value: str) -> list[str]:
    """What a value or range is tried with: its ends, or every number that a side depends on."""
    numbers = _range(name, key, equals, value)
    if numbers is None:
        return [value]
    if not isinstance(numbers, range):
        return [f"{end:.6g}" for end in numbers]
    each = numbers[:_FEW] if key.strip() in _SIDE_KEYS else numbers[:1]
    return [str(number) for number in dict.fromkeys((*each, numbers[-1]))]


def _draw_value(name: str, item: str, random: np.random.Generator) -> str:
    key, equals, values = _alternatives(item)
    value = values[int(random.integers(len(values)))] if len(values) > 1 else values[0]
    numbers = _range(name, key, equals, value)
    if numbers is None:
        return f"{key}{equals}{value}"
    if isinstance(numbers, range):
        return f"{key}={int(random.integers(numbers.start, numbers.stop))}"
    return f"{key}={random.uniform(*numbers):.6g}"


def _alternatives(item: str) -> tuple[str, str, list[str]]:
    """key, "=" and the values of "key=a|b"; the name of a file is one value."""
    key, equals, value = item.partition("=")
    return key, equals, [value] if key.strip() in _FILE_KEYS else value.split("|")


def _range(name: str, key: str, equals: str, value: str) -> range | tuple[float, float] | None:
    """The numbers of "low..high", whole ones as a range; None for anything without dots."""
    low, dots, high = value.partition("..")
    if not dots or key.strip() in _FILE_KEYS:
        return None
    try:
        first, last = float(low), float(high)
    except ValueError:
        first, last = 1.0, 0.0
    if not equals or not first <= last or math.isinf(first) or math.isinf(last):
        expected = "a range low..high of two numbers"
        raise invalid(f"operator {name}, {key}", expected, repr(value), f"write {key}=0.8..3")
    if key.strip() not in _WHOLE_KEYS:
        return first, last
    whole = first.is_integer() and last.is_integer()
    if not (whole and first >= -_LARGEST and last <= _LARGEST):
        expected = "a range low..high of two whole numbers, at most 2^53"
        raise invalid(f"operator {name}, {key}", expected, repr(value), f"write {key}=2..4")
    return range(int(first), int(last) + 1)


def _boxes(batch: int, size: int, random: np.random.Generator) -> Tensor:
    masks = torch.ones(batch, 1, size, size)
    low, high = (max(1, round(share * size)) for share in _BOX_SHARE)
    for mask in masks:
        height, width = (int(n) for n in random.integers(low, high + 1, size=2))
        top = int(random.integers(size - height + 1))
        left = int(random.integers(size - width + 1))
        mask[:, top : top + height, left : left + width] = 0.0
    return masks
