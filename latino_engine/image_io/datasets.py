"""Images to train and to judge on: a folder of image files, an idx file or an npy file."""

from __future__ import annotations

import gzip
import os
import struct
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, PREDICTOR

from latino_engine.errors import ImageUnreadable, invalid, unreadable
from latino_engine.image_io.images import (
    EXTENSIONS,
    MAX_PIXELS,
    is_pixel_type,
    read_image,
    tiff_page,
)

Bytes = NDArray[np.uint8]

CHECKPOINT = "training.safetensors"  # marks the folder of a run
_CACHE_BYTES = 4 << 30  # decoded images kept in memory
_IDX_BYTES = 0x08  # the type code of unsigned bytes
#: Pillow's modes that `read_image` takes -> channels.
_CHANNELS = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "P": 3, "RGB": 3}
#: TIFF compressions that are known to decode: of every pixel type, and of bytes.
_ANY_TYPE = (COMPRESSION.NONE, COMPRESSION.DEFLATE, COMPRESSION.ADOBE_DEFLATE)
_BYTES = (COMPRESSION.LZW, COMPRESSION.PACKBITS, COMPRESSION.JPEG)
_IDX_IMAGES = 3  # axes: image, row, column


class HasChannels(Protocol):
    """Images of one channel count."""

    @property
    def channels(self) -> int:
        """Channels of every image."""


class ImageSource(HasChannels, Protocol):
    """Numbered images of one channel count."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Bytes:
        """Image `index`, (C, H, W) uint8."""


class ArrayImages:
    """Images of an array (N, C, H, W) uint8."""

    def __init__(self, images: Bytes) -> None:
        self._images = images
        self.channels = int(images.shape[1])

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> Bytes:
        """Image `index`, (C, H, W) uint8."""
        found: Bytes = self._images[index]
        return found


class FolderImages:
    """Images of files, decoded when they are first needed and kept while memory allows.

    The headers of all files are read at once, so that none of another kind can stop a run later.
    """

    def __init__(self, paths: Sequence[Path], crop: int) -> None:
        self._paths = list(paths)
        self._crop = crop
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Bytes] = OrderedDict()
        self._bytes = 0
        self.channels = _common_channels(self._paths, crop)

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Bytes:
        """Image `index`, (C, H, W) uint8.

        Raises:
            ImageUnreadable: a file that is no image, smaller than the crop or of other channels.
        """
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        path = self._paths[index]
        pixels = (read_image(path)[0] * 255.0).round().to(torch.uint8).numpy()
        self._check(path, pixels.shape)  # of a file that may have changed meanwhile
        with self._lock:
            if index not in self._kept:
                self._kept[index] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    def _check(self, path: Path, shape: tuple[int, ...]) -> None:
        if (problem := _problem(shape, self.channels, self._crop)) is not None:
            raise _refusal(path.parent, self.channels, self._crop, {path: problem})


def _common_channels(paths: Sequence[Path], crop: int) -> int:
    """The number of channels of most of the files, by their headers.

    Raises:
        ImageUnreadable: naming every file that is no image, smaller than the crop or of another
            number of channels.
    """
    shapes: dict[Path, tuple[int, ...]] = {}
    errors: dict[Path, ImageUnreadable] = {}
    for path in paths:
        try:
            shapes[path] = _shape(path)
        except ImageUnreadable as error:
            errors[path] = error
    problems = {
        path: str(error).partition(", got ")[2].partition(";")[0] or str(error)
        for path, error in errors.items()
    }
    counts = Counter(shape[0] for shape in shapes.values())
    channels = counts.most_common(1)[0][0] if counts else 0
    for path, shape in shapes.items():
        if (problem := _problem(shape, channels, crop)) is not None:
            problems[path] = problem
    if len(problems) == len(errors) == 1:
        raise next(iter(errors.values()))  # it has a remedy of its own
    if problems:
        folder = Path(os.path.commonpath([path.parent for path in paths]))
        raise _refusal(folder, channels, crop, problems)
    return channels


def _problem(shape: tuple[int, ...], channels: int, crop: int) -> str | None:
    """Why images of this (C, H, W) cannot be used, None where they can."""
    if min(shape[1:]) < crop:
        return f"{shape[1]} x {shape[2]} pixels"
    return None if shape[0] == channels else _counted(shape[0], "channel")


def _refusal(folder: Path, channels: int, crop: int, problems: dict[Path, str]) -> ImageUnreadable:
    """One message for all files that cannot be used."""
    listed = ", ".join(
        f"{os.path.relpath(path, folder)} ({text})" for path, text in sorted(problems.items())
    )
    kind = f"of {_counted(channels, 'channel')}, as most of them have, " if channels else ""
    return ImageUnreadable(
        f"{folder}: expected images {kind}with sides of at least {crop}, the crop, got "
        f"{_counted(len(problems), 'file')} that cannot be used: {listed}; take them out, "
        "convert them or choose a smaller --size"
    )


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def open_images(source: str | Path, crop: int, pad: int = 0) -> ImageSource:
    """The images of a folder (searched to any depth), an idx file (gzipped or not) or an npy file.

    Args:
        source: a folder of PNG, JPEG, TIFF or npy images; an idx file of bytes; an npy file
            (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or floats in [0, 1].
        crop: side of the squares that will be cut from the images.
        pad: black pixels added at each side of the images of an idx or npy file; 0 for a folder.

    Raises:
        InvalidArgument: a pad for a folder.
        ImageUnreadable: nothing to train on, or files that cannot be used.
    """
    path = Path(source)
    if path.is_dir():
        paths = files_below(path, EXTENSIONS)
        if not paths:
            raise ImageUnreadable(
                f"{path}: expected a folder with images ({', '.join(EXTENSIONS)}), got none in it; "
                "name a folder that holds some"
            )
        if pad:
            raise invalid(
                "pad", "0 for a folder of images", pad, "add the pixels to the images themselves"
            )
        return FolderImages(paths, crop)
    if not path.is_file():
        raise ImageUnreadable(
            f"{path}: expected a folder, an idx file or an npy file, got no such file; check the "
            "path"
        )
    array = _read_npy(path) if path.suffix.lower() == ".npy" else _read_idx(path)
    array = np.pad(array, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    if min(array.shape[-2:]) < crop:
        raise ImageUnreadable(
            f"{path}: expected sides of at least {crop}, the crop, got {array.shape[-2]} x "
            f"{array.shape[-1]}; choose a smaller --size, or add pixels by --pad"
        )
    return ArrayImages(array)


def check_channels(source: HasChannels, channels: int, owner: str, kind: str) -> None:
    """Raises `InvalidArgument` if the images have other channels than the owner, a `kind` has."""
    if source.channels != channels:
        expected = f"images of {channels} channels, as {owner} has"
        raise invalid("source", expected, source.channels, f"use another {kind} or other images")


def files_below(folder: Path, kinds: Sequence[str]) -> list[Path]:
    """What ends in one of these (lower case, with the dot), at any depth, in order.

    Left out is what stands in the folder of a run below it, such as that run's own samples, and
    hidden files, such as those that macOS writes beside images (`._x.jpg`).
    """
    below = list(folder.rglob("*"))
    runs = {path.parent for path in below if path.name == CHECKPOINT} - {folder}
    shown = (path for path in below if not path.name.startswith("."))
    found = (path for path in shown if path.suffix.lower() in kinds)
    return sorted(path for path in found if runs.isdisjoint(path.parents))


def _shape(path: Path) -> tuple[int, ...]:
    """(C, H, W) by the header of a PNG, JPEG or TIFF file, else by decoding it."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(path) as tiff:
                page = tiff_page(path, tiff)
                found = (page.samplesperpixel, page.imagelength, page.imagewidth)
                as_bytes = page.bitspersample == 8 and page.compression in _BYTES
                plain = page.compression in _ANY_TYPE or as_bytes
                differences = page.predictor == PREDICTOR.HORIZONTAL
                differences = differences and page.compression != COMPRESSION.NONE
                plain = plain and (page.predictor == PREDICTOR.NONE or differences)
                known = plain and page.dtype is not None and is_pixel_type(page.dtype)
        else:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                found = (_CHANNELS.get(image.mode, 0), image.height, image.width)
                plain = "transparency" not in image.info and getattr(image, "n_frames", 1) == 1
            known = plain and found[1] * found[2] <= MAX_PIXELS
    except Exception:  # decoders raise nearly anything on damaged bytes
        known = False
    if known and min(found) > 0:  # channels are 0 where read_image does not take the mode
        return found
    return tuple(read_image(path).shape[1:])  # or its sentence


def _read_npy(path: Path) -> Bytes:
    expected = "an npy file of images (N, H, W), (N, C, H, W) or (N, H, W, C)"
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, expected, "one that cannot be read", "save it again") from error
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] > 4 >= array.shape[3]:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.size == 0:
        raise unreadable(path, expected, f"shape {array.shape}", "reshape the array")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise unreadable(path, "uint8 or floats", array.dtype, "convert the array")
    if wrong := int((~np.isfinite(array)).sum()):
        found = f"{wrong} that are NaN or infinite"
        raise unreadable(path, "finite numbers", found, "replace them")
    if float(array.min()) < -0.01 or float(array.max()) > 1.01:
        found = f"values from {array.min():.4g} to {array.max():.4g}"
        raise unreadable(path, "floats in [0, 1]", found, "scale them to that range")
    pixels: Bytes = np.rint(np.clip(array, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels


def _read_idx(path: Path) -> Bytes:
    expected = "an idx file of images of bytes"
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        zero, kind, axes = struct.unpack(">HBB", data[:4])
        sizes = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    except (OSError, EOFError, struct.error) as error:
        found = "one that cannot be read"
        raise unreadable(path, expected, found, "copy the file again") from error
    if zero != 0 or kind != _IDX_BYTES or axes != _IDX_IMAGES or 0 in sizes:
        found = f"type {kind:#x} with {axes} axes"
        raise unreadable(path, expected, found, "name the file of images, not of labels")
    pixels = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if pixels.size != int(np.prod(sizes)):
        found = f"{pixels.size} of {int(np.prod(sizes))} bytes"
        raise unreadable(path, "a whole file", found, "copy the file again")
    return pixels.reshape(sizes[0], 1, sizes[1], sizes[2])
