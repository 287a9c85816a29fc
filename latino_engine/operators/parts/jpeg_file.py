"""What the header of a JPEG file says of its quantisation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from latino_engine.errors import ImageUnreadable, invalid
from latino_engine.operators.parts.jpeg_codec import SUBSAMPLINGS, quantisation_tables

_EXIF_ORIENTATION = 0x0112


class Header(NamedTuple):
    """Quality where the tables are libjpeg's, else None; tables (C, 8, 8); subsampling."""

    quality: int | None
    tables: Tensor
    subsampling: str


def read_header(path: Path) -> Header:
    """Tables and subsampling of a file with one component, or with Y, Cb and Cr.

    Raises:
        ImageUnreadable: no JPEG file.
        InvalidArgument: a file of other components, subsampling or orientation.
    """
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            layers, stored = list(image.layer), image.quantization  # type: ignore[attr-defined]
            is_rgb = image.info.get("adobe_transform") == 0
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
    except FileNotFoundError:
        raise ImageUnreadable(
            f"{path}: expected a JPEG file, got no such file; check the path"
        ) from None
    except (OSError, UnidentifiedImageError):
        remedy = "give the file as the camera or the encoder wrote it"
        raise ImageUnreadable(f"{path}: expected a JPEG file, got another one; {remedy}") from None
    if len(layers) not in (1, 3) or (is_rgb and len(layers) == 3):
        got = "CMYK or RGB components"
        raise invalid("file", "a grey or a YCbCr JPEG", got, "save it as a common JPEG")
    if turned:
        remedy = "turn the file without loss (jpegtran), which keeps its blocks"
        raise invalid("file", "a JPEG that stands upright", "one that its EXIF turns", remedy)
    tables = torch.tensor([stored[layer[3]] for layer in layers], dtype=torch.float64)
    tables = tables.reshape(-1, 8, 8)
    return Header(_quality_of(tables), tables, _subsampling(layers))


def _subsampling(layers: list[tuple[int, int, int, int]]) -> str:
    if len(layers) == 1:
        return "4:4:4"
    (_, high, wide, _), *others = ((i, v, h, q) for i, h, v, q in layers)
    ratios = {(high / v, wide / h) for _, v, h, _ in others}
    for name, ratio in SUBSAMPLINGS.items():
        if ratios == {ratio}:
            return name
    known = ", ".join(SUBSAMPLINGS)
    got = ", ".join(f"{wide / h:g} x {high / v:g}" for _, v, h, _ in others)
    remedy = "use Denoising with the error of the file"
    raise invalid("file", f"chroma subsampled as {known}", f"by {got}", remedy)


def _quality_of(tables: Tensor) -> int | None:
    for quality in range(1, 101):
        if torch.equal(quantisation_tables(quality, len(tables)), tables):
            return quality
    return None
