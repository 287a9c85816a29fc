"""From a raw network to the denoiser contract x0_hat = D(x_noisy, sigma)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EDMDenoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise).

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2), c_in = 1 / sqrt(sigma^2 +
    s^2), c_noise = ln(sigma) / 4, with s = sigma_data.

    The sums around the network are float32 whatever the network's precision.

    Shapes: x (B, C, H, W) float32, sigma (B,) float32 -> (B, C, H, W) float32.
    Source: Karras et al. (2022), Table 1.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.network_dtype = torch.float32

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        total = sigma**2 + self.sigma_data**2
        c_skip = (self.sigma_data**2 / total)[:, None, None, None]
        c_out = (sigma * self.sigma_data * torch.rsqrt(total))[:, None, None, None]
        c_in = torch.rsqrt(total)[:, None, None, None]
        raw = self.network((c_in * x).to(self.network_dtype), torch.log(sigma) / 4.0)
        denoised: Tensor = c_skip * x + c_out * raw.float()
        return denoised
