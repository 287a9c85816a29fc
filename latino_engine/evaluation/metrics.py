"""How close an image is to the true one; values are clamped to [0, 1] here and nowhere before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from latino_engine.errors import convert_remedy, invalid, invalid_type

#: scikit-image has no type annotations.
_STRUCTURAL_SIMILARITY: Callable[..., float] = structural_similarity

SSIM_WINDOW = 11  # the Gaussian of std 1.5 cut at 3.5 std: 2 * 5 + 1 pixels


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared error, in dB.

    Args:
        x, reference: (B, C, H, W), floating point, nominally in [0, 1]; both are clamped to it.

    Returns:
        (B,) float64; infinite for equal images.

    Raises:
        InvalidArgument, InvalidType: other or unequal shapes, integer dtypes.
    """
    a, b = _checked(x, reference)
    return -10.0 * torch.log10((a - b).square().mean(dim=(1, 2, 3)))


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity with a Gaussian window of std 1.5, averaged over the channels.

    Args:
        x, reference: (B, C, H, W), floating point, nominally in [0, 1]; both are clamped to it.
            H and W are 11 or more.

    Returns:
        (B,) float64, at most 1.

    Raises:
        InvalidArgument, InvalidType: other or unequal shapes, integer dtypes, sides below 11.

    Source: Wang, Bovik, Sheikh, Simoncelli, *Image quality assessment* (2004); computed by
    `skimage.metrics.structural_similarity` with the settings that reproduce it.
    """
    a, b = _checked(x, reference)
    if min(a.shape[2:]) < SSIM_WINDOW:
        expected = f"sides of {SSIM_WINDOW} pixels or more, as the window of SSIM has"
        got = f"{a.shape[2]} x {a.shape[3]}"
        raise invalid("x", expected, got, "use psnr for images this small")
    values = [_ssim_of_one(p.numpy(), q.numpy()) for p, q in zip(a, b, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def _ssim_of_one(x: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    return float(
        _STRUCTURAL_SIMILARITY(
            x,
            reference,
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def _checked(x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _clamped("x", x), _clamped("reference", reference)
    if a.shape != b.shape:
        expected = f"the shape of reference, {tuple(b.shape)}"
        raise invalid("x", expected, tuple(a.shape), "compare images of one size")
    return a, b


def _clamped(name: str, image: object) -> Tensor:
    """(B, C, H, W) in float64 on the CPU, clamped to [0, 1]."""
    if not isinstance(image, Tensor):
        raise invalid_type(name, "a tensor", type(image).__name__, convert_remedy(image))
    if not image.is_floating_point():
        remedy = "divide by the maximum of its type"
        raise invalid_type(name, "floating-point values in [0, 1]", image.dtype, remedy)
    if image.ndim != 4 or image.numel() == 0:
        remedy = "add the missing axes, e.g. image[None] for a batch of one"
        raise invalid(name, "shape (B, C, H, W)", tuple(image.shape), remedy)
    return image.detach().to("cpu", torch.float64).clamp(0.0, 1.0)
