"""Counter-based Gaussian noise: Philox4x32-10 and Box-Muller.

A draw depends on its identity alone, (seed, image id, sample id, step, channel, pixel), never on
the batch, the chunk, the device or torch's global generator.

Source: Salmon, Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1, 2, 3* (SC 2011), whose
published known answers are in the tests.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# ---- who draws noise, at which position of the stream ------------------------------------------
# The `step` of a draw is its position in the stream of (seed, image id, sample id):
#
#   0                      the sampler's initial state x_t (START_STEP); the kernel of Blur.motion;
#                          probes, grids and outer times of training, under seeds of their own
#   1 + i (K + 1) + k      UD2M: inner step k of outer step i, K of them each  (`inner_position`)
#   1 + i (K + 1) + K      UD2M: the reverse step behind them                 (`reverse_position`)
#   1 + k                  LATINO, and its latent rules: evaluation k          (`inner_position`)
#   2^16 (j + 1) + ...     LATINO-PRO: the chain before prompt update j       (`search_position`)
#   2^32 - 1               `measure` (MEASURE_STEP): simulating and sampling with one seed never
#                          share a draw, which would cost 2 dB
START_STEP = 0
MEASURE_STEP = 2**32 - 1


def inner_position(k: int, i: int = 0, unfold: int = 0) -> int:
    """The position of inner step k in outer step i, with `unfold` inner steps each, from 0 on."""
    return 1 + i * (unfold + 1) + k


def reverse_position(i: int, unfold: int) -> int:
    """The position of the reverse step at the end of outer step i."""
    return inner_position(unfold, i, unfold)


def search_position(update: int) -> int:
    """What is added to the positions of the chain before a prompt update, counted from 0."""
    return 2**16 * (update + 1)


MAX_CHANNELS = 1024
MAX_IMAGE_ID = 2**22

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK32 = 0xFFFFFFFF
_ROUNDS = 10
_CHUNK_QUADS = 2**15  # made at a time: the temporaries stay in the cache


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int | Tensor, int | Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors that broadcast together, each value in [0, 2^32).
        key: two integers in [0, 2^32), or int64 tensors that hold one each.

    Returns:
        Four int64 tensors with values in [0, 2^32).

    Source: Salmon et al. (2011), section 3.
    """
    c0, c1, c2, c3 = counter  # small ones stay small for the first rounds
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product of two 32-bit numbers wraps in int64; its bits are still right, so the high
        # word is the (arithmetic) shift masked to 32 bits.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        low0, low1 = product0 & _MASK32, product1 & _MASK32
        high0 = product0.bitwise_right_shift_(32).bitwise_and_(_MASK32)
        high1 = product1.bitwise_right_shift_(32).bitwise_and_(_MASK32)
        c0, c1 = (high1 ^ c1).bitwise_xor_(k0), low1
        c2, c3 = (high0 ^ c3).bitwise_xor_(k1), low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return c0, c1, c2, c3  # every word depends on all four, hence has the broadcast shape


def philox_integers(
    seed: int | Tensor,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    shape: tuple[int, int, int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of every quad: int64 (P, C, ceil(H/2) * ceil(W/2)), values in [0, 2^32).

    counter = (quad, channel + 1024 * image, sample, step), key = (seed low, seed high). The seed
    may be an int64 tensor () with the same 64 bits, which a captured graph reads at every replay.
    """
    _, channels, height, width = shape
    device = image_ids.device
    num_quads = ((height + 1) // 2) * ((width + 1) // 2)
    quad = torch.arange(num_quads, dtype=torch.int64, device=device)
    channel = torch.arange(channels, dtype=torch.int64, device=device)
    plane = channel[None, :] + MAX_CHANNELS * image_ids.to(torch.int64)[:, None]  # (P, C)
    sample = sample_ids.to(torch.int64)[:, None, None]
    last = torch.full((), step, dtype=torch.int64, device=device)  # no copy from the host
    counter = (quad[None, None, :], plane[:, :, None], sample, last)
    return philox4x32(counter, (seed & _MASK32, (seed >> 32) & _MASK32))


def philox_normals(
    seed: int | Tensor,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    shape: tuple[int, int, int, int],
) -> Tensor:
    """Standard normals (P, C, H, W) in float64.

    One call yields the four normals of a quad: rows 2j and 2j + 1, columns w and w + ceil(W/2).
    u_i = ((r_i >> 9) + 0.5) * 2^-23 lies in (0, 1) and is exact in float32.
    """
    pairs, channels, height, width = shape
    half_h, half_w = (height + 1) // 2, (width + 1) // 2
    # (P, C, row pair, row parity, column half, column)
    lanes = torch.empty(
        (pairs, channels, half_h, 2, 2, half_w), dtype=torch.float64, device=image_ids.device
    )
    chunk = max(1, _CHUNK_QUADS // max(1, channels * half_h * half_w))
    for first in range(0, pairs, chunk):
        part = slice(first, first + chunk)
        size = (len(image_ids[part]), channels, height, width)
        _fill_lanes(
            lanes[part], philox_integers(seed, image_ids[part], sample_ids[part], step, size)
        )
    full = lanes.reshape(pairs, channels, 2 * half_h, 2 * half_w)
    return full[:, :, :height, :width]  # odd W: column w // half = 1 stops one short


def _fill_lanes(lanes: Tensor, words: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Box-Muller of every quad's words: (P, C, row pair, row parity, column half, column)."""
    size = (*lanes.shape[:3], lanes.shape[5])
    uniforms = [(r >> 9).to(torch.float64).add_(0.5).mul_(2.0**-23).reshape(size) for r in words]
    for column_half in (0, 1):
        radius = uniforms[2 * column_half].log_().mul_(-2.0).sqrt_()
        angle = uniforms[2 * column_half + 1].mul_(2.0 * math.pi)
        torch.mul(radius, angle.cos(), out=lanes[:, :, :, 0, column_half])
        torch.mul(radius, angle.sin(), out=lanes[:, :, :, 1, column_half])
