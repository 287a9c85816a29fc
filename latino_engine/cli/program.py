"""The command line. Heavy imports wait for the command that needs them, so that --help answers at
once.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from latino_engine.cli import (
    bench,
    description,
    export,
    importing,
    mapping,
    plans,
    serving,
    training,
)
from latino_engine.cli.dataclass_options import with_options
from latino_engine.cli.options import (
    INTERRUPTED_AND_SAVED,
    Backend,
    EnginePath,
    Json,
    Rebuild,
    TensorRTPackage,
    Threads,
    TorchCompile,
    WorkspaceMib,
    parse_noise,
    parse_size,
    parse_tile,
)
from latino_engine.errors import UserError
from latino_engine.sampling.options import Sampling
from latino_engine.version import __version__

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Draw posterior samples for imaging inverse problems from a diffusion prior.",
)

# typer brings its own click in newer releases; this is the base of both usage errors.
_USAGE_ERROR: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

_INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        print(f"latino-engine {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("compile")
def compile_command(
    prior: Annotated[str, typer.Argument(help="Shipped name (photo-small) or a prior's folder.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write, e.g. a.engine.")],
    backend: Backend = None,
    adapter: Annotated[
        str,
        typer.Option(
            help="auto: that of a shipped prior; none: zero-shot; a name, or distill's folder."
        ),
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    image_size: Annotated[
        str | None, typer.Option(help="256 or 256x320: where the runtimes are timed.")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Most images in the network together.")] = 8,
    gpu: Annotated[
        list[str] | None, typer.Option(help="With --backend tensorrt: sm_89; may be repeated.")
    ] = None,
    tensorrt_package: TensorRTPackage = None,
    tf32: Annotated[
        bool,
        typer.Option("--tf32", help="TensorRT in fp32: round the factors of products to 10 bits."),
    ] = False,
    workspace_mib: WorkspaceMib = None,
    prompt: Annotated[
        str | None, typer.Option(help="Of a text-to-image pipeline: what the images show.")
    ] = None,
    lora: Annotated[
        Path | None, typer.Option(help="Of a text-to-image pipeline: safetensors file to merge.")
    ] = None,
    max_gb: Annotated[
        float | None,
        typer.Option(help="Largest prior that is read, GB: 8.6, text-to-image 17.2."),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Compile a prior to an engine: export, check against float32 torch, time the runtimes."""
    from latino_engine.compilation.compiler import compile as compile_prior
    from latino_engine.priors import load_prior

    with _busy(f"compiling {prior}"):
        engine = compile_prior(
            load_prior(prior, prompt=prompt, lora=lora, max_bytes=importing.size_limit(max_gb)),
            out,
            backend=backend or "auto",
            precision=precision,
            adapter=adapter,
            image_size=None if image_size is None else parse_size(image_size),
            max_batch=max_batch,
            threads=threads,
            gpu_architectures=gpu or None,
            tensorrt_package=tensorrt_package,
            tf32=tf32,
            workspace_mib=workspace_mib,
        )
    if as_json:
        print(json.dumps(engine.manifest, indent=1))
    else:
        Console().print(description.engine_table(engine.folder, engine.manifest))


@app.command()
@with_options(Sampling, hidden=("keep_samples", "tile"))
def sample(
    engine: EnginePath,
    image: Annotated[
        list[Path],
        typer.Argument(help="The measurement (PNG, JPEG, TIFF, npy); several, or folders of them."),
    ],
    operator: Annotated[
        str,
        typer.Option(
            help="blur:std=1.6, sr:factor=4, inpaint:mask=mask.png, jpeg:quality=20, ...; several: "
            "'blur:std=1 then poisson:peak=50', 'blur:std=2 and sr:factor=4'."
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    noise_std: Annotated[
        str | None,
        typer.Option(
            help="Noise level of the measurement, image range 0 to 1, 0.02 if nobody says; auto: "
            "estimate it from IMAGE."
        ),
    ] = None,
    *,
    sampling: Sampling,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="IMAGE is clean: measure it first, then tell PSNR and SSIM."
        ),
    ] = False,
    crop: Annotated[
        bool, typer.Option("--crop", help="With --simulate: cut sides that the factor divides not.")
    ] = False,
    tile: Annotated[
        str,
        typer.Option(
            help="Side of the pieces that the network sees, e.g. 256; none: the whole image; auto: "
            "pieces where memory asks for them."
        ),
    ] = "auto",
    delta: Annotated[
        str | None,
        typer.Option(help="Latent priors: a published row, a number, or one for each step."),
    ] = None,
    prompt_updates: Annotated[
        int | None, typer.Option(help="latino-pro: updates of the prompt, 15 by default.")
    ] = None,
    backend: Backend = None,
    threads: Threads = None,
    rebuild: Rebuild = False,
    torch_compile: TorchCompile = False,
    as_json: Json = False,
) -> None:
    """Draw samples of p(x | y) for a measurement; write them, their mean and std, and one picture.

    Several files, or folders, have a folder each below the output; what cannot be used is passed
    over, and the exit status is then 1.
    """
    from latino_engine.cli import several
    from latino_engine.cli.restoration import restore
    from latino_engine.loading import load

    loaded = load(
        engine, backend=backend, threads=threads, rebuild=rebuild, torch_compile=torch_compile
    )
    side = parse_tile(tile)
    if isinstance(side, int):
        sampling = replace(sampling, tile=side)

    def work(file: Path, folder: Path) -> dict[str, Any]:
        return restore(
            loaded,
            file,
            operator,
            folder,
            sampling,
            noise_std=None if noise_std is None else parse_noise(noise_std),
            simulate=simulate,
            progress=True,
            delta=delta,
            prompt_updates=prompt_updates,
            crop=crop,
            auto_tile=side == "auto",
        )

    if len(image) == 1 and not image[0].is_dir():
        report = work(image[0], out)
        for note in report["notes"]:
            print(f"note: {note}", file=sys.stderr)
        print(json.dumps(report, indent=1)) if as_json else Console().print(_report_table(report))
        return
    told = several.each(several.files_of(image), out, work)
    for note in dict.fromkeys(note for report in told["images"] for note in report["notes"]):
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(told, indent=1)) if as_json else Console().print(_images_table(told))
    if told["failures"]:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path(
        "demo-output"
    ),
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Restore a shipped photograph three times: deblurring, 4x super-resolution, half of it
    missing.
    """
    from latino_engine.cli.demonstration import run_demo

    with _busy("compiling photo-small, then three restorations"):
        rows = run_demo(out, threads=threads)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title="Chelsea, 256 x 256, noise std 0.02 (PSNR in dB, ms per sample)")
    for name in ("task", "measured", "start", "sample", "mean", "NFE", "ms"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for row in rows:
        figures = [f"{row[key]:.2f}" for key in ("measured", "start", "sample", "mean")]
        table.add_row(row["task"], *figures, str(row["nfe"]), f"{row['ms_per_sample']:.0f}")
    console = Console()
    console.print(table)
    console.print(f"pictures: {', '.join(row['picture'] for row in rows)}", soft_wrap=True)


training.register(app)
bench.register(app)
plans.register(app)
export.register(app)
importing.register(app)
mapping.register(app)
description.register(app)
serving.register(app)


def _report_table(report: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    for name in ("operator", "sampler", "num_samples", "nfe"):
        table.add_row(name, str(report[name]))
    stages = ", ".join(f"{name} {ms:.0f}" for name, ms in report["stages_ms"].items())
    table.add_row("time", f"{report['time_ms']:.0f} ms ({stages})")
    table.add_row("residual chi2", f"{_figure(_chi2(report))} (exact samples: about 1)")
    for name, figures in report.get("quality", {}).items():
        table.add_row(name, f"PSNR {_figure(figures['psnr'])} dB, SSIM {_figure(figures['ssim'])}")
    table.add_row("written to", report["folder"])
    return table


def _images_table(told: dict[str, Any]) -> Table:
    table = Table()
    for name in ("image", "ms", "chi2", "PSNR of the mean"):
        table.add_column(name, justify="left" if name == "image" else "right")
    for report in told["images"]:
        mean = report.get("quality", {}).get("mean", {}).get("psnr")
        figures = f"{report['time_ms']:.0f}", _figure(_chi2(report)), _figure(mean)
        table.add_row(Path(report["image"]).name, *figures)
    for image in told["failures"]:
        table.add_row(Path(image).name, "failed", "-", "-")
    return table


def _chi2(report: dict[str, Any]) -> float | None:
    found = [value for row in report["residual_chi2"] for value in row if value is not None]
    return sum(found) / len(found) if found else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@contextmanager
def _busy(title: str) -> Iterator[None]:
    with Console(stderr=True).status(title):
        yield


def _one_line(message: Warning | str, *rest: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def run(arguments: list[str]) -> int:
    """Run the command line; a user's mistake becomes one line on stderr and exit status 2."""
    warnings.showwarning = _one_line
    try:
        status = int(app(arguments, standalone_mode=False) or 0)
    except UserError as error:
        return _mistake(str(error))
    except _USAGE_ERROR as error:
        remedy = "see latino-engine --help, or --help of the command"
        return _mistake(f"{error.format_message().rstrip('.')}; {remedy}")  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    if status == INTERRUPTED_AND_SAVED:
        return _INTERRUPTED
    if status == _INTERRUPTED:  # typer turns Ctrl-C into this status
        print("error: interrupted; nothing was written", file=sys.stderr)
    return status


def _mistake(sentence: str) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def main() -> None:
    """Entry point of `latino-engine` and of `python -m latino_engine`."""
    sys.exit(run(sys.argv[1:] or ["--help"]))
