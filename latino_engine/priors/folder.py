"""A prior as a folder: prior.json + model.safetensors. Reading never unpickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from latino_engine.atomic import atomic_file, atomic_folder
from latino_engine.errors import PriorInvalid
from latino_engine.priors.assembly import build_prior
from latino_engine.priors.importers.checkpoint import MAX_BYTES, check_size
from latino_engine.priors.latent.latent_folder import (
    read_latent_prior,
    write_latent_weights,
)
from latino_engine.priors.latent.pipeline_files import MAX_PIPELINE_BYTES
from latino_engine.priors.latent.prior import LatentPrior, is_latent
from latino_engine.priors.prior import Prior, PriorSpec

FORMAT_VERSION = 1

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
