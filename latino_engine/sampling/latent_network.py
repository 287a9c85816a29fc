"""The three networks of a latent prior."""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine.priors.latent.prior import Conditioning, denoiser_inputs
from latino_engine.priors.prior import pad_to_multiple
from latino_engine.runtimes.latent import LatentRuntime
from latino_engine.sampling.network import Network
from latino_engine.schedule import Scalar


class LatentNetwork(Network):
    """Encoder E, consistency function f and decoder D, without the gradients of E and D."""

    runtime: LatentRuntime

    def encode(self, x: Tensor) -> Tensor:
        """E(x) of an image that is clamped to [-1, 1], as published, and padded by reflection."""
        padded = pad_to_multiple(x.clamp(-1.0, 1.0), self.spec.size_multiple)
        return self.runtime.encode(padded).contiguous()

    def z0_hat(self, z: Tensor, sigma: Scalar, conditioning: Conditioning) -> Tensor:
        """f(z, sigma, prompt), the latent without its noise, (P, C, h, w)."""
        levels = torch.as_tensor(sigma, dtype=torch.float64).expand(z.shape[0])
        return self.runtime.denoise(*denoiser_inputs(self.spec, z, levels, conditioning))

    def decode(self, z: Tensor, height: int, width: int) -> Tensor:
        """D(z) clamped to [-1, 1], as published, without the padding."""
        return self.runtime.decode(z)[..., :height, :width].clamp(-1.0, 1.0)
