"""How the cost of `Engine.sample` grows: with the side, the batch, num_samples and N x K.

    python -m benchmarks.growth -o benchmarks/results/growth       # or: make growth

Every point runs in a fresh process, whose peak of resident memory is its own; a point that is on
file already is not measured again, so that an interrupted run goes on where it stopped. Ends with
growth.csv (a row for each point, then the fitted exponents beside the expected ones) and
growth.png.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from latino_engine.atomic import atomic_file

#: Axis -> (values of it, expected exponent of time, of memory beside that of the smallest point).
AXES: dict[str, tuple[tuple[int, ...], float, str]] = {
    "side": ((64, 128, 256, 512, 1024), 2.0, "2: the pixels"),
    "batch": ((1, 2, 4, 8, 16), 1.0, "1 up to max_batch, then that of the images alone"),
    "num_samples": ((1, 2, 4, 8, 16), 1.0, "1 up to max_batch, then that of the samples alone"),
    "nfe": ((1, 2, 4, 9, 16), 1.0, "0: one evaluation at a time"),
}
BASE = {"side": 128, "batch": 1, "num_samples": 1, "nfe": 1}
_LIMIT_BYTES = 4 * 2**30
_REPEATED_SIDE, _REPEATED = 32, 1000
FIELDS = ("kind", "axis", "value", "ms", "ms_per_unit", "peak_mb", "start_mb", "calls", "note")


def point(engine_folder: str, side: int, batch: int, num_samples: int, nfe: int) -> dict[str, Any]:
    """One point, in this process."""
    import torch

    import latino_engine as le
    from latino_engine.bench.peak_memory import peak_memory

    engine = le.load(engine_folder, threads=torch.get_num_threads())
    op = le.Blur.gaussian(1.6, 0.02, size=13)
    y = torch.rand(batch, engine.spec.channels, side, side)
    options: dict[str, Any] = {"num_samples": num_samples, "sampler": "latino", "steps": nfe}
    with peak_memory() as peak:
        times = [engine.sample(y, op, seed=0, **options).time_ms]
        while len(times) < 4 and sum(times) < 20e3:
            times.append(engine.sample(y, op, seed=len(times), **options).time_ms)
    warm = times[1:] or times
    return {
        "ms": float(np.median(warm)),
        "calls": len(warm),
        "peak_bytes": peak.host_bytes,
        "start_bytes": peak.start_bytes,
    }


def repeated(engine_folder: str, calls: int) -> dict[str, Any]:
    """Resident memory and median time over many calls, in hundredths of them."""
    import psutil
    import torch

    import latino_engine as le

    engine, process = le.load(engine_folder), psutil.Process()
    op = le.Blur.gaussian(1.6, 0.02, size=13)
    y = torch.rand(1, engine.spec.channels, _REPEATED_SIDE, _REPEATED_SIDE)
    times, memory = [], []
    for call in range(calls):
        times.append(engine.sample(y, op, num_samples=1, seed=call, steps=2).time_ms)
        if call % 10 == 9:
            memory.append(process.memory_info().rss)
    tenth = calls // 10
    return {
        "calls": calls,
        "ms_first_tenth": float(np.median(times[tenth : 2 * tenth])),  # after warm-up
        "ms_last_tenth": float(np.median(times[-tenth:])),
        "mb_after_first_tenth": 1e-6 * memory[tenth // 10],
        "mb_at_the_end": 1e-6 * memory[-1],
        "memory_mb": [round(1e-6 * m, 2) for m in memory],
        "ms_of_each_tenth": [
            float(np.median(times[i : i + tenth])) for i in range(0, calls, tenth)
        ],
    }


def fresh(arguments: list[str]) -> dict[str, Any]:
    """A point in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", *arguments]
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


def _largest(found: dict[str, Any], keep: Any, engine: str) -> None:
    """The largest side and batch whose process stays within 4 GiB, extrapolated, then run."""
    for axis, power, multiple in (("side", 2, 64), ("batch", 1, 1)):
        values = [v for v in AXES[axis][0] if "ms" in found.get(f"{axis} {v}", {})]
        if axis == "batch":
            values = [v for v in values if v <= 8]  # larger ones travel in chunks of max_batch
        x = np.array([float(v) ** power for v in values])
        bytes_ = np.array([found[f"{axis} {v}"]["peak_bytes"] for v in values], dtype=float)
        slope, start = np.polyfit(x[-3:], bytes_[-3:], 1)
        largest = ((_LIMIT_BYTES - start) / slope) ** (1.0 / power)
        found[f"largest {axis}"] = {
            "value": int(largest // multiple * multiple),
            "bytes_per_pixel_or_image": float(slope),
            "limit_bytes": _LIMIT_BYTES,
        }
    side = found["largest side"]["value"]
    ran = keep(
        f"largest side run {side}", ["--engine", engine, "--point", str(side), "1", "1", "1"]
    )
    found["largest side"] |= {
        "peak_bytes_when_run": ran.get("peak_bytes"),
        "error": ran.get("error"),
    }


def _short(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, int | float)) or str(
        row
    )


def exponent(values: list[float], costs: list[float]) -> float:
    """Of the straight line through the logarithms."""
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
                    "ms_per_unit": round(row["ms"] / value**expected, 5),
                    "peak_mb": round(1e-6 * row["peak_bytes"], 1),
                    "start_mb": round(1e-6 * row["start_bytes"], 1), "calls": row["calls"],
                    "note": "",
                }
            )  # fmt: skip
        if len(kept) > 1:
            numbers = [float(v) for v, _ in kept]
            fitted = exponent(numbers, [row["ms"] for _, row in kept])
            extra = [max(1.0, row["peak_bytes"] - row["start_bytes"]) for _, row in kept]
            note = f"expected {expected:g} for time, for memory {memory_note}"
            memory = exponent(numbers, extra)
            made.append({"kind": "exponent", "axis": axis, "ms": round(fitted, 3),
                         "peak_mb": round(memory, 3), "note": note})  # fmt: skip
    for axis in ("side", "batch"):
        if largest := found.get(f"largest {axis}"):
            ran = largest.get("peak_bytes_when_run")
            seen = f", {1e-6 * ran:.0f} MB when run" if ran else ""
            made.append({"kind": "largest in 4 GiB", "axis": axis, "value": largest["value"],
                         "note": f"from the last three points{seen}"})  # fmt: skip
    if "ms_last_tenth" in (again := found.get("repeated", {})):
        for name in ("first", "last"):
            made.append({"kind": "repeated", "axis": f"{name} tenth", "calls": again["calls"],
                         "ms": round(again[f"ms_{name}_tenth"], 3),
                         "peak_mb": round(again["mb_after_first_tenth" if name == "first"
                                                else "mb_at_the_end"], 1)})  # fmt: skip
    return made


def plot(found: dict[str, Any], path: Path) -> None:
    """Time and memory over every axis, logarithmic, and the repeated calls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 6.0), layout="constrained")
    axes = figure.subplots(2, len(AXES) + 1)
    for column, (axis, (values, expected, _)) in enumerate(AXES.items()):
        kept = [(v, found[f"{axis} {v}"]) for v in values if "ms" in found.get(f"{axis} {v}", {})]
        x = np.array([v for v, _ in kept], dtype=float)
        ms = np.array([row["ms"] for _, row in kept])
        peak = np.array([1e-6 * row["peak_bytes"] for _, row in kept])
        top, bottom = axes[0][column], axes[1][column]
        top.loglog(x, ms, "o-", label="measured")
        top.loglog(x, ms[0] * (x / x[0]) ** expected, "--", label=f"exponent {expected:g}")
        top.set(title=axis, ylabel="ms" if column == 0 else "")
        top.legend(fontsize=7)
        bottom.semilogx(x, peak, "o-")
        bottom.set(xlabel=axis, ylabel="peak, MB" if column == 0 else "", ylim=(0, None))
    again = found.get("repeated", {})
    if "memory_mb" in again:
        axes[0][-1].plot(np.arange(1, 11), again["ms_of_each_tenth"], "o-")
        axes[0][-1].set(title="1,000 calls", xlabel="tenth", ylim=(0, None))
        axes[1][-1].plot(10 * np.arange(1, len(again["memory_mb"]) + 1), again["memory_mb"])
        axes[1][-1].set(xlabel="call", ylim=(0, None))
    with atomic_file(path) as file:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        file.write(buffer.getvalue())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--engine", help="engine folder; compiled from photo-small if left out")
    parser.add_argument("-o", "--output", type=Path, default=Path("growth"), help="folder")
    parser.add_argument("--largest-side", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--point", type=int, nargs=4, metavar=tuple(BASE), help="one, as JSON")
    parser.add_argument("--repeated", type=int, metavar="CALLS", help="one engine, many calls")
    given = parser.parse_args()
    if given.point or given.repeated:
        import torch

        torch.set_num_threads(given.threads)
        made = point(given.engine, *given.point) if given.point else None
        print(json.dumps(made or repeated(given.engine, given.repeated)))
        return
    given.output.mkdir(parents=True, exist_ok=True)
    engine = given.engine
    if engine is None:
        import latino_engine as le

        engine = str(given.output / "growth.engine")
        if not Path(engine).exists():
            le.compile("photo-small", engine, threads=given.threads)
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
