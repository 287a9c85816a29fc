"""The commands that train and judge: train-prior, distill and evaluate."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from latino_engine.cli.dataclass_options import Flag, with_options
from latino_engine.cli.options import (
    INTERRUPTED_AND_SAVED,
    Backend,
    EnginePath,
    Json,
    Rebuild,
    Threads,
)
from latino_engine.distill.options import Distillation, PriorTraining
from latino_engine.evaluation.options import Evaluation

Run = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; resumed if there.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
_SOURCE = Flag(annotation=Path, parse=str, argument=True)
_NAME = Flag(annotation=str | None, default=None)


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command("train-prior")(train_prior)
    app.command("distill")(distill)
    app.command("evaluate")(evaluate)


def _numbers(name: str, least: int, expected: str) -> Callable[[str], tuple[int, ...]]:
    """Parses "32,64,128"; an empty text is no number."""

    def parse(text: str) -> tuple[int, ...]:
        from latino_engine.errors import invalid

        parts = text.split(",") if text or least else []
        if not all(part.strip().isdecimal() and int(part) >= least for part in parts):
            raise invalid(name, expected, repr(text), "write it so")
        return tuple(int(part) for part in parts)

    return parse


def _blocks(name: str) -> Flag:
    return Flag(annotation=str, default="", parse=_numbers(name, 0, "counts such as 1,2,2"))


@with_options(
    PriorTraining,
    hidden=("attention_heads", "embedding", "groups"),
    source=_SOURCE,
    name=_NAME,
    widths=Flag(
        annotation=str,
        default=",".join(map(str, PriorTraining.widths)),
        parse=_numbers("widths", 1, "channel counts such as 32,64,128"),
    ),
    size=Flag(default=64),
    down_blocks=_blocks("down_blocks"),
    up_blocks=_blocks("up_blocks"),
    compiled=Flag(names=("--torch-compile/--no-torch-compile",)),
)
def train_prior(
    options: PriorTraining, out: Run, device: Device = None, as_json: Json = False
) -> None:
    """Train a prior on images by denoising; a run that was killed goes on where it was written."""
    from latino_engine.distill import prior_training
    from latino_engine.system.progress import training_bar

    options = replace(options, name=options.name or out.name)
    try:
        with training_bar("training", _tells()) as report:
            prior = prior_training.train_prior(options, out, device=device, report=report)
    except KeyboardInterrupt:
        raise _stopped(out) from None
    facts = {"prior": prior.spec.to_json(), "sha256": prior.content_hash(), "folder": str(out)}
    print(json.dumps(facts, indent=1) if as_json else f"{prior!r} written to {out}")


def _stopped(out: Path) -> BaseException:
    """What ends the program after Ctrl-C: a run is kept once it has made a step."""
    from latino_engine.image_io.datasets import CHECKPOINT

    if not _tells():
        return typer.Exit(INTERRUPTED_AND_SAVED)
    if not (out / CHECKPOINT).exists():
        return KeyboardInterrupt()
    print(f"stopped; written to {out}: the same command goes on from there", file=sys.stderr)
    return typer.Exit(INTERRUPTED_AND_SAVED)


def _tells() -> bool:
    """True in the one of several processes that writes and prints."""
    return int(os.environ.get("RANK", "0")) <= 0


@with_options(
    Distillation,
    hidden=("init_rate",),
    source=_SOURCE,
    name=_NAME,
    operators=Flag(names=("--operator",), annotation=list[str], parse=tuple),
    patches=Flag(
        names=("--patch",),
        annotation=list[int] | None,
        default=None,
        parse=lambda sides: tuple(sides or Distillation.patches),
    ),
    checkpointing=Flag(names=("--checkpointing",)),
    autocast=Flag(names=("--autocast",)),
    compiled=Flag(names=("--torch-compile",)),
)
def distill(
    prior: Annotated[str, typer.Argument(help="Shipped name or a prior's folder.")],
    options: Distillation,
    out: Run,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Distil a few-step sampler: an adapter of a prior, with learned step sizes; resumable."""
    from latino_engine.distill.distillation import distill as run_distillation
    from latino_engine.system.progress import training_bar

    options = replace(options, name=options.name or out.name)
    try:
        with training_bar("distilling", _tells()) as report:
            adapter = run_distillation(prior, options, out, device=device, report=report)
    except KeyboardInterrupt:
        raise _stopped(out) from None
    if not _tells():
        return
    if as_json:
        facts = {"schedule": adapter.schedule.to_json(), "sha256": adapter.content_hash()}
        print(json.dumps({**facts, "folder": str(out)}, indent=1))
    else:
        print(f"{adapter!r} written to {out}")


@with_options(Evaluation, hidden=("keep_samples",), source=_SOURCE)
def evaluate(
    engine: EnginePath,
    options: Evaluation,
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    backend: Backend = None,
    threads: Threads = None,
    rebuild: Rebuild = False,
    as_json: Json = False,
) -> None:
    """Score an engine on true images: PSNR, SSIM, CRPS, energy score, coverage, calibration."""
    from latino_engine.evaluation import evaluator
    from latino_engine.loading import load
    from latino_engine.system.progress import progress_bar

    loaded = load(engine, backend=backend, threads=threads, rebuild=rebuild)
    with progress_bar("evaluating") as update:
        report = evaluator.evaluate(loaded, options, out, progress=update)
    print(json.dumps(report, indent=1) if as_json else evaluator.markdown(report), end="")
    if as_json:
        print()
