"""What a call did when: spans for a Chrome trace, and NVTX ranges on a GPU."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

#: Colours of the stages in chrome://tracing and Perfetto.
_COLOURS = {
    "denoise": "thread_state_running",
    "prox": "thread_state_iowait",
    "noise": "thread_state_runnable",
    "sample": "grey",
}


@dataclass(frozen=True)
class Span:
    """One timed block: seconds on `time.perf_counter`."""

    name: str
    start: float
    end: float
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ms(self) -> float:
        """Its length."""
        return 1e3 * (self.end - self.start)


@dataclass
class Recorder:
    """Collects spans; a listener for `latino_engine.sampling.clock.listening`.

    Attributes:
        device: on "cuda" the host waits for the device at both ends of a span.
    """

    device: str = "cpu"
    spans: list[Span] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str, **details: Any) -> Iterator[None]:
        """Record the block as one span."""
        on_gpu = self.device.startswith("cuda")
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
        start = time.perf_counter()
        try:
            yield
        finally:
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]
            self.spans.append(Span(name, start, time.perf_counter(), details))

    def lengths(self, name: str) -> list[float]:
        """Milliseconds of every span of a name."""
        return [span.ms for span in self.spans if span.name == name]


def chrome_trace(lanes: dict[str, list[Span]], about: dict[str, Any]) -> bytes:
    """A JSON object for chrome://tracing or ui.perfetto.dev, one lane per runtime.

    Args:
        lanes: name -> spans.
        about: facts that the file carries along.
    """
    spans = [span for lane in lanes.values() for span in lane]
    origin = min((span.start for span in spans), default=0.0)
    events: list[dict[str, Any]] = []
    process, first = os.getpid(), threading.get_native_id()
    for lane, (name, found) in enumerate(lanes.items()):
        identity = {"pid": process, "tid": first + lane}
        events.append({"ph": "M", "name": "thread_name", "args": {"name": name}, **identity})
        for span in found:
            event = {
                "ph": "X",
                "cat": "stage",
                "name": span.name,
                "ts": 1e6 * (span.start - origin),
                "dur": 1e3 * span.ms,
                "cname": _COLOURS.get(span.name, "generic_work"),
                "args": span.details,
            }
            events.append(event | identity)
    body = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
    return (json.dumps(body) + "\n").encode()
