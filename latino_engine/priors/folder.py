"""A prior as a folder: prior.json + model.safetensors. Reading never unpickles."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from latino_engine.atomic import atomic_file, atomic_folder
from latino_engine.errors import PriorInvalid, invalid
from latino_engine.priors.assembly import build_denoiser, build_network
from latino_engine.priors.checkpoint import MAX_BYTES, check_size
from latino_engine.priors.latent import LatentPrior, is_latent
from latino_engine.priors.latent_folder import (
    load_latent_prior,
    read_latent_prior,
    write_latent_weights,
)
from latino_engine.priors.pipeline_files import MAX_PIPELINE_BYTES, latent_pipeline
from latino_engine.priors.prior import Prior, PriorSpec

FORMAT_VERSION = 1
SHIPPED = ("photo-small", "digits-32")

_REQUIRED = (
    "name",
    "channels",
    "size_multiple",
    "data_range",
    "sigma_min",
    "sigma_max",
    "architecture",
    "preconditioning",
)
_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_UNET_ARGUMENTS = (
    "widths",
    "blocks_per_level",
    "attention_heads",
    "embedding",
    "groups",
    "pixel_unshuffle",
)


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
            return _read_folder(folder, module, max_bytes)
    folder = Path(source)
    if folder.is_file():
        raise PriorInvalid(_file_sentence(folder))
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
        from latino_engine.priors.diffusers_folder import import_diffusers

        return import_diffusers(folder, max_bytes=MAX_BYTES if max_bytes is None else max_bytes)
    return _read_folder(folder, module, max_bytes)


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


def save_prior(prior: Prior, folder: str | Path) -> None:
    """Write a prior as `prior.json` + `model.safetensors`, both or nothing.

    Raises:
        OutputNotWritable: the folder exists already or cannot be written.
    """
    with atomic_folder(Path(folder)) as partial:
        write_prior(prior, partial)


def write_prior(prior: Prior, folder: Path, half: bool = False) -> None:
    """Write the two files into an existing folder; `half` stores float16, which loads as
    float32.
    """
    if isinstance(prior, LatentPrior):
        write_latent_weights(prior, folder)
        _write_spec(prior, folder)
        return
    network = prior.denoiser.network
    assert isinstance(network, nn.Module)
    dtype = torch.float16 if half else torch.float32
    weights = {
        # A copy: safetensors refuses tensors that share their memory.
        k: v.detach().to(dtype if v.is_floating_point() else v.dtype).clone().contiguous()
        for k, v in network.state_dict().items()
    }
    # Serialised in memory: safetensors' own writer reports a full disk as something else than an
    # OSError.
    with atomic_file(folder / "model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    _write_spec(prior, folder)


def _write_spec(prior: Prior, folder: Path) -> None:
    text = json.dumps({"format": FORMAT_VERSION, **prior.spec.to_json()}, indent=1)
    with atomic_file(folder / "prior.json") as file:
        file.write((text + "\n").encode())


def _file_sentence(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    pickled = path.suffix.lower() in _PICKLE_SUFFIXES or head[:2] in (
        b"PK",
        b"\x80\x02",
        b"\x80\x04",
    )
    found = f"the pickled file {path.name!r}" if pickled else f"the file {path.name!r}"
    reason = "; pickles can run code and are never loaded" if pickled else ""
    return (
        f"prior: expected a folder with prior.json and model.safetensors, got {found}{reason}; "
        "convert it by latino-engine import, or save the weights with safetensors beside a "
        "prior.json"
    )


def _read_folder(folder: Path, module: nn.Module | None, max_bytes: int | None) -> Prior:
    for name in ("prior.json", "model.safetensors"):
        if not (folder / name).is_file():
            pickles = [p.name for p in folder.iterdir() if p.suffix.lower() in _PICKLE_SUFFIXES]
            more = f" (only the pickled {pickles[0]!r}, which is never loaded)" if pickles else ""
            raise PriorInvalid(
                f"prior: expected {name} in {folder.name!r}, got none{more}; "
                "a prior is a folder with prior.json and model.safetensors"
            )
    spec = _read_spec(folder / "prior.json")
    if is_latent(spec):
        limit = MAX_PIPELINE_BYTES if max_bytes is None else max_bytes
        return read_latent_prior(spec, folder, limit)
    try:
        limit = MAX_BYTES if max_bytes is None else max_bytes
        check_size(folder / "model.safetensors", limit, "model.safetensors")
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise PriorInvalid(
            "model.safetensors: expected a safetensors file, got one that cannot be read "
            f"({error}); "
            "copy the file again from its source"
        ) from error
    return build_prior(spec, weights, module)


def _read_spec(path: Path) -> PriorSpec:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PriorInvalid(
            f"prior.json: expected JSON, got a file that cannot be read ({error}); restore the file"
        ) from error
    return parse_spec(fields)


def parse_spec(fields: Any) -> PriorSpec:
    """A `PriorSpec` from the fields of prior.json.

    Raises:
        PriorInvalid: another format version, missing fields, or values out of range.
    """
    if not isinstance(fields, dict):
        raise PriorInvalid(
            f"prior.json: expected an object, got {type(fields).__name__}; restore the file"
        )
    version = fields.get("format")
    if version != FORMAT_VERSION:
        raise PriorInvalid(
            f"prior.json: expected format {FORMAT_VERSION}, got {version!r}; "
            "use the release of latino-engine that wrote it, or save the prior again"
        )
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        raise PriorInvalid(
            f"prior.json: expected the fields {', '.join(_REQUIRED)}, got none named "
            f"{', '.join(missing)}; add them"
        )
    try:
        spec = _spec_from(fields)
    except (TypeError, ValueError, KeyError) as error:
        raise PriorInvalid(
            f"prior.json: expected numbers where the format says so, got {error}; correct the file"
        ) from error
    low, high = spec.data_range
    sane = spec.channels > 0 and spec.size_multiple > 0 and 0 < spec.sigma_min < spec.sigma_max
    if not (sane and low < high):
        raise PriorInvalid(
            "prior.json: expected channels > 0, size_multiple > 0, 0 < sigma_min < sigma_max and "
            f"data_range low < high, got channels {spec.channels}, size_multiple "
            f"{spec.size_multiple}, "
            f"sigma {spec.sigma_min:g}..{spec.sigma_max:g}, data_range {spec.data_range}; "
            "correct the file"
        )
    return spec


def _spec_from(fields: dict[str, Any]) -> PriorSpec:
    low, high = (float(v) for v in fields["data_range"])
    architecture, preconditioning = fields["architecture"], fields["preconditioning"]
    if isinstance(architecture, str):  # the flat layout: arguments beside the name
        architecture = {"name": architecture} | {
            k: fields[k] for k in _UNET_ARGUMENTS if k in fields
        }
    if isinstance(preconditioning, str):
        preconditioning = {"name": preconditioning, "sigma_data": float(fields["sigma_data"])}
    table = fields.get("sigma_table")
    return PriorSpec(
        name=str(fields["name"]),
        channels=int(fields["channels"]),
        size_multiple=int(fields["size_multiple"]),
        data_range=(low, high),
        sigma_min=float(fields["sigma_min"]),
        sigma_max=float(fields["sigma_max"]),
        architecture=dict(architecture),
        preconditioning=dict(preconditioning),
        sigma_table=None if table is None else tuple(float(v) for v in table),
        sampler={str(k): float(v) for k, v in fields.get("sampler", {}).items()},
        licence=str(fields.get("licence", "")),
    )


def build_prior(
    spec: PriorSpec, weights: Mapping[str, Tensor], module: nn.Module | None = None
) -> Prior:
    """The network of `spec`, or `module`, filled with `weights`.

    Raises:
        PriorInvalid: an architecture that is not known, or weights of other names or shapes.
    """
    network = build_network(spec, module)
    check_weights(network.state_dict(), weights)
    network.load_state_dict(dict(weights), strict=True)
    denoiser = build_denoiser(spec, network)
    return Prior(spec, denoiser.float().eval().requires_grad_(False))


def check_weights(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    source: str = "model.safetensors: expected the weights of the architecture in prior.json",
    remedy: str = "use the prior.json that belongs to these weights",
) -> None:
    """Raise `PriorInvalid` naming every missing, unexpected or misshapen weight (the first few of
    each, with the nearest names).
    """
    missing = [k for k in expected if k not in found]
    unexpected = [k for k in found if k not in expected]
    misshapen = [
        f"{k} {tuple(found[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in found and found[k].shape != expected[k].shape
    ]
    bad = [k for k, v in found.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    problems = []
    if missing:
        problems.append(f"missing {_listed(_with_nearest(missing, unexpected))}")
    if unexpected:
        problems.append(f"unexpected {_listed(unexpected)}")
    if misshapen:
        problems.append(f"of another shape {_listed(misshapen)}")
    if bad:
        problems.append(f"not finite {_listed(bad)}")
    if problems:
        raise PriorInvalid(f"{source}, got " + "; ".join(problems) + f"; {remedy}")


def _with_nearest(names: Iterable[str], candidates: list[str]) -> list[str]:
    out = []
    for name in names:
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.8)
        out.append(f"{name} (nearest: {close[0]})" if close else name)
    return out


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
