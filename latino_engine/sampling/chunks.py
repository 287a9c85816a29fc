"""One call of `Engine.sample`: the pairs (sample, image) in chunks through the sampler, timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import InvalidArgument, NotFinite, invalid
from latino_engine.operators.parts.fused_step import FixedStep
from latino_engine.operators.protocol import DataStep
from latino_engine.sampler import Noise, sample_posterior
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.cuda_graph import CaptureRefused, Worker, bucket, obstacle
from latino_engine.sampling.finite import is_finite, not_finite
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.sampling.problem import Problem
from latino_engine.sampling.tiles import Tiles
from latino_engine.schedule import InnerStep, OuterStep, Scalar, Schedule, ScheduleBuilder
from latino_engine.system.memory import is_out_of_memory

if TYPE_CHECKING:
    from latino_engine.engine import Engine


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


def _moments(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of no sample."""
    return torch.zeros(shape, dtype=torch.float32), torch.zeros(shape, dtype=torch.float32)


@dataclass(eq=False)
class Run:
    """One call of `sample`: the pairs (sample, image) in chunks through the sampler.

    With a worker of the engine's pool each chunk is the replay of a CUDA graph, where the operator
    and the memory allow for one.
    """

    engine: Engine
    problem: Problem
    build: ScheduleBuilder
    image_ids: Tensor
    seed: int
    clock: StageClock
    report: Callable[[int, int], None]
    tiles: Tiles | None = None
    worker: Worker | None = None
    done: int = 0
    executed: dict[str, None] = field(default_factory=dict)  # an ordered set

    @property
    def nfe(self) -> int:
        return self.build(1.0).nfe

    @property
    def execution(self) -> str:
        """How the chunks ran, in plain words."""
        return "; ".join(self.executed)

    def collect(self, num_samples: int, keep_samples: bool) -> dict[str, Any]:
        """All samples, or their running moments, and chi-square."""
        shape = tuple(self.problem.x_init.shape)
        batch, pairs = shape[0], num_samples * shape[0]
        size = self._chunk_size(shape[2], shape[3])
        total = self.nfe * pairs
        kept = torch.empty((pairs, *shape[1:]), dtype=torch.float32) if keep_samples else None
        running = None if keep_samples else _moments(shape)
        chi2 = torch.empty(pairs, dtype=torch.float64)
        first = 0
        while first < pairs:
            size = self._within_graphs(size)
            members = torch.arange(first, min(first + size, pairs))
            try:
                images = self.draw(members % batch, members // batch, total)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = self._smaller(len(members))
                if smaller is None:
                    raise self._too_large() from error
                size = smaller  # the same samples, in smaller chunks
                continue
            if not is_finite(images):
                raise self._not_finite(members % batch, members // batch)
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

    def _too_large(self) -> InvalidArgument:
        height, width = self._sides
        smaller = "let the network see tiles, for example tile=256, or free some memory"
        if self.tiles is not None:
            smaller = "choose a smaller tile, or free some memory"
        got = f"{height} x {width}, for which it ran out"
        return invalid("y", "an image that fits into the free memory", got, smaller)

    def draw(self, index: Tensor, sample_ids: Tensor, total: int) -> Tensor:
        """One sample for each pair (image, sample id): (P, C, H, W), public units."""
        schedule: Schedule = self.build(self.problem.sigma_of(index))
        if self.worker is None:
            x = self._eager(self._data_step(index), schedule, index, sample_ids, total)
            self.executed.setdefault("eager")
        else:
            x = self._on_gpu(self.worker, schedule, index, sample_ids, total)
        return (x - self.engine.spec.offset) / self.engine.spec.scale

    def _on_gpu(
        self, worker: Worker, schedule: Schedule, index: Tensor, sample_ids: Tensor, total: int
    ) -> Tensor:
        """A replay for the bucket that holds these pairs, or an eager call where none can be."""
        pairs = len(index)
        held = bucket(pairs, max(pairs, self._graph_limit))
        filled = torch.arange(held).clamp(max=pairs - 1)  # the last pair fills the bucket
        step = self._data_step(index[filled])
        reason = obstacle(self.engine.runtime, step)
        if reason is None and self.tiles is not None:
            reason = "the network sees the image by tiles"
        if reason is None and self._graph_limit == 0:
            reason = "the graph does not fit into the free memory of the GPU"
        if reason is not None or not isinstance(step, FixedStep):
            self.executed.setdefault(f"eager: {reason}")
            step = step if held == pairs else self._data_step(index)
            return self._eager(step, schedule, index, sample_ids, total)
        whole: Schedule = self.build(self.problem.sigma_of(index[filled]))
        identity = (self.seed, self.image_ids[index[filled]], sample_ids[filled])
        try:
            x, spent = worker.sample(self.problem.x_init[index[filled]], whole, step, identity)
        except CaptureRefused as refused:
            self.executed.setdefault(f"eager: {refused}")
            return self._eager(self._data_step(index), schedule, index, sample_ids, total)
        for stage, ms in spent.items():
            self.clock.spent[stage] += ms
        self.executed.setdefault("CUDA graph")
        self.done += pairs * schedule.nfe
        self.report(self.done, total)
        return x[:pairs]

    def _eager(
        self,
        step: DataStep,
        schedule: Schedule,
        index: Tensor,
        sample_ids: Tensor,
        total: int,
    ) -> Tensor:
        data_step = _TimedStep(step, self.clock)
        noise = self._noise(index, sample_ids)

        def denoise(x: Tensor, sigma: Scalar) -> Tensor:
            with self.clock.measure("denoise"):
                out = self._denoise(x, sigma, index)
            self.done += len(x)
            self.report(self.done, total)
            return out

        done = self.done
        try:
            return sample_posterior(self.problem.x_init[index], schedule, data_step, denoise, noise)
        except BaseException:
            self.done = done
            raise

    def _not_finite(self, index: Tensor, sample_ids: Tensor) -> NotFinite:
        schedule: Schedule = self.build(self.problem.sigma_of(index))
        step, noise = self._data_step(index), self._noise(index, sample_ids)
        x_init = self.problem.x_init[index]
        return not_finite(x_init, schedule, step, lambda x, s: self._denoise(x, s, index), noise)

    def _data_step(self, index: Tensor) -> DataStep:
        with self.clock.measure("prox"):
            return self.problem.data_step(index)

    def _noise(self, index: Tensor, sample_ids: Tensor) -> Noise:
        own = self.engine.device == "cpu"  # no runtime there gives out memory that it uses again
        stream = NoiseStream(self.seed, self.image_ids[index], sample_ids, in_place=own)
        return TimedNoise(stream, self.clock)

    def _denoise(self, x: Tensor, sigma: Scalar, index: Tensor) -> Tensor:
        return self.engine.denoise(x, sigma, self.tiles)

    @property
    def _sides(self) -> tuple[int, int]:
        height, width = self.problem.x_init.shape[-2:]
        return height, width

    @property
    def _graph_limit(self) -> int:
        """The largest bucket of this image size that fits, as far as is known."""
        pool, size = self.engine.pool, self._sides
        assert pool is not None
        return pool.limit(size, int(self.engine.manifest["max_batch"]))

    def _within_graphs(self, size: int) -> int:
        return size if self.worker is None else min(size, self._graph_limit or size)

    def _chunk_size(self, height: int, width: int) -> int:
        if self.tiles is None:
            return self.engine.chunk_size(height, width)
        size, self.tiles = self.engine.tiled_chunk_size(height, width, self.tiles)
        return size

    def _smaller(self, pairs: int) -> int | None:
        """The chunk to go on with, None at the end: fewer tiles at a time before fewer images, a
        smaller graph before none.
        """
        if self.tiles is not None and self.tiles.batch > 1:
            self.tiles = self.tiles.smaller_batch()
            return pairs
        if self.worker is None or self.tiles is not None or self._graph_limit == 0:
            return None if pairs == 1 else pairs // 2
        assert self.engine.pool is not None
        self.engine.pool.lower(self._sides, pairs // 2)
        return max(1, pairs // 2)
