"""One call of `LatentEngine.sample`: LATINO between an image and a latent space.

The sampler is the one of `latino_engine.sampler`: between its noise and its denoiser the state is a
latent instead of an image. The prox works on the decoded image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latino_engine.operators.protocol import DataStep
from latino_engine.priors.latent.prior import Conditioning, denoiser_inputs
from latino_engine.priors.prior import PriorSpec, pad_to_multiple
from latino_engine.runtimes.latent import LatentRuntime
from latino_engine.sampler import Noise
from latino_engine.sampling.chunks import Run
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.sampling.problem import Problem
from latino_engine.schedule import Scalar

if TYPE_CHECKING:
    from latino_engine.latent_engine import LatentEngine


def encode(networks: LatentRuntime, spec: PriorSpec, x: Tensor) -> Tensor:
    """E(x) of an image that is clamped to [-1, 1], as published, and padded by reflection."""
    return networks.encode(pad_to_multiple(x.clamp(-1.0, 1.0), spec.size_multiple))


def z0_hat(
    networks: LatentRuntime, spec: PriorSpec, z: Tensor, sigma: Scalar, conditioning: Conditioning
) -> Tensor:
    """The consistency function at a noise level, (P, C, h, w)."""
    levels = torch.as_tensor(sigma, dtype=torch.float64).expand(z.shape[0])
    return networks.denoise(*denoiser_inputs(spec, z, levels, conditioning))


def decode(networks: LatentRuntime, z: Tensor, height: int, width: int) -> Tensor:
    """D(z) clamped to [-1, 1], as published, without the padding."""
    return networks.decode(z)[..., :height, :width].clamp(-1.0, 1.0)


def latent_data_step(problem: Problem, index: Tensor, by_residual: bool) -> DataStep:
    """The prox of the images `index`; with `by_residual` its gamma times ||A v - y||, v the decoded
    image, all in internal units.
    """
    step = problem.data_step(index)
    if not by_residual:
        # Hides with_noise: this noise lives in another space.
        return lambda v, gamma: step(v, gamma)
    operator, y = problem.operator.take(index), problem.y[index]
    scale, offset = problem.spec.scale, problem.spec.offset

    def weighted(v: Tensor, gamma: Scalar) -> Tensor:
        residual = operator.observed(operator.A((v - offset) / scale)) - y
        norm = scale * residual.reshape(residual.shape[0], -1).abs().double().norm(dim=1).cpu()
        return step(v, torch.as_tensor(gamma, dtype=torch.float64) * norm)

    return weighted


@dataclass(frozen=True, eq=False)
class LatentNoise:
    """E(z) + scale * eps_step: the noise of the latent space behind the encoder."""

    networks: LatentRuntime
    spec: PriorSpec
    stream: NoiseStream
    clock: StageClock

    def langevin(self, z: Tensor, scale: Scalar, step: int) -> Tensor:
        """The noisy latent of the image z, (P, C, h, w)."""
        with self.clock.measure("denoise"):  # the encoder counts with the networks
            clean = encode(self.networks, self.spec, z)
        with self.clock.measure("noise"):
            return self.stream.langevin(clean.contiguous(), scale, step)

    def inner(self, *_: object) -> Tensor:
        """Never called: `latent_data_step` takes no noise along."""
        raise AssertionError

    def reverse(self, *_: object) -> Tensor:
        """Never called: LATINO has no x_t."""
        raise AssertionError


@dataclass(eq=False)
class LatentRun(Run):
    """The pairs (sample, image) in chunks through encoder, noise, U-Net, decoder and prox."""

    latent_engine: LatentEngine | None = field(default=None, kw_only=True)
    by_residual: bool = field(default=False, kw_only=True)

    def _data_step(self, index: Tensor) -> DataStep:
        with self.clock.measure("prox"):
            return latent_data_step(self.problem, index, self.by_residual)

    def _noise(self, index: Tensor, sample_ids: Tensor) -> Noise:
        assert self.latent_engine is not None
        stream = NoiseStream(self.seed, self.image_ids[index], sample_ids)
        return LatentNoise(self.latent_engine.networks, self.engine.spec, stream, self.clock)

    def _denoise(self, x: Tensor, sigma: Scalar, index: Tensor) -> Tensor:
        assert self.latent_engine is not None
        engine = self.latent_engine
        height, width = self.problem.x_init.shape[-2:]
        clean = z0_hat(engine.networks, engine.spec, x, sigma, engine.conditioning.take(index))
        return decode(engine.networks, clean, height, width)
