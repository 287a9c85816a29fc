"""A prior small enough to be compiled in seconds, with random weights that do something."""

from __future__ import annotations

import torch

from latino_engine.priors import Prior, PriorSpec
from latino_engine.priors.assembly import build_prior
from latino_engine.priors.networks.unet import UNet

ARCHITECTURE = {
    "widths": [8, 16],
    "blocks_per_level": 1,
    "attention_heads": 2,
    "embedding": 16,
    "groups": 4,
    "pixel_unshuffle": 2,
}


def tiny_prior(channels: int = 3, data_range: tuple[float, float] = (0.0, 1.0)) -> Prior:
    """Sides must be multiples of 4; the same weights at every call."""
    spec = PriorSpec(
        name="tiny",
        channels=channels,
        size_multiple=4,
        data_range=data_range,
        sigma_min=0.01,
        sigma_max=20.0,
        architecture={"name": "unet", **ARCHITECTURE},
        preconditioning={"name": "edm", "sigma_data": 0.5},
    )
    generator = torch.Generator().manual_seed(3)
    shapes = UNet(channels=channels, **ARCHITECTURE).state_dict()
    weights = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in sorted(shapes.items())
        if name.endswith(("weight", "bias"))
        for value in (torch.ones_like(value) if "norm" in name else torch.zeros_like(value),)
    }
    return build_prior(spec, weights)
