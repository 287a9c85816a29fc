"""Arrays that are no images, from npy files: k-space and grids of kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latino_engine.atomic import PathLike
from latino_engine.errors import unreadable


def read_kspace(path: PathLike) -> Tensor:
    """Single-coil k-space as float32 (1, 2, H, W): real and imaginary part, DC at (H//2, W//2).

    Reads an npy file of shape (H, W) complex, or (2, H, W) or (1, 2, H, W) real. Never unpickles.

    Raises:
        ImageUnreadable: another extension, shape or dtype, a damaged file.
    """
    expected = "an npy file with k-space, (H, W) complex or (2, H, W) real"
    file, array = _read(path, expected)
    if array.ndim == 2 and array.dtype.kind == "c":
        array = np.stack([array.real, array.imag])
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[0] != 2 or array.dtype.kind != "f" or array.size == 0:
        raise unreadable(file, expected, f"{array.dtype} of shape {array.shape}", _REMEDY)
    return torch.from_numpy(array.astype(np.float32))[None]


def read_kernel_grid(path: PathLike) -> Tensor:
    """A grid of blur kernels as float64 (R, S, kh, kw), each divided by its sum.

    Reads an npy file of that shape. Never unpickles.

    Raises:
        ImageUnreadable: another extension, shape or dtype, a sum that is not positive, or a
            damaged file.
    """
    expected = "an npy file with a grid of kernels, (R, S, kh, kw) real"
    file, array = _read(path, expected)
    if array.ndim != 4 or array.dtype.kind not in "buif" or array.size == 0:
        raise unreadable(file, expected, f"{array.dtype} of shape {array.shape}", _REMEDY)
    kernels = array.astype(np.float64)
    totals, sizes = kernels.sum(axis=(2, 3)), np.abs(kernels).sum(axis=(2, 3))
    if not (np.isfinite(kernels).all() and (totals > 1e-6 * sizes).all()):
        remedy = "give kernels that preserve brightness"
        raise unreadable(file, "kernels with a positive sum each", "another one", remedy)
    return torch.from_numpy(kernels / totals[:, :, None, None])


_REMEDY = "save it by np.save"


def _read(path: PathLike, expected: str) -> tuple[Path, NDArray[Any]]:
    file = Path(path)
    if file.suffix.lower() != ".npy":
        raise unreadable(file, expected, f"the extension {file.suffix!r}", _REMEDY)
    try:
        return file, np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else "one that cannot be read"
        )
        raise unreadable(file, expected, reason, _REMEDY) from error
