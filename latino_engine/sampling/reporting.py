"""How a call tells how far it is, and how it is stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from latino_engine.errors import SamplingStopped, invalid, invalid_type

#: None, True for a bar on stderr, or a function (evaluations done, evaluations in all).
Progress: TypeAlias = "bool | Callable[[int, int], None] | None"


@contextmanager
def reporter(
    progress: Progress, timeout: float | None = None, cancel: threading.Event | None = None
) -> Iterator[Callable[[int, int], None]]:
    """The function (done, total) to tell after every evaluation, for the length of the block.

    It raises SamplingStopped once `timeout` seconds are over or `cancel` is set.
    """
    stop = _stopper(timeout, cancel)
    with _teller(progress) as tell:
        if stop is None:
            yield tell
            return

        def told(done: int, total: int) -> None:
            tell(done, total)
            if done < total:
                stop(done, total)

        stop(0, 1)
        yield told


def _stopper(
    timeout: float | None, cancel: threading.Event | None
) -> Callable[[int, int], None] | None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise invalid_type("timeout", "seconds", type(timeout).__name__, "give a number or None")
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise invalid("timeout", "seconds above 0", timeout, "leave it out for no limit")
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        got = type(cancel).__name__
        raise invalid_type("cancel", "a threading.Event", got, "give one, or None")
    if timeout is None and cancel is None:
        return None
    until = math.inf if timeout is None else time.monotonic() + timeout

    def stop(done: int, total: int) -> None:
        if cancel is not None and cancel.is_set():
            what = "expected to finish, got a cancel event that was set"
            raise SamplingStopped(f"sample: {what} after {done} of {total} evaluations; call again")
        if time.monotonic() > until:
            remedy = "give more time, or ask for fewer samples or steps"
            raise SamplingStopped(
                f"timeout: expected to finish within {timeout:g} s, got {done} of {total} "
                f"evaluations; {remedy}"
            )

    return stop


@contextmanager
def _teller(progress: Progress) -> Iterator[Callable[[int, int], None]]:
    if callable(progress):
        yield progress
    elif progress is None or progress is False:
        yield lambda done, total: None
    elif progress is not True:
        expected, got = "True, None or a function (done, total)", type(progress).__name__
        raise invalid_type("progress", expected, got, "leave it out")
    else:
        from latino_engine.system.progress import progress_bar

        with progress_bar("sampling") as update:
            yield update


def check_process(owner: int, current: int, threads: int | None) -> None:
    """Raise where an engine is used in a fork of the process that loaded it.

    A fork has the memory of its parent and none of its threads: torch and the runtimes would wait
    for ever for threads that are not there. With one thread there is none to wait for.
    """
    if current != owner and threads != 1:
        remedy = (
            "load it again there, start processes by spawn or forkserver, or load with threads=1"
        )
        got = "a fork of it, which has none of its threads"
        raise invalid("engine", "the process that loaded it", got, remedy)
