"""A progress bar on stderr."""

from __future__ import annotations

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


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal, for the length of the block.

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
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def training_bar(title: str) -> Iterator[Callable[[int, float, float, float], None]]:
    """A bar on stderr, where that is a terminal, with the loss and the images per second.

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
    quiet = not console.is_terminal
    smooth: list[float] = []
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(title, total=1.0, step=0, loss=0.0, rate=0.0)

        def report(step: int, fraction: float, loss: float, rate: float) -> None:
            smooth[:] = [loss if not smooth else 0.98 * smooth[0] + 0.02 * loss]
            progress.update(task, completed=fraction, step=step, loss=smooth[0], rate=rate)

        yield report
