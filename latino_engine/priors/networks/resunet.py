"""A residual U-Net without normalisation or attention: time and memory grow with the pixels.

Source: Ronneberger et al. (2015) for the U; Zhang et al., DPIR (2021), for residual blocks without
normalisation and skips that are added; Perez et al., FiLM (2018), for the noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from latino_engine.priors.networks.unet import noise_features, noise_frequencies, noise_layers


class FilmBlock(nn.Module):
    """x + conv2(SiLU(conv1(x) (1 + a) + b)), (a, b) = emb(e); conv2 starts at zero."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.emb = nn.Linear(embedding, 2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.emb(e)[:, :, None, None].chunk(2, dim=1)
        return cast(Tensor, x + self.conv2(F.silu(self.conv1(x) * (1.0 + scale) + shift)))


class ResUNet(nn.Module):
    """F(x, c_noise) of the preconditioned denoiser, made of convolutions alone.

    Args:
        channels: image channels C.
        widths: channels per resolution, the finest first.
        down_blocks, up_blocks: residual blocks per resolution on the way down and up; at the
            coarsest resolution they follow each other.
        embedding: width of the noise level's embedding.
        pixel_unshuffle: side of the pixel blocks that become channels at the entry.

    Shapes: x (B, C, H, W), with sides divisible by pixel_unshuffle * 2^(len(widths) - 1), and
        c_noise (B,).
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        down_blocks: Sequence[int],
        up_blocks: Sequence[int],
        embedding: int = 128,
        pixel_unshuffle: int = 2,
    ) -> None:
        super().__init__()
        if not len(widths) == len(down_blocks) == len(up_blocks) > 0:
            raise ValueError("widths, down_blocks, up_blocks: expected as many numbers of each")
        self.pixel_unshuffle = pixel_unshuffle
        self.register_buffer("frequencies", noise_frequencies(), persistent=False)
        self.embed = noise_layers(embedding)
        packed = channels * pixel_unshuffle**2
        self.conv_in = nn.Conv2d(packed, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            _blocks(*pair, embedding) for pair in zip(widths, down_blocks, strict=True)
        )
        self.up = nn.ModuleList(
            _blocks(*pair, embedding) for pair in zip(widths, up_blocks, strict=True)
        )
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths)
        )
        self.conv_out = nn.Conv2d(widths[0], packed, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(cast(Tensor, self.conv_out.bias))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        features = noise_features(c_noise, cast(Tensor, self.frequencies))
        e = self.embed(features.to(x.dtype))
        h = self.conv_in(F.pixel_unshuffle(x, self.pixel_unshuffle))
        skips: list[Tensor] = []
        for blocks, shrink in zip(self.down, [*self.shrink, None], strict=True):
            h = _through(blocks, h, e)
            if shrink is not None:
                skips.append(h)
                h = shrink(h)
        for blocks, grow in zip(reversed(self.up), [None, *reversed(self.grow)], strict=True):
            if grow is not None:
                h = grow(h) + skips.pop()
            h = _through(blocks, h, e)
        return F.pixel_shuffle(self.conv_out(h), self.pixel_unshuffle)


def _blocks(width: int, count: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(FilmBlock(width, embedding) for _ in range(count))


def _through(blocks: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    for block in cast(nn.ModuleList, blocks):
        h = block(h, e)
    return h
