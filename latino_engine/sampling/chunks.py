"""One call of `Engine.sample`: the pairs (sample, image) in chunks through the sampler, timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import InvalidArgument, NotFinite, invalid
from latino_engine.operators.parts.fused_step import FixedStep
from latino_engine.operators.protocol import DataStep
from latino_engine.sampler import Denoiser, Steps, sample_posterior
from latino_engine.sampling.call import Call
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.cuda_graph import CaptureRefused, Worker, bucket
from latino_engine.sampling.eager_steps import EagerSteps
from latino_engine.sampling.finite import is_finite, not_finite
from latino_engine.sampling.network import Network
from latino_engine.sampling.options import Sampling
from latino_engine.sampling.tiles import Tiles
from latino_engine.sampling.timed_steps import TimedSteps
from latino_engine.schedule import Scalar
from latino_engine.system.memory import is_out_of_memory


def _moments(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of no sample."""
    return torch.zeros(shape, dtype=torch.float32), torch.zeros(shape, dtype=torch.float32)


@dataclass(eq=False)
class Run:
    """One call of `sample` on its way through the network.

    Attributes:
        network: the denoiser of images.
        call: what is drawn from.
        clock: what the stages take.
        report: (evaluations done, evaluations in all), told after each.
        tiles: what the network sees of a large image; None: all of it.
        worker: of the network's pool: each chunk is then the replay of a CUDA graph, where the
            operator and the memory allow for one.
        done: evaluations so far.
        executed: how the chunks ran, in plain words, as an ordered set.
    """

    network: Network
    call: Call
    clock: StageClock
    report: Callable[[int, int], None]
    tiles: Tiles | None = None
    worker: Worker | None = None
    done: int = 0
    executed: dict[str, None] = field(default_factory=dict)

    @property
    def execution(self) -> str:
        """How the chunks ran, in plain words."""
        return "; ".join(self.executed)

    def collect(self, options: Sampling) -> dict[str, Any]:
        """All samples, or their running moments, and chi-square."""
        problem, nfe = self.call.problem, self.call.nfe
        shape = tuple(problem.operator.as_result(problem.x_init).shape)
        batch, pairs = shape[0], options.num_samples * shape[0]
        size = self._chunk_size()
        whole = options.keep_samples
        kept = torch.empty((pairs, *shape[1:]), dtype=torch.float32) if whole else None
        running = None if whole else _moments(shape)
        chi2 = torch.empty(pairs, dtype=torch.float64)
        first = 0
        while first < pairs:
            self.done = nfe * first  # what a chunk that ran out of memory did is done again
            size = self._within_graphs(size)
            members = torch.arange(first, min(first + size, pairs))
            try:
                images = self.draw(members % batch, members // batch, nfe * pairs)
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
            chi2[members] = problem.residual_chi2(images, members % batch)
            images = problem.operator.as_result(images).cpu()
            if kept is not None:
                kept[members] = images
            elif running is not None:
                _add_moments(running, images, members)
            first += len(members)
        return {
            "kept": None if kept is None else kept.reshape(options.num_samples, *shape),
            "running": running,
            "residual_chi2": chi2.reshape(options.num_samples, batch),
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
        x = self._replay(index, sample_ids)
        if x is None:
            x = sample_posterior(
                self._steps(self._data_step(index), index, sample_ids),
                self._denoiser(index, total),
                self.call.schedule(index),
                self.call.problem.x_init[index],
            )
        else:
            self.done += len(index) * self.call.nfe
            self.report(self.done, total)
        return (x - self.network.spec.offset) / self.network.spec.scale

    def _steps(self, data_step: DataStep, index: Tensor, sample_ids: Tensor) -> Steps:
        own = self.network.device == "cpu"  # no runtime there gives out memory that it uses again
        stream = self.call.stream(index, sample_ids, in_place=own)
        return TimedSteps(EagerSteps(data_step, stream), self.clock)

    def _data_step(self, index: Tensor) -> DataStep:
        with self.clock.measure("prox"):
            return self.call.problem.data_step(index)

    def _denoiser(self, index: Tensor, total: int) -> Denoiser:
        def denoise(x: Tensor, sigma: Scalar) -> Tensor:
            with self.clock.measure("denoise"):
                out = self._denoise(x, sigma, index)
            self.done += len(x)
            self.report(self.done, total)
            return out

        return denoise

    def _not_finite(self, index: Tensor, sample_ids: Tensor) -> NotFinite:
        return not_finite(
            self._data_step(index),
            lambda data_step: self._steps(data_step, index, sample_ids),
            lambda x, sigma: self._denoise(x, sigma, index),
            self.call.schedule(index),
            self.call.problem.x_init[index],
        )

    def _denoise(self, x: Tensor, sigma: Scalar, index: Tensor) -> Tensor:
        return self.network.denoise(x, sigma, self.tiles)

    def _replay(self, index: Tensor, sample_ids: Tensor) -> Tensor | None:
        """The same pairs by a CUDA graph, internal units; None where none is or can be."""
        if self.worker is None:
            self.executed.setdefault("eager")
            return None
        try:
            x, spent = self._replayed(self.worker, index, sample_ids)
        except CaptureRefused as refused:
            self.executed.setdefault(f"eager: {refused}")
            return None
        for stage, ms in spent.items():
            self.clock.spent[stage] += ms
        self.executed.setdefault("CUDA graph")
        return x[: len(index)]

    def _replayed(
        self, worker: Worker, index: Tensor, sample_ids: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """What the bucket's graph makes of these pairs, and the milliseconds of its stages."""
        limit, call = self._graph_limit, self.call
        if not self.network.runtime.capturable:
            raise CaptureRefused(
                "the runtime of the network queues its work on a stream of its own"
            )
        if self.tiles is not None:
            raise CaptureRefused("the network sees the image by tiles")
        if limit == 0:
            raise CaptureRefused("the graph does not fit into the free memory of the GPU")
        pairs = len(index)
        filled = torch.arange(bucket(pairs, max(pairs, limit))).clamp(max=pairs - 1)
        index, sample_ids = index[filled], sample_ids[filled]  # the last pair fills the bucket
        step = self._data_step(index)
        if not isinstance(step, FixedStep):
            raise CaptureRefused(
                "the operator's data step is decided on the host (conjugate gradients with a "
                "stopping rule, or a user's own)"
            )
        identity = (call.seed, call.image_ids[index], sample_ids)
        return worker.sample(call.problem.x_init[index], call.schedule(index), step, identity)

    @property
    def _sides(self) -> tuple[int, int]:
        height, width = self.call.problem.x_init.shape[-2:]
        return height, width

    @property
    def _graph_limit(self) -> int:
        """The largest bucket of this image size that fits, as far as is known."""
        assert self.network.pool is not None
        return self.network.pool.limit(self._sides, self.network.max_batch)

    def _within_graphs(self, size: int) -> int:
        return size if self.worker is None else min(size, self._graph_limit or size)

    def _chunk_size(self) -> int:
        if self.tiles is None:
            return self.network.chunk_size(*self._sides)
        size, self.tiles = self.network.tiled_chunk_size(*self._sides, self.tiles)
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
        assert self.network.pool is not None
        self.network.pool.lower(self._sides, pairs // 2)
        return max(1, pairs // 2)


def _add_moments(running: tuple[Tensor, Tensor], images: Tensor, pairs: Tensor) -> None:
    """Add the samples of these pairs, counted sample by sample, to each image's moments."""
    mean, m2 = running
    for image, pair in zip(images, pairs.tolist(), strict=True):
        b, count = pair % len(mean), pair // len(mean) + 1
        mean[b], m2[b] = ops.running_moments(mean[b], m2[b], count, image)
