"""Every format that is read, to the exact value."""

from __future__ import annotations

import struct
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile
import torch
from image_files import H, W, expect, noise, save_png16
from numpy.typing import NDArray
from PIL import Image, ImageOps

from latino_engine.image_io import read_image


@pytest.mark.parametrize("extension", ["png", "tif", "tiff", "npy"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("shape", [(H, W), (H, W, 3)])
def test_lossless_formats(
    tmp_path: Path, extension: str, dtype: str, shape: tuple[int, ...]
) -> None:
    path, pixels = tmp_path / f"a.{extension}", noise(dtype, *shape)
    if extension == "npy":
        np.save(path, pixels)
    elif extension.startswith("tif"):
        tifffile.imwrite(path, pixels, photometric="rgb" if len(shape) == 3 else "minisblack")
    elif shape == (H, W, 3) and dtype == "u2":
        save_png16(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    expect(path, pixels)


def test_16_bits_keep_their_low_byte(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint16)
    pixels[0, 0, 0] = 1
    save_png16(tmp_path / "a.png", pixels)
    image = read_image(tmp_path / "a.png")
    assert image[0, 0, 0, 0] == pytest.approx(1 / 65535, rel=1e-6)
    assert image.count_nonzero() == 1


def test_16_bit_colour_interlaced_and_turned(tmp_path: Path) -> None:
    pixels, plain = noise("u2", H, W, 3), tmp_path / "plain.png"
    save_png16(tmp_path / "a.png", pixels, interlace=True)
    expect(tmp_path / "a.png", pixels)
    save_png16(plain, pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + body))
    data = plain.read_bytes()
    (tmp_path / "turned.png").write_bytes(data[:33] + chunk + data[33:])
    expect(tmp_path / "turned.png", np.rot90(pixels, -1))


@pytest.mark.parametrize("extension", ["jpg", "jpeg"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(tmp_path: Path, extension: str, mode: str) -> None:
    smooth = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
    pixels = smooth if mode == "L" else np.stack([smooth, smooth[::-1], 255 - smooth], axis=-1)
    Image.fromarray(pixels).save(tmp_path / f"a.{extension}", quality=98, subsampling=0)
    expect(tmp_path / f"a.{extension}", pixels, exact=False)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_orientation_is_applied(tmp_path: Path, extension: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source, path = Image.fromarray(noise("u1", H, W, 3)), tmp_path / f"a.{extension}"
    source.save(path, exif=exif)
    expect(path, np.asarray(ImageOps.exif_transpose(Image.open(path))))
    if extension != "jpg":  # Pillow is no judge of itself
        turned = {1: 0, 3: 2, 6: 3, 8: 1}.get(orientation)
        if turned is not None:
            expect(path, np.rot90(np.asarray(source), turned))


def test_unknown_orientation_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    pixels = noise("u1", H, W)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expect(tmp_path / "a.png", pixels)


def test_phone_photo_with_two_pictures(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (W, H), (value,) * 3) for value in (51, 204))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.jpg").mean() == pytest.approx(0.2, abs=0.01)


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 51)
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    expect(tmp_path / "a.png", pixels)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_bilevel_becomes_grey(tmp_path: Path, extension: str) -> None:
    pixels = noise("f4", H, W) > 0.5
    Image.fromarray(pixels).save(tmp_path / f"a.{extension}")
    expect(tmp_path / f"a.{extension}", pixels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_reach_white(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    rows = [[i % (top + 1) for i in range(W)] for _ in range(H)]
    with (tmp_path / "a.png").open("wb") as file:
        png.Writer(W, H, greyscale=True, bitdepth=bits).write(file, rows)
    wanted = torch.tensor(rows, dtype=torch.float64) / top
    assert (read_image(tmp_path / "a.png")[0, 0] - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [noise("u1", H, W, 3), noise("u1", H, W), noise("u2", H, W)])
def test_compressed_tiff(tmp_path: Path, compression: str, pixels: NDArray[Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression, exif=exif)
    expect(tmp_path / "a.tif", np.rot90(pixels, -1))


def test_jpeg_in_tiff(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    pixels = np.stack([smooth, smooth[::-1], 255 - smooth], axis=-1)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="jpeg", quality=98)
    expect(tmp_path / "a.tif", pixels, exact=False)


def test_tiff_layouts(tmp_path: Path) -> None:
    path, colour, grey = tmp_path / "a.tif", noise("u2", H, W, 3), noise("u1", H, W)
    planes = colour.transpose(2, 0, 1)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    expect(path, colour)
    tifffile.imwrite(path, colour, photometric="rgb", byteorder=">")
    expect(path, colour)
    tifffile.imwrite(path, colour, photometric="rgb", bigtiff=True)
    expect(path, colour)
    tifffile.imwrite(path, 255 - grey, photometric="miniswhite")
    expect(path, grey)
    tifffile.imwrite(path, noise("f4", H, W))
    expect(path, noise("f4", H, W))
    with tifffile.TiffWriter(path) as writer:
        writer.write(colour, photometric="rgb")
        writer.write(colour[::2, ::2], photometric="rgb", subfiletype=1)  # a thumbnail
    expect(path, colour)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">u2", "u1", "?"])
@pytest.mark.parametrize("channels", [1, 3])
def test_npy_layouts(tmp_path: Path, dtype: str, channels: int) -> None:
    pixels = (noise("f8", H, W, channels) * 255).astype("u1").astype(dtype)
    pixels = pixels / pixels.dtype.type(255) if pixels.dtype.kind == "f" else pixels
    pixels = pixels.astype(dtype)
    wanted = pixels[..., 0] if channels == 1 else pixels
    layouts = [pixels, pixels.transpose(2, 0, 1), pixels.transpose(2, 0, 1)[None]]
    layouts += [pixels[..., 0]] if channels == 1 else []
    for array in [*layouts, *(np.asfortranarray(layout) for layout in layouts)]:
        np.save(tmp_path / "a.npy", array)
        expect(tmp_path / "a.npy", wanted)


def test_npy_channels_come_first_in_doubt(tmp_path: Path) -> None:
    array = noise("f4", 3, 5, 3)
    np.save(tmp_path / "a.npy", array)
    assert torch.equal(read_image(tmp_path / "a.npy")[0], torch.from_numpy(array))


def test_noisy_floats_are_not_clamped(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).normal(0.0, 0.3, (64, 64)).astype(np.float32)
    assert noisy.min() < -0.8
    np.save(tmp_path / "a.npy", noisy)
    assert torch.equal(read_image(tmp_path / "a.npy")[0, 0], torch.from_numpy(noisy))


def test_wrong_extension_right_content(tmp_path: Path) -> None:
    pixels = noise("u1", H, W, 3)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", format="PNG")
    expect(tmp_path / "a.jpg", pixels)
    Image.fromarray(pixels).save(tmp_path / "A.PNG")
    expect(tmp_path / "A.PNG", pixels)


@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_shipped_photographs(name: str) -> None:
    folder = resources.files("latino_engine") / "assets"
    with resources.as_file(folder / f"{name}.png") as path:
        image = read_image(path)
        assert path.stat().st_size <= 200_000
    assert image.shape == (1, 3, 256, 256)
    assert image.std() > 0.1
    assert f"`{name}.png`" in (folder / "SOURCES.md").read_text(encoding="utf-8")
