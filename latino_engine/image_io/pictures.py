"""A picture with what its pixels alone do not tell: its transparency, and how many bits it had."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import png
import tifffile
import torch
from PIL import Image
from torch import Tensor

from latino_engine.atomic import PathLike
from latino_engine.errors import UserError, unreadable
from latino_engine.image_io.images import (
    Array,
    check_size,
    read_array,
    read_bytes,
    to_unit_range,
    upright,
)

_ORIENTATION = 0x0112
_PNG, _TIFF = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNASSOCIATED = 2  # TIFF: colours that are not multiplied by alpha


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a file.

    Attributes:
        image: float32 (1, C, H, W), as `read_image` reads it.
        alpha: float32 (H, W) in [0, 1], None where the picture is opaque.
        bits: of a picture written beside it: 16 where the file has 16, else 8.
    """

    image: Tensor
    alpha: Tensor | None
    bits: Literal[8, 16]


def read_picture(path: PathLike) -> Picture:
    """An image file as `read_image` reads it, with its transparency kept aside.

    Raises:
        ImageUnreadable: as `read_image`, but for alpha in PNG files and unassociated alpha in TIFF.
    """
    file = Path(path)
    pixels = _with_alpha(file)
    alpha = None
    if pixels is None:
        pixels = read_array(file)
    else:
        pixels, opacity = pixels[:-1], pixels[-1:]
        if not (opacity == np.iinfo(opacity.dtype).max).all():
            alpha = torch.from_numpy(to_unit_range(file, opacity)[0])
    image = torch.from_numpy(to_unit_range(file, np.ascontiguousarray(pixels))[None])
    return Picture(image, alpha, 16 if pixels.dtype.name == "uint16" else 8)


def _with_alpha(file: Path) -> Array | None:
    """(C + 1, H, W) uint8 or uint16, alpha last; None for a file without alpha."""
    data = read_bytes(file)
    try:
        if data.startswith(_PNG):
            return _png_with_alpha(file, data)
        return _tiff_with_alpha(file, data) if data.startswith(_TIFF) else None
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        found = f"data that cannot be decoded ({reason})"
        remedy = "copy or export the file again"
        raise unreadable(file, "an undamaged image", found, remedy) from error


def _png_with_alpha(file: Path, data: bytes) -> Array | None:
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    depth, colour = data[24], data[25]
    check_size(file, height, width)
    picture = Image.open(io.BytesIO(data), formats=("PNG",))
    has_alpha = colour in (4, 6) or "transparency" in picture.info
    if not has_alpha or getattr(picture, "n_frames", 1) > 1:
        return None
    if depth == 16:  # Pillow would cut it to 8 bits
        _, _, rows, facts = png.Reader(bytes=data).asDirect()
        pixels = np.stack([np.asarray(row, dtype=np.uint16) for row in rows])
        pixels = pixels.reshape(height, width, facts["planes"])
    else:
        is_grey = colour in (0, 4)
        pixels = np.asarray(picture.convert("LA" if is_grey else "RGBA"))
    return upright(pixels, picture.getexif().get(_ORIENTATION))


def _tiff_with_alpha(file: Path, data: bytes) -> Array | None:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages[0].aspage()
        if tuple(page.extrasamples) != (_UNASSOCIATED,) or page.samplesperpixel not in (2, 4):
            return None
        check_size(file, page.imagelength, page.imagewidth)
        pixels = page.asarray()
        if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2 or len(tiff.pages) > 1:
            return None
        if page.axes.startswith("S"):  # channels in separate planes
            pixels = np.moveaxis(pixels, 0, -1)
        return upright(pixels, page.tags.valueof(_ORIENTATION))
