"""What one call of `sample` draws from, whatever network draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.sampling.problem import Problem
from latino_engine.schedule import Schedule, ScheduleBuilder


@dataclass(frozen=True, eq=False)
class Call:
    """A posterior and the random stream of its samples.

    Attributes:
        problem: the measurements with their forward model.
        build: noise level of a measurement -> its schedule.
        image_ids: (B,) int64, names of the images in the random stream.
        seed: 0 <= seed < 2^64.
    """

    problem: Problem
    build: ScheduleBuilder
    image_ids: Tensor
    seed: int

    @cached_property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return self.build(1.0).nfe

    def schedule(self, index: Tensor) -> Schedule:
        """The schedule of the images `index`."""
        return self.build(self.problem.sigma_of(index))

    def stream(self, index: Tensor, sample_ids: Tensor, in_place: bool = False) -> NoiseStream:
        """The noise of the pairs (image, sample id)."""
        return NoiseStream(self.seed, self.image_ids[index], sample_ids, in_place)
