"""x0 + sigma_next (kept (x_t - x0) + renewed eps): one outer step with its noise.

kept = sqrt(1 - zeta) / sigma_n, renewed = sqrt(zeta).

Bytes moved per pixel: 8 read, 4 written (4 and 2 in 16 bits).

Source: UD2M, Alg. 1 (arXiv:2507.02686).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import UNSPECIALISED, Config, on_device
from .philox import quad_normals
from .quads import QuadLaunch, lane_tile, locate, noise_arguments

CONFIG = Config(512, 4)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _reverse_step_kernel(
    out,
    x0_hat,
    x_t,
    image_ids,
    sample_ids,
    channels,
    height,
    width,
    across,
    tiles,
    noise_step,
    key_low,
    key_high,
    sigma_next,
    kept,
    renewed,
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
    # A Python float would be float64 in some versions of Triton.
    sigma_next, kept = tl.cast(sigma_next, tl.float32), tl.cast(kept, tl.float32)
    renewed = tl.cast(renewed, tl.float32)
    eps = quad_normals(quad, channel, image, sample, noise_step, key_low, key_high)
    start += plane.to(tl.int64) * height * width
    for lane in tl.static_range(4):
        offset, exists = lane_tile(lane, rows, width, across, down, column, VECTOR)
        x0 = tl.load(x0_hat + start + offset, mask=exists).to(tl.float32)
        state = tl.load(x_t + start + offset, mask=exists).to(tl.float32)
        moved = x0 + sigma_next * (kept * (state - x0) + renewed * eps[lane])
        tl.store(out + start + offset, moved, mask=exists)


def launch_reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    sigma_next: float,
    kept: float,
    renewed: float,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int | Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Gives what `ops.reverse_step` gives; the noise agrees within 1e-6.

    Args:
        x0_hat, x_t: (P, C, H, W), float32, float16 or bfloat16.
        sigma_next: noise level of the result.
        kept, renewed: sqrt(1 - zeta) / sigma_n and sqrt(zeta).
        seed, image_ids, sample_ids, step: as in `launch_gaussian_noise`.
        out: of x_t's shape, also x0_hat or x_t itself; x_t's dtype by default.
    """
    out = torch.empty_like(x_t) if out is None else out
    launch = QuadLaunch.over(x_t, CONFIG)
    with on_device(x_t):
        _reverse_step_kernel[launch.grid](
            out,
            x0_hat,
            x_t,
            image_ids,
            sample_ids,
            *launch.sizes,
            *noise_arguments(seed, image_ids, sample_ids, step)[2:],
            float(sigma_next),
            float(kept),
            float(renewed),
            STEP_ON_DEVICE=isinstance(step, Tensor),
            BLOCK=CONFIG.block,
            VECTOR=launch.vector,
            **CONFIG.options(),
        )
    return out
