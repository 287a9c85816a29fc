"""Line integrals through an image along parallel rays: a sparse matrix (Joseph's method)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor


def joseph_entries(
    angles: Tensor,
    size: tuple[int, int],
    num_detectors: int,
    centre: tuple[float, float],
    axis_at: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns (int64) and values (float64) of the matrix from pixels to line integrals.

    Row a D + d is the ray at angle a through detector d, column i W + j is pixel (i, j); the rows
    ascend. The ray {(j, i): (j - cx) cos a - (i - cy) sin a = t} is followed along the axis that it
    is steeper to, one step for each row (or column) of pixels, with linear interpolation between
    two neighbours; pixels have side 1 and the detectors stand 1 apart.

    Args:
        angles: degrees, (A,), counted as scikit-image does.
        size: (H, W).
        num_detectors: D.
        centre: (cy, cx), the pixel about which the object turns.
        axis_at: the detector on which that pixel falls, t = 0.

    Source: Joseph, *An improved algorithm for reprojecting rays through pixel images*, IEEE
    Trans. Med. Imaging 1(3), 1982.
    """
    t = torch.arange(num_detectors, dtype=torch.float64, device="cpu") - axis_at
    parts = [_of_one_angle(math.radians(a), t, size, centre) for a in angles.tolist()]
    rows = [ray + k * num_detectors for k, (ray, _, _) in enumerate(parts)]
    return torch.cat(rows), torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])


def _of_one_angle(
    angle: float, t: Tensor, size: tuple[int, int], centre: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = size
    cos, sin = math.cos(angle), math.sin(angle)
    steep = abs(cos) >= abs(sin)  # the ray crosses every row of pixels
    num_steps, across = (height, width) if steep else (width, height)
    along_centre, across_centre = centre if steep else centre[::-1]
    step = torch.arange(num_steps, dtype=torch.float64, device="cpu") - along_centre
    offset = t / cos if steep else -t / sin
    slope = sin / cos if steep else cos / sin
    place = (offset[:, None] + slope * step + across_centre)[..., None]  # (D, steps, 1)
    neighbour = place.floor() + torch.tensor([0.0, 1.0], dtype=torch.float64)  # (D, steps, 2)
    weight = (1.0 - (place - neighbour).abs()) / max(abs(cos), abs(sin))
    inside = (neighbour >= 0) & (neighbour < across) & (weight > 0)
    ray, along, tap = inside.nonzero(as_tuple=True)
    where = neighbour[ray, along, tap].long()
    pixel = along * width + where if steep else where * width + along
    return ray, pixel, weight[ray, along, tap]


def sparse_pair(
    rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], like: Tensor
) -> tuple[Tensor, Tensor]:
    """The matrix and its transpose in CSR form, dtype and device of `like`; `rows` ascend."""
    order = torch.argsort(columns, stable=True)
    matrix = _csr(rows, columns, values, shape, like)
    transposed = _csr(columns[order], rows[order], values[order], (shape[1], shape[0]), like)
    return matrix, transposed


def _csr(
    rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], like: Tensor
) -> Tensor:
    starts = torch.zeros(shape[0] + 1, dtype=torch.int64)
    starts[1:] = torch.cumsum(torch.bincount(rows, minlength=shape[0]), 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # "in beta": its product is all we use
        return torch.sparse_csr_tensor(
            starts.int(), columns.int(), values.to(like.dtype), shape, check_invariants=False
        ).to(like.device)


def sparse_product(x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
    """M x with M^T for the gradient; x: (columns of M, n)."""
    y: Tensor = _SparseProduct.apply(x, matrix, transposed)  # type: ignore[no-untyped-call]
    return y


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, transposed)
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        matrix, transposed = ctx.saved_tensors
        return sparse_product(gradients[0], transposed, matrix), None, None
