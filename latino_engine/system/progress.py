"""A progress bar on stderr; where that is no terminal, a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0


class _Lines:
    """Lines on stderr, at most one in a while, for a log file or a pipe.

    Args:
        title: how each line begins.
        at_once: also print the first state, and the last; else only work that lasts is told.
    """

    def __init__(self, title: str, at_once: bool) -> None:
        self._title = title
        self._began = self._last = time.monotonic()
        self._told = at_once
        self._from: float | None = None

    def tell(self, fraction: float, text: str) -> None:
        """Print the text and the time that is left, where a line is due."""
        now = time.monotonic()
        first = self._from is None
        if self._from is None:
            self._from = fraction
        due = now - self._last >= _SECONDS_BETWEEN_LINES
        if not due and not (self._told and (first or fraction >= 1.0)):
            return
        self._last, self._told = now, True
        done, left = fraction - self._from, ""
        if done > 0 and fraction < 1.0:
            left = f", {_duration((now - self._began) * (1.0 - fraction) / done)} left"
        print(f"{self._title}: {text}{left}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, for the length of the block; no terminal: a line every ten seconds.

    Yields:
        The function (done, total) that moves it.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(title, total=None)
        lines = _Lines(title, at_once=False)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if quiet:
                lines.tell(done / total if total else 0.0, f"{done} of {total}")

        yield update


@contextmanager
def training_bar(
    title: str, tells: bool = True
) -> Iterator[Callable[[int, float, float, float], None]]:
    """A bar on stderr with the loss and the images per second; no terminal: a line of them for the
    first step, every ten seconds, and for the last.

    Args:
        title: what is done.
        tells: False for nothing at all, in the other ones of several processes.

    Yields:
        The function (step, fraction done, loss, images per second) that moves it.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description} step {task.fields[step]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}, {task.fields[rate]:.0f} images/s"),
    )
    quiet = not (console.is_terminal and tells)
    smooth: list[float] = []
    lines = _Lines(title, at_once=True)
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(title, total=1.0, step=0, loss=0.0, rate=0.0)

        def report(step: int, fraction: float, loss: float, rate: float) -> None:
            smooth[:] = [loss if not smooth else 0.98 * smooth[0] + 0.02 * loss]
            progress.update(task, completed=fraction, step=step, loss=smooth[0], rate=rate)
            if quiet and tells:
                figures = f"loss {smooth[0]:.4f}, {rate:.0f} images/s"
                lines.tell(fraction, f"step {step}, {100 * fraction:.0f} %, {figures}")

        yield report
