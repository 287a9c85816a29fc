"""From a raw network to the denoiser contract x0_hat = D(x_noisy, sigma)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class EDMDenoiser(nn.Module):
    """D(x, sigma) = c_skip x + sign c_out F(c_in x, c_noise).

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2), c_in = 1 / sqrt(sigma^2 +
    s^2), c_noise = ln(sigma) / 4, with s = sigma_data.

    The sums around the network are float32 whatever the network's precision.

    Shapes: x (B, C, H, W) float32, sigma (B,) float32 -> (B, C, H, W) float32.
    Source: Karras et al. (2022), Table 1; sign = -1 is the v form of the same network.
    """

    def __init__(self, network: nn.Module, sigma_data: float, sign: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.sign = sign
        self.network_dtype = torch.float32

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        total = sigma**2 + self.sigma_data**2
        c_skip = (self.sigma_data**2 / total)[:, None, None, None]
        c_out = (sigma * self.sigma_data * torch.rsqrt(total))[:, None, None, None]
        c_out = -c_out if self.sign < 0 else c_out
        c_in = torch.rsqrt(total)[:, None, None, None]
        raw = self.network((c_in * x).to(self.network_dtype), torch.log(sigma) / 4.0)
        denoised: Tensor = c_skip * x + c_out * raw.float()
        return denoised


class TimeIndex(nn.Module):
    """sigma -> the fractional index of a table of increasing sigmas, linear between its entries.

    Linear in sigma, not in its logarithm: subtraction and division round alike in every runtime,
    so that each of them hands the network the very same time.

    Shapes: sigma (B,) float32 -> (B,) float32 in [0, T - 1].
    """

    def __init__(self, table: Sequence[float]) -> None:
        super().__init__()
        # Not part of the weights: prior.json holds the table.
        self.register_buffer("table", torch.tensor(table, dtype=torch.float32), persistent=False)

    def forward(self, sigma: Tensor) -> Tensor:
        table = cast(Tensor, self.table)
        below = (sigma[:, None] >= table[None, 1:-1]).sum(dim=1)  # in 0 .. T - 2
        left, right = table[below], table[below + 1]
        return below.float() + ((sigma - left) / (right - left)).clamp(0.0, 1.0)


class SigmaTime(nn.Module):
    """The noise level itself as the network's time."""

    def forward(self, sigma: Tensor) -> Tensor:
        return sigma


class LogSigmaTime(nn.Module):
    """ln(scale sigma) as the network's time."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, sigma: Tensor) -> Tensor:
        return torch.log(self.scale * sigma)


class PredictionDenoiser(nn.Module):
    """x0_hat from a network that predicts eps, v, x0 or the score times sigma.

    With alpha = 1 / sqrt(1 + sigma^2): the network sees alpha x ("vp") or x ("ve"), and
    eps: x0_hat = x - sigma F;  v: x0_hat = alpha^2 x - sigma alpha F;  x0: x0_hat = F;
    score: x0_hat = x + sigma F.

    Channels of the output beyond the image's (a learned variance) are left out. The sums around the
    network are float32 whatever the network's precision.

    Shapes: x (B, C, H, W) float32, sigma (B,) float32 -> (B, C, H, W) float32.
    Source: Ho et al. (2020), Eq. 15; Salimans & Ho (2022), Eq. 7, with x in variance-exploding
    form.
    """

    def __init__(
        self, network: nn.Module, prediction: str, time: nn.Module, scaling: str = "vp"
    ) -> None:
        super().__init__()
        self.network = network
        self.prediction = prediction
        self.time = time
        self.scaling = scaling
        self.network_dtype = torch.float32

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma[:, None, None, None]
        alpha = torch.rsqrt(1.0 + level**2)
        seen = alpha * x if self.scaling == "vp" else x
        raw = self.network(seen.to(self.network_dtype), self.time(sigma))
        raw = raw[:, : x.shape[1]].float()
        if self.prediction == "x0":
            return cast(Tensor, raw)
        if self.prediction == "v":
            return cast(Tensor, alpha**2 * x - level * alpha * raw)
        step: Tensor = level * raw
        return x + step if self.prediction == "score" else x - step

    def skip_weight(self, sigma: Tensor) -> Tensor:
        """Weight of x in x0_hat, (B,): 1 for eps and score, where x0_hat is a small difference of
        large images.
        """
        if self.prediction == "x0":
            return torch.zeros_like(sigma)
        return 1.0 / (1.0 + sigma**2) if self.prediction == "v" else torch.ones_like(sigma)


class RangeDenoiser(nn.Module):
    """A network that is a denoiser itself, of images in [low, high]: x0_hat = D(x, sigma).

    Shapes: x (B, C, H, W) float32 in [-1, 1], sigma (B,) float32 in the same units -> (B, C, H, W).
    """

    def __init__(self, network: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.network = network
        self.low = low
        self.per_unit = 0.5 * (high - low)
        self.network_dtype = torch.float32

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        own = self.low + self.per_unit * (x + 1.0)
        raw = self.network(own.to(self.network_dtype), self.per_unit * sigma)
        return cast(Tensor, (raw[:, : x.shape[1]].float() - self.low) / self.per_unit - 1.0)
