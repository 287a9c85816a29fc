"""Pictures of a restoration, for people: truth, measurement, samples, mean and standard deviation.

Drawn with matplotlib's objects alone: no pyplot, no global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latino_engine.atomic import PathLike, atomic_file
from latino_engine.errors import invalid
from latino_engine.evaluation.metrics import psnr

Array: TypeAlias = NDArray[Any]

# Lengths are in pixels of the file; axes stand on whole pixels, so that images stay crisp.
WIDTH = 1800
_DPI = 200
_MARGIN, _GAP = 24, 18
_LABEL_ROW, _CAPTION_ROW, _TITLE_ROW = 46, 34, 60
_BAR_GAP, _BAR_WIDTH, _BAR_TEXT, _BAR_LABEL_HEIGHT = 14, 18, 90, 250
_MAX_HEIGHT = 900  # of a panel; taller images are drawn narrower
_MIN_WHOLE_SCALE = 3  # from here on pixels are enlarged as squares, all of the same size
_POINTS_LABEL, _POINTS_CAPTION, _POINTS_TITLE, _POINTS_MIN = 8.5, 8.0, 10.0, 4.5
_STD_COLOURS = "inferno"
_STD_TOP = 0.995  # the quantile at the top of the colours: a few pixels shall not darken the rest
_STD_LABEL = "std (image range 0 to 1)"


@dataclass(frozen=True)
class _Panel:
    label: str
    pixels: Array  # (H, W, 3) uint8, or (H, W) floats where it is a standard deviation
    caption: str = ""
    top: float | None = None  # of the colours of a standard deviation


def restoration_picture(
    path: PathLike,
    measurement: Tensor,
    samples: Tensor,
    mean: Tensor,
    std: Tensor,
    truth: Tensor | None = None,
    title: str | None = None,
    captions: Sequence[str] | None = None,
) -> None:
    """Writes a row of panels as an RGB PNG 1800 pixels wide, whole or not at all.

    Images more than twice as wide as high take two or three rows. In order: the truth where it is
    given, the measurement (enlarged with visible pixels where it is smaller; k-space as the
    logarithm of its magnitude), two samples, their mean, and their standard deviation, averaged
    over the channels, with a colour bar.

    Args:
        path: a name that ends in .png.
        measurement: (C, H, W) or (1, C, H, W), C = 1, 2 (re, im) or 3, any size, public range.
        samples: (S, C, H, W) or (S, 1, C, H, W), public range; the first two are shown.
        mean, std, truth: (C, H, W) or (1, C, H, W), public range.
        title: a line above the panels.
        captions: one line under each panel; None = PSNR in dB where the truth is given.

    Raises:
        InvalidArgument: another shape or number of captions, another extension.
        OutputNotWritable: no space, no permission; an earlier file of that name is unchanged.
    """
    if not str(path).lower().endswith(".png"):
        raise invalid("out", "a name that ends in .png", repr(str(path)), "change the extension")
    panels = _panels(measurement, samples, mean, std, truth)
    if captions is not None:
        panels = _with_captions(panels, captions)
    drawn = io.BytesIO()
    _draw(panels, title).savefig(drawn, format="png", dpi=_DPI, pil_kwargs={"compress_level": 0})
    with atomic_file(path) as file:
        Image.open(drawn).convert("RGB").save(file, format="PNG")  # matplotlib writes RGBA


def write_png(path: PathLike, figure: Figure, **options: Any) -> None:
    """A figure as a PNG, whole or not at all: drawn before the file is opened.

    Args:
        path: the file; one that exists is replaced.
        figure: matplotlib's, with its canvas.
        options: of `Figure.savefig`.

    Raises:
        OutputNotWritable: no space, no permission; an earlier file of that name is unchanged.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", **options)
    with atomic_file(path) as file:
        file.write(drawn.getvalue())


def _with_captions(panels: list[_Panel], captions: Sequence[str]) -> list[_Panel]:
    if len(captions) != len(panels):
        expected = f"{len(panels)} lines, for {', '.join(panel.label for panel in panels)}"
        raise invalid("captions", expected, len(captions), "give one for each panel")
    return [replace(panel, caption=text) for panel, text in zip(panels, captions, strict=True)]


def _panels(
    measurement: Tensor, samples: Tensor, mean: Tensor, std: Tensor, truth: Tensor | None
) -> list[_Panel]:
    centre = _one_image("mean", mean)
    drawn = samples.detach().cpu()
    drawn = drawn[:, 0] if drawn.ndim == 5 and drawn.shape[1] == 1 else drawn
    if drawn.ndim != 4 or drawn.shape[0] == 0 or drawn.shape[1:] != centre.shape:
        expected = f"shape (S, {', '.join(map(str, centre.shape))}) as the mean"
        raise invalid("samples", expected, tuple(samples.shape), "give the samples of one image")
    spread = _one_image("std", std, centre)
    target = None if truth is None else _one_image("truth", truth, centre)
    y = _one_image("measurement", measurement)

    def panel(label: str, image: Tensor) -> _Panel:
        caption = ""
        if target is not None and image.shape == target.shape:
            caption = f"PSNR {float(psnr(image[None].double(), target[None].double())[0]):.1f} dB"
        return _Panel(label, _visible(image), caption)

    is_k_space = y.shape[0] == 2
    row = [] if target is None else [_Panel("truth", _visible(target))]
    row.append(
        _Panel("measurement, log scale", _log_magnitude(y))
        if is_k_space
        else panel("measurement", y)
    )
    row += [panel(f"sample {i + 1}", image) for i, image in enumerate(drawn[:2])]
    row.append(panel("mean", centre))
    row.append(_std_panel(spread))
    return row


def _std_panel(std: Tensor) -> _Panel:
    pixels = std.double().nan_to_num(0.0).mean(dim=0).numpy()
    top = max(float(np.quantile(pixels, _STD_TOP)), 1e-6)
    return _Panel("standard deviation", pixels, top=top)


def _one_image(name: str, image: Tensor, like: Tensor | None = None) -> Tensor:
    """(C, H, W) on the CPU, of the size of `like`."""
    given = tuple(image.shape)
    plane = image.detach().cpu()
    plane = plane[0] if plane.ndim == 4 and plane.shape[0] == 1 else plane
    if plane.ndim != 3 or plane.shape[0] not in (1, 2, 3) or plane.numel() == 0:
        raise invalid(name, "shape (C, H, W) with C = 1, 2 or 3", given, "give one image")
    if like is not None and plane.shape != like.shape:
        raise invalid(name, f"shape {tuple(like.shape)} as the mean", given, "give the same image")
    return plane


def _visible(image: Tensor) -> Array:
    """(H, W, 3) uint8, clamped; two channels (re, im) as their magnitude; NaN as 0."""
    pixels = image.double()
    pixels = torch.linalg.vector_norm(pixels, dim=0)[None] if image.shape[0] == 2 else pixels
    scaled = torch.round(pixels.nan_to_num(0.0).clamp(0.0, 1.0) * 255.0).to(torch.uint8)
    return scaled.expand(3, *scaled.shape[1:]).permute(1, 2, 0).numpy()


def _log_magnitude(y: Tensor) -> Array:
    """A spectrum as (H, W, 3) uint8: black where nothing was measured, else from dark grey up."""
    magnitude = torch.linalg.vector_norm(y.double(), dim=0).nan_to_num(0.0)
    measured = magnitude > 0.0
    picture = torch.zeros_like(magnitude)
    if bool(measured.any()):
        logarithm = magnitude[measured].log()
        low = float(np.quantile(logarithm.numpy(), 0.01))
        height = (logarithm - low) / max(float(logarithm.max()) - low, 1e-6)
        picture[measured] = 0.1 + 0.9 * height.clamp(0.0, 1.0)
    return _visible(picture[None])


def _draw(panels: list[_Panel], title: str | None) -> Figure:
    columns = _num_columns(panels)
    num_rows = -(-len(panels) // columns)
    room = WIDTH - 2 * _MARGIN - (columns - 1) * _GAP - _BAR_GAP - _BAR_WIDTH - _BAR_TEXT
    cell = room // columns
    width, height = _panel_size(panels[-1].pixels, cell)
    if height < _BAR_LABEL_HEIGHT:  # the label of the bar would be cut
        panels = [*panels[:-1], replace(panels[-1], caption=panels[-1].caption or _STD_LABEL)]
    below = _CAPTION_ROW if any(panel.caption for panel in panels) else 0
    pitch = _LABEL_ROW + height + below
    total = num_rows * pitch + _MARGIN + (_TITLE_ROW if title else _MARGIN // 2)
    figure = Figure(figsize=(WIDTH / _DPI, total / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (cell + _GAP)
        bottom = _MARGIN + (num_rows - 1 - row) * pitch + below
        box = (left + (cell - width) // 2, bottom, width, height)
        shown = _show(_add_axes(figure, box), panel, width)
        middle = left + cell / 2
        _write(figure, (middle, bottom + height + 10), panel.label, cell, _POINTS_LABEL)
        _write(figure, (middle, bottom - 10), panel.caption, cell, _POINTS_CAPTION, "top")
        if panel.top is not None:
            bar = (box[0] + width + _BAR_GAP, bottom, _BAR_WIDTH, height)
            _add_bar(figure, shown, bar, is_cut=float(panel.pixels.max()) > panel.top)
    above = (WIDTH / 2, total - _MARGIN // 2)
    _write(figure, above, title or "", WIDTH - 2 * _MARGIN, _POINTS_TITLE, "top")
    return figure


def _num_columns(panels: list[_Panel]) -> int:
    """One row, except that wide images would become slivers: they take two or three rows."""
    height, width = panels[-1].pixels.shape[:2]
    if width <= 2 * height:
        return len(panels)
    return -(-len(panels) // 2) if width <= 5 * height else 2


def _panel_size(pixels: Array, cell: int) -> tuple[int, int]:
    """Width and height: a whole multiple of a small image, one to one where that nearly fits."""
    rows, columns = pixels.shape[:2]
    scale = min(cell / columns, _MAX_HEIGHT / rows)
    if scale >= _MIN_WHOLE_SCALE:
        scale = int(scale)
    elif 1.0 <= scale < 1.25:
        scale = 1.0
    return max(round(columns * scale), 1), max(round(rows * scale), 1)


def _add_axes(figure: Figure, box: tuple[int, int, int, int]) -> Axes:
    total_width, total_height = figure.get_size_inches() * _DPI
    left, bottom, width, height = box
    return figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height)
    )


def _show(axes: Axes, panel: _Panel, width: int) -> AxesImage:
    axes.set_axis_off()
    scale = width / panel.pixels.shape[1]
    squares = scale >= _MIN_WHOLE_SCALE or scale.is_integer()
    return axes.imshow(
        panel.pixels,
        cmap=_STD_COLOURS,  # with its range, for the standard deviation alone
        vmin=0.0,
        vmax=panel.top or 1.0,
        aspect="auto",
        interpolation="nearest" if squares else "antialiased",
    )


def _write(
    figure: Figure,
    position: tuple[float, float],
    text: str,
    room: float,
    points: float,
    vertical: Literal["top", "bottom"] = "bottom",
) -> None:
    """One centred line, as small as `room` asks, cut where it would become illegible."""
    if not text:
        return
    width, height = figure.get_size_inches() * _DPI
    line = " ".join(text.split())
    artist = figure.text(
        position[0] / width,
        position[1] / height,
        line,
        ha="center",
        va=vertical,
        fontsize=points,
        color="black",
        parse_math=False,  # a file name with two $ is no formula
    )
    excess = artist.get_window_extent().width / room
    if excess > 1.0:
        artist.set_fontsize(max(points / excess, _POINTS_MIN))
    while artist.get_window_extent().width > room and len(line) > 1:
        line = line[:-1]
        artist.set_text(line + "…")


def _add_bar(
    figure: Figure, shown: AxesImage, box: tuple[int, int, int, int], is_cut: bool
) -> None:
    height = box[3]
    ticks = MaxNLocator(nbins=min(max(height // 50, 1), 6))
    bar = figure.colorbar(
        shown,
        cax=_add_axes(figure, box),
        ticks=ticks,
        extend="max" if is_cut else "neither",  # an arrow: some pixels lie beyond the colours
        extendfrac=min(_BAR_WIDTH / height, 0.2),
    )
    bar.ax.tick_params(labelsize=6, length=2, width=0.5, pad=2, colors="black")
    bar.outline.set_linewidth(0.5)
    if height >= _BAR_LABEL_HEIGHT:
        bar.set_label(_STD_LABEL, fontsize=6.5, color="black")
