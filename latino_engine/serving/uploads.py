"""Uploaded files: their size before they are decoded, and a private place to read them from.

A path in a request is never opened: what an operator's description names must have come with it.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from latino_engine.errors import InvalidArgument, UserError, invalid
from latino_engine.operators.builders import FILE_KEYS
from latino_engine.operators.combined_spec import pieces
from latino_engine.operators.grammar import parse_values
from latino_engine.operators.parts.sampling_grid import KERNELS
from latino_engine.serving.failures import Refused

_PNG = b"\x89PNG\r\n\x1a\n"
_NPY, _TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WORDS = {"kernel": KERNELS}  # values that are no names of files
_NAME = re.compile(r"[^\w.-]+")


def check_sizes(files: Mapping[str, bytes], max_pixels: int) -> None:
    """Refuse what would be too large once it is decoded, by its header alone.

    Raises:
        Refused: 413, an image of more pixels than the service takes.
        InvalidArgument: nothing that can be read as an image.
    """
    for name, data in files.items():
        try:
            numbers = _stated_size(data)
        except Exception as error:  # a damaged header may fail anywhere in three libraries
            remedy = "send PNG, JPEG, TIFF or npy"
            raise invalid(name, "an image file", "one that cannot be read", remedy) from error
        if numbers > max_pixels:
            sentence = f"{name}: expected at most {max_pixels} pixels, got {numbers}; crop it"
            raise Refused(413, sentence)


def _stated_size(data: bytes) -> int:
    if data.startswith(_NPY):
        return _npy_size(data)
    if data[:4] in _TIFF:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            return max(page.aspage().imagelength * page.aspage().imagewidth for page in tiff.pages)
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return int(width * height)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning; the limit here is lower
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return image.width * image.height
    except Image.DecompressionBombError:
        return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def _npy_size(data: bytes) -> int:
    """Numbers in an array, for up to three channels of a pixel each."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
    read = read or np.lib.format.read_array_header_2_0
    shape, _, _ = read(file)
    count = 1
    for side in shape:
        count *= int(side)
    return count // (3 if 3 in shape else 1)


@contextmanager
def on_disk(files: Mapping[str, bytes]) -> Iterator[dict[str, Path]]:
    """The files in a folder of their own for the length of the block, by their names.

    A failure that names such a path names the upload instead.
    """
    with TemporaryDirectory(prefix="latino-") as folder:
        paths = {}
        for i, (name, data) in enumerate(files.items()):
            extension = ".npy" if data.startswith(_NPY) else ".png"  # readers go by the contents
            paths[name] = Path(folder) / f"{i}{extension}"
            paths[name].write_bytes(data)
        try:
            yield paths
        except UserError as error:
            sentence = str(error)
            for name, path in paths.items():
                sentence = sentence.replace(str(path), name)
            if sentence == str(error):
                raise
            raise InvalidArgument(sentence) from error


def with_uploads(text: str, paths: Mapping[str, Path]) -> str:
    """A description of operators in which the names of uploads are replaced by their paths.

    Raises:
        InvalidArgument: a description that cannot be read, or that names what was not uploaded.
    """
    parts = pieces(text)
    return "".join(
        part if i % 2 else _one_with_uploads(part, paths) for i, part in enumerate(parts)
    )


def _one_with_uploads(text: str, paths: Mapping[str, Path]) -> str:
    name, _, rest = text.strip().partition(":")
    values: dict[str, Any] = parse_values(name, rest)
    for key, value in values.items():
        if key not in FILE_KEYS or value in _WORDS.get(key, ()):
            continue
        if key == "file" or value not in paths:
            remedy = "send it with the request as a file, and write its name here"
            sent = ", ".join(paths) or "none"
            raise invalid(f"operator {name}, {key}", f"an upload named {value!r}", sent, remedy)
        values[key] = str(paths[value])
    return f"{name}:{','.join(f'{k}={v}' for k, v in values.items())}" if values else name


def clean_name(name: str) -> str:
    """The last part of a file's name, as it may stand in a description."""
    return _NAME.sub("_", re.split(r"[/\\]", name)[-1])[:80]
