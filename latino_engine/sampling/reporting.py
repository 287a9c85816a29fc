"""How a call tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

#: None, True for a bar on stderr, or a function (evaluations done, evaluations in all).
Progress: TypeAlias = "bool | Callable[[int, int], None] | None"


@contextmanager
def reporter(progress: Progress) -> Iterator[Callable[[int, int], None]]:
    """The function (done, total) to tell, for the length of the block."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        from latino_engine.system.progress import progress_bar

        with progress_bar("sampling") as update:
            yield update
