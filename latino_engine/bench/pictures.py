"""One picture of a benchmark: latencies, stages, throughput over batch, roofline."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Validated for colour-blind readers on white: runtimes by hue, stages by hue and by label.
_RUNTIMES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_STAGES = {"denoise": "#0072b2", "prox": "#e69f00", "noise": "#009e73", "other": "#8c8c8c"}
_MARKS = {"denoise": "o", "prox": "s"}
_GREY = "#555555"


def bench_picture(report: Mapping[str, Any], latencies_ms: Mapping[str, Sequence[float]]) -> bytes:
    """The report as a PNG of four panels.

    Args:
        report: of `bench_engine`.
        latencies_ms: runtime -> every timed call.
    """
    figure = Figure(figsize=(12.0, 8.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    height, width = report["size"]
    figure.suptitle(
        f"{report['prior']}, {report['operator']}, {height} x {width}, {report['nfe']} evaluations,"
        f" {report['threads']} thread{'s' * (report['threads'] > 1)}\n{_machine(report)}",
        fontsize=11,
    )
    _histogram(panels[0, 0], latencies_ms)
    _stage_bars(panels[0, 1], report["runtimes"])
    _throughput(panels[1, 0], report["runtimes"])
    _roofline(panels[1, 1], report)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    return str(machine.get("gpu", machine["processor"]))


def _histogram(axes: Axes, latencies: Mapping[str, Sequence[float]]) -> None:
    every = np.concatenate([np.asarray(times) for times in latencies.values()])
    bins = np.linspace(0.98 * every.min(), 1.02 * every.max(), 40).tolist()
    for (name, times), colour in zip(latencies.items(), _RUNTIMES, strict=False):
        axes.hist(times, bins=bins, color=colour, alpha=0.75, label=name)
        axes.axvline(float(np.median(times)), color=colour, linewidth=1.5, linestyle="--")
    axes.set(title="Latency of one call", xlabel="ms (dashed: median)", ylabel="calls")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


def _stage_bars(axes: Axes, runtimes: Mapping[str, Any]) -> None:
    names = list(runtimes)
    left = np.zeros(len(names))
    for stage, colour in _STAGES.items():
        lengths = np.array([runtimes[name]["stages_ms"][stage] for name in names])
        axes.barh(names, lengths, left=left, color=colour, label=stage, height=0.5)
        left += lengths
    axes.invert_yaxis()
    axes.margins(y=0.4)
    axes.set(title="Where the time goes", xlabel="ms, median of each stage")
    axes.legend(frameon=False, ncols=4, loc="upper center")


def _throughput(axes: Axes, runtimes: Mapping[str, Any]) -> None:
    for (name, found), colour in zip(runtimes.items(), _RUNTIMES, strict=False):
        rows = sorted(found["throughput"], key=lambda row: row["batch"] * row["num_samples"])
        images = [row["batch"] * row["num_samples"] for row in rows]
        rates = [row["samples_per_s"] for row in rows]
        axes.plot(images, rates, "o-", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(bottom=0.0)
    xlabel = "samples in one call: batch x num_samples"
    axes.set(title="Throughput", xlabel=xlabel, ylabel="samples per second")
    axes.legend(frameon=False)


def _roofline(axes: Axes, report: Mapping[str, Any]) -> None:
    peaks = report["peaks"]
    points = [
        (f"{part}, {name}", part, rates, colour)
        for (name, found), colour in zip(report["runtimes"].items(), _RUNTIMES, strict=False)
        for part, rates in found["against_peak"].items()
        if rates is not None
    ]
    top, slope = peaks["matrix_gflops"], peaks["copy_gb_per_s"]
    ridge = top / slope
    reach = [rates["intensity"] for _, _, rates, _ in points] + [ridge]
    x = np.geomspace(min(reach) / 4, max(reach) * 4, 100)
    axes.plot(x, np.minimum(top, slope * x), color=_GREY, linewidth=1.5)
    axes.annotate(f"{top:.0f} GFLOP/s (matrix product)", (x[-1], top), (0, -12), ha="right",
                  textcoords="offset points", color=_GREY, fontsize=8)  # fmt: skip
    axes.annotate(f"{slope:.1f} GB/s (copy)", (x[0], slope * x[0]), (10, 0),
                  textcoords="offset points", color=_GREY, fontsize=8)  # fmt: skip
    for label, part, rates, colour in points:
        axes.plot(rates["intensity"], rates["gflops"], _MARKS[part], color=colour, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(title="Roofline", xlabel="counted FLOP per byte", ylabel="GFLOP/s")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
