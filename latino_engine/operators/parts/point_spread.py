"""Point-spread functions, float64, sum 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.scalars import as_choice, as_count, as_number
from latino_engine.ops.philox import START_STEP, philox_normals

_LARGEST = 1 << 13  # of a kernel's sides: far beyond any, and half a gigabyte
_STD = "a finite number > 0"
_MOTION_STEPS = 256  # points along a trajectory: several per pixel for any sensible size


def check_kernel_size(size: int) -> int:
    """The side of a kernel in pixels, >= 1."""
    return as_count("size", size, _LARGEST, "give a positive size", "at least 1 pixel")


def published_gaussian_kernel(std: float, size: int) -> Tensor:
    """The Gaussian of the authors' UD2M code, exp(-|n|^2 / (4 std)): its "std" is half a variance.

    2 (size - c) taps along each axis, c = (size - 1) // 2, the origin in the middle; taps below
    1e-6 of the largest are 0. With std = 3 and size = 25: 26 x 26 taps, a true std of 2.45 pixels.
    """
    std = as_number("std", std, _STD, lambda v: 0 < v <= _LARGEST, "give the authors' number")
    reach = check_kernel_size(size) - (size - 1) // 2
    offsets = torch.arange(-reach, reach, dtype=torch.float64, device="cpu")
    taps = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (4.0 * std))
    taps = torch.where(taps < 1e-6, 0.0, taps)
    return taps / taps.sum()


COMPATIBLE = ("ud2m",)


def check_compat(compat: str | None) -> str | None:
    """None, or the name of published code whose data step is reproduced."""
    if compat is None:
        return None
    remedy = "leave it out for the exact step"
    return as_choice("compat", compat, COMPATIBLE, "None or 'ud2m'", remedy)


def gaussian_kernel(std: float, size: int | None = None) -> Tensor:
    """exp(-|n|^2 / (2 std^2)) at the pixel centres n around (size//2, size//2), divided by its sum.

    Args:
        std: standard deviation along each axis in pixels, > 0. The kernel has it to 0.5 % at
            the default size for 0.7 <= std <= 10; a narrower Gaussian falls between the pixels, and
            a smaller size cuts it.
        size: side in pixels; None = 2 int(std / 0.3 + 1) + 1, more than 3 std to either side.
    """
    std = as_number("std", std, _STD, lambda v: 0 < v <= _LARGEST, "give the std in pixels")
    side = (
        min(2 * int(std / 0.3 + 1) + 1, _LARGEST - 1) if size is None else check_kernel_size(size)
    )
    offsets = torch.arange(side, dtype=torch.float64, device="cpu") - side // 2
    profile = torch.exp(-(offsets**2) / (2.0 * std**2))
    profile = profile / profile.sum()
    return torch.outer(profile, profile)


def uniform_kernel(size: int) -> Tensor:
    """1 / size^2 everywhere. An even size shifts the image by half a pixel."""
    side = check_kernel_size(size)
    return torch.full((side, side), 1.0 / side**2, dtype=torch.float64, device="cpu")


def motion_kernel(size: int, seed: int = 0) -> Tensor:
    """The trace of a smooth random motion, centred, drawn with bilinear weights.

    A point moves at unit speed; its direction turns at a rate that is itself a random walk. The
    path is scaled so that its longer extent fills the kernel and its centre of mass lies on the
    kernel's centre. The same seed gives the same kernel everywhere.
    """
    side = check_kernel_size(size)
    seed = ops.check_seed(seed)
    ids = torch.zeros(1, dtype=torch.int64, device="cpu")
    draws = philox_normals(seed, ids, ids, START_STEP, (1, 1, 1, _MOTION_STEPS)).flatten()
    turn_rate = torch.cumsum(draws, 0) / math.sqrt(_MOTION_STEPS)
    angle = 2.0 * math.pi * draws[0] + 2.0 * torch.cumsum(turn_rate, 0) / _MOTION_STEPS * math.pi
    path = torch.cumsum(torch.stack((torch.sin(angle), torch.cos(angle))), dim=1)  # (2, steps)
    path = path - path.mean(dim=1, keepdim=True)
    reach = float(path.abs().max())  # one scale for both axes keeps the motion's shape
    centre = (side - 1) // 2 if side % 2 else side // 2
    room = min(centre, side - 1 - centre)
    return _drawn(centre + path * (room / reach), side)


def _drawn(points: Tensor, side: int) -> Tensor:
    """Bilinear histogram of the points (2, n) with coordinates in [0, side - 1], sum 1."""
    low = points.floor().clamp(0, max(side - 2, 0))
    fraction = (points - low).clamp(0.0, 1.0)
    row, column = low.long()
    kernel = torch.zeros(side * side, dtype=torch.float64, device="cpu")
    for down in (0, 1):
        for right in (0, 1):
            weight_row = fraction[0] if down else 1.0 - fraction[0]
            weight_column = fraction[1] if right else 1.0 - fraction[1]
            rows = (row + down).clamp(max=side - 1)
            columns = (column + right).clamp(max=side - 1)
            kernel.index_add_(0, rows * side + columns, weight_row * weight_column)
    return (kernel / kernel.sum()).reshape(side, side)


def bicubic_profile(factor: int) -> Tensor:
    """Keys' cubic (a = -1/2) at (k - 2s + 1/2) / s, k = 0 .. 4s - 1, divided by its sum: (4s,)."""
    taps = torch.arange(4 * factor, dtype=torch.float64, device="cpu")
    profile = keys_cubic((taps - 2 * factor + 0.5) / factor)
    return profile / profile.sum()


def keys_cubic(t: Tensor, a: float = -0.5) -> Tensor:
    """The cubic convolution kernel with support [-2, 2].

    Source: Keys, *Cubic convolution interpolation for digital image processing* (1981).
    """
    t = t.abs()
    near = ((a + 2.0) * t - (a + 3.0)) * t**2 + 1.0
    far = ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    return torch.where(t <= 1.0, near, torch.where(t < 2.0, far, torch.zeros_like(t)))


def growing_kernels(centre: float, corner: float, side: int, size: int) -> Tensor:
    """Gaussian kernels (side, side, size, size): std `centre` in the middle of the image, growing
    with the square of the distance to `corner` in its corners, pixels.
    """
    place = torch.linspace(-1.0, 1.0, side, dtype=torch.float64) ** 2 / 2.0
    stds = (centre + (corner - centre) * (place[:, None] + place)).flatten()
    kernels = torch.stack([gaussian_kernel(float(std), size) for std in stds])
    return kernels.reshape(side, side, size, size)
