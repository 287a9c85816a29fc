"""The steps of a chain, each counted in a stage of the call."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from latino_engine.sampler import Steps
from latino_engine.sampling.clock import StageClock
from latino_engine.schedule import InnerStep, OuterStep, Scalar


@dataclass(frozen=True, eq=False)
class TimedSteps:
    """Other steps, timed: the noise of a proposal counts with its prox, fused or not."""

    steps: Steps
    clock: StageClock

    def start(self, x: Tensor, sigma: float) -> Tensor:
        """Counted as noise."""
        with self.clock.measure("noise"):
            return self.steps.start(x, sigma)

    def propose(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """Counted as prox."""
        with self.clock.measure("prox"):
            return self.steps.propose(x, x_t, inner)

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        """Counted as noise."""
        with self.clock.measure("noise"):
            return self.steps.reverse(x0_hat, x_t, outer)

    def finish(self, x: Tensor, gamma: Scalar) -> Tensor:
        """Counted as prox."""
        with self.clock.measure("prox"):
            return self.steps.finish(x, gamma)
