"""(gamma conj(h) Y + V) / (gamma |h|^2 + 1) on half-spectra: the data step of a circular blur.

Between rfft2 and irfft2, in one pass over interleaved complex numbers: the weight is real, hence
the two parts of a number are treated alike.

Bytes moved per frequency: 8 read, 8 written, and 12 of constants where they are not shared.

Source: the normal equations of argmin_x gamma/2 ||h * x - y||^2 + 1/2 ||x - v||^2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import UNSPECIALISED, Config, blocks_for, on_device, plane_steps, scalar_step

CONFIG = Config(1024, 4)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _fourier_prox_kernel(
    out,
    spectrum,
    power,
    back_projected,
    gamma,
    gamma_step,
    power_per_pair,
    power_per_channel,
    back_per_pair,
    back_per_channel,
    channels,
    tiles,
    plane_floats,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    plane = program // tiles
    pair = plane // channels
    channel = plane - pair * channels
    start = (program - plane * tiles).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    exists = at < plane_floats - start
    strength = tl.load(gamma + pair * gamma_step).to(tl.float32)
    back_plane = (pair * back_per_pair + channel * back_per_channel).to(tl.int64)
    power_plane = (pair * power_per_pair + channel * power_per_channel).to(tl.int64)
    in_image = plane.to(tl.int64) * plane_floats + start
    v = tl.load(spectrum + in_image + at, mask=exists)
    back = tl.load(back_projected + back_plane * plane_floats + start + at, mask=exists)
    in_power = power_plane * (plane_floats // 2) + start // 2
    weight = strength * tl.load(power + in_power + at // 2, mask=exists) + 1.0
    tl.store(out + in_image + at, (strength * back + v) / weight, mask=exists)


def launch_fourier_prox(
    spectrum: Tensor,
    power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The spectrum of `ops.fourier_prox` from that of v.

    Args:
        spectrum: V = rfft2(v), complex64 (P, C, H, W//2+1).
        power: |h|^2, float32 (P|1, C|1, H, W//2+1).
        back_projected: conj(h) Y, complex64 (P|1, C|1, H, W//2+1).
        gamma: (P|1,) in any shape.
        out: of V's shape, also V itself.
    """
    out = torch.empty_like(spectrum) if out is None else out
    pairs, channels, height, width = spectrum.shape
    tiles = blocks_for(2 * height * width, CONFIG.block)
    with on_device(spectrum):
        _fourier_prox_kernel[(pairs * channels * tiles,)](
            torch.view_as_real(out),
            torch.view_as_real(spectrum),
            power,
            torch.view_as_real(back_projected),
            gamma,
            scalar_step(gamma),
            *plane_steps(power),
            *plane_steps(back_projected),
            channels,
            tiles,
            2 * height * width,
            BLOCK=CONFIG.block,
            **CONFIG.options(),
        )
    return out
