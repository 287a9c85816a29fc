"""Checkpoints in their published layouts (names, shapes, dtypes), small in width, random weights.

The names are written out here as the published files have them, independent of this package's
networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def adm_layout(
    channels: int = 3,
    model_channels: int = 32,
    multiples: Sequence[float] = (1, 1, 2),
    blocks: int = 1,
    attention: Sequence[int] = (2,),
    learn_sigma: bool = True,
    scale_shift: bool = True,
    updown: bool = True,
    classes: int | None = None,
) -> Shapes:
    """guided-diffusion's UNetModel; `attention` lists levels."""
    widths = [int(model_channels * m) for m in multiples]
    embedding = 4 * model_channels
    shapes: Shapes = {}

    def conv(name: str, inside: int, outside: int, side: int = 3) -> None:
        shapes[f"{name}.weight"] = (outside, inside, side, side)
        shapes[f"{name}.bias"] = (outside,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def linear(name: str, inside: int, outside: int) -> None:
        shapes[f"{name}.weight"] = (outside, inside)
        shapes[f"{name}.bias"] = (outside,)

    def block(name: str, inside: int, outside: int) -> None:
        norm(f"{name}.in_layers.0", inside)
        conv(f"{name}.in_layers.2", inside, outside)
        linear(f"{name}.emb_layers.1", embedding, 2 * outside if scale_shift else outside)
        norm(f"{name}.out_layers.0", outside)
        conv(f"{name}.out_layers.3", outside, outside)
        if inside != outside:
            conv(f"{name}.skip_connection", inside, outside, 1)

    def attend(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for layer, outside in (("qkv", 3 * width), ("proj_out", width)):
            shapes[f"{name}.{layer}.weight"] = (outside, width, 1)  # one-dimensional convolutions
            shapes[f"{name}.{layer}.bias"] = (outside,)

    linear("time_embed.0", model_channels, embedding)
    linear("time_embed.2", embedding, embedding)
    if classes is not None:
        shapes["label_emb.weight"] = (classes, embedding)
    width, number, kept = widths[0], 1, [widths[0]]
    conv("input_blocks.0.0", channels, width)
    for level, wanted in enumerate(widths):
        for _ in range(blocks):
            block(f"input_blocks.{number}.0", width, wanted)
            width = wanted
            if level in attention:
                attend(f"input_blocks.{number}.1", width)
            number, kept = number + 1, [*kept, width]
        if level + 1 < len(widths):
            if updown:
                block(f"input_blocks.{number}.0", width, width)
            else:
                conv(f"input_blocks.{number}.0.op", width, width)
            number, kept = number + 1, [*kept, width]
    block("middle_block.0", width, width)
    attend("middle_block.1", width)
    block("middle_block.2", width, width)
    number = 0
    for level, wanted in reversed(list(enumerate(widths))):
        for i in range(blocks + 1):
            block(f"output_blocks.{number}.0", width + kept.pop(), wanted)
            width, place = wanted, 1
            if level in attention:
                attend(f"output_blocks.{number}.1", width)
                place = 2
            if level and i == blocks:
                if updown:
                    block(f"output_blocks.{number}.{place}", width, width)
                else:
                    conv(f"output_blocks.{number}.{place}.conv", width, width)
            number += 1
    norm("out.0", width)
    conv("out.2", width, 2 * channels if learn_sigma else channels)
    return shapes


def ddpm_layout(
    channels: int = 3,
    ch: int = 32,
    multiples: Sequence[int] = (1, 2, 2),
    blocks: int = 2,
    attention: Sequence[int] = (2,),
) -> Shapes:
    """pesser/pytorch_diffusion's Model; `attention` lists levels."""
    widths, embedding = [ch * m for m in multiples], 4 * ch
    shapes: Shapes = {}

    def put(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[0],)

    def block(name: str, inside: int, outside: int) -> None:
        put(f"{name}.norm1", inside)
        put(f"{name}.conv1", outside, inside, 3, 3)
        put(f"{name}.temb_proj", outside, embedding)
        put(f"{name}.norm2", outside)
        put(f"{name}.conv2", outside, outside, 3, 3)
        if inside != outside:
            put(f"{name}.nin_shortcut", outside, inside, 1, 1)

    def attend(name: str, width: int) -> None:
        put(f"{name}.norm", width)
        for layer in ("q", "k", "v", "proj_out"):
            put(f"{name}.{layer}", width, width, 1, 1)

    put("temb.dense.0", embedding, ch)
    put("temb.dense.1", embedding, embedding)
    put("conv_in", ch, channels, 3, 3)
    width = ch
    for level, wanted in enumerate(widths):
        for i in range(blocks):
            block(f"down.{level}.block.{i}", width, wanted)
            width = wanted
            if level in attention:
                attend(f"down.{level}.attn.{i}", width)
        if level + 1 < len(widths):
            put(f"down.{level}.downsample.conv", width, width, 3, 3)
    block("mid.block_1", width, width)
    attend("mid.attn_1", width)
    block("mid.block_2", width, width)
    for level in reversed(range(len(widths))):
        skips = [widths[level]] * blocks + [widths[level - 1] if level else ch]
        for i, skip in enumerate(skips):
            block(f"up.{level}.block.{i}", width + skip, widths[level])
            width = widths[level]
            if level in attention:
                attend(f"up.{level}.attn.{i}", width)
        if level:
            put(f"up.{level}.upsample.conv", width, width, 3, 3)
    put("norm_out", width)
    put("conv_out", channels, width, 3, 3)
    return shapes


def fill(shapes: Shapes, seed: int = 0, gain: float = 1.0) -> dict[str, Tensor]:
    """Random float32 weights that keep the scale of what passes through them."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        fan_in = max(1, int(torch.tensor(shape[1:]).prod()))
        if len(shape) == 1:
            plain = "norm" in name or name.split(".")[-2] == "0"
            centre = 1.0 if name.endswith("weight") and plain else 0.0
            weights[name] = centre + 0.1 * noise
        else:
            weights[name] = gain * noise / fan_in**0.5
    return weights
