"""Adapters of the tiny prior, with random weights that do something."""

from __future__ import annotations

import torch
from tiny import tiny_prior

from latino_engine.distill.lora import adapt, trained_weights
from latino_engine.learned_schedule import LearnedSchedule
from latino_engine.priors.adapters import Adapter


def table(value, n=2, k=2):
    return tuple(tuple(value + 0.1 * (i * k + j) for j in range(k)) for i in range(n))


def learned(**more):
    steps = {
        "Blur": {"r": table(1.0), "d": table(2.0), "lam": table(1.0)},
        "Inpainting": {"r": table(4.0), "d": table(1.0), "lam": table(1.0)},
    }
    return LearnedSchedule(**{"sigmas": (20.0, 0.5), "unfold": 2, "steps": steps, **more})


def trained(prior, targets="all-conv"):
    """Adapter weights as peft makes them, and the adapted network itself."""
    network = prior.denoiser.network
    adapt(network, targets, rank=2, alpha=3.0, seed=0)
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return trained_weights(network), network


def make_adapter(prior, weights=None, scale=1.5, **more):
    weights = trained(tiny_prior(prior.channels))[0] if weights is None else weights
    facts = {"schedule": learned(), "weights": weights, "scale": scale}
    return Adapter("a", prior.name, prior.content_hash(), **{**facts, **more})
