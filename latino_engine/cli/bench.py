"""The command that measures: bench."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from latino_engine.cli.dataclass_options import with_options
from latino_engine.cli.options import EnginePath, Json, Rebuild, Threads, TorchCompile
from latino_engine.sampling.options import Sampling

if TYPE_CHECKING:
    from latino_engine.bench.runner import Measured

_WIDTH = 100


def register(app: typer.Typer) -> None:
    """Add the command of this file to the program."""
    app.command("bench")(bench)


@with_options(Sampling, hidden=("num_samples", "keep_samples", "tile", "overlap"))
def bench(
    engine: EnginePath,
    operator: Annotated[
        str, typer.Option(help="For example sr:factor=4, inpaint:random=0.5, blur:std=1.6.")
    ] = "blur:std=1.6",
    size: Annotated[str, typer.Option(help="Of the images: 256 or 256x320.")] = "256",
    batch: Annotated[str, typer.Option(help="Images per call; several such as 1,4,8.")] = "1",
    num_samples: Annotated[str, typer.Option(help="Draws per image; several such as 1,4.")] = "1",
    backend: Annotated[
        list[str] | None, typer.Option(help="Runtime, repeatable; all for every one served here.")
    ] = None,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    noise_std: Annotated[float, typer.Option(help="Noise level, image range 0 to 1.")] = 0.02,
    *,
    sampling: Sampling,
    repeats: Annotated[int, typer.Option(help="Timed calls of each runtime.")] = 20,
    warmup: Annotated[int, typer.Option(help="Untimed calls before them.")] = 2,
    cold: Annotated[bool, typer.Option(help="Also time a fresh process's first sample.")] = True,
    neighbour: Annotated[
        bool, typer.Option("--neighbour", help="Also beside a process that keeps one core busy.")
    ] = False,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Also an engine that another machine compiled.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Add the figures to this table.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Chrome trace of the timed calls.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG: latency, stages, roofline.")] = None,
    rebuild: Rebuild = False,
    torch_compile: TorchCompile = False,
    as_json: Json = False,
) -> None:
    """Measure an engine here: latency, throughput, cold start, stages, memory, share of the peak.

    The first batch and the first num_samples give the latency; throughput is measured at all
    their combinations. Runtimes take turns, call by call.
    """
    from latino_engine.bench.options import BenchOptions
    from latino_engine.bench.runner import bench_engine
    from latino_engine.system.progress import progress_bar

    options = BenchOptions(
        operator=operator,
        noise_std=noise_std,
        size=_parse_size(size),
        batches=_parse_counts("batch", batch),
        num_samples=_parse_counts("num_samples", num_samples),
        backends=tuple(backend or ()),
        sampling=sampling,
        repeats=repeats,
        warmup=warmup,
        device=device,
        threads=threads,
        cold=cold,
        neighbour=neighbour,
        any_machine=any_machine,
        rebuild=rebuild,
        torch_compile=torch_compile,
    )
    with ExitStack() as stack:  # an output that cannot be written is refused before any work
        files = _open(stack, csv=csv, trace=trace, plot=plot)
        with progress_bar("measuring") as update:
            measured = bench_engine(engine, options, update)
        _write(files, measured)
    _print(measured.report, as_json)


def _open(stack: ExitStack, **paths: Path | None) -> dict[str, tuple[Path, BinaryIO]]:
    from latino_engine.atomic import atomic_file
    from latino_engine.bench.table import appended
    from latino_engine.errors import invalid

    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is not None and (other := seen.setdefault(path.resolve(), name)) != name:
            raise invalid(name, f"another file than --{other}", path, "choose another name")
    if (table := paths["csv"]) is not None and table.is_file():
        appended(table, ())
    return {
        name: (path, stack.enter_context(atomic_file(path, argument=name)))
        for name, path in paths.items()
        if path is not None
    }


def _write(files: dict[str, tuple[Path, BinaryIO]], measured: Measured) -> None:
    from latino_engine.bench import table, trace
    from latino_engine.bench.pictures import bench_picture
    from latino_engine.system import machine

    report = measured.report
    if "csv" in files:
        path, file = files["csv"]
        facts = (machine.commit(), report["machine"], report["versions"])
        table.append_rows(file, path, table.stamp(table.rows_of(report), *facts))
    if "trace" in files:
        files["trace"][1].write(trace.chrome_trace(measured.spans, report))
    if "plot" in files:
        files["plot"][1].write(bench_picture(report, measured.latencies_ms))


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1, allow_nan=False))
        return
    from rich.console import Console

    from latino_engine.bench.report import tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for table in tables(report):
        console.print(table)


def _parse_size(text: str) -> tuple[int, int]:
    from latino_engine.errors import invalid

    parts = [part.strip() for part in text.lower().split("x")]
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise invalid("size", "a side such as 256, or 256x320", repr(text), "write it so")
    return int(parts[0]), int(parts[-1])


def _parse_counts(name: str, text: str) -> tuple[int, ...]:
    from latino_engine.errors import invalid

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise invalid(name, "counts of at least 1", repr(text), "write e.g. 4 or 1,4,8")
    return tuple(int(part) for part in parts)
