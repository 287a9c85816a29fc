"""b = V + gamma conj(h) tile(Y), X = b - gamma conj(h) tile(fold(h b) / (1 + gamma fold(|h|^2))).

The data step of super-resolution on full spectra, between fft2 and ifft2, by the Woodbury identity;
`fold` is the mean over the s x s aliases of a frequency. A program owns all aliases of its
frequencies, so that nothing is exchanged and the result may overwrite V.

Bytes moved per frequency: 8 read, 8 written, and 16 of constants where they are not shared; V and
the constants are read twice, the second time from the cache. About 150 in separate passes of torch.

Source: the normal equations of argmin_x gamma/2 ||decimate(h * x) - y||^2 + 1/2 ||x - v||^2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .complex_numbers import load_complex, store_complex
from .launching import UNSPECIALISED, Config, blocks_for, on_device, plane_steps, scalar_step

CONFIG = Config(128, 4)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _alias_prox_kernel(
    out,
    spectrum,
    h,
    folded_power,
    back_projected,
    gamma,
    gamma_step,
    h_per_pair,
    h_per_channel,
    power_per_pair,
    power_per_channel,
    back_per_pair,
    back_per_channel,
    channels,
    kept_height,
    kept_width,
    tiles,
    FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    plane = program // tiles
    pair = plane // channels
    channel = plane - pair * channels
    kept_size = kept_height.to(tl.int64) * kept_width
    plane_floats = kept_size * (2 * FACTOR * FACTOR)
    kept = (program - plane * tiles).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = kept < kept_size
    row = kept // kept_width
    first = row * kept_width * FACTOR + (kept - row * kept_width)
    strength = tl.load(gamma + pair * gamma_step).to(tl.float32)
    h += (pair * h_per_pair + channel * h_per_channel) * plane_floats
    back_projected += (pair * back_per_pair + channel * back_per_channel) * plane_floats
    folded_power += (pair * power_per_pair + channel * power_per_channel) * kept_size
    spectrum += plane * plane_floats
    out += plane * plane_floats

    real = tl.full((BLOCK,), 0.0, tl.float32)
    imaginary = tl.full((BLOCK,), 0.0, tl.float32)
    for alias in range(FACTOR * FACTOR):
        at = first + (alias // FACTOR) * kept_size * FACTOR + (alias % FACTOR) * kept_width
        v_real, v_imaginary = load_complex(spectrum, at, exists)
        back_real, back_imaginary = load_complex(back_projected, at, exists)
        h_real, h_imaginary = load_complex(h, at, exists)
        b_real = v_real + strength * back_real
        b_imaginary = v_imaginary + strength * back_imaginary
        real += h_real * b_real - h_imaginary * b_imaginary
        imaginary += h_real * b_imaginary + h_imaginary * b_real
    power = tl.load(folded_power + kept, mask=exists)
    weight = strength / (FACTOR * FACTOR * (1.0 + strength * power))
    real, imaginary = weight * real, weight * imaginary
    for alias in range(FACTOR * FACTOR):
        at = first + (alias // FACTOR) * kept_size * FACTOR + (alias % FACTOR) * kept_width
        v_real, v_imaginary = load_complex(spectrum, at, exists)
        back_real, back_imaginary = load_complex(back_projected, at, exists)
        h_real, h_imaginary = load_complex(h, at, exists)
        x_real = v_real + strength * back_real - (h_real * real + h_imaginary * imaginary)
        x_imaginary = v_imaginary + strength * back_imaginary
        x_imaginary -= h_real * imaginary - h_imaginary * real
        store_complex(out, at, x_real, x_imaginary, exists)


def launch_alias_prox(
    spectrum: Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    factor: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The spectrum of `ops.alias_prox` from that of v.

    Args:
        spectrum: V = fft2(v), complex64 (P, C, H, W), sides divisible by factor.
        h, back_projected: complex64 (P|1, C|1, H, W); back_projected = conj(h) tile(Y).
        folded_power: mean of |h|^2 over aliases, float32 (P|1, C|1, H/factor, W/factor).
        gamma: (P|1,) in any shape.
        factor: compiled into the kernel.
        out: of V's shape, also V itself.
    """
    out = torch.empty_like(spectrum) if out is None else out
    pairs, channels = spectrum.shape[:2]
    kept_height, kept_width = folded_power.shape[2:]
    tiles = blocks_for(kept_height * kept_width, CONFIG.block)
    with on_device(spectrum):
        _alias_prox_kernel[(pairs * channels * tiles,)](
            torch.view_as_real(out),
            torch.view_as_real(spectrum),
            torch.view_as_real(h),
            folded_power,
            torch.view_as_real(back_projected),
            gamma,
            scalar_step(gamma),
            *plane_steps(h),
            *plane_steps(folded_power),
            *plane_steps(back_projected),
            channels,
            kept_height,
            kept_width,
            tiles,
            FACTOR=factor,
            BLOCK=CONFIG.block,
            **CONFIG.options(),
        )
    return out
