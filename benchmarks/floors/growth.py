"""How the cost of `Engine.sample` grows: with the side, the batch, num_samples and N x K.

    python -m benchmarks.floors.growth -o benchmarks/results/growth       # or: make growth

Every point runs in a fresh process, whose peak of resident memory is its own; a point that is on
file already is not measured again, so that an interrupted run goes on where it stopped. The
exponents are those of processor time, one thread, which what else the machine does changes least.
Ends with growth.csv (a row for each point, then the fitted exponents beside the expected ones) and
growth.png.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latino_engine.atomic import atomic_file

#: Axis -> (values of it, expected exponent of time, of memory beside that of the smallest point).
AXES: dict[str, tuple[tuple[int, ...], float, str]] = {
    "side": ((64, 128, 256, 512, 1024), 2.0, "2, and 4 where attention prevails"),
    "batch": ((1, 2, 4, 8, 16), 1.0, "1 up to max_batch, then that of the images alone"),
    "num_samples": ((1, 2, 4, 8, 16), 1.0, "1 up to max_batch, then that of the samples alone"),
    "nfe": ((1, 2, 4, 9, 16), 1.0, "0: one evaluation at a time"),
}
BASE = {"side": 128, "batch": 1, "num_samples": 1, "nfe": 1}
_LIMIT_BYTES = 4 * 2**30
_MAX_BATCH = 8  # of an engine that was compiled without options: more travel in chunks
_REPEATED_SIDE, _REPEATED = 32, 1000
_CONTROL_SIDE = 384
FIELDS = (
    "kind",
    "axis",
    "value",
    "ms",
    "cpu_ms",
    "cpu_ms_per_unit",
    "peak_mb",
    "start_mb",
    "calls",
    "note",
)


def point(
    engine_folder: str, threads: int, side: int, batch: int, num_samples: int, nfe: int
) -> dict[str, Any]:
    """One point, in this process."""
    import torch

    import latino_engine as le
    from latino_engine.bench.peak_memory import peak_memory
    from latino_engine.bench.timer import wall_and_processor

    engine = le.load(engine_folder, threads=threads)
    op = le.Blur.gaussian(1.6, 0.02, size=13)
    y = torch.rand(batch, engine.spec.channels, side, side)
    options: dict[str, Any] = {"num_samples": num_samples, "sampler": "latino", "steps": nfe}
    times: list[tuple[float, float]] = []
    with peak_memory() as peak:
        while len(times) < 2 or (len(times) < 6 and sum(cpu for _, cpu in times) < 4e3):
            times.append(
                wall_and_processor(lambda: engine.sample(y, op, seed=len(times), **options))
            )
    wall, cpu = (float(np.median(column)) for column in zip(*times[1:], strict=True))
    return {
        "ms": wall,
        "cpu_ms": cpu,
        "calls": len(times) - 1,
        "peak_bytes": peak.host_bytes,
        "start_bytes": peak.start_bytes,
    }


def repeated(engine_folder: str, threads: int, calls: int) -> dict[str, Any]:
    """Resident memory and median times over many calls.

    A product of matrices after each call is the control: what else shares the processor's caches
    and clock slows both.
    """
    import psutil
    import torch

    import latino_engine as le
    from latino_engine.bench.timer import wall_and_processor

    engine, process = le.load(engine_folder, threads=threads), psutil.Process()
    op = le.Blur.gaussian(1.6, 0.02, size=13)
    y = torch.rand(1, engine.spec.channels, _REPEATED_SIDE, _REPEATED_SIDE)
    matrix = torch.ones(_CONTROL_SIDE, _CONTROL_SIDE)
    times, control, memory = [], [], []
    for call in range(calls):
        run = partial(engine.sample, y, op, num_samples=1, seed=call, steps=2)
        times.append(wall_and_processor(run)[1])
        control.append(wall_and_processor(lambda: matrix @ matrix)[1])
        if call % 10 == 9:
            memory.append(process.memory_info().rss)
    tenth = calls // 10
    return {
        "calls": calls,
        "memory_mb": [round(1e-6 * m, 2) for m in memory],
        "control_ms_of_each_tenth": [
            float(np.median(control[i : i + tenth])) for i in range(0, calls, tenth)
        ],
        "cpu_ms_of_each_tenth": [
            float(np.median(times[i : i + tenth])) for i in range(0, calls, tenth)
        ],
    }


def fresh(arguments: list[str]) -> dict[str, Any]:
    """A point in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.floors.growth", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path, engine: str, sides: int) -> dict[str, Any]:
    """All points that are not on file yet; the file is written after each."""
    path = folder / "growth.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(key: str, arguments: list[str]) -> dict[str, Any]:
        if key not in found:
            found[key] = fresh(arguments)
            with atomic_file(path) as file:
                file.write((json.dumps(found, indent=1) + "\n").encode())
            print(f"{key}: {_short(found[key])}", file=sys.stderr)
        row: dict[str, Any] = found[key]
        return row

    for axis, (values, _, _) in AXES.items():
        for value in values:
            if axis == "side" and value > sides:
                continue
            at = {**BASE, axis: value}
            keep(f"{axis} {value}", ["--engine", engine, "--point", *map(str, at.values())])
    keep("repeated", ["--engine", engine, "--repeated", str(_REPEATED)])
    _largest(found, keep, engine)
    return found


def _largest(found: dict[str, Any], keep: Callable[..., dict[str, Any]], engine: str) -> None:
    """The largest side and batch whose process stays within 4 GiB: estimated, then run.

    Memory is a + b pixels + c pixels^2, the last for attention, and linear in the batch.
    """
    for axis, power, degree, step in (("side", 2, 2, 64), ("batch", 1, 1, 1)):
        values = [v for v in AXES[axis][0] if "cpu_ms" in found.get(f"{axis} {v}", {})]
        values = [v for v in values if axis == "side" or v <= _MAX_BATCH][-3:]
        x = np.array([float(v) ** power for v in values])
        peaks = np.array([found[f"{axis} {v}"]["peak_bytes"] for v in values], dtype=float)
        fit = np.polyfit(x, peaks, degree)
        fit[-1] -= _LIMIT_BYTES
        root = max(float(r.real) for r in np.roots(fit) if abs(r.imag) < 1e-6 * abs(r.real))
        value = int(root ** (1.0 / power) // step * step)
        found[f"largest {axis}"] = {"value": value, "estimated": value}
        if axis == "batch":
            continue
        while value > step:
            at = ["--point", *map(str, {**BASE, axis: value}.values())]
            ran = keep(f"{axis} {value} within 4 GiB", ["--engine", engine, *at])
            if ran.get("peak_bytes", np.inf) <= _LIMIT_BYTES:
                found[f"largest {axis}"] |= {"value": value, "ran_bytes": ran["peak_bytes"]}
                break
            value -= step


def _short(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, int | float)) or str(
        row
    )


def exponent(values: list[float], costs: list[float]) -> float:
    """The slope of the straight line through the logarithms."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The table."""
    made: list[dict[str, Any]] = []
    for axis, (values, expected, memory_note) in AXES.items():
        kept = [(v, found[f"{axis} {v}"]) for v in values if "ms" in found.get(f"{axis} {v}", {})]
        for value, row in kept:
            made.append(
                {
                    "kind": "point", "axis": axis, "value": value, "ms": round(row["ms"], 3),
                    "cpu_ms": round(row["cpu_ms"], 3),
                    "cpu_ms_per_unit": round(row["cpu_ms"] / value**expected, 5),
                    "peak_mb": round(1e-6 * row["peak_bytes"], 1),
                    "start_mb": round(1e-6 * row["start_bytes"], 1), "calls": row["calls"],
                    "note": "",
                }
            )  # fmt: skip
        if len(kept) > 1:
            numbers = [float(v) for v, _ in kept]
            fitted = exponent(numbers, [row["cpu_ms"] for _, row in kept])
            extra = [max(1.0, row["peak_bytes"] - row["start_bytes"]) for _, row in kept]
            note = f"expected {expected:g} for time, for memory {memory_note}"
            memory = exponent(numbers, extra)
            made.append({"kind": "exponent", "axis": axis, "cpu_ms": round(fitted, 3),
                         "peak_mb": round(memory, 3), "note": note})  # fmt: skip
    for axis in ("side", "batch"):
        if largest := found.get(f"largest {axis}"):
            ran = largest.get("ran_bytes")
            how = f"run: {1e-6 * ran:.0f} MB" if ran else "estimated: max_batch bounds what travels"
            made.append({"kind": "largest in 4 GiB", "axis": axis, "value": largest["value"],
                         "note": how})  # fmt: skip
    if "cpu_ms_of_each_tenth" in (again := found.get("repeated", {})):
        ms, control = (np.array(again[f"{n}_ms_of_each_tenth"]) for n in ("cpu", "control"))
        memory = again["memory_mb"]
        for half, tenths in (("calls 101..500", slice(1, 5)), ("calls 501..1000", slice(5, 10))):
            ratio = float(np.median(ms[tenths] / control[tenths]))
            made.append({"kind": "repeated", "axis": half, "calls": again["calls"],
                         "cpu_ms": round(float(np.median(ms[tenths])), 3),
                         "peak_mb": memory[len(memory) * tenths.stop // 10 - 1],
                         "note": f"{ratio:.2f} of the control"})  # fmt: skip
    return made


def plot(found: dict[str, Any], path: Path) -> None:
    """Time and memory over every axis, logarithmic, and the repeated calls."""
    from matplotlib.figure import Figure

    from latino_engine.evaluation.pictures import write_png

    figure = Figure(figsize=(13.0, 6.0), layout="constrained")
    axes = figure.subplots(2, len(AXES) + 1)
    for column, (axis, (values, expected, _)) in enumerate(AXES.items()):
        kept = [(v, found[f"{axis} {v}"]) for v in values if "ms" in found.get(f"{axis} {v}", {})]
        x = np.array([v for v, _ in kept], dtype=float)
        ms = np.array([row["cpu_ms"] for _, row in kept])
        peak = np.array([1e-6 * row["peak_bytes"] for _, row in kept])
        top, bottom = axes[0][column], axes[1][column]
        top.loglog(x, ms, "o-", label="measured")
        top.loglog(x, ms[0] * (x / x[0]) ** expected, "--", label=f"exponent {expected:g}")
        top.set(title=axis, ylabel="processor time, ms" if column == 0 else "")
        top.legend(fontsize=7)
        bottom.semilogx(x, peak, "o-")
        bottom.set(xlabel=axis, ylabel="peak, MB" if column == 0 else "", ylim=(0, None))
    again = found.get("repeated", {})
    if "memory_mb" in again:
        for label in ("cpu_ms", "control_ms"):
            tenths = again[f"{label}_of_each_tenth"]
            axes[0][-1].plot(np.arange(1, 11), tenths, "o-", label=label.removesuffix("_ms"))
        axes[0][-1].legend(fontsize=7)
        axes[0][-1].set(title="1,000 calls", xlabel="tenth", ylim=(0, None))
        axes[1][-1].plot(10 * np.arange(1, len(again["memory_mb"]) + 1), again["memory_mb"])
        axes[1][-1].set(xlabel="call", ylim=(0, None))
    write_png(path, figure, dpi=110)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--engine", help="engine folder; compiled from photo-small if left out")
    parser.add_argument("-o", "--output", type=Path, default=Path("growth"), help="folder")
    parser.add_argument("--largest-side", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--point", type=int, nargs=4, metavar=tuple(BASE), help="one, as JSON")
    parser.add_argument("--repeated", type=int, metavar="CALLS", help="one engine, many calls")
    given = parser.parse_args()
    if given.point or given.repeated:
        import torch

        torch.set_num_threads(given.threads)
        at = given.engine, given.threads
        print(
            json.dumps(point(*at, *given.point) if given.point else repeated(*at, given.repeated))
        )
        return
    given.output.mkdir(parents=True, exist_ok=True)
    engine = given.engine
    if engine is None:
        import latino_engine as le

        engine = str(given.output / "growth.engine")
        if not Path(engine).exists():
            le.compile("photo-small", engine, adapter="none", threads=given.threads)
    found = measure(given.output, engine, given.largest_side)
    plot(found, given.output / "growth.png")
    with atomic_file(given.output / "growth.csv") as file:
        text = io.StringIO()
        table = csv.DictWriter(text, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows(found))
        file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()
