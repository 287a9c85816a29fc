"""A regularised inverse of any linear operator: the smooth image that explains y."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.checks import SMALLEST_NOISE_STD
from latino_engine.operators.parts.conjugate_gradients import conjugate_gradients

_MID_GREY = 0.5
_PIXEL_STD = 0.25  # of a pixel around mid-grey
_STEP_STD = 0.05  # of a pixel from its neighbour: photographs have 0.03 to 0.08
_TOL, _MAX_ITER = 1e-4, 200  # of a first guess; it need not be exact


def smooth_estimate(
    normal: Callable[[Tensor], Tensor], residual_of_grey: Tensor, noise_std: float | Tensor
) -> Tensor:
    """argmin_x ||A x - y||^2/sigma_y^2 + ||x - 1/2||^2/0.25^2 + ||grad x||^2/0.05^2, by CG.

    Args:
        normal: x -> A^T A x, (B, C, H, W).
        residual_of_grey: A^T (y - A(1/2)), (B, C, H, W).
        noise_std: sigma_y, public units, a number or (B,); 0 is read as 1e-3.
    """
    sigma = torch.as_tensor(noise_std, dtype=torch.float64).clamp(min=SMALLEST_NOISE_STD)
    variance = ops.per_image(sigma.expand(len(residual_of_grey)), residual_of_grey) ** 2

    def system(x: Tensor) -> Tensor:
        return normal(x) + variance * (x / _PIXEL_STD**2 + _roughness(x) / _STEP_STD**2)

    with torch.no_grad():
        zero = torch.zeros_like(residual_of_grey)
        difference, _ = conjugate_gradients(system, residual_of_grey, zero, _TOL, _MAX_ITER)
    return _MID_GREY + difference


def mid_grey(like: Tensor) -> Tensor:
    """1/2 everywhere."""
    return torch.full_like(like, _MID_GREY)


def _roughness(x: Tensor) -> Tensor:
    """grad^T grad x with free borders: the sum of the differences to the four neighbours."""
    down, right = torch.diff(x, dim=-2), torch.diff(x, dim=-1)
    pad = torch.nn.functional.pad
    vertical = pad(down, (0, 0, 1, 0)) - pad(down, (0, 0, 0, 1))
    return vertical + pad(right, (1, 0)) - pad(right, (0, 1))
