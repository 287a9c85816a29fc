"""The long table of measurements: one figure per row, rows are only ever added."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from latino_engine.errors import OutputNotWritable

#: One row is one figure: `value` with its 20 and 80 % quantiles, of `metric` in `unit`, for `name`
#: by `provider` at `shape`; bytes and flops are counted, percent_of_peak is the least time they
#: allow on this machine over the measured one; `status` is "ok" or "failed", `details` and the last
#: columns are JSON.
COLUMNS = (
    "timestamp",
    "commit",
    "suite",
    "name",
    "provider",
    "shape",
    "threads",
    "metric",
    "unit",
    "value",
    "p20",
    "p80",
    "bytes",
    "flops",
    "percent_of_peak",
    "status",
    "details",
    "machine",
    "versions",
)


def stamp(
    rows: Iterable[Mapping[str, Any]],
    commit: str,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The rows with time, commit, machine and versions."""
    about = {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "status": "ok",
        "machine": json.dumps(machine, sort_keys=True),
        "versions": json.dumps(versions, sort_keys=True),
    }
    return [{**about, **row} for row in rows]


def appended(path: Path, rows: Iterable[Mapping[str, Any]]) -> bytes:
    """What the file shall hold: what it holds now and these rows behind it.

    Raises:
        OutputNotWritable: a file that is no such table.
    """
    before = path.read_bytes() if path.exists() else b""
    header = ",".join(COLUMNS) + "\n"
    if before and not before.decode(errors="replace").startswith(header):
        raise OutputNotWritable(
            f"csv: expected a new file or a table of measurements, got {path}, which has other "
            "columns; choose another name"
        )
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    if before and not before.endswith(b"\n"):
        before += b"\n"
    return (before or header.encode()) + text.getvalue().encode()


def append_rows(file: BinaryIO, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Fill the open file that takes the place of `path` (`atomic_file`); see `appended`."""
    file.write(appended(path, rows))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Every row, as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rows_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of a report of `bench_engine` as rows."""
    height, width = report["size"]
    rows: list[dict[str, Any]] = []
    for name, found in report["runtimes"].items():
        shape = f"{report['batch']}x{report['num_samples']}x{height}x{width}"
        about = {
            "suite": "engine",
            "name": report["operator"],
            "provider": name,
            "threads": report["threads"],
            "details": json.dumps(
                {key: report[key] for key in ("prior", "precision", "device", "noise_std")}
                | {"nfe": found["nfe"]}
            ),
        }
        for metric, unit, figures in _figures(found):
            rows.append({**about, "shape": shape, "metric": metric, "unit": unit, **figures})
        for number, row in enumerate(found["throughput"]):
            at = {"shape": f"{row['batch']}x{row['num_samples']}x{height}x{width}"}
            value = {"metric": "throughput", "unit": "samples/s", "value": row["samples_per_s"]}
            rows.append({**about, **at, **value})
            for metric, unit, figures in _latency(row["latency_ms"]) if number else ():
                rows.append({**about, **at, "metric": metric, "unit": unit, **figures})
    peaks = {"suite": "machine", "name": "peak", "provider": "torch", "threads": report["threads"]}
    for metric, value in report["peaks"].items():
        unit = "GFLOP/s" if metric == "matrix_gflops" else "GB/s"
        rows.append({**peaks, "metric": metric, "unit": unit, "value": value})
    return rows


def _figures(found: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    figures: list[tuple[str, str, dict[str, Any]]] = [
        *_latency(found["latency_ms"]),
        ("denoise_call", "ms", _times(found["denoise_call_ms"])),
        ("outside_network", "%", {"value": found["outside_network_percent"]}),
        ("peak_memory", "bytes", {"value": found["peak_bytes"]}),
    ]
    figures += [(f"stage_{k}", "ms", {"value": v}) for k, v in found["stages_ms"].items()]
    if found["peak_device_bytes"] is not None:
        peak = {"value": found["peak_device_bytes"]}
        figures.append(("peak_device_memory", "bytes", peak))
    if found["cold_start_ms"] is not None:
        figures.append(("cold_start", "ms", {"value": found["cold_start_ms"]["total"]}))
    if found["beside_neighbour"] is not None:
        beside = found["beside_neighbour"]
        figures.append(("latency_beside_neighbour", "ms", _times(beside["latency_ms"])))
        figures.append(("beside_neighbour", "times alone", {"value": beside["times_alone"]}))
    for part, rates in found["against_peak"].items():
        if rates is not None:
            counted = {key: rates[key] for key in ("flops", "bytes")}
            for of in ("matrix_rate", "copy_bandwidth"):
                share = {"value": rates[f"percent_of_{of}"], **counted}
                figures.append((f"{part}_of_{of}", "%", share))
    return figures


def _latency(summary: Mapping[str, float]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("latency", "ms", _times(summary)),
        ("latency_p95", "ms", {"value": summary["p95"]}),
        ("latency_p99", "ms", {"value": summary["p99"]}),
    ]


def _times(summary: Mapping[str, float]) -> dict[str, float]:
    return {"value": summary["p50"], "p20": summary["p20"], "p80": summary["p80"]}


def _plain(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
