"""Checkpoints of the DDPM U-Net in its PyTorch port (LSUN bedroom, cat, church; CIFAR-10)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from latino_engine.errors import PriorInvalid
from latino_engine.priors.importers.checkpoint import MAX_BYTES, read_checkpoint, state_of
from latino_engine.priors.importers.discrete import eps_prior
from latino_engine.priors.prior import Prior

_PREFIX = "model."


def import_ddpm(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    data_range: tuple[float, float] = (0.0, 1.0),
    key: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Prior:
    """A prior from a checkpoint of Ho et al.'s U-Net, named as in pesser/pytorch_diffusion.

    Everything about the network is read from the weights' names and shapes. All files of this
    layout were trained to predict eps under linear betas 1e-4 .. 0.02, T = 1000.

    Args:
        checkpoint: a file of `torch.save` or safetensors, such as
            `ema_diffusion_lsun_bedroom_model/model-2388000.ckpt`.
        name: of the prior; the file's name by default.
        data_range: (low, high) of your images; the network itself works in [-1, 1].
        key: of the weights, where the file holds several mappings.
        max_bytes: largest size that is read.

    Raises:
        PriorInvalid: a file that cannot be read, or weights of another network, with the names.

    Source: Ho et al. (2020), arXiv:2006.11239.
    """
    weights = state_of(read_checkpoint(checkpoint, max_bytes), key)
    if weights and all(k.startswith(_PREFIX) for k in weights):
        weights = {k[len(_PREFIX) :]: v for k, v in weights.items()}
    found = describe_ddpm(weights)
    channels, title = int(found.pop("channels")), name or Path(checkpoint).stem
    return eps_prior("ddpm-unet", weights, channels, found, "linear", title, data_range)


def describe_ddpm(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the weights' names and shapes tell: arguments of `DDPMUNet`, and `channels`.

    Raises:
        PriorInvalid: weights of another network.
    """
    entry = weights.get("conv_in.weight")
    places = [m for k in weights if (m := re.match(r"down\.(\d+)\.block\.(\d+)\.conv1\.weight", k))]
    if entry is None or not places or "temb.dense.0.weight" not in weights:
        heads = ", ".join(sorted({k.split(".")[0] for k in weights}))
        raise PriorInvalid(
            "checkpoint: expected a DDPM U-Net with temb, conv_in, down, mid, up and conv_out, got "
            f"{heads}; choose the format that wrote this file"
        )
    levels = 1 + max(int(m.group(1)) for m in places)
    blocks = 1 + max(int(m.group(2)) for m in places)
    widths = [weights.get(f"down.{level}.block.0.conv1.weight") for level in range(levels)]
    return {
        "channels": int(entry.shape[1]),
        "model_channels": int(entry.shape[0]),
        "widths": [int(w.shape[0]) for w in widths if w is not None],
        "blocks_per_level": blocks,
        "attention_levels": [
            level for level in range(levels) if f"down.{level}.attn.0.q.weight" in weights
        ],
    }
