"""Masks, kernels, and what is written."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import H, W, noise, refusal
from numpy.typing import NDArray
from PIL import Image

from latino_engine.errors import InvalidArgument, InvalidType, OutputNotWritable
from latino_engine.image_io import read_image, read_kernel, read_mask, write_image, write_npy


@pytest.mark.parametrize("top", [1, 255])
def test_mask(tmp_path: Path, top: int) -> None:
    observed = noise("f4", H, W) > 0.5
    values = (observed * top).astype(np.uint8)
    wanted = torch.from_numpy(observed.astype(np.float32))
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(np.stack([values] * 3, axis=-1)).save(tmp_path / "b.png")
    Image.fromarray(observed).save(tmp_path / "c.png")
    for name, array in (("d", observed), ("e", values.astype(np.int64)), ("f", values[None] / 2)):
        np.save(tmp_path / f"{name}.npy", array)
    for path in sorted(tmp_path.iterdir()):
        mask = read_mask(path)
        assert mask.dtype == torch.float32
        assert torch.equal(mask, wanted), path.name


def test_mask_of_everything(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((H, W)))
    assert torch.equal(read_mask(tmp_path / "a.npy"), torch.ones(H, W))


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([[0.0, 0.5, 1.0]]), "3 values from 0 to 1"),
        (np.array([[-1.0, 1.0]]), "2 values from -1 to 1"),
        (np.zeros((2, 2)), "1 values from 0 to 0"),
        (np.array([[1, 2]]), "2 values from 1 to 2"),
    ],
)
def test_mask_refused(tmp_path: Path, array: NDArray[Any], found: str) -> None:
    np.save(tmp_path / "a.npy", array)
    assert refusal(tmp_path / "a.npy", read_mask) == (
        "expected a mask of two values, 0 (missing) and one above it (observed), "
        f"got {found}; threshold it and save it as PNG or npy (JPEG changes the values)"
    )


def test_mask_and_kernel_have_one_channel(tmp_path: Path) -> None:
    Image.fromarray(noise("u1", H, W, 3)).save(tmp_path / "a.png")
    for read in (read_mask, read_kernel):
        assert refusal(tmp_path / "a.png", read) == (
            "expected one channel or equal channels, got a colour image; save one channel, in grey"
        )


def test_kernel_is_divided_by_its_sum(tmp_path: Path) -> None:
    pixels = noise("u1", 5, 7)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", pixels * 1e3 / 7)
    wanted = torch.from_numpy(pixels / pixels.sum())
    for name in ("a.png", "b.npy"):
        kernel = read_kernel(tmp_path / name)
        assert kernel.dtype == torch.float64
        assert ((kernel - wanted).norm() / wanted.norm()) < 1e-14


@pytest.mark.parametrize(("values", "total"), [([[1.0, -1.0]], "0"), ([[1.0, -3.0]], "-2")])
def test_kernel_refused(tmp_path: Path, values: list[list[float]], total: str) -> None:
    np.save(tmp_path / "a.npy", np.array(values))
    assert refusal(tmp_path / "a.npy", read_kernel) == (
        f"expected a kernel with a positive sum, got the sum {total}; "
        "give a kernel that preserves brightness"
    )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_written_image_reads_back(tmp_path: Path, bits: Any, channels: int) -> None:
    image = torch.rand(1, channels, H, W)
    write_image(tmp_path / "a.png", image, bits=bits)
    write_image(tmp_path / "b.png", image[0].double().numpy(), bits=bits)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    back = read_image(tmp_path / "a.png")
    assert back.shape == image.shape
    # Half a grey level, plus the rounding of float32.
    assert (back - image).abs().max() <= 0.5 / (2**bits - 1) + 1e-7
    assert (back - image).abs().max() > 0.4 / (2**bits - 1)
    ihdr = (tmp_path / "a.png").read_bytes()[16:26]
    assert struct.unpack(">IIBB", ihdr) == (W, H, bits, 0 if channels == 1 else 2)


def test_written_image_is_clamped_and_rounded(tmp_path: Path) -> None:
    image = torch.tensor([-0.5, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 2.0]).reshape(1, 1, 6)
    write_image(tmp_path / "a.png", image)
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 0, 0, 1, 255, 255]]


def test_gradient_is_no_obstacle(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.zeros(1, H, W, requires_grad=True))
    write_npy(tmp_path / "a.npy", torch.zeros(2, requires_grad=True))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (
            torch.zeros(H, W),
            InvalidArgument,
            "image: expected shape (C, H, W) or (1, C, H, W) with C = 1 or 3, got (13, 17); "
            "write one grey or RGB image at a time",
        ),
        (
            torch.zeros(2, 3, H, W),
            InvalidArgument,
            "image: expected shape (C, H, W) or (1, C, H, W) with C = 1 or 3, got (2, 3, 13, 17); "
            "write one grey or RGB image at a time",
        ),
        (
            torch.full((1, H, W), torch.nan),
            InvalidArgument,
            "image: expected finite values, got NaN or infinity; look for their cause",
        ),
        (
            torch.zeros(1, H, W, dtype=torch.uint8),
            InvalidType,
            "image: expected floating-point values in [0, 1], got torch.uint8; "
            "divide by the maximum of its type",
        ),
    ],
)
def test_image_that_cannot_be_written(
    tmp_path: Path, image: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        write_image(tmp_path / "a.png", image)
    assert list(tmp_path.iterdir()) == []


def test_bits_and_extensions(tmp_path: Path) -> None:
    image = torch.zeros(1, H, W)
    with pytest.raises(
        InvalidArgument, match=r"^bits: expected 8 or 16, got 12; choose one of them$"
    ):
        write_image(tmp_path / "a.png", image, bits=12)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        write_image("a.jpg", image)
    sentence = "out: expected a name that ends in {}, got '{}'; change the extension"
    assert str(caught.value) == sentence.format(".png", "a.jpg")
    with pytest.raises(InvalidArgument) as caught:
        write_npy("a.png", image)
    assert str(caught.value) == sentence.format(".npy", "a.png")


def test_npy_keeps_shape_and_dtype(tmp_path: Path) -> None:
    for array in (torch.rand(2, 3, dtype=torch.float64), np.arange(5, dtype=np.int16)):
        write_npy(tmp_path / "a.npy", array)
        back = np.load(tmp_path / "a.npy")
        assert back.dtype == np.asarray(array).dtype
        assert np.array_equal(back, np.asarray(array))
    with pytest.raises(InvalidType) as caught:
        write_npy(tmp_path / "b.npy", np.array([None]))
    assert str(caught.value) == (
        "array: expected numbers, got object; convert it to a numeric dtype"
    )
    assert not (tmp_path / "b.npy").exists()


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def write() -> None:
        image = torch.rand(1, H, W)
        write_image(tmp_path / name, image) if name == "a.png" else write_npy(
            tmp_path / name, image
        )

    def refuse(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write()
    before = (tmp_path / name).read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputNotWritable) as caught:
        write()
    assert str(caught.value) == (
        f"out: cannot write {tmp_path / name}: no space left on device; "
        "free some space or choose another folder"
    )
    assert (tmp_path / name).read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
