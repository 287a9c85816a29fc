"""k-space measurements from npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latino_engine.atomic import PathLike
from latino_engine.errors import unreadable


def read_kspace(path: PathLike) -> Tensor:
    """Single-coil k-space as float32 (1, 2, H, W): real and imaginary part, DC at (H//2, W//2).

    Reads an npy file of shape (H, W) complex, or (2, H, W) or (1, 2, H, W) real. Never unpickles.

    Raises:
        ImageUnreadable: another extension, shape or dtype, a damaged file.
    """
    file = Path(path)
    expected = "an npy file with k-space, (H, W) complex or (2, H, W) real"
    remedy = "save it by np.save"
    if file.suffix.lower() != ".npy":
        raise unreadable(file, expected, f"the extension {file.suffix!r}", remedy)
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else "one that cannot be read"
        )
        raise unreadable(file, expected, reason, remedy) from error
    if array.ndim == 2 and array.dtype.kind == "c":
        array = np.stack([array.real, array.imag])
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[0] != 2 or array.dtype.kind != "f" or array.size == 0:
        raise unreadable(file, expected, f"{array.dtype} of shape {array.shape}", remedy)
    return torch.from_numpy(array.astype(np.float32))[None]
