"""The U-Net of denoising diffusion probabilistic models, with the names of its PyTorch port.

Source: Ho et al. (2020), arXiv:2006.11239, appendix B; names as in pesser/pytorch_diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latino_engine.priors.networks.guided_diffusion_network import Upsample, frequencies, sinusoidal
from latino_engine.priors.networks.unet import GroupNorm

_GROUPS, _EPS = 32, 1e-6


class Downsample(nn.Module):
    """A 3 x 3 convolution of stride 2 on an image with one row and column of zeros at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.pad(x, (0, 1, 0, 1))))


class ResnetBlock(nn.Module):
    """shortcut(x) + conv2(SiLU(norm2(conv1(SiLU(norm1 x)) + temb)))."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(_GROUPS, in_channels, eps=_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(embedding, out_channels)
        self.norm2 = GroupNorm(_GROUPS, out_channels, eps=_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.nin_shortcut: nn.Module = (
            nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(e))[:, :, None, None]
        return cast(Tensor, self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h))))


class AttnBlock(nn.Module):
    """x + proj(softmax(q k^T / sqrt(C)) v), one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(_GROUPS, channels, eps=_EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.norm(x)
        q, k, v = (
            layer(h).reshape(batch, 1, channels, height * width).transpose(-1, -2).contiguous()
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(-1, -2).reshape(batch, channels, height, width)
        return cast(Tensor, x + self.proj_out(mixed))


class _Level(nn.Module):
    """The blocks of one resolution, their attentions, and the change to the next resolution."""

    def __init__(self, blocks: list[nn.Module], attention: list[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attention)

    def pair(self, i: int, h: Tensor, e: Tensor) -> Tensor:
        """Block i, then its attention where there is one."""
        h = self.block[i](h, e)
        return cast(Tensor, self.attn[i](h)) if len(self.attn) else h


class DDPMUNet(nn.Module):
    """eps(x, t) of Ho et al.

    Args:
        channels: image channels.
        model_channels: "ch", width of the sinusoidal embedding and of the first convolution.
        widths: channels per resolution, the finest first.
        blocks_per_level: residual blocks per resolution on the way down; one more on the way up.
        attention_levels: resolutions with attention, 0 the finest; the middle always has one.

    Shapes: x (B, C, H, W), sides divisible by 2^(len(widths) - 1); t (B,), fractional ones too.
    """

    def __init__(
        self,
        channels: int,
        model_channels: int,
        widths: Sequence[int],
        blocks_per_level: int,
        attention_levels: Sequence[int],
    ) -> None:
        super().__init__()
        embedding, half = 4 * model_channels, model_channels // 2
        self.register_buffer("frequencies", frequencies(half, half - 1), persistent=False)
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList(
            [nn.Linear(model_channels, embedding), nn.Linear(embedding, embedding)]
        )
        self.conv_in = nn.Conv2d(channels, model_channels, 3, padding=1)
        self.down, self.up, self.mid = nn.ModuleList(), nn.ModuleList(), nn.Module()
        width, kept = model_channels, [model_channels]
        for level, wanted in enumerate(widths):
            sides = [width, *[wanted] * (blocks_per_level - 1)]
            width = wanted
            blocks: list[nn.Module] = [ResnetBlock(side, width, embedding) for side in sides]
            down = _Level(blocks, _attentions(width, blocks_per_level, level in attention_levels))
            kept += [width] * blocks_per_level
            if level + 1 < len(widths):
                down.downsample = Downsample(width)
                kept.append(width)
            self.down.append(down)
        self.mid.block_1 = ResnetBlock(width, width, embedding)
        self.mid.attn_1 = AttnBlock(width)
        self.mid.block_2 = ResnetBlock(width, width, embedding)
        for level, wanted in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(blocks_per_level + 1):
                blocks.append(ResnetBlock(width + kept.pop(), wanted, embedding))
                width = wanted
            up = _Level(blocks, _attentions(width, blocks_per_level + 1, level in attention_levels))
            if level:
                up.upsample = Upsample(width, convolve=True)
            self.up.insert(0, up)
        self.norm_out = GroupNorm(_GROUPS, width, eps=_EPS)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first, second = cast(nn.ModuleList, self.temb.dense)
        e = sinusoidal(t, cast(Tensor, self.frequencies), sine_first=True).to(x.dtype)
        e = second(F.silu(first(e)))
        h = self.conv_in(x)
        kept = [h]
        for module in self.down:
            level = cast(_Level, module)
            for i in range(len(level.block)):
                h = level.pair(i, h, e)
                kept.append(h)
            if hasattr(level, "downsample"):
                h = cast(nn.Module, level.downsample)(h)
                kept.append(h)
        h = cast(ResnetBlock, self.mid.block_1)(h, e)
        h = cast(AttnBlock, self.mid.attn_1)(h)
        h = cast(ResnetBlock, self.mid.block_2)(h, e)
        for module in reversed(self.up):
            level = cast(_Level, module)
            for i in range(len(level.block)):
                h = level.pair(i, torch.cat((h, kept.pop()), dim=1), e)
            if hasattr(level, "upsample"):
                h = cast(nn.Module, level.upsample)(h)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(h))))


def _attentions(width: int, count: int, wanted: bool) -> list[nn.Module]:
    return [AttnBlock(width) for _ in range(count)] if wanted else []
