"""Time per stage of one call, and who listens to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias

from latino_engine.sampling.cuda_driver import Driver

#: Stage -> a block that is entered with every timed block of that stage.
Listener: TypeAlias = Callable[[str], AbstractContextManager[None]]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Show every timed block of the calls made inside to `listener`: traces, NVTX ranges."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@dataclass
class StageClock:
    """Time per stage of one call, milliseconds.

    Wall time on the CPU; with a driver, whose device runs behind the host, time between two events.
    """

    driver: Driver | None = None
    spent: dict[str, float] = field(
        default_factory=lambda: {"prox": 0.0, "noise": 0.0, "denoise": 0.0}
    )

    _marks: list[tuple[str, object, object]] = field(default_factory=list)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        listener = _LISTENER.get()
        start = time.perf_counter() if self.driver is None else self.driver.event()
        try:
            with nullcontext() if listener is None else listener(stage):
                yield
        finally:
            if self.driver is None:
                self.spent[stage] += 1e3 * (time.perf_counter() - start)
            else:
                self._marks.append((stage, start, self.driver.event()))

    def finish(self) -> None:
        """Add what the events of the device say."""
        for stage, first, last in self._marks:
            assert self.driver is not None
            self.spent[stage] += self.driver.elapsed_ms(first, last)
        self._marks.clear()
