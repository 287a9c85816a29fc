"""A whole inner step of inpainting or denoising in one launch: anchors, data step, noise.

    v = a x + (1 - a) x_t,   z = (gamma m y + v) / (gamma m + 1),   out = z + scale eps

(a, gamma, scale) and the noise step are the next row of a table on the device, see `steps`. Without
x_t the anchor is x.

Bytes moved per pixel: 8 read, 4 written (4 and 2 in 16 bits), and mask and y, 8 where they are not
shared.

Source: UD2M, Alg. 1 (arXiv:2507.02686); the prox of a mask is pointwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import UNSPECIALISED, Config, on_device, plane_steps
from .philox import quad_normals
from .quads import QuadLaunch, lane_tile, locate, noise_arguments
from .steps import finish_step, read_step

CONFIG = Config(512, 4)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _masked_prox_noise_kernel(
    out,
    counter,
    x,
    x_t,
    mask,
    y,
    step_table,
    noise_steps,
    image_ids,
    sample_ids,
    num_steps,
    table_pairs,
    noise_stride,
    mask_per_pair,
    mask_per_channel,
    y_per_pair,
    y_per_channel,
    channels,
    height,
    width,
    across,
    tiles,
    key_low,
    key_high,
    HAS_STATE: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    pair, channel, plane, start, rows, width, down, column, quad = locate(
        channels, height, width, across, tiles, BLOCK, VECTOR
    )
    step, noise_step, x_weight, gamma, scale = read_step(
        step_table, noise_steps, counter, num_steps, table_pairs, noise_stride, pair
    )
    image, sample = tl.load(image_ids + pair), tl.load(sample_ids + pair)
    eps = quad_normals(quad, channel, image, sample, noise_step, key_low, key_high)
    size = height.to(tl.int64) * width
    in_image = start + plane * size
    in_mask = start + (pair * mask_per_pair + channel * mask_per_channel) * size
    in_y = start + (pair * y_per_pair + channel * y_per_channel) * size
    for lane in tl.static_range(4):
        offset, exists = lane_tile(lane, rows, width, across, down, column, VECTOR)
        v = tl.load(x + in_image + offset, mask=exists).to(tl.float32)
        if HAS_STATE:
            state = tl.load(x_t + in_image + offset, mask=exists).to(tl.float32)
            v = x_weight * v + (1.0 - x_weight) * state
        weight = gamma * tl.load(mask + in_mask + offset, mask=exists).to(tl.float32)
        seen = tl.load(y + in_y + offset, mask=exists).to(tl.float32)
        z = (weight * seen + v) / (weight + 1.0)
        tl.store(out + in_image + offset, z + scale * eps[lane], mask=exists)
    finish_step(counter, step, num_steps)


def launch_masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    mask: Tensor,
    y: Tensor,
    step_table: Tensor,
    noise_steps: Tensor,
    counter: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Runs `ops.masked_prox_noise` with the next row of the table and moves the counter on.

    Args:
        x, x_t: (P, C, H, W), float32, float16 or bfloat16; x_t may be None.
        mask, y: (P|1, C|1, H, W), m in {0, 1}, y finite; computed in float32.
        step_table: (num_steps, P|1, 4), float32, rows (x_weight, gamma, scale, anything).
        noise_steps: (num_steps,), int64 or the bits of a word as int32, in any stride.
        counter: (3,), int32, see `steps`.
        seed, image_ids, sample_ids: as in `launch_gaussian_noise`.
        out: of x's shape, also x or x_t itself.
    """
    out = torch.empty_like(x) if out is None else out
    launch = QuadLaunch.over(x, CONFIG)
    with on_device(x):
        _masked_prox_noise_kernel[launch.grid](
            out,
            counter,
            x,
            x if x_t is None else x_t,
            mask,
            y,
            step_table,
            noise_steps,
            image_ids,
            sample_ids,
            step_table.shape[0],
            step_table.shape[1],
            noise_steps.stride(0),
            *plane_steps(mask),
            *plane_steps(y),
            *launch.sizes,
            *noise_arguments(seed, image_ids, sample_ids, 0)[3:],
            HAS_STATE=x_t is not None,
            BLOCK=CONFIG.block,
            VECTOR=launch.vector,
            **CONFIG.options(),
        )
    return out
