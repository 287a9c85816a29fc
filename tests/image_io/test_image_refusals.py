"""Every file that is refused, to the letter of the sentence."""

from __future__ import annotations

import io
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile
import torch
from image_files import H, W, noise, refusal, save_png16
from numpy.typing import NDArray
from PIL import Image

from latino_engine.errors import ImageUnreadable
from latino_engine.image_io import read_image

ALPHA_REMEDY = (
    "flatten the image, e.g. `convert in.png -background white -flatten out.png`, "
    "or save it without alpha"
)


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha(tmp_path: Path, extension: str, mode: str) -> None:
    path = tmp_path / f"a.{extension}"
    Image.new(mode, (W, H)).save(path)
    assert refusal(path) == f"expected an opaque image, got one with alpha; {ALPHA_REMEDY}"


@pytest.mark.parametrize("planes", [2, 4])
def test_alpha_of_16_bits(tmp_path: Path, planes: int) -> None:
    save_png16(tmp_path / "a.png", noise("u2", H, W, planes))
    assert "got one with alpha" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colour(tmp_path: Path, mode: str) -> None:
    colour = (0, 0, 0) if mode == "RGB" else 0
    Image.new(mode, (W, H)).save(tmp_path / "a.png", transparency=colour)
    assert "got one with alpha" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    Image.new("CMYK", (W, H)).save(path)
    assert refusal(path) == (
        "expected a grey or RGB image, got CMYK pixels; "
        "convert it to an 8 or 16 bit grey or RGB PNG"
    )


def test_several_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise("u1", 5, H, W), photometric="minisblack")
    assert refusal(path) == (
        "expected one page, got 5 pages; save the page that you want in a file of its own"
    )


def test_animation(tmp_path: Path) -> None:
    first, second = Image.new("L", (W, H), 0), Image.new("L", (W, H), 255)
    first.save(tmp_path / "a.png", save_all=True, append_images=[second])
    assert refusal(tmp_path / "a.png") == (
        "expected one image, got an animation; save the frame that you want"
    )


def test_unusual_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    remedy = "convert it to an 8 or 16 bit grey or RGB PNG"
    Image.new("P", (W, H)).save(path)
    assert refusal(path) == f"expected a grey or RGB image, got PALETTE pixels; {remedy}"
    tifffile.imwrite(path, noise("u1", H, W, 5), photometric="minisblack", planarconfig="contig")
    assert "channels and depth 1" in refusal(path)
    tifffile.imwrite(path, noise("i2", H, W))
    assert refusal(path) == (
        "expected uint8, uint16 or floats in [0, 1], got int16; save it as one of these"
    )


def test_compressed_colour_of_16_bits(tmp_path: Path) -> None:
    """tifffile cannot write LZW here, so the compression tag of a plain file is changed."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise("u2", H, W, 3), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(5)
    assert refusal(path) == (
        "expected a compression that can be decoded here, got 16 bits in LZW; "
        "save it without compression, or with deflate"
    )


def test_missing_folder_empty_extension(tmp_path: Path) -> None:
    remedy = "copy or export the file again"
    assert refusal(tmp_path / "a.png") == (
        "expected an image file, got no such file; check the path"
    )
    (tmp_path / "b.png").mkdir()
    assert refusal(tmp_path / "b.png") == "expected an image file, got a folder; name a file in it"
    (tmp_path / "c.png").touch()
    assert refusal(tmp_path / "c.png") == f"expected an image, got an empty file; {remedy}"
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "d.png") == (
        "expected a readable file, got not a directory; check the path and its permissions"
    )
    known = "expected one of .png, .jpg, .jpeg, .tif, .tiff, .npy"
    assert refusal(tmp_path / "e.bmp") == f"{known}, got the extension '.bmp'; convert it to PNG"
    assert refusal(tmp_path / "e") == f"{known}, got a name without extension; convert it to PNG"


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"GIF89a and more")
    assert refusal(tmp_path / "a.png") == (
        "expected PNG, JPEG, TIFF or npy data, got a file that begins with b'GIF89a'; "
        "convert it to PNG"
    )


def encoded(extension: str) -> bytes:
    buffer = io.BytesIO()
    colour = noise("u1", 40, 50, 3)
    if extension == "npy":
        np.save(buffer, colour)
    elif extension == "16.png":
        writer = png.Writer(50, 40, greyscale=False, bitdepth=16)
        writer.write(buffer, noise("u2", 40, 150).tolist())
    elif extension == "tif":
        tifffile.imwrite(buffer, colour, photometric="rgb", compression="zlib")
    elif extension == "strips.tif":
        tifffile.imwrite(buffer, colour, photometric="rgb", compression="zlib", rowsperstrip=4)
    elif extension == "plain.tif":
        tifffile.imwrite(buffer, colour, photometric="rgb")
    else:
        Image.fromarray(colour).save(buffer, format={"png": "PNG", "jpg": "JPEG"}[extension])
    return buffer.getvalue()


FORMATS = ["png", "16.png", "jpg", "tif", "strips.tif", "plain.tif", "npy"]


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated(tmp_path: Path, extension: str, share: float) -> None:
    data, path = encoded(extension), tmp_path / f"a.{extension}"
    path.write_bytes(data)
    assert read_image(path).shape == (1, 3, 40, 50)
    path.write_bytes(data[: max(int(len(data) * share), 9)])
    message = refusal(path)
    assert message.startswith("expected an undamaged image, got data that cannot be decoded (")
    assert message.endswith("); copy or export the file again")


@pytest.mark.parametrize("extension", ["tif", "strips.tif", "plain.tif"])
def test_tiff_without_its_pixels(tmp_path: Path, extension: str) -> None:
    """tifffile would return zeros."""
    path = tmp_path / f"a.{extension}"
    path.write_bytes(encoded(extension))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages.first.tags["StripByteCounts"]
        tag.overwrite([0] * tag.count)
    assert refusal(path) == (
        "expected an undamaged image, got data that cannot be decoded (pixels are missing); "
        "copy or export the file again"
    )


def test_no_decoder_writes_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program; pytest listens
    data = bytearray(encoded("plain.tif"))
    data[118:120] = b"\xfe\xff"  # StripByteCounts, which can be guessed
    (tmp_path / "a.tif").write_bytes(data)
    assert read_image(tmp_path / "a.tif").shape == (1, 3, 40, 50)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("extension", FORMATS)
def test_damaged_bytes_never_crash(tmp_path: Path, extension: str) -> None:
    rng, data, path = random.Random(0), encoded(extension), tmp_path / f"a.{extension}"
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            image = read_image(path)
        except ImageUnreadable as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert image.ndim == 4
            assert bool(torch.isfinite(image).all())
    assert refused > 5


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latino_engine.image_io.images.MAX_PIXELS", 100)
    Image.fromarray(noise("u1", H, W)).save(tmp_path / "a.png")
    Image.fromarray(noise("u1", H, W)).save(tmp_path / "a.jpg")
    tifffile.imwrite(tmp_path / "a.tif", noise("u1", H, W))
    np.save(tmp_path / "a.npy", noise("u1", H, W))
    for extension in ("png", "jpg", "tif", "npy"):
        message = refusal(tmp_path / f"a.{extension}")
        assert message == "expected at most 100 pixels, got 13 x 17; crop or downscale it"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.array([[None]], dtype=object),
            "expected an array of numbers, got pickled objects; "
            "save numbers, e.g. `np.save(path, image.astype(np.float32))`",
        ),
        (np.ones((2, 2), np.complex64), "expected real numbers, got complex64; save it as float32"),
        (np.array([["a"]]), "expected real numbers, got <U1; save it as float32"),
        (
            np.ones((2, 2), np.int64),
            "expected uint8, uint16 or floats in [0, 1], got int64; save it as one of these",
        ),
        (
            np.array([[0.0, np.nan]]),
            "expected finite values, got NaN or infinity; "
            "replace them, and describe missing pixels by a mask",
        ),
        (
            np.array([[0.0, np.inf]], np.float32),
            "expected finite values, got NaN or infinity; "
            "replace them, and describe missing pixels by a mask",
        ),
        (
            np.linspace(-1, 1, 64).reshape(8, 8),
            "expected floats in [0, 1], got values from -1 to 1; scale them to that range",
        ),
        (
            np.linspace(0, 255, 64).reshape(8, 8),
            "expected floats in [0, 1], got values from 0 to 255; scale them to that range",
        ),
        (
            np.full((8, 8), 1e300),
            "expected floats in [0, 1], got values from 1e+300 to 1e+300; scale them to that range",
        ),
    ],
)
def test_npy_values(tmp_path: Path, array: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert refusal(tmp_path / "a.npy") == message


@pytest.mark.parametrize("shape", [(4,), (), (2, 4, 5), (4, 5, 2), (2, 3, 4, 5), (0, 5), (1,) * 5])
def test_npy_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    assert refusal(tmp_path / "a.npy") == (
        "expected shape (H, W), (H, W, C), (C, H, W) or (1, C, H, W) with C = 1 or 3, "
        f"got {shape}; save one image with one of these shapes"
    )
