"""Gaussian denoising by one evaluation of a prior, beside the figures that the field publishes."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import latino_engine as le
from benchmarks.quality.rows import RESULTS, read_row, write_row
from latino_engine.atomic import atomic_file
from latino_engine.evaluation.metrics import psnr
from latino_engine.evaluation.pictures import write_png
from latino_engine.image_io import EXTENSIONS, read_image
from latino_engine.image_io.datasets import files_below
from latino_engine.priors import Prior

TABLE = "denoising"
#: Noise std of 255.
LEVELS = (15, 25, 50)
PICTURE = "prior-training.png"
#: CBSD68, dB at LEVELS (Zhang et al., FFDNet, 2018; DPIR, 2021), and millions of parameters.
PUBLISHED = {
    "CBM3D (2007)": ((33.52, 30.71, 27.38), None),
    "DnCNN": ((33.90, 31.24, 27.95), 0.67),
    "FFDNet": ((33.87, 31.21, 27.96), 0.85),
    "DRUNet": ((34.30, 31.69, 28.51), 32.6),
}
_CURVES = RESULTS / TABLE / "training"


def measure(folder: Path, prior_name: str) -> list[dict[str, Any]]:
    """A row for each noise level: PSNR of every image, their mean and its standard error.

    The noise of image number i is a function of i alone; the result is clamped to [0, 1].
    """
    prior = le.load_prior(prior_name)
    paths = files_below(folder, EXTENSIONS)
    rows = []
    for level in LEVELS:
        path = RESULTS / TABLE / f"{prior.name}--{level}.json"
        identity = {"prior_sha256": prior.content_hash(), "images": [p.name for p in paths]}
        found = read_row(path)
        if found is None or not identity.items() <= found.items():
            decibels = [_decibels(prior, p, i, level / 255) for i, p in enumerate(paths)]
            row = {"prior": prior.name, "noise_of_255": level, **identity, **summary(decibels)}
            found = write_row(path, row)
        print(f"{prior.name}, noise {level}: {found['psnr']:.2f} dB", file=sys.stderr)
        rows.append(found)
    return rows


def summary(decibels: Sequence[float]) -> dict[str, Any]:
    """Mean over the images and its standard error."""
    error = statistics.stdev(decibels) / len(decibels) ** 0.5 if len(decibels) > 1 else None
    return {
        "psnr": statistics.fmean(decibels),
        "standard_error": error,
        "psnr_of_images": [round(value, 3) for value in decibels],
    }


def _decibels(prior: Prior, path: Path, number: int, noise_std: float) -> float:
    x = read_image(path)  # (1, C, H, W) in [0, 1]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(number))
    noisy = 2.0 * (x + noise_std * noise) - 1.0
    with torch.no_grad():
        found = prior.denoise(noisy, 2.0 * noise_std) / 2.0 + 0.5
    return float(psnr(found, x))


def keep_curve(source: Path, name: str) -> Path:
    """Copy the validation.csv of a training run to the rows on file."""
    path = _CURVES / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(source.read_bytes())
    return path


def picture(target: Path) -> None:
    """Quality over the squares seen, one line for each noise level and run on file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for curve in sorted(_CURVES.glob("*.csv")):
        with curve.open() as file:
            rows = list(csv.DictReader(file))
        squares = [int(row["squares"]) for row in rows]
        for level in LEVELS:
            values = [float(row[f"psnr_{level}"]) for row in rows]
            axes.plot(squares, values, marker=".", label=f"{curve.stem}, noise {level}")
    axes.set(xlabel="squares seen", ylabel="PSNR of held-out photographs, dB", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    write_png(target, figure)


def section() -> Iterator[str]:
    """The table for docs/results.md."""
    title = "\n## Denoising by one evaluation, CBSD68\n\n"
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted((RESULTS / TABLE).glob("*--*.json")):
        if (row := read_row(file)) is not None:
            rows.setdefault(row["prior"], {})[row["noise_of_255"]] = row
    if not rows:
        return
    grown = f" [A picture]({PICTURE}) shows how the quality grew in training."
    yield title + (
        "PSNR is in dB at a noise std of 15, 25 and 50 of 255, averaged over the images "
        "(`python -m benchmarks.quality denoising CBSD68`). The other rows are published for all "
        f"68.{grown if any(_CURVES.glob('*.csv')) else ''}\n\n"
        "| denoiser | parameters | 15 | 25 | 50 |\n|---|---|---|---|---|\n"
    )
    for name, (values, millions) in PUBLISHED.items():
        size = "-" if millions is None else f"{millions:g} M"
        yield f"| {name} | {size} | " + " | ".join(f"{v:.2f}" for v in values) + " |\n"
    for name, levels in rows.items():
        count = sum(p.numel() for p in le.load_prior(name).denoiser.parameters()) / 1e6
        cells = " | ".join(f"{levels[one]['psnr']:.2f}" if one in levels else "-" for one in LEVELS)
        yield f"| `{name}`, one evaluation | {count:.2f} M | {cells} |\n"
