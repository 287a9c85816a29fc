"""Four digits that more than one digit could have been: measurement, samples, std."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import latino_engine as le
from latino_engine.evaluation.evaluator import central_squares, measure_each
from latino_engine.evaluation.pictures import write_png
from latino_engine.image_io.datasets import open_images
from latino_engine.operators.spec import parse_operator

_OPERATORS = ("inpaint:box=16", "sr:factor=4")
_SAMPLES = 8
_CANDIDATES = 256


def doubtful_digits(source: str, adapter: str, path: Path, noise_std: float = 0.05) -> None:
    """The two test digits of each problem whose samples differ most for their ink, as a picture."""
    prior = le.load_prior("digits-32")
    x = central_squares(open_images(source, 32, 2), range(_CANDIDATES), 32)
    rows = []
    shown: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        engine = le.compile(prior, f"{folder}/d.engine", adapter=adapter, image_size=32)
    for text in _OPERATORS:
        operator = parse_operator(text, noise_std, (32, 32))
        y = measure_each(operator, x, range(_CANDIDATES), 0)
        post = engine.sample(y, operator, num_samples=_SAMPLES)
        ink = x.square().flatten(1).mean(dim=1)
        doubt = post.std.square().flatten(1).mean(dim=1) / ink
        for index in most_doubtful(doubt, 2, shown):
            rows.append((x[index], y[index], post.samples[:, index], post.std[index]))
            shown.add(index)
    _draw(rows, path)


def most_doubtful(doubt: torch.Tensor, count: int, shown: set[int]) -> list[int]:
    """The places of the `count` largest values, without those that are shown already."""
    order: list[int] = doubt.argsort(descending=True).tolist()
    return [index for index in order if index not in shown][:count]


def _draw(rows: list[tuple[torch.Tensor, ...]], path: Path) -> None:
    figure = Figure(figsize=(11.0, 1.08 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), _SAMPLES + 3)
    titles = ["truth", "measured", *[f"sample {n + 1}" for n in range(_SAMPLES)], "std"]
    for number, (x, y, samples, std) in enumerate(rows):
        images = [x, y, *samples, std]
        for place, title, image in zip(axes[number], titles, images, strict=True):
            top = 0.5 if title == "std" else 1.0
            colours = "magma" if title == "std" else "gray"
            place.imshow(image[0].numpy(), cmap=colours, vmin=0.0, vmax=top)
            place.set_axis_off()
            if number == 0:
                place.set_title(title, fontsize=8)
    write_png(path, figure)
