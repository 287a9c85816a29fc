"""The lossy half of JPEG: quantisation tables, colour transform and the 8 x 8 DCT."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# ITU-T T.81 (1992), Annex K, tables K.1 (luminance) and K.2 (chrominance), row by row.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
#: name -> luminance samples for one of chrominance, (down, across).
SUBSAMPLINGS: dict[str, tuple[int, int]] = {
    "4:4:4": (1, 1),
    "4:2:2": (1, 2),
    "4:2:0": (2, 2),
}
_KR, _KG, _KB = 0.299, 0.587, 0.114  # JFIF 1.02: the luma weights of ITU-R BT.601


def quantisation_tables(quality: int, channels: int) -> Tensor:
    """Table q of every channel, (channels, 8, 8) float64, scaled by the quality as libjpeg does.

    q = clamp(floor((base s + 50) / 100), 1, 255), s = 5000 // quality below 50, else
    200 - 2 quality.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    bases = [_LUMINANCE] + [_CHROMINANCE] * (channels - 1)
    base = torch.tensor(bases, dtype=torch.int64, device="cpu")
    return ((base * scale + 50) // 100).clamp(1, 255).to(torch.float64)


def dct_matrix() -> Tensor:
    """The orthonormal 8-point DCT-II, (8, 8) float64: rows are frequencies."""
    k = torch.arange(8, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / 8 * torch.outer(k, k + 0.5)) / 2.0
    matrix[0] /= math.sqrt(2.0)
    return matrix


def colour_matrix(channels: int) -> Tensor:
    """RGB -> (Y, Cb, Cr) without offsets, (3, 3) float64; (1, 1) identity for a grey image."""
    if channels == 1:
        return torch.eye(1, dtype=torch.float64, device="cpu")
    luma = torch.tensor([_KR, _KG, _KB], dtype=torch.float64, device="cpu")
    red, _, blue = torch.eye(3, dtype=torch.float64, device="cpu")
    cb = (blue - luma) / (2.0 * (1.0 - _KB))
    cr = (red - luma) / (2.0 * (1.0 - _KR))
    return torch.stack((luma, cb, cr))


def to_planes(x: Tensor, colour: Tensor) -> Tensor:
    """[0, 1] images to YCbCr in units of 1/255, shifted by the level 128 of the luminance."""
    planes = torch.einsum("ij,bjhw->bihw", 255.0 * colour, x)
    level = torch.zeros(planes.shape[1], 1, 1, dtype=x.dtype, device=x.device)
    level[:1].fill_(128.0)  # an assignment would copy the number from the host
    return planes - level


def from_planes(planes: Tensor, inverse_colour: Tensor, level: float) -> Tensor:
    """The inverse of `to_planes`; level 128 for an image, 0 for a difference."""
    offset = torch.zeros(planes.shape[1], 1, 1, dtype=planes.dtype, device=planes.device)
    offset[:1].fill_(level)
    return torch.einsum("ij,bjhw->bihw", inverse_colour / 255.0, planes + offset)


def to_blocks(planes: Tensor, dct: Tensor) -> Tensor:
    """DCT coefficients of 8 x 8 blocks, the last row and column repeated where they end early.

    (B, C, H, W) -> (B, C, R, 8, S, 8), R = ceil(H / 8), S = ceil(W / 8).
    """
    height, width = planes.shape[-2:]
    planes = torch.nn.functional.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8)
    return torch.einsum("uj,bcrjsk,vk->bcrusv", dct, blocks, dct)


def from_blocks(coefficients: Tensor, dct: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `to_blocks`, cropped to size."""
    blocks = torch.einsum("uj,bcrusv,vk->bcrjsk", dct, coefficients, dct)
    batch, channels, rows, _, columns, _ = blocks.shape
    return blocks.reshape(batch, channels, 8 * rows, 8 * columns)[..., : size[0], : size[1]]


def to_coefficients(x: Tensor, colour: Tensor, dct: Tensor) -> Tensor:
    """[0, 1] images to DCT coefficients of level-shifted YCbCr in units of 1/255.

    (B, C, H, W) -> (B, C, R, 8, S, 8), R = ceil(H / 8), S = ceil(W / 8), the last pixel repeated.
    """
    return to_blocks(to_planes(x, colour), dct)


def rounded_levels(coefficients: Tensor, tables: Tensor) -> Tensor:
    """coefficients / q to the nearest integer, halves away from zero as libjpeg."""
    ratio = coefficients / tables
    return torch.sign(ratio) * torch.floor(ratio.abs() + 0.5)


def mean_matrix(length: int, step: int) -> Tensor:
    """(8 ceil(ceil(length / step) / 8), length): means of `step` samples, the last one repeated, as
    the encoder fills its blocks.
    """
    small = -(-length // step)
    source = torch.arange(step * (small + -small % 8), device="cpu").clamp(max=length - 1)
    matrix = torch.zeros(small + -small % 8, length, dtype=torch.float64, device="cpu")
    rows = torch.arange(len(source), device="cpu") // step
    return matrix.index_put_((rows, source), torch.tensor(1.0 / step).double(), accumulate=True)


def enlarging_matrix(length: int, step: int) -> Tensor:
    """(length, ceil(length / step)): the decoder's "fancy" upsampling, 3/4 of the nearest sample
    and 1/4 of the next nearest, the edge repeated; of two samples or fewer, the nearest.

    Source: `h2v1_fancy_upsample` of libjpeg.
    """
    small = -(-length // step)
    pixel = torch.arange(length, device="cpu")
    nearest = pixel // step
    matrix = torch.zeros(length, small, dtype=torch.float64, device="cpu")
    if step == 1 or small <= 2:
        matrix[pixel, nearest] = 1.0
        return matrix
    other = (nearest + 2 * (pixel % 2) - 1).clamp(0, small - 1)
    quarter = torch.tensor(0.25, dtype=torch.float64)
    matrix.index_put_((pixel, nearest), 3.0 * quarter, accumulate=True)
    return matrix.index_put_((pixel, other), quarter, accumulate=True)
