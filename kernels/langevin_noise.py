"""z + scale[p] eps: Langevin noise, made where it is added; no array of normals is written.

Bytes moved per pixel: 4 read, 4 written (2 and 2 in 16 bits).

Source: the inner noise of UD2M, Alg. 1 (arXiv:2507.02686).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import UNSPECIALISED, Config, on_device, scalar_step
from .philox import quad_normals
from .quads import QuadLaunch, lane_tile, locate, noise_arguments

CONFIG = Config(512, 4)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _langevin_noise_kernel(
    out,
    z,
    scale,
    image_ids,
    sample_ids,
    scale_step,
    channels,
    height,
    width,
    across,
    tiles,
    noise_step,
    key_low,
    key_high,
    STEP_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    pair, channel, plane, start, rows, width, down, column, quad = locate(
        channels, height, width, across, tiles, BLOCK, VECTOR
    )
    if STEP_ON_DEVICE:
        noise_step = tl.load(noise_step)
    image, sample = tl.load(image_ids + pair), tl.load(sample_ids + pair)
    amplitude = tl.load(scale + pair * scale_step).to(tl.float32)
    eps = quad_normals(quad, channel, image, sample, noise_step, key_low, key_high)
    start += plane.to(tl.int64) * height * width
    for lane in tl.static_range(4):
        offset, exists = lane_tile(lane, rows, width, across, down, column, VECTOR)
        value = tl.load(z + start + offset, mask=exists).to(tl.float32)
        tl.store(out + start + offset, value + amplitude * eps[lane], mask=exists)


def launch_langevin_noise(
    z: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int | Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Gives what `ops.langevin_noise` gives; the noise agrees within 1e-6.

    Args:
        z: (P, C, H, W), float32, float16 or bfloat16.
        scale: (P|1,) in any shape.
        seed, image_ids, sample_ids, step: as in `launch_gaussian_noise`.
        out: of z's shape, also z itself.
    """
    out = torch.empty_like(z) if out is None else out
    launch = QuadLaunch.over(z, CONFIG)
    with on_device(z):
        _langevin_noise_kernel[launch.grid](
            out,
            z,
            scale,
            image_ids,
            sample_ids,
            scalar_step(scale),
            *launch.sizes,
            *noise_arguments(seed, image_ids, sample_ids, step)[2:],
            STEP_ON_DEVICE=isinstance(step, Tensor),
            BLOCK=CONFIG.block,
            VECTOR=launch.vector,
            **CONFIG.options(),
        )
    return out
