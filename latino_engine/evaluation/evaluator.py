"""Judge an engine on images whose truth is known: what the command `evaluate` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from latino_engine import ops
from latino_engine.atomic import atomic_folder
from latino_engine.engine import Engine
from latino_engine.errors import about, invalid
from latino_engine.evaluation import scores
from latino_engine.evaluation.learned_scores import learned_scores
from latino_engine.evaluation.metrics import psnr, ssim
from latino_engine.evaluation.options import Evaluation
from latino_engine.evaluation.pictures import write_png
from latino_engine.image_io.datasets import ImageSource, check_channels, open_images
from latino_engine.operators.protocol import Operator
from latino_engine.operators.spec import file_hashes, parse_operator
from latino_engine.system.machine import versions

EVALUATION_FILES = ("evaluation.json", "evaluation.md", "calibration.png")
LEVELS = (0.5, 0.8, 0.95)
_CURVE = tuple(n / 20 for n in range(1, 20))
_ACTIVE_STD = 0.02  # pixels that are in doubt, public units: std of samples and truth together
_BATCH = 16  # images per call


def evaluate(
    engine: Engine,
    options: Evaluation,
    out: str | Path,
    progress: Callable[[int, int], None] | None = None,
    feature_network: nn.Module | None = None,
    restoration: Callable[[Tensor, Operator], Tensor] | None = None,
) -> dict[str, Any]:
    """Measure every image, sample its posterior, and write the scores.

    Args:
        engine: the loaded engine.
        options: what to draw, and on what.
        out: folder for evaluation.json, evaluation.md and calibration.png; all or nothing.
        progress: function (images done, images in all).
        feature_network: takes the place of Inception in FID, as in `learned_scores`.
        restoration: function (y, op) -> image (B, C, H, W), public units, where the chain starts:
            what an adapter trained with a restoration network needs.

    Returns:
        The contents of evaluation.json: engine, prior and adapter, the options with the hashes of
        the files that the operator names, and versions; PSNR and SSIM of the mean and of single
        samples, CRPS and energy score (proper scores, lower is better), coverage of the central
        intervals over all
        pixels and over those where samples and truth have a std of at least 0.02, residual
        chi-square, sliced Wasserstein distance between the first samples and the true images, LPIPS
        and FID of the first samples where their weights are installed, NFE and milliseconds per
        sample. A coverage is null where S is too small for its level.

    Raises:
        ValueError, TypeError, OSError: an input or output that cannot be used.
    """
    if options.num_samples < 2:
        raise invalid("num_samples", "at least 2", options.num_samples, "scores compare samples")
    if options.limit < 1:
        raise invalid("limit", "at least 1", options.limit, "say how many images")
    if options.size < 1:
        raise invalid("size", "at least 1", options.size, "say which square is scored")
    if options.pad < 0:
        raise invalid("pad", "0 or more", options.pad, "choose how many black pixels to add")
    ops.check_seed(options.seed)
    source = open_images(options.source, options.size, options.pad)
    check_channels(source, engine.spec.channels, "the prior of the engine", "engine")
    count = min(len(source), options.limit)
    if options.seed + count > 2**64:
        expected = f"at most 2^64 - {count}, as each image has a seed of its own"
        raise invalid("seed", expected, options.seed, "choose a smaller number")
    truth = central_squares(source, range(count), options.size)
    with atomic_folder(out, ours=EVALUATION_FILES) as folder:
        drawn, facts = _draw(engine, options, truth, progress, restoration)
        report = {
            **engine.identity,
            **asdict(options),
            "files": file_hashes(options.operator),
            "num_images": len(truth),
            "versions": versions(),
            **facts,
            **score(drawn, truth),
            **_learned(drawn, truth, feature_network),
        }
        (folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
        (folder / "evaluation.md").write_text(markdown(report))
        curves = {"all pixels": report["calibration"], "in doubt": report["calibration_active"]}
        calibration_picture(folder / "calibration.png", curves)
    return report


def _draw(
    engine: Engine,
    options: Evaluation,
    truth: Tensor,
    progress: Callable[[int, int], None] | None,
    restoration: Callable[[Tensor, Operator], Tensor] | None,
) -> tuple[Tensor, dict[str, Any]]:
    """Samples (S, B, C, H, W) of every image, and what was counted on the way."""
    size, channels = (options.size, options.size), truth.shape[1]
    op = parse_operator(options.operator, options.noise_std, size, options.seed, channels)
    samples, chi2, time_ms, nfe = [], [], 0.0, 0
    for first in range(0, len(truth), _BATCH):
        x = truth[first : first + _BATCH]
        ids = list(range(first, first + len(x)))
        with about(f"operator {options.operator}", "choose another operator or another --size"):
            y = measure_each(op, x, ids, options.seed)
        post = engine.sample(y, op, init=restoration, image_ids=ids, **options.arguments())
        samples.append(post.samples)
        chi2.append(post.residual_chi2)
        time_ms += post.time_ms
        nfe = post.nfe
        if progress is not None:
            progress(first + len(x), len(truth))
    facts = {
        "nfe": nfe,
        "ms_per_sample": time_ms / (len(truth) * options.num_samples),
        "residual_chi2": float(torch.cat(chi2, dim=1).mean()),
    }
    return torch.cat(samples, dim=1), facts


def _learned(samples: Tensor, truth: Tensor, network: nn.Module | None) -> dict[str, Any]:
    """LPIPS and FID of the first samples; a single image has neither."""
    return {} if len(truth) < 2 else learned_scores(samples[0], truth, network)


def score(samples: Tensor, truth: Tensor) -> dict[str, Any]:
    """The scores of samples (S, B, C, H, W) for the truth (B, C, H, W), as JSON types."""
    mean = samples.mean(dim=0)
    levels = sorted({*LEVELS, *_CURVE})
    covered, active = (
        {level: _or_null(scores.coverage(samples, truth, level, least)) for level in levels}
        for least in (0.0, _ACTIVE_STD)
    )
    return {
        "psnr_mean": float(psnr(mean, truth).mean()),
        "psnr_sample": float(psnr(samples[0], truth).mean()),
        "ssim_mean": float(ssim(mean, truth).mean()),
        "ssim_sample": float(ssim(samples[0], truth).mean()),
        "crps": float(scores.crps(samples, truth).mean()),
        "energy_score": float(scores.energy_score(samples, truth).mean()),
        "coverage": {f"{level:g}": covered[level] for level in LEVELS},
        "coverage_active": {f"{level:g}": active[level] for level in LEVELS},
        "calibration": {f"{level:g}": covered[level] for level in _CURVE},
        "calibration_active": {f"{level:g}": active[level] for level in _CURVE},
        "sliced_wasserstein": scores.sliced_wasserstein(samples[0], truth),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table of one row."""
    columns = {
        "operator": report["operator"],
        "images": report["num_images"],
        "NFE": report["nfe"],
        "PSNR mean": f"{report['psnr_mean']:.2f}",
        "PSNR sample": f"{report['psnr_sample']:.2f}",
        "SSIM mean": f"{report['ssim_mean']:.3f}",
        "SSIM sample": f"{report['ssim_sample']:.3f}",
        "CRPS": f"{report['crps']:.4f}",
        "energy score": f"{report['energy_score']:.3f}",
        "coverage 50, 80, 95 %": _percents(report["coverage"]),
        "same, in doubt": _percents(report["coverage_active"]),
        "chi2": f"{report['residual_chi2']:.2f}",
        "sliced W1": f"{report['sliced_wasserstein']:.4f}",
        "LPIPS": _number(report.get("lpips")),
        "FID": _number(report.get("fid")),
        "ms": f"{report['ms_per_sample']:.1f}",
    }
    lines = [columns.keys(), ["---"] * len(columns), (str(v) for v in columns.values())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def calibration_picture(path: Path, curves: dict[str, dict[str, float | None]]) -> None:
    """Coverage found beside coverage stated, a line for each name; the diagonal is calibrated."""
    figure = Figure(figsize=(4.6, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="calibrated")
    for name, curve in curves.items():
        known = [(float(level), share) for level, share in curve.items() if share is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("stated level of the central interval")
    axes.set_ylabel("share of true pixels inside")
    axes.legend(loc="upper left", frameon=False)
    write_png(path, figure)


def central_squares(source: ImageSource, indices: Iterable[int], size: int) -> Tensor:
    """The central squares of these images: (B, C, size, size) float32 in [0, 1]."""
    squares = []
    for index in indices:
        pixels = source.image(index)
        top, left = (pixels.shape[1] - size) // 2, (pixels.shape[2] - size) // 2
        square = pixels[:, top : top + size, left : left + size]
        squares.append(torch.from_numpy(square.copy()).float() / 255.0)
    return torch.stack(squares)


def measure_each(op: Operator, x: Tensor, ids: Iterable[int], seed: int) -> Tensor:
    """Measurements (B, ...) of the images x: image `id` has the noise of seed + id.

    The noise of an image is then the same in whatever batch it is measured.
    """
    return torch.cat([op.measure(x[n : n + 1], seed=seed + i) for n, i in enumerate(ids)])


def _or_null(value: float) -> float | None:
    return None if value != value else value


def _percents(shares: dict[str, float | None]) -> str:
    known = (shares[f"{level:g}"] for level in LEVELS)
    return ", ".join("-" if share is None else f"{100 * share:.0f}" for share in known)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
