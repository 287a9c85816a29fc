"""The U-Net of guided-diffusion (ADM), with the names of its published weights.

Source: Dhariwal & Nichol (2021), arXiv:2105.05233, appendix; Nichol & Dhariwal (2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latino_engine.priors.networks.unet import GroupNorm

_GROUPS = 32
_LONGEST_PERIOD = 10_000.0


def sinusoidal(times: Tensor, frequencies: Tensor, sine_first: bool) -> Tensor:
    """Sines and cosines of times x frequencies: (B,), (F,) -> (B, 2 F) float32."""
    angles = times.float()[:, None] * frequencies
    pair = (angles.sin(), angles.cos()) if sine_first else (angles.cos(), angles.sin())
    return torch.cat(pair, dim=1)


def frequencies(count: int, intervals: int) -> Tensor:
    """10000^(-i / intervals), i = 0 .. count - 1: (count,) float32."""
    return torch.exp(
        -math.log(_LONGEST_PERIOD) * torch.arange(count, dtype=torch.float32) / intervals
    )


class Upsample(nn.Module):
    """Every pixel twice along both axes, then a 3 x 3 convolution where it has one."""

    def __init__(self, channels: int, convolve: bool) -> None:
        super().__init__()
        self.conv: nn.Module = (
            nn.Conv2d(channels, channels, 3, padding=1) if convolve else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class Downsample(nn.Module):
    """A 3 x 3 convolution of stride 2, or the mean over 2 x 2 pixels."""

    def __init__(self, channels: int, convolve: bool) -> None:
        super().__init__()
        self.op: nn.Module = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) if convolve else nn.AvgPool2d(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.op(x))


class ResBlock(nn.Module):
    """skip(R x) + conv2(SiLU(N2(conv1(R SiLU(N1 x))))), R = identity, down or up by two.

    With scale-shift, N2 = norm(h) (1 + a) + b, else N2 = norm(h + a), from the time embedding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        scale_shift: bool,
        change: str = "",
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            GroupNorm(_GROUPS, in_channels),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        resize = {"up": Upsample, "down": Downsample}.get(change)
        self.resize: nn.Module = nn.Identity() if resize is None else resize(in_channels, False)
        wide = 2 * out_channels if scale_shift else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, wide))
        self.out_layers = nn.Sequential(
            GroupNorm(_GROUPS, out_channels),
            nn.SiLU(),
            nn.Identity(),  # the place of the dropout, which numbers the next layer
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = in_channels == out_channels
        self.skip_connection: nn.Module = (
            nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        h = self.in_layers[2](self.resize(h))
        embedded = self.emb_layers(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1.0 + scale) + shift
        else:
            h = self.out_layers[0](h + embedded)
        h = self.out_layers[3](F.silu(h))
        return cast(Tensor, self.skip_connection(self.resize(x)) + h)


class AttentionBlock(nn.Module):
    """x + proj(softmax(q k^T / sqrt(d)) v).

    Output channels of qkv are ordered (head, q/k/v, channel) in the legacy order and (q/k/v, head,
    channel) in the new one. 1 x 1 convolutions, where the published files hold (out, in, 1).
    """

    def __init__(self, channels: int, heads: int, order: str) -> None:
        super().__init__()
        self.heads = heads
        self.order = order
        self.norm = GroupNorm(_GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        depth = channels // self.heads
        qkv = self.qkv(self.norm(x))
        if self.order == "new":
            parts = qkv.reshape(batch, 3, self.heads, depth, height * width).unbind(1)
        else:
            parts = qkv.reshape(batch, self.heads, 3, depth, height * width).unbind(2)
        q, k, v = (part.transpose(-1, -2).contiguous() for part in parts)  # (B, heads, H W, depth)
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(-1, -2).reshape(batch, channels, height, width)
        return cast(Tensor, x + self.proj_out(mixed))


class ADMUNet(nn.Module):
    """F(x, t) of guided-diffusion: eps, and the variance's channels where it was learned.

    Args:
        channels: image channels.
        model_channels: width of the sinusoidal embedding, "num_channels" of guided-diffusion.
        widths: channels per resolution, the finest first.
        blocks_per_level: residual blocks per resolution on the way down; one more on the way up.
        attention_levels: resolutions with attention, 0 the finest; the middle always has one.
        heads, head_channels: number of heads, or channels of a head; exactly one of them.
        attention_order: "legacy" or "new".
        scale_shift: the embedding scales and shifts the normalised features, else it is added.
        resblock_updown: resolutions change inside residual blocks, else by convolutions.
        learn_sigma: twice as many output channels.
        num_classes, label: of a class-conditional network, and the class it is used for.

    Shapes: x (B, C, H, W), sides divisible by 2^(len(widths) - 1); t (B,), fractional ones too.
    """

    def __init__(
        self,
        channels: int,
        model_channels: int,
        widths: Sequence[int],
        blocks_per_level: int,
        attention_levels: Sequence[int],
        heads: int | None = None,
        head_channels: int | None = None,
        attention_order: str = "legacy",
        scale_shift: bool = True,
        resblock_updown: bool = True,
        learn_sigma: bool = True,
        num_classes: int | None = None,
        label: int | None = None,
    ) -> None:
        super().__init__()
        embedding = 4 * model_channels
        half = model_channels // 2
        self.register_buffer("frequencies", frequencies(half, half), persistent=False)
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = label
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, embedding)

        def block(inside: int, outside: int, change: str = "") -> ResBlock:
            return ResBlock(inside, outside, embedding, scale_shift, change)

        def attention(width: int) -> AttentionBlock:
            count = heads if heads is not None else width // cast(int, head_channels)
            return AttentionBlock(width, count, attention_order)

        def resized(width: int, change: str) -> nn.Module:
            if resblock_updown:
                return block(width, width, change)
            return Upsample(width, True) if change == "up" else Downsample(width, True)

        width = widths[0]
        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])]
        )
        kept = [width]
        for level, wanted in enumerate(widths):
            for _ in range(blocks_per_level):
                layers: list[nn.Module] = [block(width, wanted)]
                width = wanted
                layers += [attention(width)] if level in attention_levels else []
                self.input_blocks.append(nn.ModuleList(layers))
                kept.append(width)
            if level + 1 < len(widths):
                self.input_blocks.append(nn.ModuleList([resized(width, "down")]))
                kept.append(width)
        self.middle_block = nn.ModuleList(
            [block(width, width), attention(width), block(width, width)]
        )
        self.output_blocks = nn.ModuleList()
        for level, wanted in reversed(list(enumerate(widths))):
            for i in range(blocks_per_level + 1):
                layers = [block(width + kept.pop(), wanted)]
                width = wanted
                layers += [attention(width)] if level in attention_levels else []
                layers += [resized(width, "up")] if level and i == blocks_per_level else []
                self.output_blocks.append(nn.ModuleList(layers))
        out_channels = 2 * channels if learn_sigma else channels
        self.out = nn.Sequential(
            GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = sinusoidal(t, cast(Tensor, self.frequencies), sine_first=False)
        e = self.time_embed(features.to(x.dtype))
        if self.label is not None:
            e = e + self.label_emb.weight[self.label].to(e.dtype)
        h, kept = x, []
        for layers in self.input_blocks:
            h = _through(cast(nn.ModuleList, layers), h, e)
            kept.append(h)
        h = _through(self.middle_block, h, e)
        for layers in self.output_blocks:
            h = _through(cast(nn.ModuleList, layers), torch.cat((h, kept.pop()), dim=1), e)
        return cast(Tensor, self.out(h))


def _through(layers: nn.ModuleList, h: Tensor, e: Tensor) -> Tensor:
    for layer in layers:
        h = layer(h, e) if isinstance(layer, ResBlock) else layer(h)
    return h
