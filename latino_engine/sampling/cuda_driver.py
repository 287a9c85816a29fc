"""What `cuda_graph` asks of CUDA: streams, events, capture. Tests put a recording stand-in here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Protocol

import torch

from latino_engine.system.memory import available_bytes


class Graph(Protocol):
    """A captured sequence of launches."""

    def replay(self) -> None:
        """Queue all of them on the current stream."""


class Driver(Protocol):
    """The boundary to CUDA."""

    def new_stream(self) -> Any:
        """A stream of its own."""

    def on(self, stream: Any) -> AbstractContextManager[None]:
        """Make it the current stream; its work comes after what the caller has queued so far."""

    def new_pool(self) -> Any:
        """Memory for what captures allocate; graphs that share it must not run at one time."""

    def capture(self, stream: Any, pool: Any, body: Callable[[], None]) -> Graph:
        """Record the launches of `body` on the stream, executing none."""

    def event(self) -> Any:
        """An event on the current stream, with a time stamp."""

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """Milliseconds between two events, waiting for the second."""

    def release(self) -> None:
        """Give memory that nothing holds any more back to the device."""

    def free_bytes(self) -> int:
        """What may still be allocated."""


class CudaDriver:
    """The real one, by torch.cuda."""

    #: While one stream is captured nothing may wait for the whole device, as the start of another
    #: capture and the freeing of memory do: they come one after the other.
    _capturing: ClassVar[threading.Lock] = threading.Lock()

    def new_stream(self) -> Any:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        caller = torch.cuda.current_stream()
        stream.wait_stream(caller)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:  # what was queued still reads the caller's tensors
            caller.wait_stream(stream)

    def new_pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def capture(self, stream: Any, pool: Any, body: Callable[[], None]) -> Graph:
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads go on sampling, and may allocate.
        options = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
        with self._capturing, torch.cuda.graph(graph, **options):
            body()
        return graph

    def event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def elapsed_ms(self, first: Any, last: Any) -> float:
        last.synchronize()
        return float(first.elapsed_time(last))

    def release(self) -> None:
        with self._capturing:
            torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        return available_bytes("cuda")
