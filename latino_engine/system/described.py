"""JSON files that anybody may have written: regular, small, not deep, and as described.

A description is a `msgspec.Struct`: names, types and bounds of the fields, said once. msgspec is
the library for it because it has no dependencies, takes 0.7 MB and little time to import.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta

#: Far above any that this package writes; the tables of an adapter take some kilobytes.
MOST_BYTES = 16 << 20
MOST_DEPTH = 100  # an adapter names how the one that it began with was trained, and so on

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[float, Meta(gt=0.0, le=1e30)]
Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Name = Annotated[str, Meta(max_length=1000)]

DescribedT = TypeVar("DescribedT", bound=msgspec.Struct)


class NotAsDescribed(ValueError):
    """Says what was expected and what came: "`int` as channels, got `str`"."""


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The value that a JSON file holds.

    Raises:
        OSError: no such file, or no permission.
        NotAsDescribed: a pipe or a device, too large, too deep, or not JSON.
    """
    return parse_json(regular_bytes(path, most_bytes))


def regular_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file; a pipe is refused, and not waited for.

    Raises:
        OSError: no such file, or no permission.
        NotAsDescribed: no regular file, or a larger one.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise NotAsDescribed("a regular file, got a pipe or a device")
        raw = file.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise NotAsDescribed(f"at most {most_bytes} bytes, got {about.st_size}")
    return raw


def parse_json(raw: bytes | str) -> Any:
    """The value that a text in JSON says, of finite numbers and at most `MOST_DEPTH` levels.

    Raises:
        NotAsDescribed: anything else.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number)
    except NotAsDescribed:
        raise
    except RecursionError:
        raise NotAsDescribed(f"at most {MOST_DEPTH} levels of nesting, got more") from None
    except ValueError as error:
        raise NotAsDescribed(f"JSON, got a text that is not ({error})") from error
    if _deeper(value, MOST_DEPTH):
        raise NotAsDescribed(f"at most {MOST_DEPTH} levels of nesting, got more")
    return value


def described(fields: Any, kind: type[DescribedT]) -> DescribedT:
    """The fields as the description says, extra ones left out.

    Raises:
        NotAsDescribed: a missing field, another type, or a value out of bounds.
    """
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise NotAsDescribed(_words(str(error))) from error
    except (OverflowError, RecursionError) as error:
        raise NotAsDescribed(f"numbers of 64 bits, got others ({error})") from error


def _words(sentence: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.a`" as "`int` as a, got `str`"."""
    missing = re.match(r"Object missing required field `(.+?)`(?: - at `\$\.?(.*)`)?$", sentence)
    if missing is not None:
        inside = f" in {missing[2]}" if missing[2] else ""
        return f"the field {missing[1]}{inside}, got none"
    said, _, place = sentence.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    expected, _, got = said.removeprefix("Expected ").partition(", got ")
    if not sentence.startswith("Expected"):
        expected, got = "a value that the format allows", said[:1].lower() + said[1:]
    return f"{expected}{f' as {place}' if place else ''}, got {got or 'another value'}"


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _no_number(constant: str) -> NoReturn:
    raise NotAsDescribed(f"finite numbers, got {constant}")
