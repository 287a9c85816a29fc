"""A U-Net denoising network with a time embedding, group normalisation and one attention block.

Source: Ronneberger et al. (2015) for the U; Ho et al. (2020) and Dhariwal & Nichol (2021) for the
time embedding, the scale-shift normalisation and the attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation whose statistics are float32 whatever the network's precision.

    In float16 the variance over a group of a large image overflows or loses all its digits.
    """

    def forward(self, x: Tensor) -> Tensor:
        normalised = F.group_norm(
            x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps
        )
        return normalised.to(x.dtype)


class ResidualBlock(nn.Module):
    """skip(x) + conv2(SiLU(norm2(h) (1 + a) + b)), h = conv1(SiLU(norm1(x))), (a, b) = emb(e)."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(embedding, 2 * out_channels)
        self.norm2 = GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.emb(e)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1.0 + scale) + shift))
        return cast(Tensor, self.skip(x) + h)


class Attention(nn.Module):
    """h + proj(softmax(q k^T / sqrt(d)) v).

    The output channels of qkv are ordered (q/k/v, head, channel).
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, H W, C / heads) each
        mixed = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        mixed = mixed.transpose(-1, -2).reshape(batch, channels, height, width)
        return cast(Tensor, x + self.proj(mixed))


class _Level(nn.Module):
    """The blocks of one resolution; `downsample` or `upsample` changes to the next one."""

    def __init__(self, blocks: Sequence[nn.Module], **change: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        for name, module in change.items():
            self.add_module(name, module)


_FREQUENCIES = 32  # of the noise level's features, from 1 to 1000


def noise_frequencies() -> Tensor:
    """The frequencies of `noise_features`, (32,)."""
    return torch.exp(torch.linspace(0.0, math.log(1000.0), _FREQUENCIES))


def noise_features(c_noise: Tensor, frequencies: Tensor) -> Tensor:
    """Sines and cosines of c_noise, (B,) -> (B, 64) float32."""
    angles = 0.25 * c_noise[:, None] * frequencies  # (B, 32) float32
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def noise_layers(width: int) -> nn.Sequential:
    """The layers behind `noise_features`, (B, 64) -> (B, width)."""
    first = nn.Linear(2 * _FREQUENCIES, width)
    return nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU())


class UNet(nn.Module):
    """F(x, c_noise) of the preconditioned denoiser.

    Args:
        channels: image channels C.
        widths: channels per resolution, the finest first.
        blocks_per_level: residual blocks per resolution, on the way down and up.
        attention_heads: heads of the attention at the coarsest resolution.
        embedding: width of the time embedding.
        groups: groups of every group normalisation.
        pixel_unshuffle: side of the pixel blocks that become channels at the entry.

    Shapes: x (B, C, H, W), with sides divisible by pixel_unshuffle * 2^(len(widths) - 1), and
        c_noise (B,).
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks_per_level: int = 2,
        attention_heads: int = 4,
        embedding: int = 128,
        groups: int = 8,
        pixel_unshuffle: int = 2,
    ) -> None:
        super().__init__()
        self.pixel_unshuffle = pixel_unshuffle
        self.register_buffer("frequencies", noise_frequencies(), persistent=False)
        self.time_embed = noise_layers(embedding)
        packed = channels * pixel_unshuffle**2
        self.conv_in = nn.Conv2d(packed, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            down = [ResidualBlock(width, width, embedding, groups) for _ in range(blocks_per_level)]
            up = [
                ResidualBlock(2 * width, width, embedding, groups) for _ in range(blocks_per_level)
            ]
            change_down: dict[str, nn.Module] = {}
            change_up: dict[str, nn.Module] = {}
            if level + 1 < len(widths):
                change_down["downsample"] = nn.Conv2d(width, widths[level + 1], 2, stride=2)
            if level > 0:
                change_up["upsample"] = nn.ConvTranspose2d(width, widths[level - 1], 2, stride=2)
            self.down.append(_Level(down, **change_down))
            self.up.insert(0, _Level(up, **change_up))
        self.mid = nn.ModuleDict({"attention": Attention(widths[-1], attention_heads, groups)})
        self.norm_out = GroupNorm(groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], packed, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        features = noise_features(c_noise, cast(Tensor, self.frequencies))
        e = self.time_embed(features.to(x.dtype))
        h = self.conv_in(F.pixel_unshuffle(x, self.pixel_unshuffle))
        stack: list[Tensor] = []
        for level in self.down:
            for block in cast(nn.ModuleList, level.blocks):
                h = block(h, e)
                stack.append(h)
            if hasattr(level, "downsample"):
                h = cast(nn.Module, level.downsample)(h)
        h = self.mid["attention"](h)
        for level in self.up:
            for block in cast(nn.ModuleList, level.blocks):
                h = block(torch.cat((h, stack.pop()), dim=1), e)
            if hasattr(level, "upsample"):
                h = cast(nn.Module, level.upsample)(h)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.pixel_unshuffle)
