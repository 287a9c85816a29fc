"""OpenAI guided-diffusion checkpoints (ADM U-Net), and those of its many descendants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latino_engine.errors import PriorInvalid, invalid, whole_number
from latino_engine.priors.importers.checkpoint import MAX_BYTES, read_checkpoint, state_of
from latino_engine.priors.importers.discrete import eps_prior
from latino_engine.priors.prior import Prior

ADM = "adm-unet"  # the architecture's name in prior.json

_ATTENTION = re.compile(r"(qkv|proj_out)\.weight$")
_ORDERS = ("legacy", "new")


@dataclass(frozen=True)
class GuidedDiffusionPreset:
    """What a published file was trained with and does not tell: heads, order, schedule.

    `levels` and `conditional` are there to notice a preset that is not the file's.
    """

    levels: int
    conditional: bool = False
    num_heads: int | None = None
    head_channels: int | None = 64
    attention_order: str = "legacy"
    schedule: str = "linear"


PRESETS: dict[str, GuidedDiffusionPreset] = {
    "imagenet-64": GuidedDiffusionPreset(4, True, attention_order="new", schedule="cosine"),
    "imagenet-128": GuidedDiffusionPreset(5, True, num_heads=4, head_channels=None),
    "imagenet-256": GuidedDiffusionPreset(6, True),
    "imagenet-256-uncond": GuidedDiffusionPreset(6),
    "imagenet-512": GuidedDiffusionPreset(7, True),
    "lsun-bedroom": GuidedDiffusionPreset(6),
    "lsun-cat": GuidedDiffusionPreset(6),
    "lsun-horse": GuidedDiffusionPreset(6),
    "ffhq-10m": GuidedDiffusionPreset(6),
}


def import_guided_diffusion(
    checkpoint: str | Path,
    preset: str | None = None,
    *,
    num_heads: int | None = None,
    head_channels: int | None = None,
    attention_order: str | None = None,
    schedule: str | None = None,
    label: int | None = None,
    name: str | None = None,
    data_range: tuple[float, float] = (0.0, 1.0),
    key: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Prior:
    """A prior from a checkpoint of guided-diffusion (`256x256_diffusion_uncond.pt`, ...).

    Widths, resolutions with attention, residual blocks, learned variance, number of classes,
    scale-shift and the way resolutions change are read from the weights' names and shapes. The
    heads, the order of their channels and the noise schedule leave no trace there: a preset or the
    arguments state them.

    Args:
        checkpoint: a file of `torch.save` or safetensors.
        preset: one of `PRESETS`, for the published files.
        num_heads, head_channels: heads of an attention, or channels of one head; one of the two.
        attention_order: "legacy" or "new" (`use_new_attention_order`).
        schedule: "linear" or "cosine", T = 1000.
        label: the class that a class-conditional network is used for, 0 <= label < classes.
        name: of the prior; the file's name by default.
        data_range: (low, high) of your images; the network itself works in [-1, 1].
        key: of the weights, where the file holds several mappings.
        max_bytes: largest size that is read.

    Returns:
        The prior, float32, predicting eps; a learned variance is left out.

    Raises:
        PriorInvalid: a file that cannot be read, or weights of another network, with the names.
        ValueError: a choice that is missing, unknown or contradicts the file.

    Source: Dhariwal & Nichol (2021), arXiv:2105.05233.
    """
    weights = as_convolutions(state_of(read_checkpoint(checkpoint, max_bytes), key))
    found = describe_adm(weights)
    if preset is not None:
        chosen = _preset(preset, found)
        alone = num_heads is None and head_channels is None
        num_heads = chosen.num_heads if alone else num_heads
        head_channels = chosen.head_channels if alone else head_channels
        attention_order = attention_order or chosen.attention_order
        schedule = schedule or chosen.schedule
    _check_choices(num_heads, head_channels, attention_order, schedule)
    architecture = found | {
        "heads": num_heads,
        "head_channels": head_channels,
        "attention_order": attention_order,
        "label": _check_label(label, found["num_classes"]),
    }
    channels = int(architecture.pop("channels"))
    _check_heads(architecture)
    title = name or Path(checkpoint).stem
    return eps_prior(ADM, weights, channels, architecture, str(schedule), title, data_range)


def as_convolutions(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention weights (out, in, 1) as 1 x 1 convolutions (out, in, 1, 1)."""
    return {
        name: weight[..., None] if _ATTENTION.search(name) and weight.ndim == 3 else weight
        for name, weight in weights.items()
    }


def describe_adm(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """All that the weights' names and shapes tell: arguments of `ADMUNet`, and `channels`.

    Raises:
        PriorInvalid: weights of another network.
    """
    blocks = _numbers(weights, r"output_blocks\.(\d+)\.")
    entry, last = weights.get("input_blocks.0.0.weight"), weights.get("out.2.weight")
    embedding = weights.get("time_embed.0.weight")
    if not blocks or entry is None or last is None or embedding is None:
        wanted = "time_embed, input_blocks, middle_block, output_blocks and out"
        raise _foreign(f"{wanted}, got {', '.join(sorted({k.split('.')[0] for k in weights}))}")
    # A change of resolution is the last layer of its block on the way up, whatever its kind.
    changes = [i for i in blocks if _has_change(weights, i)]
    per_level = changes[0] + 1 if changes else len(blocks)
    levels = len(changes) + 1
    if len(blocks) != levels * per_level or per_level < 2:
        raise _foreign(f"equally many output_blocks per level, got {len(blocks)} for {levels}")
    down = per_level - 1
    firsts = [1 + level * (down + 1) for level in range(levels)]
    channels, out_channels = entry.shape[1], last.shape[0]
    if out_channels not in (channels, 2 * channels) or channels == 6:
        raise _foreign(
            f"as many output channels as input channels, or twice as many, got {channels} in and "
            f"{out_channels} out (an upsampler or a classifier is no prior)"
        )
    inner = weights.get("input_blocks.1.0.emb_layers.1.weight")
    widths = [weights.get(f"input_blocks.{i}.0.in_layers.2.weight") for i in firsts]
    if inner is None or any(width is None for width in widths):
        raise _foreign("a residual block at the start of every level, got none")
    classes = weights.get("label_emb.weight")
    sides = [int(width.shape[0]) for width in widths if width is not None]
    return {
        "channels": int(channels),
        "model_channels": int(embedding.shape[1]),
        "widths": sides,
        "blocks_per_level": down,
        "attention_levels": [
            level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in weights
        ],
        "scale_shift": inner.shape[0] == 2 * sides[0],
        "resblock_updown": not any(k.endswith((".op.weight", ".conv.weight")) for k in weights),
        "learn_sigma": out_channels == 2 * channels,
        "num_classes": None if classes is None else int(classes.shape[0]),
    }


def _has_change(weights: Mapping[str, Tensor], block: int) -> bool:
    stem = f"output_blocks.{block}."
    return any(
        f"{stem}{i}.{mark}" in weights
        for i in (1, 2)
        for mark in ("in_layers.0.weight", "conv.weight")
    )


def _numbers(weights: Mapping[str, Tensor], pattern: str) -> list[int]:
    found = {int(m.group(1)) for name in weights if (m := re.match(pattern, name))}
    return sorted(found)


def _foreign(expected_got: str) -> PriorInvalid:
    return PriorInvalid(
        f"checkpoint: expected a guided-diffusion U-Net with {expected_got}; "
        "choose the format that wrote this file"
    )


def _preset(preset: str, found: Mapping[str, Any]) -> GuidedDiffusionPreset:
    if preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise invalid("preset", f"one of {known}", repr(preset), "choose one, or state the choices")
    chosen = PRESETS[preset]
    levels, conditional = len(found["widths"]), found["num_classes"] is not None
    if (levels, conditional) != (chosen.levels, chosen.conditional):
        kinds = {True: "class-conditional", False: "unconditional"}
        raise invalid(
            "preset",
            f"one for {levels} levels, {kinds[conditional]}, as the file is",
            f"{preset!r}, for {chosen.levels} levels, {kinds[chosen.conditional]}",
            "choose the preset of this file",
        )
    return chosen


def _check_choices(
    num_heads: int | None, head_channels: int | None, order: str | None, schedule: str | None
) -> None:
    missing = []
    if num_heads is None and head_channels is None:
        missing.append("num_heads or head_channels")
    missing += ["attention_order"] if order is None else []
    missing += ["schedule"] if schedule is None else []
    if missing:
        raise invalid(
            ", ".join(missing),
            "what the network was trained with, which its weights do not tell",
            None,
            f"state it, or name a preset ({', '.join(PRESETS)})",
        )
    if num_heads is not None and head_channels is not None:
        got = f"{num_heads} and {head_channels}"
        raise invalid("num_heads, head_channels", "one of the two", got, "leave one out")
    for argument, value in (("num_heads", num_heads), ("head_channels", head_channels)):
        if value is not None and whole_number(argument, value) < 1:
            raise invalid(argument, "at least 1", value, "state what it was trained with")
    if order not in _ORDERS:
        known = " or ".join(map(repr, _ORDERS))
        raise invalid("attention_order", known, repr(order), "choose one of them")


def _check_heads(architecture: Mapping[str, Any]) -> None:
    """Every attention must divide into its heads."""
    widths = architecture["widths"]
    attended = {widths[level] for level in architecture["attention_levels"]} | {widths[-1]}
    heads, channels = architecture["heads"], architecture["head_channels"]
    part, argument = (heads, "num_heads") if heads else (channels, "head_channels")
    wrong = sorted(width for width in attended if width % part)
    if wrong:
        expected = f"a divisor of the attentions' widths {sorted(attended)}"
        raise invalid(argument, expected, part, "state what it was trained with")


def _check_label(label: int | None, classes: int | None) -> int | None:
    if classes is None:
        if label is not None:
            raise invalid("label", "None for an unconditional network", label, "leave it out")
        return None
    if label is None or not 0 <= whole_number("label", label) < classes:
        expected = f"a class in 0..{classes - 1} of this class-conditional network"
        raise invalid("label", expected, label, "choose the class that the images belong to")
    return label
