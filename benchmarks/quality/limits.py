"""What limits the PSNR of the mean on photographs: samples, evaluations, or prior and training."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import latino_engine as le
from benchmarks.quality.rows import RESULTS, Problem, read_row, write_row
from latino_engine.distill.distillation import distill
from latino_engine.distill.options import Distillation
from latino_engine.engine import Engine
from latino_engine.evaluation.evaluator import central_squares, measure_each
from latino_engine.evaluation.metrics import psnr
from latino_engine.evaluation.pictures import write_png
from latino_engine.image_io.datasets import open_images
from latino_engine.operators.spec import parse_operator
from latino_engine.priors.adapters import Adapter

PRIOR = ADAPTER = "photo-small"
PICTURE = "photo-limits.png"
FILE = RESULTS / "limits" / "photographs.json"
_SAMPLES = 8
_REFERENCE = 8
_EVALUATIONS = (4, _REFERENCE, 16, 32)


def measure(photos: Path, test: Path, operators: tuple[str, ...], minutes: list[float]) -> None:
    """Every number that is not on file yet, each written as soon as it is known.

    "samples": PSNR of the mean of 1..8 samples, distilled and LATINO with 8 evaluations;
    "evaluations": of the mean of 8 for LATINO; "trained": of one draw of the same network trained
    for the squared error alone from the distilled adapter on, after so many minutes. Numbers of
    another prior or adapter than the shipped ones are dropped.
    """
    if not _shipped().items() <= _row().items():
        write_row(FILE, _shipped())
    problems = [Problem(str(test), operator, 0.02, 256, 0, 7) for operator in operators]
    distilled, plain = _engine(le.load_adapter(ADAPTER)), _engine(None)
    for problem in problems:
        operator = problem.operator
        if not _is_known("samples", operator, "distilled"):
            _note("samples", operator, "distilled", _curve(problem, distilled))
        for count in _EVALUATIONS:
            if not _is_known("evaluations", operator, f"{count}"):
                curve = _curve(problem, plain, count)
                if count == _REFERENCE:
                    _note("samples", operator, f"LATINO {count}", curve)
                _note("evaluations", operator, f"{count}", curve[-1])
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            missing = [p for p in problems if not _is_known("trained", p.operator, f"{length:g}")]
            if missing:
                trained = _engine(_posterior_mean(photos, Path(folder) / "run", length))
                for problem in missing:
                    value = _curve(problem, trained, samples=1)[0]
                    _note("trained", problem.operator, f"{length:g}", value)


def _posterior_mean(photos: Path, folder: Path, minutes: float) -> Adapter:
    """The shipped adapter's own training, with the squared error as its objective."""
    facts = dict(le.load_adapter(ADAPTER).training)
    facts.pop("steps_done")
    facts = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    own = Distillation(**facts)
    options = replace(own, source=str(photos), objective="mse", start=ADAPTER, minutes=minutes)
    return distill(le.load_prior(PRIOR), options, folder)


def _shipped() -> dict[str, str]:
    """Whose numbers they are."""
    prior, adapter = le.load_prior(PRIOR), le.load_adapter(ADAPTER)
    return {"prior_sha256": prior.content_hash(), "adapter_sha256": adapter.content_hash()}


def _engine(adapter: Adapter | None) -> Engine:
    with tempfile.TemporaryDirectory() as folder:
        return le.compile(
            le.load_prior(PRIOR), f"{folder}/e.engine", adapter=adapter, image_size=256
        )


def _curve(
    problem: Problem, engine: Engine, steps: int | None = None, samples: int = _SAMPLES
) -> list[float]:
    """PSNR of the mean of the first 1..S samples, averaged over the photographs."""
    print(f"limits: {problem.operator}, {steps or 'adapter'}", file=sys.stderr)
    size = (problem.size, problem.size)
    operator = parse_operator(problem.operator, problem.noise_std, size, seed=0)
    truth = central_squares(open_images(problem.source, problem.size), range(problem.limit), 256)
    ids = list(range(len(truth)))
    y = measure_each(operator, truth, ids, 0)
    drawn = engine.sample(y, operator, samples, 0, steps=steps, image_ids=ids).samples
    means = [drawn[:count].mean(dim=0) for count in range(1, samples + 1)]
    return [_decibels(mean, truth) for mean in means]


def _decibels(mean: Tensor, truth: Tensor) -> float:
    return round(float(psnr(mean, truth).mean()), 4)


def _row() -> dict[str, Any]:
    return read_row(FILE) or {}


def _is_known(part: str, operator: str, name: str) -> bool:
    return name in _row().get(part, {}).get(operator, {})


def _note(part: str, operator: str, name: str, value: object) -> None:
    row = _row()
    row.setdefault(part, {}).setdefault(operator, {})[name] = value
    write_row(FILE, row)


def picture(path: Path) -> None:
    """The three curves, a column for each problem, as gain over the mean of 8 of LATINO 8."""
    row = _row()
    figure = Figure(figsize=(10.0, 6.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(row["samples"]), sharey="row", squeeze=False)
    for column, operator in enumerate(row["samples"]):
        reference = row["evaluations"][operator][f"{_REFERENCE}"]
        top, middle, low = axes[:, column]
        for name, curve in row["samples"][operator].items():
            top.plot(range(1, 1 + len(curve)), [v - reference for v in curve], "o-", label=name)
        _line(middle, row["evaluations"][operator], reference, "log")
        middle.set_xticks(_EVALUATIONS, [str(count) for count in _EVALUATIONS], minor=False)
        middle.set_xticks([], minor=True)
        _line(low, row["trained"][operator], reference, "linear")
        top.set(title=operator, xlabel="samples averaged")
        middle.set(xlabel="LATINO, evaluations")
        low.set(xlabel="squared error alone, minutes of training")
        for place in (top, middle, low):
            place.axhline(0.5, color="gray", linestyle="--", linewidth=0.8)
            place.axhline(0.0, color="black", linewidth=0.8)
    axes[0, 0].legend(fontsize=8)
    figure.supylabel("PSNR of the mean over LATINO's (8 evaluations, mean of 8), dB")
    write_png(path, figure)


def section() -> str:
    """The part of docs/results.md, empty until everything is measured."""
    row = _row()
    if not _is_whole(row):
        return ""
    lengths = sorted({name for values in row["trained"].values() for name in values}, key=float)
    most = max(len(curve) for of in row["samples"].values() for curve in of.values())
    gains = ", ".join(f"{_gain(row, operator):+.2f}" for operator in row["samples"])
    head = ["problem", *(f"LATINO {count}" for count in _EVALUATIONS)]
    head += ["distilled", "distilled, all samples"]
    head += [f"squared error, {length} min" for length in lengths]
    lines = [
        "\n### What limits the PSNR\n\n"
        f"The table has the PSNR (dB) of the mean of {most} samples of `{PRIOR}`. The distilled "
        f"sampler gains {gains} dB over LATINO with "
        f"{_REFERENCE} evaluations. The dashed line of the picture is a gain of 0.5.\n\n"
        "The mean of S samples has the squared error a + b/S. The first and the last S then give "
        'the error of infinitely many, which is the column "all samples": 4 evaluations of this '
        "network can reach it. A network that was trained on from the shipped adapter for the "
        "squared error alone loses nothing to sampling, and it does not get there in so many "
        "minutes on two cores. A gain of 0.5 dB in every problem is beyond these weights. The last "
        "row of the picture still rises with the length of the training, so that a longer one may "
        "come nearer.\n\n"
        f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    ]
    for operator, curves in row["samples"].items():
        cells = [f"{row['evaluations'][operator][f'{count}']:.2f}" for count in _EVALUATIONS]
        cells += [f"{curves['distilled'][-1]:.2f}", f"{_all_samples(curves['distilled']):.2f}"]
        cells += [f"{row['trained'][operator][length]:.2f}" for length in lengths]
        lines.append(f"| `{operator}` | {' | '.join(cells)} |\n")
    lines.append(f"\n![Samples averaged, evaluations, minutes of training]({PICTURE})\n")
    return "".join(lines)


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether every operator has every number."""
    parts = [row.get(part, {}) for part in ("samples", "evaluations", "trained")]
    alike = all(part.keys() == parts[0].keys() for part in parts)
    return bool(parts[0]) and alike and all(_same_names(part) for part in parts)


def _same_names(part: dict[str, Any]) -> bool:
    return len({tuple(sorted(values)) for values in part.values()}) == 1


def _gain(row: dict[str, Any], operator: str) -> float:
    distilled: float = row["samples"][operator]["distilled"][-1]
    return distilled - float(row["evaluations"][operator][f"{_REFERENCE}"])


def _all_samples(curve: Sequence[float]) -> float:
    """PSNR of the mean of infinitely many samples, from that of one and of S: a + b/S."""
    one, most = (10.0 ** (-value / 10.0) for value in (curve[0], curve[-1]))
    return -10.0 * math.log10((len(curve) * most - one) / (len(curve) - 1))


def _line(place: Any, values: dict[str, float], reference: float, scale: str) -> None:
    points = sorted((float(name), value - reference) for name, value in values.items())
    place.plot([x for x, _ in points], [v for _, v in points], "o-")
    place.set_xscale(scale)
