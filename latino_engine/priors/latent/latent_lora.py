"""Low-rank changes of a U-Net from a safetensors file, in the layouts that are in use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latino_engine.errors import AdapterInvalid
from latino_engine.priors.adapters import low_rank_change
from latino_engine.priors.importers.checkpoint import MAX_BYTES, check_size

_PREFIXES = ("base_model.model.", "unet.", "lora_unet_")
#: Ending of a name -> which factor of W + (alpha / r) up @ down it is.
_ENDINGS = {
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}


def merge_lora(unet: nn.Module, path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Add (alpha / r) B A to the weights of the U-Net, in place; alpha = r where none is given.

    Layouts: kohya's (lora_unet_..., lora_down, lora_up, alpha), peft's (lora_A, lora_B) and
    diffusers' (processor.to_q_lora.down, .up), the last two with or without "unet." in front; a
    kohya file that names SDXL's blocks as input_blocks and output_blocks is renamed by diffusers.

    Raises:
        AdapterInvalid: no such file, a name or a shape without its place in the U-Net.
        PriorInvalid: a file larger than max_bytes.
    """
    layers = {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    places = _places(layers)
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _read(path, unet, max_bytes).items():
        stem, kind = _split(key)
        target = places.get(_flat(stem))
        if kind is None or target is None:
            near = difflib.get_close_matches(stem, list(layers), n=1, cutoff=0.5)
            nearest = f" (nearest: {near[0]})" if near else ""
            raise AdapterInvalid(
                f"lora: expected changes of the U-Net's layers, got {key!r}, which has no place "
                f"there{nearest}; use the LoRA of this very model"
            )
        factors.setdefault(target, {})[kind] = tensor
    if not factors:
        raise AdapterInvalid(
            f"lora: expected changes of layers, got none in {path.name!r}; give a LoRA file"
        )
    changes = {name: _checked(name, layers[name], found) for name, found in factors.items()}
    for name, (down, up, scale) in changes.items():
        weight = layers[name].weight
        delta = low_rank_change(down.float(), up.float()).reshape(weight.shape)
        with torch.no_grad():
            weight.copy_((weight.float() + scale * delta).to(weight.dtype))


def _read(path: Path, unet: nn.Module, max_bytes: int) -> Mapping[str, Tensor]:
    try:
        check_size(path, max_bytes, "lora")
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterInvalid(
            f"lora: expected a safetensors file, got {str(path)!r}, which cannot be read as one "
            f"({error}); give the file of the LoRA"
        ) from error
    if not any("input_blocks" in key or "output_blocks" in key for key in found):
        return found
    from diffusers import StableDiffusionXLPipeline

    config = getattr(unet, "config", None)
    renamed, alphas = StableDiffusionXLPipeline.lora_state_dict(found, unet_config=config)
    extra = {name: torch.tensor(float(value)) for name, value in (alphas or {}).items()}
    return {**renamed, **extra}


def _places(layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Every name without dots -> the layer; old layouts call to_out.0 to_out."""
    places = {}
    for name in layers:
        flat = name.replace(".", "_")
        places[flat] = name
        if flat.endswith("_to_out_0"):
            places[flat.removesuffix("_0")] = name
    return places


def _flat(stem: str) -> str:
    return stem.replace(".processor.", ".").replace(".", "_")


def _split(key: str) -> tuple[str, str | None]:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    for ending, kind in _ENDINGS.items():
        if key.endswith(ending):
            stem = key.removesuffix(ending)
            # diffusers keeps "_lora" or ".lora" and the direction in the names of its alphas.
            for tail in ("_lora.down.weight", ".lora.down.weight"):
                stem = stem.removesuffix(tail)
            return stem, kind
    return key, None


def _checked(
    name: str, layer: nn.Module, found: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, float]:
    down, up = found.get("down"), found.get("up")
    if down is None or up is None:
        lacking = "down (A)" if down is None else "up (B)"
        raise AdapterInvalid(
            f"lora: expected both factors for {name!r}, got none named {lacking}; copy the file "
            "again from its source"
        )
    weight = layer.weight
    assert isinstance(weight, Tensor)
    rank, shape = down.shape[0], (up.shape[0], *down.shape[1:])
    fits = up[0].numel() == rank and torch.Size(shape).numel() == weight.numel()
    if not fits or up.shape[0] != weight.shape[0] or down.shape[1] != weight.shape[1]:
        raise AdapterInvalid(
            f"lora: expected a change of shape {tuple(weight.shape)} for {name!r}, got factors "
            f"{tuple(up.shape)} and {tuple(down.shape)}; use the LoRA of this very model"
        )
    if not bool(torch.isfinite(down).all() & torch.isfinite(up).all()):
        raise AdapterInvalid(
            f"lora: expected finite factors for {name!r}, got NaN or infinite ones; copy the file "
            "again from its source"
        )
    alpha = found.get("alpha")
    return down, up, 1.0 if alpha is None else float(alpha) / rank
