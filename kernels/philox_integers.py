"""The four Philox words of every quad, (P, C, quads, 4): what the normals are made from.

The sampler never launches it; the tests compare its words bit for bit with every other
implementation. Bytes moved per quad: 16 written.

Source: Salmon et al. (SC 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import UNSPECIALISED, Config, blocks_for, on_device
from .philox import quad_words
from .quads import noise_arguments

CONFIG = Config(256, 4)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _philox_integers_kernel(
    out,
    image_ids,
    sample_ids,
    channels,
    num_quads,
    tiles,
    noise_step,
    key_low,
    key_high,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    plane = program // tiles
    pair = plane // channels
    quad = (program - plane * tiles) * BLOCK + tl.arange(0, BLOCK)
    image, sample = tl.load(image_ids + pair), tl.load(sample_ids + pair)
    channel = plane - pair * channels
    words = quad_words(quad.to(tl.uint32), channel, image, sample, noise_step, key_low, key_high)
    out += plane.to(tl.int64) * num_quads * 4
    for lane in tl.static_range(4):
        word = words[lane].to(tl.int32, bitcast=True)
        tl.store(out + quad * 4 + lane, word, mask=quad < num_quads)


def launch_philox_integers(
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    shape: Sequence[int],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The words as int32 of the same bits, (P, C, ceil(H/2) * ceil(W/2), 4)."""
    pairs, channels, height, width = shape
    num_quads = ((height + 1) // 2) * ((width + 1) // 2)
    if out is None:
        size = (pairs, channels, num_quads, 4)
        out = torch.empty(size, dtype=torch.int32, device=image_ids.device)
    tiles = blocks_for(num_quads, CONFIG.block)
    with on_device(out):
        _philox_integers_kernel[(pairs * channels * tiles,)](
            out,
            image_ids,
            sample_ids,
            channels,
            num_quads,
            tiles,
            *noise_arguments(seed, image_ids, sample_ids, step)[2:],
            BLOCK=CONFIG.block,
            **CONFIG.options(),
        )
    return out
