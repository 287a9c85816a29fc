"""A prior as a folder: prior.json + model.safetensors. Reading never unpickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from latino_engine.atomic import atomic_file, atomic_folder
from latino_engine.errors import PriorInvalid
from latino_engine.ops.philox import MAX_CHANNELS
from latino_engine.priors.assembly import build_prior
from latino_engine.priors.importers.checkpoint import MAX_BYTES, check_size
from latino_engine.priors.latent.latent_folder import (
    read_latent_prior,
    write_latent_weights,
)
from latino_engine.priors.latent.pipeline_files import MAX_PIPELINE_BYTES
from latino_engine.priors.latent.prior import LatentPrior, is_latent
from latino_engine.priors.prior import Prior, PriorSpec
from latino_engine.system.described import (
    Finite,
    Name,
    NotAsDescribed,
    Positive,
    described,
    read_json,
)

FORMAT_VERSION = 1

_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_UNET_ARGUMENTS = (
    "widths",
    "blocks_per_level",
    "attention_heads",
    "embedding",
    "groups",
    "pixel_unshuffle",
)


class _PriorFile(Struct):
    """prior.json, apart from its format.

    In the flat layout of old files, architecture and preconditioning are names, their arguments
    stand beside them.
    """

    name: Name
    channels: Annotated[int, Meta(ge=1, le=MAX_CHANNELS)]
    size_multiple: Annotated[int, Meta(ge=1, le=1 << 16)]
    data_range: tuple[Finite, Finite]
    sigma_min: Positive
    sigma_max: Positive
    architecture: dict[str, Any] | Name
    preconditioning: dict[str, Any] | Name
    sigma_data: Positive | None = None
    sigma_table: Annotated[list[Positive], Meta(max_length=1 << 20)] | None = None
    sampler: dict[str, Finite] = {}
    licence: Annotated[str, Meta(max_length=1 << 16)] = ""


class _SamplerFile(Struct):
    """The defaults of the zero-shot sampler in prior.json."""

    sigma_max: Positive = 1.0
    sigma_min: Positive = 1e-3
    steps: Annotated[float, Meta(ge=1.0, le=1e4)] = 8.0


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


def file_sentence(path: Path) -> str:
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


def read_folder(folder: Path, module: nn.Module | None, max_bytes: int | None) -> Prior:
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
        fields = read_json(path)
    except (NotAsDescribed, OSError) as error:
        raise PriorInvalid(
            f"prior.json: expected JSON, got a file that cannot be read as such: expected {error}; "
            "restore the file"
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
            f"prior.json: expected format {FORMAT_VERSION}, got {repr(version)[:40]}; "
            "use the release of latino-engine that wrote it, or save the prior again"
        )
    try:
        told = described(fields, _PriorFile)
        described(told.sampler, _SamplerFile)
    except NotAsDescribed as error:
        raise PriorInvalid(f"prior.json: expected {error}; correct the file") from error
    low, high = told.data_range
    if not (told.sigma_min < told.sigma_max and low < high):
        raise PriorInvalid(
            "prior.json: expected sigma_min < sigma_max and data_range low < high, got "
            f"sigma {told.sigma_min:g}..{told.sigma_max:g}, data_range {told.data_range}; "
            "correct the file"
        )
    architecture, preconditioning = told.architecture, told.preconditioning
    if isinstance(architecture, str):
        beside = {name: fields[name] for name in _UNET_ARGUMENTS if name in fields}
        architecture = {"name": architecture} | beside
    if isinstance(preconditioning, str):
        preconditioning = {"name": preconditioning, "sigma_data": told.sigma_data}
    return PriorSpec(
        name=told.name,
        channels=told.channels,
        size_multiple=told.size_multiple,
        data_range=(low, high),
        sigma_min=told.sigma_min,
        sigma_max=told.sigma_max,
        architecture=architecture,
        preconditioning=preconditioning,
        sigma_table=None if told.sigma_table is None else tuple(told.sigma_table),
        sampler=told.sampler,
        licence=told.licence,
    )
