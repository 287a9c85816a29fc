"""The report of a benchmark as tables for people, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table


def tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """What is measured, latency and stages, throughput, the distance to the machine's limits."""
    runtimes = report["runtimes"]
    parts: list[RenderableType] = [_about(report), _latency(runtimes), _costs(runtimes)]
    if next(iter(runtimes.values()))["beside_neighbour"] is not None:
        parts.append(_beside(runtimes))
    if len(next(iter(runtimes.values()))["throughput"]) > 1:
        parts.append(_throughput(runtimes))
    return [*parts, _limits(report)]


def _about(report: Mapping[str, Any]) -> Table:
    height, width = report["size"]
    batch, samples = report["batch"], report["num_samples"]
    images = f"{batch} x {height} x {width}, {samples} sample{'s' * (samples > 1)} of each"
    machine = report["machine"]
    table = Table(show_header=False, title=f"bench {report['engine']}")
    table.add_row("prior", f"{report['prior']}, {report['precision']}, on {report['device']}")
    table.add_row("task", f"{report['operator']}, noise {report['noise_std']:g}; {images}")
    table.add_row("sampler", f"{report['sampler']}, {report['nfe']} network evaluations per sample")
    cores = f"{machine['cores']} cores, {report['threads']} thread{'s' * (report['threads'] > 1)}"
    table.add_row("machine", f"{machine.get('gpu', machine['processor'])}; {cores}")
    waits = "; ".join(f"{who}: {how}" for who, how in report["wait_policy"].items())
    table.add_row("threads wait", waits)
    table.add_row("calls", f"{report['repeats']} of each runtime, in turn, after warm-up")
    if not report["compiled_here"]:
        table.add_row("note", "compiled on another machine: its choice of runtime was made there")
    if report["timed_at"] not in (None, report["size"]):
        side = "x".join(map(str, report["timed_at"]))
        table.add_row("note", f"its runtime was chosen at {side}")
    return table


def _latency(runtimes: Mapping[str, Any]) -> Table:
    stages = ("prox", "noise", "denoise", "other")
    columns = ["runtime", "p50", "p95", "p99", *stages, "outside network"]
    table = _table("sample(), ms: quantiles of the call, median of each stage", columns)
    for name, found in runtimes.items():
        quantiles = [_number(found["latency_ms"][q]) for q in ("p50", "p95", "p99")]
        split = [_number(found["stages_ms"][stage]) for stage in stages]
        outside = f"{found['outside_network_percent']:.1f} %"
        table.add_row(name, *quantiles, *split, outside)
    return table


def _beside(runtimes: Mapping[str, Any]) -> Table:
    title = "beside a process that keeps one core busy: sample(), ms"
    table = _table(title, ["runtime", "p50", "p95", "p99", "times alone"])
    for name, found in runtimes.items():
        beside = found["beside_neighbour"]
        quantiles = [_number(beside["latency_ms"][q]) for q in ("p50", "p95", "p99")]
        table.add_row(name, *quantiles, f"{beside['times_alone']:.2f}")
    return table


def _costs(runtimes: Mapping[str, Any]) -> Table:
    columns = ["runtime", "network call", "cold start", "of it import", "load", "first sample"]
    on_device = any(found["peak_device_bytes"] is not None for found in runtimes.values())
    columns += ["peak MB", "on device"] if on_device else ["peak MB"]
    table = _table("one call, and a fresh process to its first sample, ms", columns)
    for name, found in runtimes.items():
        cold = found["cold_start_ms"]
        keys = ("total", "import", "load", "first_sample")
        start = ["-"] * len(keys) if cold is None else [_number(cold[key]) for key in keys]
        call = _number(found["denoise_call_ms"]["p50"])
        peaks = [found["peak_bytes"], found["peak_device_bytes"]][: 1 + on_device]
        megabytes = ["-" if peak is None else f"{1e-6 * peak:.0f}" for peak in peaks]
        table.add_row(name, call, *start, *megabytes)
    return table


def _throughput(runtimes: Mapping[str, Any]) -> Table:
    columns = ["batch", "samples of each", "runtime", "p50", "p95", "p99", "samples/s", "peak MB"]
    table = _table("batch and samples: sample(), ms, and its throughput", columns)
    lists = [found["throughput"] for found in runtimes.values()]
    for rows in zip(*lists, strict=True):
        for name, row in zip(runtimes, rows, strict=True):
            quantiles = [_number(row["latency_ms"][q]) for q in ("p50", "p95", "p99")]
            peak = f"{1e-6 * row['process_peak_bytes']:.0f}"
            sizes = (str(row["batch"]), str(row["num_samples"]))
            table.add_row(*sizes, name, *quantiles, _number(row["samples_per_s"]), peak)
    return table


def _limits(report: Mapping[str, Any]) -> Table:
    peaks = report["peaks"]
    title = (
        f"against the machine: {peaks['matrix_gflops']:.0f} GFLOP/s in a matrix product, "
        f"{peaks['copy_gb_per_s']:.1f} GB/s in a copy"
    )
    columns = ["part", "GFLOP", "MB", "ms", "GFLOP/s", "of peak", "GB/s", "of copy"]
    table = _table(title, columns)
    for name, found in report["runtimes"].items():
        for part, rates in found["against_peak"].items():
            table.add_row(f"{part}, {name}", *_rates(rates))
    return table


def _rates(rates: Mapping[str, float] | None) -> list[str]:
    if rates is None:
        return ["not counted", *["-"] * 6]
    return [
        f"{1e-9 * rates['flops']:.3g}",
        f"{1e-6 * rates['bytes']:.3g}",
        _number(rates["ms"]),
        _number(rates["gflops"]),
        f"{rates['percent_of_matrix_rate']:.0f} %",
        _number(rates["gb_per_s"]),
        f"{rates['percent_of_copy_bandwidth']:.0f} %",
    ]


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    return table


def _number(value: float) -> str:
    """Three digits: 0.123, 1.23, 12.3, 123, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plain_rows(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
