"""A prior of this package as a denoiser of deepinv."""

from __future__ import annotations

import torch
from deepinv.models.base import Denoiser
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.priors import Prior


class PriorDenoiser(Denoiser):  # type: ignore[misc]
    """x0_hat = forward(x, sigma) in deepinv's range: images in [0, 1], sigma in the same units.

    An image x becomes 2 x - 1 and sigma becomes 2 sigma, which is what `Prior.denoise` takes. Noise
    beyond the prior's sigma_max (deepinv's schedules begin at 157 in [-1, 1] units) is scaled down
    to it, image and all: what is left of the image in it is next to nothing either way, and the
    network never sees an input of a size that it was not trained for.

    Attributes:
        evaluations: network evaluations so far, counted per call, not per image.

    Raises:
        InvalidArgument: a prior whose public range is not [0, 1].
    """

    def __init__(self, prior: Prior) -> None:
        if prior.data_range != (0.0, 1.0):
            expected = "a prior of images in [0, 1], as deepinv has them"
            raise invalid("prior", expected, prior.data_range, "use another prior")
        super().__init__()
        self.prior = prior
        self.evaluations = 0

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise.

        Args:
            x: (B, C, H, W) in [0, 1] plus noise.
            sigma: its standard deviation, a number, one element or (B,).

        Returns:
            (B, C, H, W) float32, not clamped; the gradient with respect to x is kept.
        """
        self.evaluations += 1
        levels = 2.0 * torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1)
        levels = levels.expand(x.shape[0]) if levels.numel() == 1 else levels
        shrink = (levels / self.prior.spec.sigma_max).clamp(min=1.0)
        internal = (2.0 * x.float() - 1.0) / shrink.reshape(-1, 1, 1, 1)
        return (self.prior.denoise(internal, levels / shrink) + 1.0) / 2.0
