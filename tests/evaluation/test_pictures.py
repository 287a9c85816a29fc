"""What a person sees: the right pixels, the right words, nothing cut off."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from latino_engine.errors import InvalidArgument, OutputNotWritable
from latino_engine.evaluation import pictures
from latino_engine.evaluation.pictures import WIDTH, restoration_picture
from latino_engine.image_io import read_image


def restoration(
    channels: int = 3, height: int = 32, width: int = 32, factor: int = 1
) -> dict[str, Any]:
    truth = torch.rand(channels, height, width)
    samples = truth + 0.1 * torch.randn(4, channels, height, width)
    return {
        "truth": truth,
        "measurement": truth[:, ::factor, ::factor],
        "samples": samples,
        "mean": samples.mean(0),
        "std": samples.std(0),
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn."""
    figures: list[Figure] = []
    draw = pictures._draw

    def remember(*arguments: Any) -> Figure:
        figures.append(draw(*arguments))
        return figures[-1]

    monkeypatch.setattr(pictures, "_draw", remember)
    return figures


def box_of(axes: Any) -> tuple[int, int, int, int]:
    """left, top, right, bottom in pixels of the file."""
    total_width, total_height = axes.figure.get_size_inches() * axes.figure.dpi
    bounds = axes.get_position()
    edges = (
        bounds.x0 * total_width,
        (1 - bounds.y1) * total_height,
        bounds.x1 * total_width,
        (1 - bounds.y0) * total_height,
    )
    assert np.abs(np.array(edges) - np.round(edges)).max() < 1e-6, "not on whole pixels"
    left, top, right, bottom = (round(edge) for edge in edges)
    return left, top, right, bottom


def panel(path: Path, axes: Any) -> Tensor:
    left, top, right, bottom = box_of(axes)
    return read_image(path)[0, :, top:bottom, left:right]


def enlarged(image: Tensor, size: tuple[int, int]) -> Tensor:
    factor = size[0] // image.shape[-2], size[1] // image.shape[-1]
    assert (image.shape[-2] * factor[0], image.shape[-1] * factor[1]) == size
    large = image.clamp(0, 1).repeat_interleave(factor[0], -2).repeat_interleave(factor[1], -1)
    return large.expand(3, *size)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize(
    ("channels", "height", "width", "factor"),
    [(1, 32, 32, 1), (3, 32, 32, 4), (1, 28, 28, 1), (3, 40, 64, 2), (3, 256, 256, 4)],
)
def test_panels_show_the_pixels_themselves(
    tmp_path: Path, drawn: list[Figure], channels: int, height: int, width: int, factor: int
) -> None:
    path = tmp_path / "a.png"
    given = restoration(channels, height, width, factor)
    if width == 256:
        del given["truth"]  # five panels of 256 pixels fit one to one
    restoration_picture(path, **given)
    images = [given["measurement"], given["samples"][0], given["samples"][1], given["mean"]]
    images = [given["truth"], *images] if "truth" in given else images
    axes = drawn[0].axes
    assert len(axes) == len(images) + 2  # the standard deviation and its colour bar
    for image, where in zip(images, axes, strict=False):
        shown = panel(path, where)
        wanted = enlarged(image, (shown.shape[-2], shown.shape[-1]))
        assert (shown - wanted).abs().max() < 0.501 / 255


def test_file_is_opaque_and_of_one_width(tmp_path: Path, drawn: list[Figure]) -> None:
    for height, width in ((32, 32), (300, 200), (20, 200), (200, 20), (600, 600), (1, 1)):
        restoration_picture(tmp_path / "a.png", **restoration(3, height, width))
        picture = Image.open(tmp_path / "a.png")
        assert picture.mode == "RGB"
        assert picture.width == WIDTH
        assert 150 < picture.height < 1200


SIZES = [(32, 32), (256, 256), (150, 220), (30, 100), (20, 200), (200, 20), (100, 40), (512, 512)]


@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_nothing_is_cut_and_nothing_overlaps(
    tmp_path: Path, drawn: list[Figure], height: int, width: int, with_truth: bool
) -> None:
    given = restoration(1, height, width)
    if not with_truth:
        del given["truth"]
    title = "4x super-resolution, " * 12
    restoration_picture(tmp_path / "a.png", **given, title=title)
    figure = drawn[0]
    total_width, total_height = figure.get_size_inches() * figure.dpi
    boxes = [text.get_window_extent() for text in figure.texts]
    bar = figure.axes[-1]
    labels = [*bar.get_yticklabels(), bar.yaxis.label]
    low, high = bar.get_ylim()
    ticks = [t for t in bar.get_yticklabels() if low <= t.get_position()[1] <= high]
    assert len(ticks) >= 2
    boxes += [t.get_window_extent() for t in (*ticks, labels[-1]) if t.get_text()]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= total_width, index
        assert box.y0 >= 0 and box.y1 <= total_height, index
        for other in boxes[:index]:
            apart = (box.x0 >= other.x1 - 1, other.x0 >= box.x1 - 1)
            apart += (box.y0 >= other.y1 - 1, other.y0 >= box.y1 - 1)
            assert any(apart), (box, other)


def test_words(tmp_path: Path, drawn: list[Figure]) -> None:
    given = restoration(3, 32, 32)
    restoration_picture(tmp_path / "a.png", **given, title=r"deblurring, $\frac$")
    noise = (given["mean"].clamp(0, 1) - given["truth"]).double().square().mean()
    shown = words(drawn[0])
    labels = ["truth", "measurement", "sample 1", "sample 2", "mean", "standard deviation"]
    assert [word for word in shown if word in labels] == labels
    assert r"deblurring, $\frac$" in shown
    assert f"PSNR {-10 * float(noise.log10()):.1f} dB" in shown
    assert sum(word.startswith("PSNR") for word in shown) == 4  # y, two samples and the mean
    assert drawn[0].axes[-1].get_ylabel() == "std (image range 0 to 1)"


def test_measurement_of_another_size_has_no_psnr(tmp_path: Path, drawn: list[Figure]) -> None:
    restoration_picture(tmp_path / "a.png", **restoration(3, 32, 32, factor=4))
    assert sum(word.startswith("PSNR") for word in words(drawn[0])) == 3


def test_no_truth_no_psnr(tmp_path: Path, drawn: list[Figure]) -> None:
    given = restoration()
    del given["truth"]
    restoration_picture(tmp_path / "a.png", **given)
    assert not any(word.startswith(("PSNR", "truth")) for word in words(drawn[0]))


def test_unit_of_a_low_bar_stands_below(tmp_path: Path, drawn: list[Figure]) -> None:
    restoration_picture(tmp_path / "a.png", **restoration(3, 30, 120))
    assert drawn[0].axes[-1].get_ylabel() == ""
    assert "std (image range 0 to 1)" in words(drawn[0])


def test_captions_replace_the_psnr(tmp_path: Path, drawn: list[Figure]) -> None:
    captions = ["one", "two", "a$b$", "four\nlines", "five", "x" * 300]
    restoration_picture(tmp_path / "a.png", **restoration(), captions=captions)
    shown = words(drawn[0])
    assert {"one", "two", "a$b$", "four lines", "five"} < set(shown)
    assert any(word.endswith("x…") for word in shown)
    assert not any(word.startswith("PSNR") for word in shown)
    with pytest.raises(InvalidArgument) as caught:
        restoration_picture(tmp_path / "b.png", **restoration(), captions=["one"])
    assert str(caught.value) == (
        "captions: expected 6 lines, for truth, measurement, sample 1, sample 2, mean, "
        "standard deviation, got 1; give one for each panel"
    )


def test_std_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    given = restoration(3, 64, 64)
    given["std"] = torch.full((3, 64, 64), 0.05)
    given["std"][:, 0, 0] = 10.0  # one wild pixel does not darken the others
    restoration_picture(tmp_path / "a.png", **given)
    image = drawn[0].axes[-2].images[0]
    assert image.norm.vmin == 0.0
    assert image.norm.vmax == pytest.approx(0.05, rel=1e-6)
    given["std"] = torch.zeros(3, 64, 64)
    restoration_picture(tmp_path / "a.png", **given)


def test_one_sample_and_a_batch_axis(tmp_path: Path, drawn: list[Figure]) -> None:
    given = restoration()
    plain = {name: tensor[:1] if name == "samples" else tensor for name, tensor in given.items()}
    batched = {
        name: tensor[:, None] if name == "samples" else tensor[None]
        for name, tensor in plain.items()
    }
    restoration_picture(tmp_path / "a.png", **plain)
    restoration_picture(tmp_path / "b.png", **batched)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "sample 2" not in words(drawn[0])


def test_k_space(tmp_path: Path, drawn: list[Figure]) -> None:
    given = restoration(1, 64, 64)
    columns = torch.arange(64) % 4 == 0
    y = torch.fft.fftshift(torch.fft.fft2(given["truth"], norm="ortho"))
    given["measurement"] = torch.view_as_real(y[0]).permute(2, 0, 1) * columns
    restoration_picture(tmp_path / "a.png", **given)
    assert "measurement, log scale" in words(drawn[0])
    shown = panel(tmp_path / "a.png", drawn[0].axes[1])[0]
    seen = enlarged(columns.float().expand(1, 64, 64), (shown.shape[-2], shown.shape[-1]))[0] > 0
    assert shown[~seen].max() == 0
    assert shown[seen].min() > 0.05
    assert shown.max() == 1


def test_nan_is_drawn_as_black(tmp_path: Path, drawn: list[Figure]) -> None:
    given = restoration(1, 32, 32)
    given["measurement"] = torch.full((1, 32, 32), torch.nan)
    del given["truth"]
    restoration_picture(tmp_path / "a.png", **given)
    assert panel(tmp_path / "a.png", drawn[0].axes[0]).max() == 0


def test_no_global_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    restoration_picture(tmp_path / "a.png", **restoration())
    assert dict(matplotlib.rcParams) == before
    program = (
        "import sys, latino_engine.evaluation.pictures; print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mean": torch.rand(32, 32)},
            "mean: expected shape (C, H, W) with C = 1, 2 or 3, got (32, 32); give one image",
        ),
        (
            {"measurement": torch.rand(2, 3, 32, 32)},
            "measurement: expected shape (C, H, W) with C = 1, 2 or 3, got (2, 3, 32, 32); "
            "give one image",
        ),
        (
            {"samples": torch.rand(3, 32, 32)},
            "samples: expected shape (S, 3, 32, 32) as the mean, got (3, 32, 32); "
            "give the samples of one image",
        ),
        (
            {"samples": torch.rand(0, 3, 32, 32)},
            "samples: expected shape (S, 3, 32, 32) as the mean, got (0, 3, 32, 32); "
            "give the samples of one image",
        ),
        (
            {"std": torch.rand(1, 32, 32)},
            "std: expected shape (3, 32, 32) as the mean, got (1, 32, 32); give the same image",
        ),
        (
            {"truth": torch.rand(3, 32, 31)},
            "truth: expected shape (3, 32, 32) as the mean, got (3, 32, 31); give the same image",
        ),
    ],
)
def test_shapes(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        restoration_picture(tmp_path / "a.png", **{**restoration(), **change})
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_extension() -> None:
    with pytest.raises(InvalidArgument) as caught:
        restoration_picture("a.jpg", **restoration())
    assert str(caught.value) == (
        "out: expected a name that ends in .png, got 'a.jpg'; change the extension"
    )


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputNotWritable, match="no space left on device; free some space"):
        restoration_picture(tmp_path / "a.png", **restoration())
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
