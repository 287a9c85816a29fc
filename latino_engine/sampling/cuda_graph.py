"""The whole sampler as one CUDA graph: static buffers, capture, replay, a pool of workers.

A call writes its start, spectrum, step sizes, seed and ids into static buffers and replays the
graph that was captured for its structure: between first launch and last nothing runs on the host.
"""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from latino_engine.operators.parts.fused_step import FixedStep
from latino_engine.priors.prior import PriorSpec, on_padded
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.sampler import Denoiser
from latino_engine.sampling.cuda_driver import Driver, Graph
from latino_engine.sampling.graph_steps import CallBuffers, sample_tabled, structure
from latino_engine.schedule import Scalar, Schedule
from latino_engine.system.memory import is_out_of_memory

NUM_WORKERS = 2  # callers served at once; each holds its own graphs, buffers and TensorRT context
NUM_GRAPHS = 8  # of a worker; the one that was used longest ago goes
STAGES = ("prox", "noise", "denoise")
_REFUSED = "the runtime of the network cannot be captured at this size"

#: (seed, image_ids, sample_ids)
Identity: TypeAlias = tuple[int, Tensor, Tensor]
Key: TypeAlias = tuple[Hashable, ...]


def bucket(pairs: int, max_batch: int) -> int:
    """How many images the graph for `pairs` of them holds: a power of two, or max_batch."""
    return min(max_batch, 1 << (pairs - 1).bit_length())


class CaptureRefused(Exception):
    """A call cannot be one graph; the text says why in plain words."""


@dataclass(eq=False)
class CapturedSampler:
    """One graph with its static memory.

    Attributes:
        buffers: what a call writes.
        out: what it leaves, (P, C, H, W), internal units.
        graph: from the one to the other.
        shares: of the stages in its time, from the eager pass before the capture.
        denoise: what was captured; TensorRT's holds the context and the memory that the graph uses.
    """

    buffers: CallBuffers
    out: Tensor
    graph: Graph
    shares: dict[str, float]
    denoise: Denoiser


class Worker:
    """One stream, its graphs and their buffers: one caller at a time.

    Args:
        driver: the boundary to CUDA.
        runtime: the denoiser.
        spec: the prior's.
    """

    def __init__(self, driver: Driver, runtime: DenoiserRuntime, spec: PriorSpec) -> None:
        self._driver = driver
        self._runtime = runtime
        self._spec = spec
        self.stream = driver.new_stream()
        self._memory = driver.new_pool()
        self.graphs: OrderedDict[Key, CapturedSampler] = OrderedDict()
        self._refused: set[Key] = set()

    def sample(
        self, x_init: Tensor, schedule: Schedule, step: FixedStep, identity: Identity
    ) -> tuple[Tensor, dict[str, float]]:
        """(P, C, H, W), internal units, and the milliseconds of each stage on the device.

        The whole is measured by events around the replay; its split among the stages is that of
        the eager pass that came before the capture.

        Raises:
            RuntimeError: out of memory; the worker then holds no graph, and can go on.
            CaptureRefused: the runtime says that its launches cannot be held by a graph.
        """
        key = _key(x_init, schedule, step)
        if key in self._refused:
            raise CaptureRefused(_REFUSED)
        try:
            captured = self.graphs.get(key) or self._capture(key, x_init, schedule, step, identity)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                traceback.clear_frames(error.__traceback__)  # they hold what the pass had made
                self.graphs.clear()  # their memory is what another bucket, or no graph, will need
                self._memory = self._driver.new_pool()
                self._driver.release()
            raise
        self.graphs.move_to_end(key)
        self._write(captured.buffers, x_init, schedule, step, identity)
        first = self._driver.event()
        captured.graph.replay()
        spent = self._driver.elapsed_ms(first, self._driver.event())
        return captured.out.clone(), {name: spent * captured.shares[name] for name in STAGES}

    def _capture(
        self, key: Key, x_init: Tensor, schedule: Schedule, step: FixedStep, identity: Identity
    ) -> CapturedSampler:
        runtime = self._runtime.for_graph()
        denoise = self._network(runtime)
        buffers = CallBuffers.like(x_init, schedule, step)
        self._write(buffers, x_init, schedule, step, identity)
        # Two eager passes: the first loads kernels, makes FFT plans and workspaces and sets the
        # engine's shapes, none of which may happen inside a capture; the second is timed.
        sample_tabled(buffers, schedule, step, denoise)
        shares = self._shares(buffers, schedule, step, denoise)
        if not runtime.allows_capture():
            self._refused.add(key)
            raise CaptureRefused(_REFUSED)
        found: list[Tensor] = []

        def body() -> None:
            found.append(sample_tabled(buffers, schedule, step, denoise))

        graph = self._driver.capture(self.stream, self._memory, body)
        captured = CapturedSampler(buffers, found[0], graph, shares, denoise)
        self.graphs[key] = captured
        while len(self.graphs) > NUM_GRAPHS:
            self.graphs.popitem(last=False)
        return captured

    def _write(
        self,
        buffers: CallBuffers,
        x_init: Tensor,
        schedule: Schedule,
        step: FixedStep,
        identity: Identity,
    ) -> None:
        sigmas = (self._spec.sigma_min, self._spec.sigma_max)
        buffers.write(x_init, schedule, step, sigmas, identity)

    def _network(self, runtime: DenoiserRuntime) -> Denoiser:
        """The network on levels that are already in the prior's range."""

        def denoise(x: Tensor, sigma: Scalar) -> Tensor:
            assert isinstance(sigma, Tensor)
            return on_padded(runtime, x, sigma, self._spec.size_multiple).contiguous()

        return denoise

    def _shares(
        self, buffers: CallBuffers, schedule: Schedule, step: FixedStep, denoise: Denoiser
    ) -> dict[str, float]:
        """What part of an eager pass each stage takes, by events around every evaluation.

        The fused noise counts with the data step, as everywhere; what lies between two evaluations
        is all data step then, and the noise of the reverse steps with it.
        """
        driver, marks = self._driver, list[tuple[object, object]]()

        def marked(x: Tensor, sigma: Scalar) -> Tensor:
            before = driver.event()
            out = denoise(x, sigma)
            marks.append((before, driver.event()))
            return out

        first = driver.event()
        sample_tabled(buffers, schedule, step, marked)
        total = driver.elapsed_ms(first, driver.event())
        inside = sum(driver.elapsed_ms(before, after) for before, after in marks)
        share = min(1.0, inside / total) if total > 0.0 else 1.0
        return {"prox": 1.0 - share, "noise": 0.0, "denoise": share}


class WorkerPool:
    """Workers for callers from several threads, who are served in the order of their coming.

    Args:
        make: a new worker; called when a caller finds none free and there are fewer than `size`.
        driver: the boundary to CUDA.
        size: the most workers.
    """

    def __init__(self, make: Callable[[], Worker], driver: Driver, size: int = NUM_WORKERS) -> None:
        self._make = make
        self._driver = driver
        self._size = size
        self._made = 0
        self._free: list[Worker] = []  # the last one used is taken first: its graphs are there
        self._waiting: deque[object] = deque()
        self._change = threading.Condition()
        self._limits: dict[tuple[int, int], tuple[int, int]] = {}  # bucket, free bytes of then

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker of the caller's own, on its stream."""
        worker = self._take()
        try:
            with self._driver.on(worker.stream):
                yield worker
        finally:
            self._give_back(worker)

    def for_each(self, call: Callable[[], object]) -> None:
        """Run `call`, which takes one worker, until every worker has served it."""
        served: list[Worker] = []
        try:
            for _ in range(self._size):
                call()
                served.append(self._take())  # the one that was used last
        finally:
            for worker in served:
                self._give_back(worker)

    def limit(self, size: tuple[int, int], largest: int) -> int:
        """The largest bucket for images of (H, W) that has not run out of memory; 0: none.

        What did not fit is tried again when twice as much memory is free as when it failed.
        """
        found, free = self._limits.get(size, (largest, 0))
        if size in self._limits and self._driver.free_bytes() >= 2 * free:
            self._limits.pop(size, None)
            return largest
        return found

    def lower(self, size: tuple[int, int], bucket: int) -> None:
        """Set `limit` after memory ran out."""
        self._limits[size] = (bucket, max(1, self._driver.free_bytes()))

    def _take(self) -> Worker:
        ticket = object()
        with self._change:
            self._waiting.append(ticket)
            try:
                while not (self._waiting[0] is ticket and self._available()):
                    self._change.wait()
                if self._free:
                    return self._free.pop()
                worker = self._make()
                self._made += 1
                return worker
            finally:  # the next in the line looks, also where this caller was interrupted
                self._waiting.remove(ticket)
                self._change.notify_all()

    def _give_back(self, worker: Worker) -> None:
        with self._change:
            self._free.append(worker)
            self._change.notify_all()

    def _available(self) -> bool:
        return bool(self._free) or self._made < self._size


def _key(x_init: Tensor, schedule: Schedule, step: FixedStep) -> Key:
    constants = tuple((tuple(c.shape), c.dtype) for c in step.constants)
    return (tuple(x_init.shape), step.formula, constants, structure(schedule))
