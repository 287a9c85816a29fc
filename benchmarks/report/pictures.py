"""Pictures from the table of measurements."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.report import measured
from benchmarks.report.measured import Row, Sample
from benchmarks.report.tables import OURS, TASKS

#: Beginning of a row's name -> colour, mark.
_FAMILIES = {
    f"{OURS} onnxruntime,": ("#0072b2", "o"),
    f"{OURS} torch,": ("#56b4e9", "D"),
    f"{OURS} torch bf16,": ("#cc79a7", "P"),
    "eager PyTorch,": ("#d55e00", "s"),
    "deepinv": ("#009e73", "^"),
}
_QUALITIES = {"crps": "CRPS (lower is better)", "psnr_sample": "PSNR of one sample, dB"}
_GREY = "#777777"


def quality_over_time(rows: Sequence[Row]) -> bytes:
    """CRPS and PSNR over the time of a sample, a column for each task, with the Pareto front."""
    found = measured.samples(rows)
    figure = Figure(figsize=(13.0, 7.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    tasks = {task: TASKS[task] for task in TASKS if any(s.task == task for s in found)}
    panels = figure.subplots(2, max(1, len(tasks)), squeeze=False)
    for column, (task, title) in enumerate(tasks.items()):
        mine = [s for s in found if s.task == task]
        for axes, quality in zip(panels[:, column], _QUALITIES, strict=True):
            _scatter(axes, mine, quality)
            axes.set_ylabel(_QUALITIES[quality] if column == 0 else "")
        panels[0, column].set_title(title)
        panels[1, column].set_xlabel("ms per sample, one image of 256 x 256")
    labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=6, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _scatter(axes: Axes, found: Sequence[Sample], quality: str) -> None:
    kept = measured.front(found, quality)
    steps = [(s.ms, getattr(s, quality)) for s in kept]
    for family, (colour, mark) in _FAMILIES.items():
        mine = [s for s in found if s.name.startswith(family)]
        x, y = [s.ms for s in mine], [getattr(s, quality) for s in mine]
        label = family.removesuffix(",")
        axes.scatter(x, y, s=48, color=colour, marker=mark, label=label, zorder=3)
    if steps:
        axes.step(*zip(*steps, strict=True), where="post", color=_GREY, linestyle="--",
                  label="Pareto front", zorder=2)  # fmt: skip
    for s in found:
        if s.name.startswith(f"{OURS} torch"):
            continue  # beside the same sampler by onnxruntime, and the mark tells which
        offset = (6, 6) if s.name.startswith(OURS) else (6, -11)
        axes.annotate(_short(s), (s.ms, getattr(s, quality)), offset, fontsize=7,
                      textcoords="offset points", color="#333333")  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _short(sample: Sample) -> str:
    """What its mark does not tell: the sampler, or deepinv's method."""
    for family in _FAMILIES:
        if sample.name.startswith(family):
            return sample.name.removeprefix(family).strip()
    return sample.name
