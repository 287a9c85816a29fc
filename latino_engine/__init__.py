"""latino-engine: draws from p(x | y) for imaging inverse problems, with a compiled diffusion prior.

The public names load on first use: `import latino_engine` imports neither torch nor a runtime.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from latino_engine.system import waiting
from latino_engine.version import __version__

# onnxruntime looks up its maker's collector and keeps an identity of this machine in the user's
# cache, unless it is told before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from latino_engine.compilation.compiler import compile
    from latino_engine.engine import Engine
    from latino_engine.image_io.samples import sample_image
    from latino_engine.loading import load
    from latino_engine.operators import (
        JPEG,
        MRI,
        Blur,
        BorderedBlur,
        Colorization,
        Compose,
        CompressedSensing,
        Demosaicing,
        Denoising,
        Inpainting,
        LinearOperator,
        PhaseRetrieval,
        PoissonNoise,
        SpatiallyVaryingBlur,
        Stack,
        SuperResolution,
        Tomography,
    )
    from latino_engine.operators.spec import operator
    from latino_engine.posterior import Posterior
    from latino_engine.priors import (
        Prior,
        from_deepinv,
        from_module,
        import_ddpm,
        import_diffusers,
        import_guided_diffusion,
        load_prior,
        save_prior,
    )
    from latino_engine.priors.adapters import Adapter, load_adapter, save_adapter
    from latino_engine.priors.importers.ud2m import import_ud2m
    from latino_engine.priors.latent.latent_folder import load_latent_prior
    from latino_engine.priors.latent.prior import LatentPrior

__all__ = [
    "JPEG",
    "MRI",
    "Adapter",
    "Blur",
    "BorderedBlur",
    "Colorization",
    "Compose",
    "CompressedSensing",
    "Demosaicing",
    "Denoising",
    "Engine",
    "Inpainting",
    "LatentPrior",
    "LinearOperator",
    "Luminance",
    "PhaseRetrieval",
    "PoissonNoise",
    "Posterior",
    "Prior",
    "SpatiallyVaryingBlur",
    "Stack",
    "SuperResolution",
    "Tomography",
    "__version__",
    "compile",
    "from_deepinv",
    "from_module",
    "import_ddpm",
    "import_diffusers",
    "import_guided_diffusion",
    "import_ud2m",
    "load",
    "load_adapter",
    "load_latent_prior",
    "load_prior",
    "operator",
    "sample_image",
    "save_adapter",
    "save_prior",
]

waiting.set_policy()  # before torch is imported

_HOME = {
    "Adapter": "priors.adapters",
    "load_adapter": "priors.adapters",
    "save_adapter": "priors.adapters",
    "Blur": "operators",
    "Denoising": "operators",
    "Inpainting": "operators",
    "JPEG": "operators",
    "LinearOperator": "operators",
    "Luminance": "operators",
    "MRI": "operators",
    "SuperResolution": "operators",
    "BorderedBlur": "operators",
    "Colorization": "operators",
    "Compose": "operators",
    "CompressedSensing": "operators",
    "Demosaicing": "operators",
    "PhaseRetrieval": "operators",
    "PoissonNoise": "operators",
    "SpatiallyVaryingBlur": "operators",
    "Stack": "operators",
    "Tomography": "operators",
    "operator": "operators.spec",
    "Engine": "engine",
    "sample_image": "image_io.samples",
    "load": "loading",
    "compile": "compilation.compiler",
    "Posterior": "posterior",
    "Prior": "priors",
    "load_prior": "priors",
    "from_deepinv": "priors",
    "from_module": "priors",
    "import_ddpm": "priors",
    "import_diffusers": "priors",
    "import_guided_diffusion": "priors",
    "import_ud2m": "priors.importers.ud2m",
    "LatentPrior": "priors.latent.prior",
    "load_latent_prior": "priors.latent.latent_folder",
    "save_prior": "priors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'latino_engine' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"latino_engine.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
