"""How many frames of Python lie between a function and the calls of the extension below it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any


def depths(call: Callable[[], Any], code: CodeType) -> dict[str, int]:
    """{function of the extension: the most frames from `code` to its call, both ends counted}."""
    found: dict[str, int] = {}

    def watch(frame: Any, event: str, function: Any) -> None:
        if event != "c_call" or getattr(function, "__module__", None) != "latino_engine._cpu":
            return
        depth, at = 1, frame
        while at is not None and at.f_code is not code:
            depth, at = depth + 1, at.f_back
        if at is not None:
            found[function.__name__] = max(depth, found.get(function.__name__, 0))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found
