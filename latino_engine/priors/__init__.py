"""Diffusion priors: the sigma contract, the shipped network, and reading and writing a prior."""

from latino_engine.priors.folder import load_prior, save_prior
from latino_engine.priors.prior import Prior, PriorSpec

__all__ = ["Prior", "PriorSpec", "load_prior", "save_prior"]
