"""LATINO between an image and a latent space.

The sampler is the one of `latino_engine.sampler`: between its noise and its denoiser the state is a
latent instead of an image. The prox works on the decoded image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from latino_engine.operators.protocol import DataStep
from latino_engine.priors.latent.prior import Conditioning
from latino_engine.sampler import Steps
from latino_engine.sampling.chunks import Run
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.eager_steps import PlainSteps
from latino_engine.sampling.latent_network import LatentNetwork
from latino_engine.sampling.problem import Problem
from latino_engine.schedule import InnerStep, Scalar


@dataclass(eq=False)
class LatentSteps(PlainSteps):
    """`PlainSteps` whose proposal is a noisy latent.

    Attributes:
        network: its encoder.
        clock: a proposal is three stages; the encoder counts with the networks.
    """

    network: LatentNetwork
    clock: StageClock

    def propose(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """E(z) + sigma_k eps, z = prox(x, y, gamma): (P, C, h, w)."""
        with self.clock.measure("prox"):
            z = self.prox_of(x, x_t, inner)
        with self.clock.measure("denoise"):
            clean = self.network.encode(z)
        with self.clock.measure("noise"):
            return self.noise.langevin(clean, inner.noise_scale, inner.noise_step)

    def finish(self, x: Tensor, gamma: Scalar) -> Tensor:
        """prox(x, y, gamma)."""
        with self.clock.measure("prox"):
            return super().finish(x, gamma)


@dataclass(eq=False)
class LatentRun(Run):
    """One call of `sample` on its way through the networks of a latent prior.

    Attributes:
        network: of the latent prior.
        conditioning: the prompt, one for all images or one for each.
        by_residual: see `latent_data_step`.
    """

    network: LatentNetwork
    conditioning: Conditioning = field(kw_only=True)
    by_residual: bool = field(kw_only=True)

    def _steps(self, data_step: DataStep, index: Tensor, sample_ids: Tensor) -> Steps:
        stream = self.call.stream(index, sample_ids)
        return LatentSteps(data_step, stream, self.network, self.clock)

    def _data_step(self, index: Tensor) -> DataStep:
        with self.clock.measure("prox"):
            return latent_data_step(self.call.problem, index, self.by_residual)

    def _denoise(self, x: Tensor, sigma: Scalar, index: Tensor) -> Tensor:
        clean = self.network.z0_hat(x, sigma, self.conditioning.take(index))
        return self.network.decode(clean, *self._sides)


def latent_data_step(problem: Problem, index: Tensor, by_residual: bool) -> DataStep:
    """The prox of the images `index`; with `by_residual` its gamma times ||A v - y||, v the decoded
    image, all in internal units.
    """
    step = problem.data_step(index)
    if not by_residual:
        return step
    operator, y = problem.operator.take(index), problem.y[index]
    scale, offset = problem.spec.scale, problem.spec.offset

    def weighted(v: Tensor, gamma: Scalar) -> Tensor:
        residual = operator.observed(operator.A((v - offset) / scale)) - y
        norm = scale * residual.reshape(residual.shape[0], -1).abs().double().norm(dim=1).cpu()
        return step(v, torch.as_tensor(gamma, dtype=torch.float64) * norm)

    return weighted
