"""Where the pixels of a small image lie on the large one, and the kernels that make them."""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.parts.point_spread import (
    bicubic_profile,
    gaussian_kernel,
    keys_cubic,
)
from latino_engine.operators.parts.resampling import (
    LIBRARY_FILTERS,
    centred_profile,
    check_filter,
)
from latino_engine.operators.parts.scalars import as_choice

GRIDS = ("corner", "centred")
KERNELS = ("bicubic", "gaussian", *LIBRARY_FILTERS)
_GAUSSIAN_STD_PER_FACTOR = (
    0.5  # |h| = 0.29 at the new Nyquist frequency: little aliasing, still sharp
)


def check_grid(value: str) -> str:
    """The name of a sampling grid."""
    remedy = "'centred' is what Pillow, MATLAB, torch and OpenCV write"
    return as_choice("grid", value, GRIDS, "'corner' or 'centred'", remedy)


def named_kernel(name: str, factor: int, grid: str) -> Tensor:
    """The kernel of this name, (1, 1, kh, kw), its origin as the grid "corner" counts it."""
    check_filter(name, KERNELS)
    if grid == "corner" and name in LIBRARY_FILTERS:
        raise invalid("grid", f"'centred' for {name!r}", "'corner'", "leave the grid out")
    if grid == "corner" and name == "bicubic":
        profile = bicubic_profile(factor)
    elif grid == "corner":
        return gaussian_kernel(_GAUSSIAN_STD_PER_FACTOR * factor)[None, None]
    elif name == "gaussian":
        profile = _centred_gaussian(_GAUSSIAN_STD_PER_FACTOR * factor, factor)
    else:
        profile = centred_profile("pillow-bicubic" if name == "bicubic" else name, factor)
    kernel = torch.outer(profile, profile)[None, None]
    return kernel if grid == "corner" else on_corner_grid(kernel, factor)


def on_corner_grid(kernel: Tensor, factor: int) -> Tensor:
    """A kernel whose middle lies on the middle of each small pixel, for sampling from pixel 0.

    Small pixel i is centred on s i + (s - 1) / 2, the middle of n taps is tap (n - 1) / 2; both
    fall on pixels, or both between two, where n and s are both odd or both even. Zeros after the
    taps move their origin there.

    Raises:
        InvalidArgument: a kernel whose middle cannot lie there.
    """
    pads = []
    for axis, taps in (("rows", kernel.shape[-2]), ("columns", kernel.shape[-1])):
        if (taps - factor) % 2:
            kind = "even" if factor % 2 == 0 else "odd"
            expected = f"an {kind} number of {axis} as the factor {factor}, on the centred grid"
            remedy = "pad it by a line of zeros where its middle lies, or use grid='corner'"
            raise invalid("kernel", expected, taps, remedy)
        origin = (taps + factor) // 2 - 1
        pads.append(0 if origin == taps // 2 else 2 * origin - taps)
    return torch.nn.functional.pad(kernel, (0, pads[1], 0, pads[0]))


def wrapped(kernel: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """The kernel for images of this size: what `on_corner_grid` has moved beyond their period comes
    in again at the other side, the origin stays in the middle.
    """
    for axis, side in ((-2, size[0]), (-1, size[1])):
        taps = kernel.shape[axis]
        if side < taps <= side + max(factor - 2, 0):
            place = (torch.arange(taps, device="cpu") - taps // 2 + side // 2) % side
            shape = list(kernel.shape)
            shape[axis] = side
            kernel = kernel.new_zeros(shape).index_add(axis, place, kernel)
    return kernel


def _centred_gaussian(std: float, factor: int) -> Tensor:
    """exp(-t^2 / (2 std^2)) at the distances t of pixels from the middle of a small one, sum 1."""
    count = 2 * int(std / 0.3 + 1) + 1
    count += (count - factor) % 2
    t = torch.arange(count, dtype=torch.float64, device="cpu") - (count - 1) / 2
    profile = torch.exp(-(t**2) / (2.0 * std**2))
    return profile / profile.sum()


def moments(kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum and centroid (relative to the origin, inside the kernel), each (B|1, C|1).

    A kernel that (nearly) sums to zero has no centroid: it counts as centred with sum 1.
    """
    kh, kw = kernel.shape[-2:]
    total = kernel.sum(dim=(-2, -1))
    usable = total.abs() > 1e-3 * kernel.abs().sum(dim=(-2, -1))
    total = torch.where(usable, total, torch.ones_like(total))
    row = torch.arange(kh, dtype=torch.float64, device="cpu") - kh // 2
    column = torch.arange(kw, dtype=torch.float64, device="cpu") - kw // 2
    row_centroid = (kernel.sum(dim=-1) @ row / total).clamp(float(row[0]), float(row[-1]))
    column_centroid = (kernel.sum(dim=-2) @ column / total).clamp(
        float(column[0]), float(column[-1])
    )
    zero = torch.zeros_like(total)
    return (
        total,
        torch.where(usable, row_centroid, zero),
        torch.where(usable, column_centroid, zero),
    )


def interpolation_matrix(length: int, factor: int, centroid: Tensor, wraps: bool) -> Tensor:
    """Bicubic interpolation (..., s * length, length) from samples at s i - centroid, circular or
    with the edge samples repeated.
    """
    pixel = torch.arange(factor * length, dtype=torch.float64, device="cpu")
    position = (pixel + centroid[..., None]) / factor  # in units of samples
    matrix = torch.zeros(*position.shape, length, dtype=torch.float64, device="cpu")
    for offset in (-1, 0, 1, 2):
        neighbour = position.floor() + offset
        weight = keys_cubic(position - neighbour)
        source = neighbour.long()
        source = source % length if wraps else source.clamp(0, length - 1)
        matrix.scatter_add_(-1, source[..., None], weight[..., None])
    return matrix
