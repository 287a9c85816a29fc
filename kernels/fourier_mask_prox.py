"""(gamma m Y + V) / (gamma m + 1) on full spectra: the data step of a mask in k-space.

Between fft2 and ifft2, in place. The spectrum has DC at (0, 0), mask and y in the middle, at
(H//2, W//2): the shift is in the indices, no array is rolled.

Bytes moved per frequency: 8 read, 8 written, and 12 of mask and y where they are not shared.

Source: the normal equations of argmin_x gamma/2 ||m (F x - y)||^2 + 1/2 ||x - v||^2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .complex_numbers import load_complex, store_complex
from .launching import UNSPECIALISED, Config, blocks_for, on_device, scalar_step

CONFIG = Config(256, 4)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _fourier_mask_prox_kernel(
    out,
    spectrum,
    mask,
    y,
    y_scale,
    gamma,
    gamma_step,
    mask_per_pair,
    y_per_pair,
    height,
    width,
    tiles,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    line = program // tiles  # a row of one image
    pair = line // height
    row = line - pair * height
    centred_row = row + height // 2
    centred_row = tl.where(centred_row >= height, centred_row - height, centred_row)
    start = (program - line * tiles) * BLOCK
    at = tl.arange(0, BLOCK)
    exists = at < width - start
    column = start + at + width // 2
    column = tl.where(column >= width, column - width, column)
    size = height.to(tl.int64) * width
    in_plane = centred_row.to(tl.int64) * width
    strength = tl.load(gamma + pair * gamma_step).to(tl.float32)
    in_image = 2 * (line.to(tl.int64) * width + start)
    v_re, v_im = load_complex(spectrum + in_image, at, exists)
    in_mask = pair * mask_per_pair * size + in_plane
    weight = strength * tl.load(mask + in_mask + column, mask=exists).to(tl.float32)
    in_y = pair * y_per_pair * size + in_plane
    y_re = tl.load(y + in_y + column, mask=exists).to(tl.float32)
    y_im = tl.load(y + in_y + size + column, mask=exists).to(tl.float32)
    scaled = weight * tl.cast(y_scale, tl.float32)
    z_re = (scaled * y_re + v_re) / (weight + 1.0)
    z_im = (scaled * y_im + v_im) / (weight + 1.0)
    store_complex(out + in_image, at, z_re, z_im, exists)


def launch_fourier_mask_prox(
    spectrum: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    y_scale: float,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The spectrum of the data step of `ops.fourier_mask_prox_noise` from that of v.

    Args:
        spectrum: V = fft2(ifftshift v), complex64 (P, 1, H, W), DC at (0, 0).
        mask: (P|1, 1, H, W), m in {0, 1}, DC at (H//2, W//2).
        y: (P|1, 2, H, W), (re, im), DC at (H//2, W//2), finite.
        gamma: (P|1,) in any shape.
        y_scale: of y in the normalisation of V; sqrt(H W) for an orthonormal y and a plain fft2.
        out: of V's shape, also V itself.
    """
    out = torch.empty_like(spectrum) if out is None else out
    pairs, _, height, width = spectrum.shape
    tiles = blocks_for(width, CONFIG.block)
    with on_device(spectrum):
        _fourier_mask_prox_kernel[(pairs * height * tiles,)](
            torch.view_as_real(out),
            torch.view_as_real(spectrum),
            mask,
            y,
            y_scale,
            gamma,
            scalar_step(gamma),
            0 if mask.shape[0] == 1 else 1,
            0 if y.shape[0] == 1 else 2,
            height,
            width,
            tiles,
            BLOCK=CONFIG.block,
            **CONFIG.options(),
        )
    return out
