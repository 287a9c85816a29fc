"""Markdown tables from the table of measurements."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence

from benchmarks.end_to_end.measure import DISTILLED, ENGINES, OPERATORS, ZERO_SHOT, engine_name
from benchmarks.report import measured
from benchmarks.report.measured import Row, Sample, Timed
from latino_engine.bench.report import plain_rows

OURS, DEEPINV, SIZE = "latino-engine", "deepinv", "1x{}x256x256"
TASKS = {
    OPERATORS[0]: "deblurring",
    OPERATORS[1]: "4x super-resolution",
    OPERATORS[2]: "half of the pixels missing",
}
_EAGER_GOAL, _OUTSIDE_GOAL, _DEEPINV_GOAL = 1.5, 3.0, 2.0


def end_to_end(rows: Sequence[Row]) -> str:
    """All methods on all tasks."""
    found = measured.samples(rows)
    return "".join(
        f"\n{TASKS[task][0].upper()}{TASKS[task][1:]}, `{task}`:\n\n{_of_task(found, task)}"
        for task in OPERATORS
        if any(s.task == task for s in found)
    ).lstrip("\n")


def headline(rows: Sequence[Row]) -> str:
    """The first task in short: the distilled sampler beside eager PyTorch and deepinv."""
    found = (s for s in measured.samples(rows) if s.task == OPERATORS[0])
    shown = (s for s in found if DISTILLED in s.name or s.name.startswith(DEEPINV))
    lines = [
        (s.name, str(s.nfe), f"{s.ms:.0f}", f"{s.crps:.4f}")
        for s in sorted(shown, key=lambda s: s.ms)
    ]
    return plain_rows(lines, ("method", "evaluations", "ms per sample", "CRPS"))


def _of_task(found: Sequence[Sample], task: str) -> str:
    mine = sorted((s for s in found if s.task == task), key=lambda s: s.ms)
    fronts = [measured.front(mine, quality) for quality in ("crps", "psnr_sample")]
    header = ("method", "NFE", "ms per sample (20..80 %)", "times this engine", "PSNR",
              "PSNR of the mean", "CRPS", "on the front")  # fmt: skip
    lines = [
        (
            s.name,
            str(s.nfe),
            f"{s.ms:.0f} ({s.p20:.0f}..{s.p80:.0f})",
            f"{s.ratio:.2f}x",
            f"{s.psnr_sample:.2f}",
            f"{s.psnr_mean:.2f} ({s.samples})",
            f"{s.crps:.4f}",
            ", ".join(n for n, f in zip(("CRPS", "PSNR"), fronts, strict=True) if s in f) or "-",
        )
        for s in mine
    ]
    return plain_rows(lines, header)


def goals(rows: Sequence[Row]) -> str:
    """What was to be shown, and what was found."""
    found = measured.samples(rows)
    lines = [*_eager_goals(found), *_outside_goals(found), *_deepinv_goals(rows), *_fronts(found)]
    return plain_rows(lines, ("what", "goal", "found", "met"))


def _eager_goals(found: Sequence[Sample]) -> list[tuple[str, ...]]:
    lines = []
    times = {(s.task, s.name): s.ms for s in found}
    for sampler, engine in itertools.product((DISTILLED, ZERO_SHOT), ENGINES):
        name = engine_name(engine, sampler)
        mine = [
            s for s in found if s.name == f"eager PyTorch, {sampler}" and (s.task, name) in times
        ]
        if mine:
            ratios = [s.ms / times[s.task, name] for s in mine]
            what = f"`sample()` by {engine} against eager PyTorch, {sampler}: {_tasks(mine)}"
            met = _yes(min(ratios) >= _EAGER_GOAL)
            lines.append((what, f"{_EAGER_GOAL:g}x", ", ".join(f"{r:.2f}x" for r in ratios), met))
    return lines


def _outside_goals(found: Sequence[Sample]) -> list[tuple[str, ...]]:
    lines = []
    for sampler, engine in itertools.product((DISTILLED, ZERO_SHOT), ENGINES):
        name = engine_name(engine, sampler)
        mine = [s for s in found if s.name == name and s.outside is not None]
        shares = [s.outside for s in mine if s.outside is not None]
        if shares:
            what = f"outside of the network, {engine}, {sampler}: {_tasks(mine)}"
            percent = ", ".join(f"{share:.1f} %" for share in shares)
            goal = f"below {_OUTSIDE_GOAL:g} %"
            lines.append((what, goal, percent, _yes(max(shares) < _OUTSIDE_GOAL)))
    return lines


def _deepinv_goals(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    lines = []
    for (suite, name, shape), timed in measured.operations(rows).items():
        ratio = _ratio(timed, DEEPINV)
        if suite == "operators" and ratio is not None and shape.endswith("x256x256"):
            if not shape.startswith("1x"):
                continue
            met = _yes(ratio >= _DEEPINV_GOAL)
            what = f"`{name}` against deepinv, {shape}"
            lines.append((what, f"{_DEEPINV_GOAL:g}x", f"{ratio:.2f}x", met))
    return lines


def _fronts(found: Sequence[Sample]) -> list[tuple[str, ...]]:
    lines = []
    for quality, title in (("crps", "CRPS"), ("psnr_sample", "PSNR")):
        shares, tasks = [], [t for t in OPERATORS if any(s.task == t for s in found)]
        for task in tasks:
            kept = measured.front([s for s in found if s.task == task], quality)
            shares.append((sum(s.name.startswith(OURS) for s in kept), len(kept)))
        what = f"rows of this engine on the front of {title} over time"
        what += f": {', '.join(TASKS[task] for task in tasks)}"
        met = _yes(all(ours for ours, _ in shares))
        if shares:
            lines.append((what, "1", ", ".join(f"{a} of {b}" for a, b in shares), met))
    return lines


def _tasks(found: Sequence[Sample]) -> str:
    return ", ".join(TASKS[s.task] for s in found)


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def fused(rows: Sequence[Row]) -> str:
    """Fused operations of the inner step, of one image of 256 x 256 and of 16."""
    return _operations(rows, "fused")


def calls_of_operators(rows: Sequence[Row]) -> str:
    """What A, A_adjoint and prox are made of."""
    return _operations(rows, "calls")


def operators(rows: Sequence[Row]) -> str:
    """The classic operators."""
    return _operations(rows, "operators")


def sensors(rows: Sequence[Row]) -> str:
    """The further operators."""
    return _operations(rows, "sensors")


def _operations(rows: Sequence[Row], suite: str) -> str:
    header = ("operation", "shape", "ms", "of the peak", "eager / it", "torch.compile / it",
              "deepinv / it")  # fmt: skip
    lines = []
    for (mine, name, shape), timed in measured.operations(rows).items():
        if mine != suite or not shape.endswith("x256x256"):
            continue
        ours = _own(timed)
        peak = ours.percent_of_peak if ours is not None else None
        ratios = [_shown(timed, other) for other in ("eager", "torch.compile", DEEPINV)]
        lines.append(
            (
                f"`{name}`",
                shape.replace("x", " x "),
                "failed" if ours is None or ours.ms is None else f"{ours.ms:.3g}",
                "-" if peak is None else f"{peak:.0f} %",
                *ratios,
            )
        )
    return plain_rows(lines, header)


def _own(timed: Sequence[Timed]) -> Timed | None:
    """The package's provider that a call takes, the first of them."""
    return next((t for t in timed if t.provider.startswith(OURS)), None)


def _ratio(timed: Sequence[Timed], other: str) -> float | None:
    ours = _own(timed)
    theirs = next((t for t in timed if t.provider == other), None)
    if ours is None or ours.ms is None or theirs is None or theirs.ms is None:
        return None
    return theirs.ms / ours.ms


def _shown(timed: Sequence[Timed], other: str) -> str:
    if not any(t.provider == other for t in timed):
        return "-"
    ratio = _ratio(timed, other)
    return "failed" if ratio is None else f"{ratio:.2f}x"


def network(rows: Sequence[Row]) -> str:
    """The denoiser of one image beside the machine, per runtime."""
    found = measured.engine(rows)
    header = ("runtime", "GFLOP", "ms", "GFLOP/s", "matrix product, GFLOP/s", "ratio")
    lines = []
    for (runtime, shape, metric), row in found.items():
        if metric != "denoise_of_matrix_rate" or shape != "1x1x256x256":
            continue
        ms = float(found[runtime, shape, "denoise_call"]["value"])
        flops, peak = float(row["flops"]), measured.newest_peaks(rows, row)["matrix_gflops"]
        rate = 1e-6 * flops / ms
        cells = (f"{1e-9 * flops:.1f}", f"{ms:.1f}", f"{rate:.0f}", f"{peak:.0f}")
        lines.append((runtime, *cells, f"{100 * rate / peak:.0f} %"))
    return plain_rows(lines, header)


def calls(rows: Sequence[Row]) -> str:
    """`latino-engine bench`: latency, stages, cold start, memory."""
    found = measured.engine(rows)
    metrics = {
        "latency": "p50, ms", "latency_p95": "p95", "latency_p99": "p99", "stage_prox": "prox",
        "stage_noise": "noise", "stage_denoise": "denoise", "stage_other": "other",
        "outside_network": "outside, %", "cold_start": "cold start, ms", "throughput": "samples/s",
        "peak_memory": "peak, MB",
    }  # fmt: skip
    lines = []
    for runtime, shape in dict.fromkeys((provider, shape) for provider, shape, _ in found):
        cells = []
        for metric in metrics:
            row = found.get((runtime, shape, metric))
            scale = 1e-6 if metric == "peak_memory" else 1.0
            cells.append("-" if row is None else f"{scale * float(row['value']):.4g}")
        batch, count, *_ = shape.split("x")
        lines.append((runtime, batch, count, *cells))
    return plain_rows(lines, ("runtime", "images", "samples of each", *metrics.values()))


def about(rows: Sequence[Row]) -> str:
    """The machine, versions and commits of the newest rows of each suite: all that are shown."""
    keys = ("suite", "name", "provider", "shape", "metric")
    newest = {tuple(row[key] for key in keys): row for row in rows}
    lines = []
    for (suite, _), row in {(r["suite"], r["commit"]): r for r in newest.values()}.items():
        machine, versions = json.loads(row["machine"]), json.loads(row["versions"])
        packages = ("torch", "onnxruntime", "deepinv")
        shown = ", ".join(f"{p} {versions[p]}" for p in packages if p in versions)
        where = f"{machine['processor']}, {machine['cores']} cores, {row['threads']} threads"
        lines.append((suite, row["commit"], row["timestamp"][:10], where, shown))
    return plain_rows(lines, ("suite", "commit", "day", "machine", "versions"))


#: Name in the markers of the pages -> what fills them.
TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "end_to_end": end_to_end,
    "headline": headline,
    "goals": goals,
    "fused": fused,
    "calls_of_operators": calls_of_operators,
    "operators": operators,
    "sensors": sensors,
    "network": network,
    "calls": calls,
    "about": about,
}
