"""Images, masks and kernels from files: PNG, JPEG, TIFF and npy, 8 or 16 bits, grey or RGB."""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import png
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latino_engine.atomic import PathLike
from latino_engine.errors import UserError, unreadable

# tifffile logs what is odd in a file; where nobody listens, Python would print that on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

Array: TypeAlias = NDArray[Any]

MAX_PIXELS = 2**26  # 8192 x 8192; more is a mistake or an attack, and Pillow warns above 89 million
EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
MAX_RMS_OUTSIDE = 0.25  # noise of std 0.35 on black stays below; data in [-1, 1] or [0, 255] do not

#: A value of a mask within this share of an end is told apart; so many may lie between.
_NEAR_AN_END, _MOST_UNDECIDED = 0.1, 0.2
_ALPHA_REMEDY = (
    "flatten the image, e.g. `convert in.png -background white -flatten out.png`, "
    "or save it without alpha"
)
_CONVERT_REMEDY = "convert it to an 8 or 16 bit grey or RGB PNG"
_EXIF_ORIENTATION = 0x0112
#: EXIF orientation -> the upright image, for arrays (H, W) or (H, W, C).
_UPRIGHT: dict[int, Callable[[Array], Array]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def read_image(path: PathLike) -> Tensor:
    """An image file as float32 (1, C, H, W), C = 1 or 3, nominally in [0, 1].

    Integers are divided by the maximum of their type (255, 65535), never by that of the image. EXIF
    orientation is applied, palettes become RGB, bilevel becomes grey. Floats (npy, TIFF) are taken
    as they are and not clamped, since a noisy measurement leaves [0, 1]; they are refused where the
    RMS distance from [0, 1] exceeds 0.25. npy: (H, W), (H, W, C), (C, H, W) or (1, C, H, W), the
    channels first where both readings are possible.

    Raises:
        ImageUnreadable: missing, empty, damaged or not an image; alpha, CMYK, several pages, more
            than 2^26 pixels, non-finite values, another range, dtype or shape.
    """
    file = Path(path)
    return torch.from_numpy(to_unit_range(file, read_array(file))[None])


def is_pixel_type(dtype: np.dtype[Any]) -> bool:
    """True for bool, uint8, uint16 and floats, in either byte order: what `read_image` takes."""
    return dtype.kind in "bf" or (dtype.kind == "u" and dtype.itemsize <= 2)


def read_mask(path: PathLike) -> Tensor:
    """A mask file as float32 (H, W) of 0 (missing) and 1 (observed).

    The file holds two values, 0 and any other; an image in colour has three equal channels. Where
    most values lie within a tenth of the two ends, as with soft edges or in a JPEG, those of half
    the largest and above count as observed, with a warning that says how many lie between.

    Raises:
        ImageUnreadable: as `read_image`, or other values, or nothing observed.
    """
    file = Path(path)
    plane = _read_plane(file)
    values = np.unique(plane)
    if values[-1] > 0 and np.isin(values, (0, values[-1])).all():
        return torch.from_numpy((plane > 0).astype(np.float32))
    share = plane.astype(np.float64) / max(float(values[-1]), 1e-300)
    undecided = float(((share > _NEAR_AN_END) & (share < 1.0 - _NEAR_AN_END)).mean())
    if values[0] < 0 or values[-1] <= 0 or undecided > _MOST_UNDECIDED or share.min() > 0.5:
        found = f"{values.size} values from {values[0]:.4g} to {values[-1]:.4g}"
        raise unreadable(
            file,
            "a mask of two values, 0 (missing) and one above it (observed)",
            found,
            "threshold it and save it as PNG or npy (JPEG changes the values)",
        )
    between = int((~np.isin(plane, (0, values[-1]))).sum())
    warnings.warn(
        f"{file}: {between} of {plane.size} values of the mask lie between 0 and its largest, as "
        "at soft edges; those of at least half of it count as observed",
        stacklevel=2,
    )
    return torch.from_numpy((share >= 0.5).astype(np.float32))


def read_kernel(path: PathLike) -> Tensor:
    """A blur kernel file as float64 (kh, kw), divided by its sum.

    Raises:
        ImageUnreadable: as `read_image`, or colour, or a sum that is not positive.
    """
    file = Path(path)
    kernel = _read_plane(file).astype(np.float64)
    total = float(kernel.sum())
    if total <= 1e-6 * float(np.abs(kernel).sum()):
        remedy = "give a kernel that preserves brightness"
        raise unreadable(file, "a kernel with a positive sum", f"the sum {total:.4g}", remedy)
    return torch.from_numpy(kernel / total)


def read_array(path: Path) -> Array:
    """The pixels of a file, (C, H, W), C = 1 or 3: bool, integers or finite floats, as stored."""
    data = read_bytes(path)
    reader = next((_READERS[magic] for magic in _READERS if data.startswith(magic)), None)
    if reader is None:
        found = f"a file that begins with {data[:6]!r}"
        raise unreadable(path, "PNG, JPEG, TIFF or npy data", found, "convert it to PNG")
    try:
        pixels = reader(path, data)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        reason = re.sub(r"\s*<[^<>]* at 0x\w+>", "", reason)  # Pillow prints its buffer's address
        found = f"data that cannot be decoded ({reason})"
        remedy = "copy or export the file again"
        raise unreadable(path, "an undamaged image", found, remedy) from error
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        remedy = "replace them, and describe missing pixels by a mask"
        raise unreadable(path, "finite values", "NaN or infinity", remedy)
    return np.ascontiguousarray(pixels)


def read_bytes(path: Path) -> bytes:
    """The contents of a file with the extension of an image; raises ImageUnreadable."""
    if path.suffix.lower() not in EXTENSIONS:
        found = f"the extension {path.suffix!r}" if path.suffix else "a name without extension"
        raise unreadable(path, f"one of {', '.join(EXTENSIONS)}", found, "convert it to PNG")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise unreadable(path, "an image file", "no such file", "check the path") from error
    except IsADirectoryError as error:
        raise unreadable(path, "an image file", "a folder", "name a file in it") from error
    except OSError as error:
        reason = (error.strerror or "an error").lower()
        remedy = "check the path and its permissions"
        raise unreadable(path, "a readable file", reason, remedy) from error
    if not data:
        raise unreadable(path, "an image", "an empty file", "copy or export the file again")
    return data


def _read_plane(path: Path) -> Array:
    """(H, W), one channel or three equal ones, as stored."""
    pixels = read_array(path)
    if (pixels != pixels[:1]).any():
        remedy = "save one channel, in grey"
        raise unreadable(path, "one channel or equal channels", "a colour image", remedy)
    plane: Array = pixels[0]
    return plane


def to_unit_range(path: Path, pixels: Array) -> NDArray[np.float32]:
    """Pixels as `read_image` returns them; raises ImageUnreadable for another type or range."""
    if not is_pixel_type(pixels.dtype):
        remedy = "save it as one of these"
        raise unreadable(path, "uint8, uint16 or floats in [0, 1]", pixels.dtype, remedy)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if pixels.dtype.kind == "u":
        return (pixels / np.float64(np.iinfo(pixels.dtype).max)).astype(np.float32)
    values = pixels.astype(np.float64)
    outside = np.minimum(np.abs(values - np.clip(values, 0.0, 1.0)), 1e9)  # its square is finite
    if np.sqrt(np.mean(outside**2)) > MAX_RMS_OUTSIDE:
        found = f"values from {values.min():.4g} to {values.max():.4g}"
        raise unreadable(path, "floats in [0, 1]", found, "scale them to that range")
    return values.astype(np.float32)


def check_size(path: Path, height: int, width: int) -> None:
    """Raises ImageUnreadable for more than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        found = f"{height} x {width}"
        raise unreadable(path, f"at most {MAX_PIXELS} pixels", found, "crop or downscale it")


def upright(pixels: Array, orientation: object) -> Array:
    """(C, H, W) from (H, W) or (H, W, C) and an EXIF orientation; unknown ones count as upright."""
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    turned = turn(pixels) if turn else pixels
    return turned[None] if turned.ndim == 2 else turned.transpose(2, 0, 1)


def _read_png(path: Path, data: bytes) -> Array:
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    check_size(path, height, width)
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    if colour in (4, 6) or "transparency" in image.info:
        raise unreadable(path, "an opaque image", "one with alpha", _ALPHA_REMEDY)
    if getattr(image, "n_frames", 1) > 1:
        raise unreadable(path, "one image", "an animation", "save the frame that you want")
    if (depth, colour) == (16, 2):  # Pillow would cut it to 8 bits
        _, _, rows, _ = png.Reader(bytes=data).read()
        pixels = np.stack([np.asarray(row, dtype=np.uint16) for row in rows])
        pixels = pixels.reshape(height, width, 3)
    else:
        pixels = _pillow_pixels(path, image)
    return upright(pixels, image.getexif().get(_EXIF_ORIENTATION))


def _read_jpeg(path: Path, data: bytes) -> Array:
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    pixels = _pillow_pixels(path, image)
    return upright(pixels, image.getexif().get(_EXIF_ORIENTATION))


def _pillow_pixels(path: Path, image: Image.Image) -> Array:
    """(H, W) bool, uint8 or uint16, or (H, W, 3) uint8."""
    check_size(path, image.height, image.width)
    if image.mode == "P":
        return np.asarray(image.convert("RGB"))
    if image.mode == "I":  # 16-bit grey PNG in older versions of Pillow
        return np.asarray(image).astype(np.uint16)
    if image.mode not in ("1", "L", "RGB", "I;16", "I;16B", "I;16L"):
        raise unreadable(path, "a grey or RGB image", f"{image.mode} pixels", _CONVERT_REMEDY)
    return np.asarray(image)


def tiff_page(path: Path, tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """The one page of an open file, checked by its header; the pixels are not read.

    Raises:
        ImageUnreadable: no page or several, or one that `read_image` does not take.
    """
    pages = [page.aspage() for page in tiff.pages]
    pages = [page for page in pages if not page.is_reduced]  # thumbnails do not count
    if len(pages) != 1:
        remedy = "save the page that you want in a file of its own"
        raise unreadable(path, "one page", f"{len(pages)} pages", remedy)
    _check_tiff(path, pages[0])
    return pages[0]


def _read_tiff(path: Path, data: bytes) -> Array:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff_page(path, tiff)
        try:
            pixels = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _read_compressed_tiff(path, data, page)
        orientation = page.tags.valueof(_EXIF_ORIENTATION)
        if page.axes.startswith("S"):  # channels in separate planes
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = ~pixels if pixels.dtype.kind in "bu" else 1 - pixels
    return upright(pixels, orientation)


def _check_tiff(path: Path, page: tifffile.TiffPage) -> None:
    check_size(path, page.imagelength, page.imagewidth)
    if any(kind in (1, 2) for kind in page.extrasamples):
        raise unreadable(path, "an opaque image", "one with alpha", _ALPHA_REMEDY)
    kind = getattr(page.photometric, "name", str(page.photometric))
    is_jpeg = page.compression == tifffile.COMPRESSION.JPEG  # its YCbCr decodes to RGB
    if kind not in ("MINISBLACK", "MINISWHITE", "RGB") and not (is_jpeg and kind == "YCBCR"):
        name = "CMYK" if kind == "SEPARATED" else kind
        raise unreadable(path, "a grey or RGB image", f"{name} pixels", _CONVERT_REMEDY)
    if page.samplesperpixel not in (1, 3) or page.imagedepth != 1:
        found = f"{page.samplesperpixel} channels and depth {page.imagedepth}"
        raise unreadable(path, "1 or 3 channels", found, _CONVERT_REMEDY)
    if not page.dataoffsets or 0 in page.databytecounts:  # tifffile would fill in zeros
        raise ValueError("pixels are missing")
    if page.dtype is None or page.bitspersample not in (1, 8, 16, 32, 64):
        found = f"{page.bitspersample} bits"
        raise unreadable(path, "8 or 16 bits per channel", found, _CONVERT_REMEDY)


def _read_compressed_tiff(path: Path, data: bytes, page: tifffile.TiffPage) -> Array:
    """LZW, JPEG and the like: Pillow decodes them, but has no 16-bit colour and no floats."""
    is_16bit_colour = page.samplesperpixel == 3 and page.bitspersample > 8
    if is_16bit_colour or page.bitspersample > 16:
        found = f"{page.bitspersample} bits in {getattr(page.compression, 'name', 'unknown')}"
        remedy = "save it without compression, or with deflate"
        raise unreadable(path, "a compression that can be decoded here", found, remedy)
    image = Image.open(io.BytesIO(data), formats=("TIFF",))
    return upright(_pillow_pixels(path, image), None)  # Pillow turns a TIFF upright itself


def _read_npy(path: Path, data: bytes) -> Array:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        remedy = "save numbers, e.g. `np.save(path, image.astype(np.float32))`"
        raise unreadable(path, "an array of numbers", "pickled objects", remedy) from error
    if array.dtype.kind not in "buif":
        raise unreadable(path, "real numbers", array.dtype, "save it as float32")
    shape = array.shape
    if array.ndim == 4 and shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] not in (1, 3) and array.shape[2] in (1, 3):
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in (1, 3) or array.size == 0:
        expected = "shape (H, W), (H, W, C), (C, H, W) or (1, C, H, W) with C = 1 or 3"
        raise unreadable(path, expected, shape, "save one image with one of these shapes")
    check_size(path, *array.shape[1:])
    result: Array = array
    return result


#: The first bytes of a file -> its reader: an extension may be wrong, they are not.
_READERS: dict[bytes, Callable[[Path, bytes], Array]] = {
    b"\x89PNG\r\n\x1a\n": _read_png,
    b"\xff\xd8\xff": _read_jpeg,
    b"II*\0": _read_tiff,
    b"MM\0*": _read_tiff,
    b"II+\0": _read_tiff,
    b"MM\0+": _read_tiff,
    b"\x93NUMPY": _read_npy,
}
