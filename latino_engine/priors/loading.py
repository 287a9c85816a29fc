"""A prior by its name or its folder."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from torch import nn

from latino_engine.errors import PriorInvalid, invalid
from latino_engine.priors.folder import file_sentence, read_folder
from latino_engine.priors.importers.checkpoint import MAX_BYTES
from latino_engine.priors.latent.latent_folder import (
    load_latent_prior,
)
from latino_engine.priors.latent.pipeline_files import MAX_PIPELINE_BYTES, latent_pipeline
from latino_engine.priors.latent.prior import LatentPrior
from latino_engine.priors.prior import Prior

SHIPPED = ("photo-small", "digits-32")


def load_prior(
    source: str | Path,
    module: nn.Module | None = None,
    prompt: str | None = None,
    lora: str | Path | None = None,
    max_bytes: int | None = None,
) -> Prior:
    """Load a prior by its shipped name or from a folder.

    Args:
        source: a shipped name ("photo-small", "digits-32"), a folder with `prior.json` and
            `model.safetensors`, as `save_prior` and every importer write it, or a folder of
            diffusers: an unconditional one, which `import_diffusers` then reads, or a text-to-image
            pipeline, which becomes a `LatentPrior` (`load_latent_prior` has further options).
        module: the network of a prior that was made from a torch module; its weights are filled in.
        prompt: of a latent prior: what the images show; None is the empty prompt.
        lora: of a latent prior: a safetensors file of low-rank changes of the U-Net.
        max_bytes: largest size of the weights that is read; by default 8 GiB, and 16 GiB for a
            latent prior.

    Returns:
        The prior, float32, on the CPU, in evaluation mode.

    Raises:
        PriorInvalid: no such name or folder, a missing or damaged file, weights that do not fit the
            stated architecture (with the missing and unexpected names), a pickled file, a larger
            one than max_bytes.
    """
    if str(source) in SHIPPED and not Path(source).is_dir():
        _refuse_text(source, prompt, lora)
        with resources.as_file(resources.files("latino_engine") / "assets" / str(source)) as folder:
            return read_folder(folder, module, max_bytes)
    folder = Path(source)
    if folder.is_file():
        raise PriorInvalid(file_sentence(folder))
    if not folder.is_dir():
        known = ", ".join(SHIPPED)
        close = difflib.get_close_matches(str(source), SHIPPED, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"shipped priors: {known}"
        raise PriorInvalid(
            f"prior: expected a shipped name or a folder, got {str(source)!r}, which is neither; "
            f"{hint}"
        )
    if latent_pipeline(folder) is not None:
        limit = MAX_PIPELINE_BYTES if max_bytes is None else max_bytes
        return load_latent_prior(folder, prompt, lora, max_bytes=limit)
    _refuse_text(source, prompt, lora)
    if not (folder / "prior.json").is_file() and is_diffusers_folder(folder):
        from latino_engine.priors.importers.diffusers_folder import import_diffusers

        return import_diffusers(folder, max_bytes=MAX_BYTES if max_bytes is None else max_bytes)
    return read_folder(folder, module, max_bytes)


def is_diffusers_folder(folder: Path) -> bool:
    """Whether the folder holds a pipeline or a model that diffusers saved."""
    marks = ("model_index.json", "unet/config.json", "config.json")
    return any((folder / mark).is_file() for mark in marks)


def _refuse_text(source: str | Path, prompt: str | None, lora: str | Path | None) -> None:
    for name, value in (("prompt", prompt), ("lora", lora)):
        if value is not None:
            got = f"{str(value)!r} for {Path(source).name!r}"
            remedy = "leave it out, or load a text-to-image pipeline of diffusers"
            raise invalid(name, "None for a prior without a text encoder", got, remedy)


def pixel_prior(prior: Prior | str | Path) -> Prior:
    """The prior, loaded where it is a name or a folder, if it denoises images.

    Raises:
        ValueError: a latent prior.
    """
    prior = prior if isinstance(prior, Prior) else load_prior(prior)
    if isinstance(prior, LatentPrior):
        remedy = "use a prior of pixels; a latent one can be compiled and sampled"
        raise invalid("prior", "one that denoises images", f"the latent {prior.name!r}", remedy)
    return prior
