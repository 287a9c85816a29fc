"""The grammar of one operator: its words, its values, and what is wrong with them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from latino_engine.errors import invalid, invalid_type
from latino_engine.operators.protocol import Operator

_LARGEST_SIDE = 8192  # of a kernel, where the size of the image is not known
_MOST_DRAWN = 1 << 26  # pixels whose order is drawn at once, in seconds
_LONGEST = 1 << 12  # characters of a description, as of a path


@dataclass(frozen=True)
class Request:
    """One operator as it was written: its name, its values, and what the call says besides."""

    name: str
    example: str
    values: dict[str, str]
    noise_std: float | Tensor
    size: tuple[int, int] | None
    default_seed: int
    border: str = "wrap"

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) of the image, for an operator that depends on it."""
        if self.size is None:
            remedy = "give image_shape=(256, 256)"
            raise invalid("image_shape", f"(H, W) for the operator {self.name}", None, remedy)
        return self.size

    @property
    def drawn_shape(self) -> tuple[int, int]:
        """The same, for an operator with a random pattern over the whole image."""
        height, width = self.image_shape
        if height * width > _MOST_DRAWN:
            expected, got = f"at most {_MOST_DRAWN} pixels for {self.name}", f"{height} x {width}"
            raise invalid("image_shape", expected, got, "crop the image, or give a mask by a file")
        return height, width

    def number(self, key: str, expected: str, accept: Callable[[float], bool]) -> float:
        text = self.values[key]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and accept(value)):
            raise self.refuse(key, expected, repr(text))
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        text = self.values[key]
        value = int(text) if text.isdecimal() else -1
        if not low <= value <= high:
            raise self.refuse(key, f"a whole number from {low} to {high}", repr(text))
        return value

    @property
    def shorter_side(self) -> int:
        """No kernel may be larger; a slip of the pen shall not ask for terabytes."""
        return _LARGEST_SIDE if self.size is None else min(self.size)

    @property
    def seed(self) -> int:
        if "seed" not in self.values:
            return self.default_seed
        return self.integer("seed", 0, 2**64 - 1)

    def choice(self, key: str, known: Sequence[str]) -> str:
        text = self.values[key]
        if text not in known:
            expected, example = f"one of {', '.join(known)}", f"write e.g. {self.example}"
            raise unknown(f"operator {self.name}, {key}", expected, text, known, example)
        return text

    def refuse(self, key: str, expected: str, got: object) -> Exception:
        return invalid(f"operator {self.name}, {key}", expected, got, f"write e.g. {self.example}")


@dataclass(frozen=True)
class Way:
    """One way to describe an operator: its example, the optional keys, and what it builds."""

    example: str
    build: Callable[[Request], Operator]
    optional: tuple[str, ...] = ()


def check_text(text: object) -> str:
    """A description as it is; raises for what is no text, or holds more than can be printed."""
    if not isinstance(text, str):
        remedy = "write it as 'blur:std=1.6'"
        raise invalid_type("operator", "a text", type(text).__name__, remedy)
    if len(text) > _LONGEST:
        expected = f"at most {_LONGEST} characters"
        raise invalid("operator", expected, len(text), "give arrays by files")
    for character in text:
        if not character.isprintable():
            got = f"{character!a} at place {text.index(character) + 1}"
            raise invalid("operator", "characters that can be printed", got, "leave it out")
    return text


def parse_values(name: str, rest: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            remedy = f"write it as {name}:key=value,key=value"
            raise invalid(f"operator {name}", "key=value", repr(item), remedy)
        if key in values:
            raise invalid(f"operator {name}", "each key once", f"{key} twice", "remove one of them")
        values[key] = value
    return values


def choose(name: str, ways: dict[str, Way], values: dict[str, str]) -> Way:
    """The way whose leading key is given, once all keys are known to belong to it."""
    examples = " or ".join(way.example for way in ways.values())
    known = sorted(
        {key for key in ways if key} | {k for way in ways.values() for k in way.optional}
    )
    for key in values:
        if key not in known:
            expected = f"the keys {', '.join(known)}" if known else "no keys"
            raise unknown(f"operator {name}", expected, key, known, f"write {examples}")
    if "" in ways:
        return ways[""]
    leading = [key for key in ways if key in values]
    if len(leading) != 1:
        expected = f"{'one of the keys' if len(ways) > 1 else 'the key'} {', '.join(ways)}"
        found = " and ".join(leading or values) or "none"
        raise invalid(f"operator {name}", expected, found, f"write {examples}")
    way = ways[leading[0]]
    for key in values:
        if key not in (leading[0], *way.optional):
            expected = f"{leading[0]} without {key}"
            raise invalid(f"operator {name}", expected, "both", f"write {examples}")
    return way


def unknown(
    argument: str, expected: str, got: str, known: Iterable[str], otherwise: str
) -> Exception:
    nearest = difflib.get_close_matches(got, list(known), n=1)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else otherwise
    return invalid(argument, expected, repr(got), remedy)
