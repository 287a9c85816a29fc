"""Engines of tiny latent priors without an export, and the published loop in plain diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import LCMScheduler
from torch import Tensor

from latino_engine import ops
from latino_engine.latent_engine import LatentEngine
from latino_engine.operators.protocol import Operator
from latino_engine.priors.latent.prior import LatentPrior
from latino_engine.runtimes.latent import TorchLatentRuntime

TIMES = (999, 874, 749, 624, 499, 374, 249, 124)


def torch_engine(prior: LatentPrior, backend: str = "torch") -> LatentEngine:
    """The engine that compile and load would give, on the torch runtime."""
    manifest = {
        "prior": {"format": 1, **prior.spec.to_json()},
        "precision": "fp32",
        "max_batch": 3,
        "memory": {"per_pixel": 1000.0, "per_pixel_squared": 1.0},
        "backend": backend,
    }
    runtime = TorchLatentRuntime(prior.model, "cpu")
    return LatentEngine(Path("tiny"), manifest, backend, runtime, None, prior.conditioning)


class PlainLoop:
    """Encode, noise, U-Net, decode and prox by diffusers' own functions, as the authors' code."""

    def __init__(
        self, prior: LatentPrior, op: Operator, y: Tensor, delta: Callable[[int, Tensor], Tensor]
    ) -> None:
        self.unet, self.vae = prior.model.unet, prior.model.vae
        self.scheduler = LCMScheduler()
        self.factor = self.vae.config.scaling_factor
        self.op, self.y, self.delta = op, 2.0 * y - 1.0, delta
        self.sigma_y = 2.0 * float(op.noise_std)
        self.pooled = prior.conditioning.pooled

    def encode(self, x: Tensor) -> Tensor:
        return self.vae.encode(x.clamp(-1, 1)).latent_dist.mean * self.factor

    def z0(self, z: Tensor, time: int, prompt: Tensor, size: tuple[int, int]) -> Tensor:
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32)
        extra = None if self.pooled is None else {"text_embeds": self.pooled, "time_ids": ids}
        out = self.unet(z, time, encoder_hidden_states=prompt, added_cond_kwargs=extra).sample
        return self.scheduler.step(out, time, z).denoised

    def data_step(self, z0: Tensor, time: int) -> Tensor:
        x = self.vae.decode(z0 / self.factor).sample.clamp(-1, 1)
        residual = (self.op.observed(self.op.A(x)) - self.op.observed(self.y)).norm()
        variance = 1.0 - self.scheduler.alphas_cumprod[time]
        gamma = float(self.delta(time, residual) * variance) / self.sigma_y**2
        return self.op.prox(x, self.y, gamma)

    def noise(self, like: Tensor, seed: int, image: int, sample: int, step: int) -> Tensor:
        return ops.gaussian_noise(seed, [image], [sample], step, tuple(like.shape))

    def start(self, public: Tensor) -> Tensor:
        return 2.0 * public - 1.0

    @torch.no_grad()
    def sample(self, public: Tensor, prompt: Tensor, seed: int, sample: int) -> Tensor:
        """One draw for the image 0, public units."""
        self.scheduler.set_timesteps(timesteps=list(TIMES))
        x = self.start(public)
        for k, time in enumerate(TIMES):
            mean = self.encode(x)
            eps = self.noise(mean, seed, 0, sample, 1 + k)
            z = self.scheduler.add_noise(mean, eps, torch.tensor([time]))
            x = self.data_step(self.z0(z, time, prompt, tuple(x.shape[-2:])), time)
        return 0.5 * (x + 1.0)
