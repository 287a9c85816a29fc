"""How a sentence for a mistake is compared: in full once for each class, then by its parts."""

from __future__ import annotations

import re
from typing import Any

#: The form of every one of them: what it is about, what belongs there, what came, what to do.
FORM = re.compile(r"(?P<name>[^:\n]+): expected (?P<what>.+), got (?P<got>.+); (?P<remedy>[^\n]+)")


def is_said(sentence: str, expected: str | tuple[str, str]) -> bool:
    """Whether a sentence is the expected one.

    Args:
        sentence: what was raised.
        expected: the whole text; or (argument, what came), where another row has the text of this
            class of message.
    """
    if isinstance(expected, str):
        return sentence == expected
    name, got = expected
    found = FORM.fullmatch(sentence)
    begins, ends = f"{name}: expected ", f", got {got}; "
    return found is not None and sentence.startswith(begins) and ends in sentence


def name_of(value: Any) -> str:
    """A test's name from a parameter of it."""
    if isinstance(value, tuple):
        return f"{value[0]}: got {value[1]}"[:60]
    return value[:60] if isinstance(value, str) else str(value.__name__)
