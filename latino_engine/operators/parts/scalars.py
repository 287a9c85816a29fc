"""Single values as a user gives them: numbers, counts, switches and names, one conversion each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np

from latino_engine.errors import invalid, invalid_type, whole_number


def as_number(
    name: str,
    value: object,
    expected: str = "a finite number",
    accept: Callable[[float], bool] = lambda number: True,
    remedy: str = "choose another",
) -> float:
    """The value as a float: Python's and numpy's real numbers, and tensors of a single one.

    Args:
        name: of the argument.
        value: what the user gave.
        expected: what the sentence of an error says.
        accept: whether a finite number will do.
        remedy: the end of the sentence.

    Raises:
        TypeError: no real number.
        ValueError: one that is infinite, NaN, or not accepted.
    """
    number: float | None = None
    is_word = value is None or isinstance(value, str | bytes | bool | np.bool_)
    if not is_word and getattr(value, "shape", ()) in ((), (1,)):
        with (
            suppress(TypeError, ValueError, RuntimeError, OverflowError),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")  # torch and numpy drop an imaginary part with a warning
            number = float(value)  # type: ignore[arg-type]
    if number is None:
        raise invalid_type(name, expected, type(value).__name__, "give one number")
    if not (math.isfinite(number) and accept(number)):
        raise invalid(name, expected, f"{number:g}", remedy)
    return number


def as_count(name: str, value: object, most: int, remedy: str, expected: str = "at least 1") -> int:
    """A whole number from 1 to `most`; `expected` begins the sentence for one below 1."""
    count = whole_number(name, value)
    if count < 1:
        raise invalid(name, expected, count, remedy)
    if count > most:
        raise invalid(name, f"at most {most}", count, remedy)
    return count


def as_switch(name: str, value: object) -> bool:
    """True or False, Python's or numpy's."""
    if not isinstance(value, bool | np.bool_):
        raise invalid_type(name, "True or False", type(value).__name__, "give a boolean")
    return bool(value)


def as_choice(name: str, value: object, known: Iterable[str], expected: str, remedy: str) -> str:
    """One of these names; anything else, arrays among them, is refused in the sentence."""
    if not isinstance(value, str) or value not in known:
        got = repr(value) if isinstance(value, str | int | None) else type(value).__name__
        raise invalid(name, expected, got, remedy)
    return value
