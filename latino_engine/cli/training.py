"""The commands that train and judge: train-prior, distill and evaluate."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from latino_engine.cli.options import (
    INTERRUPTED_AND_SAVED,
    Backend,
    EnginePath,
    Json,
    Rebuild,
    Seed,
    Threads,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command("train-prior")(train_prior)
    app.command("distill")(distill)
    app.command("evaluate")(evaluate)


def train_prior(
    source: Annotated[
        Path, typer.Argument(help="Folder of images, idx file (.gz too) or npy file.")
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; resumed if there.")
    ],
    size: Annotated[int, typer.Option(help="Side of the squares cut from the images.")] = 64,
    minutes: Annotated[float | None, typer.Option(help="Length in minutes of training.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length in optimizer steps.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the prior; the folder's name by default.")
    ] = None,
    pad: Annotated[int, typer.Option(help="Black pixels around the images of an array file.")] = 0,
    flip: Annotated[bool, typer.Option(help="Mirror squares left to right at random.")] = False,
    turn: Annotated[bool, typer.Option(help="Turn squares by multiples of 90 degrees.")] = False,
    smallest_scale: Annotated[
        float, typer.Option(help="Make images smaller by a random factor from here to 1.")
    ] = 1.0,
    network: Annotated[
        str, typer.Option(help="unet, or resunet: convolutions alone, no normalisation.")
    ] = "unet",
    widths: Annotated[str, typer.Option(help="Channels per resolution.")] = "32,64,128",
    down_blocks: Annotated[
        str, typer.Option(help="Of resunet: blocks per resolution on the way down, as 1,2,2.")
    ] = "",
    up_blocks: Annotated[str, typer.Option(help="The same on the way up.")] = "",
    batch: Annotated[int, typer.Option(help="Squares per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-3,
    warmup: Annotated[int, typer.Option(help="Steps until it is reached.")] = 100,
    cooldown: Annotated[
        float, typer.Option(help="Part of the run over which the learning rate falls to 0.")
    ] = 1.0,
    ema: Annotated[float, typer.Option(help="Decay of the moving average.")] = 0.998,
    blocks_per_level: Annotated[int, typer.Option(help="Residual blocks per resolution.")] = 2,
    sigma_max: Annotated[
        float, typer.Option(help="Largest noise level the prior claims, [-1, 1] units.")
    ] = 80.0,
    log_sigma_mean: Annotated[float, typer.Option(help="Mean of ln sigma, [-1, 1] units.")] = -1.2,
    log_sigma_std: Annotated[float, typer.Option(help="Std of ln sigma.")] = 1.4,
    sampler_sigma_max: Annotated[
        float, typer.Option(help="First noise level of zero-shot LATINO, image range 0 to 1.")
    ] = 0.3,
    checkpoint_minutes: Annotated[float, typer.Option(help="How often to write.")] = 1.0,
    half: Annotated[bool, typer.Option(help="Store the weights as float16.")] = False,
    start: Annotated[
        str | None, typer.Option(help="Prior of the same network to begin with, name or folder.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Images to denoise at every checkpoint: validation.csv.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, or auto: the faster on this machine.")
    ] = "fp32",
    torch_compile: Annotated[
        bool, typer.Option(help="Compile the step: faster after the first minute.")
    ] = False,
    seed: Seed = 0,
    licence: Annotated[str, typer.Option(help="Of the weights, for prior.json.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    as_json: Json = False,
) -> None:
    """Train a prior on images by denoising; a run that was killed goes on where it was written."""
    from latino_engine.distill import prior_training
    from latino_engine.system.progress import training_bar

    options = prior_training.PriorTraining(
        source=str(source),
        name=name or out.name,
        size=size,
        pad=pad,
        flip=flip,
        turn=turn,
        smallest_scale=smallest_scale,
        network=network,
        widths=_parse_widths(widths),
        down_blocks=_parse_blocks("down_blocks", down_blocks),
        up_blocks=_parse_blocks("up_blocks", up_blocks),
        minutes=minutes,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        warmup=warmup,
        cooldown=cooldown,
        ema=ema,
        blocks_per_level=blocks_per_level,
        sigma_max=sigma_max,
        log_sigma_mean=log_sigma_mean,
        log_sigma_std=log_sigma_std,
        sampler_sigma_max=sampler_sigma_max,
        checkpoint_minutes=checkpoint_minutes,
        half=half,
        start=start,
        validation=None if validation is None else str(validation),
        precision=precision,
        compiled=torch_compile,
        seed=seed,
        licence=licence,
    )
    try:
        with training_bar("training") as report:
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


def _parse_widths(text: str) -> tuple[int, ...]:
    return _parse_numbers("widths", text, 1, "channel counts such as 32,64,128")


def _parse_blocks(name: str, text: str) -> tuple[int, ...]:
    return _parse_numbers(name, text, 0, "counts such as 1,2,2") if text else ()


def _parse_numbers(name: str, text: str, least: int, expected: str) -> tuple[int, ...]:
    from latino_engine.errors import invalid

    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= least for part in parts):
        raise invalid(name, expected, repr(text), "write it so")
    return tuple(int(part) for part in parts)


def distill(
    prior: Annotated[str, typer.Argument(help="Shipped name or a prior's folder.")],
    source: Annotated[
        Path, typer.Argument(help="True images: folder, idx file (.gz too) or npy file.")
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; resumed if there.")
    ],
    operator: Annotated[
        list[str],
        typer.Option(help="Drawn at random, repeatable: blur:std=0.8..3, sr:factor=2|4, ..."),
    ],
    noise_std: Annotated[
        str, typer.Option(help="Noise level or range, e.g. 0.01..0.05, image range 0 to 1.")
    ] = "0.05",
    size: Annotated[int, typer.Option(help="Side of the squares cut from the images.")] = 64,
    minutes: Annotated[float | None, typer.Option(help="Length in minutes of training.")] = None,
    training_steps: Annotated[int | None, typer.Option(help="Length in optimizer steps.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the adapter; the folder's name by default.")
    ] = None,
    pad: Annotated[int, typer.Option(help="Black pixels around the images of an array file.")] = 0,
    flip: Annotated[bool, typer.Option(help="Mirror squares left to right at random.")] = False,
    smallest_scale: Annotated[
        float, typer.Option(help="Make images smaller by a random factor from here to 1.")
    ] = 1.0,
    start: Annotated[
        str | None, typer.Option(help="Adapter of this prior to begin with: name or folder.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Outer steps N.")] = 3,
    unfold: Annotated[int, typer.Option(help="Inner iterations K; N K evaluations.")] = 3,
    objective: Annotated[
        str, typer.Option(help="energy, paper, or mse: the posterior mean.")
    ] = "energy",
    targets: Annotated[str, typer.Option(help="attention, all-conv or full.")] = "attention",
    rank: Annotated[int, typer.Option(help="Of the low-rank changes.")] = 5,
    alpha: Annotated[float, typer.Option(help="Their scale times the rank.")] = 5.0,
    init: Annotated[str, typer.Option(help="regularised or measurement.")] = "regularised",
    batch: Annotated[int, typer.Option(help="Measurements per step.")] = 16,
    num_samples: Annotated[int, typer.Option(help="energy: draws per measurement.")] = 2,
    patch: Annotated[
        list[int] | None, typer.Option(help="energy: side of its patches, repeatable; 1, 4, 8.")
    ] = None,
    exponent: Annotated[
        float, typer.Option(help="energy: of its distances; below 1, small errors count more.")
    ] = 1.0,
    image_exponent: Annotated[
        float | None, typer.Option(help="energy: of whole images, if not --exponent.")
    ] = None,
    adversarial: Annotated[float, typer.Option(help="paper: weight of the term.")] = 0.1,
    noise_mse: Annotated[float, typer.Option(help="paper: weight of the term.")] = 1.0,
    noise_mse_cutoff: Annotated[float, typer.Option(help="paper: largest 1/sigma^2.")] = 10.0,
    perceptual: Annotated[float, typer.Option(help="paper: weight of the term.")] = 0.1,
    perceptual_network: Annotated[str, typer.Option(help="auto, lpips, pyramid.")] = "auto",
    gradient_penalty: Annotated[float, typer.Option(help="paper: of the discriminator.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 5e-4,
    warmup: Annotated[int, typer.Option(help="Steps until it is reached.")] = 20,
    discriminator_rate: Annotated[
        float, typer.Option(help="paper: learning rate of the discriminator.")
    ] = 2e-4,
    step_size_rate: Annotated[float, typer.Option(help="Of log r, log d, log lambda.")] = 1e-2,
    ema: Annotated[float, typer.Option(help="Decay of the moving average.")] = 0.99,
    c: Annotated[float, typer.Option(help="Noise of an inner iteration: c sigma_delta.")] = 1.0,
    zeta: Annotated[
        float, typer.Option(help="Share of fresh noise between outer steps, 0 to 1.")
    ] = 0.9,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory, a third more time.")
    ] = False,
    autocast: Annotated[
        bool, typer.Option("--autocast", help="Compute the network in bfloat16.")
    ] = False,
    checkpoint_minutes: Annotated[float, typer.Option(help="How often to write.")] = 2.0,
    half: Annotated[bool, typer.Option(help="Store the weights as float16.")] = False,
    seed: Seed = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    as_json: Json = False,
) -> None:
    """Distil a few-step sampler: an adapter of a prior, with learned step sizes; resumable."""
    from latino_engine.distill.distillation import distill as run_distillation
    from latino_engine.distill.options import Distillation
    from latino_engine.system.progress import training_bar

    options = Distillation(
        source=str(source),
        name=name or out.name,
        operators=tuple(operator),
        noise_std=noise_std,
        size=size,
        pad=pad,
        flip=flip,
        smallest_scale=smallest_scale,
        start=start,
        steps=steps,
        unfold=unfold,
        objective=objective,
        targets=targets,
        rank=rank,
        alpha=alpha,
        init=init,
        minutes=minutes,
        training_steps=training_steps,
        batch=batch,
        num_samples=num_samples,
        patches=tuple(patch or Distillation.patches),
        exponent=exponent,
        image_exponent=image_exponent,
        adversarial=adversarial,
        noise_mse=noise_mse,
        noise_mse_cutoff=noise_mse_cutoff,
        perceptual=perceptual,
        perceptual_network=perceptual_network,
        gradient_penalty=gradient_penalty,
        learning_rate=learning_rate,
        warmup=warmup,
        discriminator_rate=discriminator_rate,
        step_size_rate=step_size_rate,
        ema=ema,
        c=c,
        zeta=zeta,
        checkpointing=checkpointing,
        autocast=autocast,
        checkpoint_minutes=checkpoint_minutes,
        half=half,
        seed=seed,
    )
    try:
        with training_bar("distilling") as report:
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


def evaluate(
    engine: EnginePath,
    source: Annotated[Path, typer.Argument(help="True images: folder, idx or npy file.")],
    operator: Annotated[str, typer.Option(help="For example sr:factor=4, blur:std=2.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    noise_std: Annotated[float, typer.Option(help="Noise level, image range 0 to 1.")] = 0.05,
    size: Annotated[int, typer.Option(help="Side of the central square of every image.")] = 64,
    pad: Annotated[int, typer.Option(help="Black pixels around the images of an array file.")] = 0,
    limit: Annotated[int, typer.Option(help="At most so many images.")] = 64,
    num_samples: Annotated[int, typer.Option(help="Draws per image.")] = 16,
    sampler: Annotated[str, typer.Option(help="auto, latino or ud2m.")] = "auto",
    steps: Annotated[
        int | None, typer.Option(help="LATINO: evaluations. UD2M: outer steps.")
    ] = None,
    unfold: Annotated[int | None, typer.Option(help="UD2M: inner iterations.")] = None,
    seed: Seed = 0,
    backend: Backend = None,
    threads: Threads = None,
    rebuild: Rebuild = False,
    as_json: Json = False,
) -> None:
    """Score an engine on true images: PSNR, SSIM, CRPS, energy score, coverage, calibration."""
    from latino_engine.evaluation import evaluator
    from latino_engine.loading import load
    from latino_engine.system.progress import progress_bar

    options = evaluator.Evaluation(
        source=str(source),
        operator=operator,
        noise_std=noise_std,
        size=size,
        pad=pad,
        limit=limit,
        num_samples=num_samples,
        sampler=sampler,
        steps=steps,
        unfold=unfold,
        seed=seed,
    )
    loaded = load(engine, backend=backend, threads=threads, rebuild=rebuild)
    with progress_bar("evaluating") as update:
        report = evaluator.evaluate(loaded, options, out, progress=update)
    print(json.dumps(report, indent=1) if as_json else evaluator.markdown(report), end="")
    if as_json:
        print()
