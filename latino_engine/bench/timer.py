"""One timer for processor and GPU: every time in this project that is reported comes from here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

#: What is timed; its result is thrown away.
Run: TypeAlias = Callable[[], object]
_Buffers = TypeVar("_Buffers")

_COLD_CACHES = 3  # rotate through so many times the second-level cache


def quantile(times: Sequence[float], q: float) -> float:
    """The q-quantile of the times, 0 <= q <= 1, linear between order statistics."""
    return float(np.quantile(np.asarray(times, dtype=np.float64), q))


def summary(times: Sequence[float]) -> dict[str, float]:
    """Quantiles of the times, in their unit: p20, p50, p80, p95, p99."""
    return {f"p{percent}": quantile(times, percent / 100) for percent in (20, 50, 80, 95, 99)}


def time_once(run: Run, device: str = "cpu") -> float:
    """Milliseconds of one call: wall time on the processor, between two events on a GPU."""
    if not device.startswith("cuda"):
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begin, end = _event(), _event()
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def wall_and_processor(run: Run) -> tuple[float, float]:
    """Milliseconds of one call on the processor: wall time, and time of all its threads."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def time_in_turn(
    providers: Mapping[str, Run],
    repeats: int,
    warmup: int = 3,
    device: str = "cpu",
    report: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Times of all providers, ms, one call of each in turn.

    Whatever else the machine does then falls on all of them alike.

    Args:
        providers: name -> what is timed.
        repeats: timed calls of each, >= 1.
        warmup: untimed rounds before them.
        device: "cpu", or "cuda" for GPU events.
        report: called after every call.
    """
    times: dict[str, list[float]] = {name: [] for name in providers}
    for round_number in range(warmup + repeats):
        for name, run in providers.items():
            spent = time_once(run, device)
            if round_number >= warmup:
                times[name].append(spent)
            report()
    return times


def cold_copies(make: Callable[[], _Buffers], bytes_each: int, device: str) -> list[_Buffers]:
    """Enough copies of a call's arguments that a round through them leaves nothing in the cache.

    One copy on the processor, where a caller's data is as warm as it is here.
    """
    if not device.startswith("cuda"):
        return [make()]
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return [make() for _ in range(1 + -(-_COLD_CACHES * cache // max(1, bytes_each)))]


def rotating(run: Callable[[_Buffers], object], copies: Sequence[_Buffers]) -> Run:
    """A call of `run` with the next of the copies at every call."""
    endless = itertools.cycle(copies)
    return lambda: run(next(endless))


def replayed(run: Run) -> Run:
    """The call as one CUDA graph: its launches without the host's part of them."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # capture wants everything allocated and compiled
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
