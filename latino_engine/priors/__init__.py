"""Diffusion priors: the sigma contract, the shipped network, reading and writing, and importers."""

from latino_engine.priors.ddpm import import_ddpm
from latino_engine.priors.diffusers_folder import import_diffusers
from latino_engine.priors.folder import load_prior, save_prior
from latino_engine.priors.guided_diffusion import import_guided_diffusion
from latino_engine.priors.modules import from_deepinv, from_module
from latino_engine.priors.prior import Prior, PriorSpec

__all__ = [
    "Prior",
    "PriorSpec",
    "from_deepinv",
    "from_module",
    "import_ddpm",
    "import_diffusers",
    "import_guided_diffusion",
    "load_prior",
    "save_prior",
]
