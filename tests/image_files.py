"""Image files to read, and what reading them must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import torch
from numpy.typing import NDArray

from latino_engine.errors import ImageUnreadable
from latino_engine.image_io import read_image

H, W = 13, 17


def noise(dtype: str, *shape: int) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if dtype.startswith("f"):
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def expect(path: Path, pixels: NDArray[Any], exact: bool = True) -> None:
    """`path` reads as `pixels` (H, W) or (H, W, 3), integers over the maximum of their type."""
    image = read_image(path)
    channels = 1 if pixels.ndim == 2 else 3
    assert image.shape == (1, channels, *pixels.shape[:2])
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    scale = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    wanted = (pixels.astype(np.float64) / scale).astype(np.float32)
    wanted = wanted.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)
    error = np.abs(image[0].numpy() - wanted).max()
    assert error == 0 if exact else error < 0.03


def refusal(path: Path, read: Any = read_image) -> str:
    with pytest.raises(ImageUnreadable) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert " at 0x" not in message
    assert message.startswith(f"{path}: expected ")
    return message.removeprefix(f"{path}: ")


def save_png16(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    height, width, planes = pixels.shape
    grey, alpha = planes < 3, planes in (2, 4)
    writer = png.Writer(width, height, greyscale=grey, alpha=alpha, bitdepth=16, **options)
    with path.open("wb") as file:
        writer.write(file, pixels.reshape(height, width * planes).tolist())
