"""Images and arrays to files: PNG and npy, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import png
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latino_engine.atomic import PathLike, atomic_file
from latino_engine.errors import invalid, invalid_type

Array: TypeAlias = NDArray[Any]


def write_image(
    path: PathLike,
    image: Tensor | Array,
    *,
    bits: Literal[8, 16] = 8,
    alpha: Tensor | Array | None = None,
) -> None:
    """Writes (C, H, W) or (1, C, H, W), C = 1 or 3, as a grey or RGB PNG, whole or not at all.

    Values are clamped to [0, 1], multiplied by 2^bits - 1 and rounded. Missing folders are made.
    With alpha, (H, W) in [0, 1], the file has that channel besides.

    Raises:
        InvalidArgument, InvalidType: another shape, dtype, `bits` or extension, non-finite values.
        OutputNotWritable: no space, no permission; an earlier file of that name is unchanged.
    """
    _check_extension(path, ".png")
    if bits not in (8, 16):
        raise invalid("bits", "8 or 16", bits, "choose one of them")
    pixels = _quantise(image, bits)
    if alpha is not None:
        opacity = _quantise(torch.as_tensor(alpha)[None], bits)
        if opacity.shape[:2] != pixels.shape[:2]:
            got = " x ".join(map(str, opacity.shape[:2]))
            expected = f"the size of the image, {pixels.shape[0]} x {pixels.shape[1]}"
            raise invalid("alpha", expected, got, "resize it")
        pixels = np.concatenate([pixels, opacity], axis=2)
    height, width, planes = pixels.shape
    with atomic_file(path) as file:
        if bits == 8:  # Pillow filters the rows: about half the size of pypng's file
            Image.fromarray(pixels[..., 0] if planes == 1 else pixels).save(file, format="PNG")
            return
        kind = {"greyscale": planes < 3, "alpha": alpha is not None, "bitdepth": bits}
        writer = png.Writer(width, height, **kind)
        writer.write_packed(file, (row.tobytes() for row in pixels.astype(">u2")))


def write_npy(path: PathLike, array: Tensor | Array) -> None:
    """Writes an array as npy with its shape and dtype, whole or not at all.

    Raises:
        InvalidArgument, InvalidType: another extension; an array of objects.
        OutputNotWritable: no space, no permission; an earlier file of that name is unchanged.
    """
    _check_extension(path, ".npy")
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if values.dtype.hasobject:
        raise invalid_type("array", "numbers", values.dtype, "convert it to a numeric dtype")
    with atomic_file(path) as file:
        np.save(file, values, allow_pickle=False)


def _check_extension(path: PathLike, extension: str) -> None:
    name = os.fspath(path)
    if Path(name).suffix.lower() != extension:
        raise invalid("out", f"a name that ends in {extension}", repr(name), "change the extension")


def _quantise(image: Tensor | Array, bits: int) -> Array:
    """(H, W, C) uint8 or uint16."""
    tensor = torch.as_tensor(image).detach()
    if not tensor.is_floating_point():
        remedy = "divide by the maximum of its type"
        raise invalid_type("image", "floating-point values in [0, 1]", tensor.dtype, remedy)
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or tensor.numel() == 0:
        expected = "shape (C, H, W) or (1, C, H, W) with C = 1 or 3"
        raise invalid("image", expected, shape, "write one grey or RGB image at a time")
    values = tensor.to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise invalid("image", "finite values", "NaN or infinity", "look for their cause")
    scaled = np.rint(np.clip(values, 0.0, 1.0) * (2**bits - 1))
    return np.ascontiguousarray(scaled.transpose(1, 2, 0), dtype=f"u{bits // 8}")
