"""Standard normals from counters: Philox4x32-10 and Box-Muller, as device functions.

The polynomials are those of csrc/include/latino/normal.h in the same order of operations. Without
fused multiply-adds (`launching.Config.options`) every device, the CPU included, yields the same
bits: within 1e-6 of the recipe in float64.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import core


@triton.jit
def philox4x32(c0, c1, c2, c3, key_low, key_high):
    """Ten rounds of a keyed bijection of 128-bit counters; everything is uint32."""
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, 0xD2511F53)
        high1 = tl.umulhi(c2, 0xCD9E8D57)
        # Products and keys wrap; under TRITON_DEBUG an operator would trap that.
        low0 = core.mul(c0, 0xD2511F53, sanitize_overflow=False)
        low1 = core.mul(c2, 0xCD9E8D57, sanitize_overflow=False)
        c0, c1, c2, c3 = high1 ^ c1 ^ key_low, low1, high0 ^ c3 ^ key_high, low0
        key_low = core.add(key_low, 0x9E3779B9, sanitize_overflow=False)
        key_high = core.add(key_high, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def normal_radius(word):
    """sqrt(-2 ln u), u = ((word >> 9) + 0.5) 2^-23 in (0, 1), exact in float32.

    u = 2^e m with m in [sqrt(1/2), sqrt(2)), f = m - 1, ln u = e ln 2 + f - f^2/2 + f^3 P(f).
    """
    u = ((word >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-7
    shifted = u.to(tl.int32, bitcast=True) - 0x3F3504F3  # the bits of sqrt(1/2)
    e = (shifted >> 23).to(tl.float32)
    f = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    p = f * -0.0785961673 + 0.1288165003
    p = p * f - 0.1312875450
    p = p * f + 0.1418119222
    p = p * f - 0.1662455350
    p = p * f + 0.2000228614
    p = p * f - 0.2500081062
    p = p * f + 0.3333331645
    f2 = f * f
    # ln 2 in two parts: e * 0.693145751953125 is exact, the rest is 1.42860677e-6.
    tail = (f2 * f * p + e * 1.42860677e-6) - 0.5 * f2
    return tl.sqrt_rn(-2.0 * (e * 0.693145752 + (f + tail)))


@triton.jit
def unit_vector(word):
    """(cos 2 pi u, sin 2 pi u). Reduced in integers: u = quadrant / 4 + f, |f| <= 1/8."""
    odd = (((word >> 9) << 1) | 1).to(tl.int32)  # 2^24 u
    quadrant = (odd + 0x200000) >> 22  # 0..4
    f = (odd - (quadrant << 22)).to(tl.float32) * 5.9604644775390625e-8
    s = f * f
    # The first coefficients are the rounding errors of 2 pi and of 2 pi^2 in float32.
    odd_part = s * (s * (s * -75.3696518 + 81.5919800) + -41.3416634) + -1.74845553e-7
    even_part = s * (s * (s * 59.3625603 + -85.4474564) + 64.9393616) + -5.80743175e-7
    sine = f * 6.28318548 + f * odd_part
    cosine = 1.0 - (s * 19.7392082 - s * even_part)
    swapped = (quadrant & 1) != 0
    q = quadrant.to(tl.uint32)
    cosine_sign, sine_sign = ((q + 1) & 2) << 30, (q & 2) << 30
    first = tl.where(swapped, sine, cosine).to(tl.uint32, bitcast=True) ^ cosine_sign
    second = tl.where(swapped, cosine, sine).to(tl.uint32, bitcast=True) ^ sine_sign
    return first.to(tl.float32, bitcast=True), second.to(tl.float32, bitcast=True)


@triton.jit
def quad_words(quad, channel, image, sample, noise_step, key_low, key_high):
    """The four words of quads; counter = (quad, channel + 1024 image, sample, noise step).

    Args:
        quad: uint32 tile.
        channel, image, sample, noise_step: scalar integers, taken modulo 2^32.
        key_low, key_high: the seed's halves as int32 bits.
    """
    zero = quad * 0
    plane = (channel.to(tl.int64) + 1024 * image.to(tl.int64)).to(tl.uint32)
    last = noise_step.to(tl.uint32)
    low, high = key_low.to(tl.uint32), key_high.to(tl.uint32)
    return philox4x32(quad, zero + plane, zero + sample.to(tl.uint32), zero + last, low, high)


@triton.jit
def quad_normals(quad, channel, image, sample, noise_step, key_low, key_high):
    """The four normals of quads: lanes 0, 1 are rows 2j, 2j + 1 of column w, lanes 2, 3 those of
    column w + ceil(W/2).
    """
    r0, r1, r2, r3 = quad_words(quad, channel, image, sample, noise_step, key_low, key_high)
    left, right = normal_radius(r0), normal_radius(r2)
    left_cosine, left_sine = unit_vector(r1)
    right_cosine, right_sine = unit_vector(r3)
    return left * left_cosine, left * left_sine, right * right_cosine, right * right_sine
