"""Diffusion priors: the sigma contract, the shipped network, reading and writing, and importers."""

from latino_engine.priors.folder import save_prior
from latino_engine.priors.importers.ddpm import import_ddpm
from latino_engine.priors.importers.diffusers_folder import import_diffusers
from latino_engine.priors.importers.guided_diffusion import import_guided_diffusion
from latino_engine.priors.importers.modules import from_deepinv, from_module
from latino_engine.priors.loading import load_prior
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
