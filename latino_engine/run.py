"""One call of `Engine.sample`: the pairs (sample, image) in chunks through the sampler, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.measurement import Problem
from latino_engine.operators.protocol import DataStep
from latino_engine.sampler import Noise, sample_posterior
from latino_engine.schedule import InnerStep, OuterStep, Scalar, Schedule, ScheduleBuilder
from latino_engine.stream import NoiseStream
from latino_engine.tiles import Tiles

if TYPE_CHECKING:
    from latino_engine.engine import Engine

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
    """Wall time per stage of one call, milliseconds."""

    spent: dict[str, float] = field(
        default_factory=lambda: {"prox": 0.0, "noise": 0.0, "denoise": 0.0}
    )

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        listener = _LISTENER.get()
        start = time.perf_counter()
        try:
            with nullcontext() if listener is None else listener(stage):
                yield
        finally:
            self.spent[stage] += 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class _TimedStep:
    step: DataStep
    clock: StageClock

    def __call__(self, v: Tensor, gamma: Scalar) -> Tensor:
        with self.clock.measure("prox"):
            return self.step(v, gamma)

    @property
    def with_noise(self) -> Callable[..., Tensor] | None:
        return getattr(self.step, "with_noise", None)


@dataclass(frozen=True, eq=False)
class TimedNoise:
    stream: NoiseStream
    clock: StageClock

    def langevin(self, z: Tensor, scale: Scalar, step: int) -> Tensor:
        with self.clock.measure("noise"):
            return self.stream.langevin(z, scale, step)

    def inner(
        self, fused: Callable[..., Tensor], x: Tensor, x_t: Tensor | None, step: InnerStep
    ) -> Tensor:
        with self.clock.measure("prox"):  # the fused noise counts with the data step
            return self.stream.inner(fused, x, x_t, step)

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        with self.clock.measure("noise"):
            return self.stream.reverse(x0_hat, x_t, outer)


@dataclass(eq=False)
class Run:
    """One call of `sample`: the pairs (sample, image) in chunks through the sampler."""

    engine: Engine
    problem: Problem
    build: ScheduleBuilder
    image_ids: Tensor
    seed: int
    clock: StageClock
    report: Callable[[int, int], None]
    tiles: Tiles | None = None
    done: int = 0

    @property
    def nfe(self) -> int:
        return self.build(1.0).nfe

    def collect(self, num_samples: int, keep_samples: bool) -> dict[str, Any]:
        """All samples, or their running moments, and chi-square."""
        shape = tuple(self.problem.x_init.shape)
        batch, pairs = shape[0], num_samples * shape[0]
        size = self._chunk_size(shape[2], shape[3])
        total = self.nfe * pairs
        kept = torch.empty((pairs, *shape[1:]), dtype=torch.float32) if keep_samples else None
        running = None if keep_samples else (torch.zeros(shape), torch.zeros(shape))  # mean, M2
        chi2 = torch.empty(pairs, dtype=torch.float64)
        first = 0
        while first < pairs:
            members = torch.arange(first, min(first + size, pairs))
            try:
                images = self.draw(members % batch, members // batch, total)
            except (RuntimeError, MemoryError) as error:
                smaller = self._smaller(size)
                if smaller is None or not _out_of_memory(error):
                    raise
                size = smaller  # the same samples, in smaller chunks
                continue
            chi2[members] = self.problem.residual_chi2(images, members % batch)
            images = images.cpu()
            if kept is not None:
                kept[members] = images
            elif running is not None:
                for image, pair in zip(images, members.tolist(), strict=True):
                    b, count = pair % batch, pair // batch + 1
                    moments = ops.running_moments(running[0][b], running[1][b], count, image)
                    running[0][b], running[1][b] = moments
            first += len(members)
        return {
            "kept": None if kept is None else kept.reshape(num_samples, *shape),
            "running": running,
            "residual_chi2": chi2.reshape(num_samples, batch),
        }

    def _chunk_size(self, height: int, width: int) -> int:
        if self.tiles is None:
            return self.engine.chunk_size(height, width)
        size, self.tiles = self.engine.tiled_chunk_size(height, width, self.tiles)
        return size

    def _smaller(self, size: int) -> int | None:
        """The next smaller chunk, fewer tiles at a time before fewer images; None at the end."""
        if self.tiles is not None and self.tiles.batch > 1:
            self.tiles = self.tiles.smaller_batch()
            return size
        return None if size == 1 else size // 2

    def draw(self, index: Tensor, sample_ids: Tensor, total: int) -> Tensor:
        """One sample for each pair (image, sample id): (P, C, H, W), public units."""
        data_step, noise = self._data_step(index), self._noise(index, sample_ids)

        def denoise(x: Tensor, sigma: Scalar) -> Tensor:
            with self.clock.measure("denoise"):
                out = self._denoise(x, sigma, index)
            self.done += len(x)
            self.report(self.done, total)
            return out

        schedule: Schedule = self.build(self.problem.sigma_of(index))
        done = self.done
        try:
            x = sample_posterior(self.problem.x_init[index], schedule, data_step, denoise, noise)
        except BaseException:
            self.done = done
            raise
        return (x - self.engine.spec.offset) / self.engine.spec.scale

    def _data_step(self, index: Tensor) -> DataStep:
        with self.clock.measure("prox"):
            return _TimedStep(self.problem.data_step(index), self.clock)

    def _noise(self, index: Tensor, sample_ids: Tensor) -> Noise:
        return TimedNoise(NoiseStream(self.seed, self.image_ids[index], sample_ids), self.clock)

    def _denoise(self, x: Tensor, sigma: Scalar, index: Tensor) -> Tensor:
        return self.engine.denoise(x, sigma, self.tiles)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "allocate" in text or "out of memory" in text
