"""The command import: a checkpoint of the field's usual places becomes a prior's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from latino_engine.cli.options import Json
from latino_engine.errors import invalid


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command("import")(import_command)


def import_command(
    checkpoint: Annotated[Path, typer.Argument(help="File, or folder of diffusers.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    kind: Annotated[
        str, typer.Option("--format", help="guided-diffusion, ddpm, diffusers or ud2m.")
    ],
    preset: Annotated[
        str | None, typer.Option(help="guided-diffusion: ffhq-10m, imagenet-256-uncond, ...")
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option("--heads", help="guided-diffusion: heads of an attention.")
    ] = None,
    head_channels: Annotated[
        int | None, typer.Option(help="guided-diffusion: channels of a head.")
    ] = None,
    attention_order: Annotated[
        str | None, typer.Option(help="guided-diffusion: legacy or new.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="guided-diffusion: linear or cosine.")
    ] = None,
    label: Annotated[int | None, typer.Option(help="Class of a class-conditional one.")] = None,
    scheduler: Annotated[
        Path | None, typer.Option(help="diffusers: scheduler_config.json, where it lies apart.")
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="ud2m: folder of the prior that it was trained on.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="ud2m: deblur, sr or inp.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the result; the file's by default.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Of the weights in a file with several mappings.")
    ] = None,
    max_gb: Annotated[
        float | None, typer.Option(help="Largest file that is read, GB; 8.6 by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint to a folder for compile: a prior, or with --format ud2m an adapter.

    Nothing in the file is run; what it does not tell is asked for.
    """
    from latino_engine.priors import (
        import_ddpm,
        import_diffusers,
        import_guided_diffusion,
        save_prior,
    )
    from latino_engine.priors.importers.checkpoint import MAX_BYTES
    from latino_engine.priors.importers.ud2m import import_ud2m

    limit = size_limit(max_gb) or MAX_BYTES
    if kind == "ud2m":
        if prior is None or task is None:
            got = f"{prior} and {task}"
            remedy = "name the imported prior's folder, and deblur, sr or inp"
            raise invalid("prior, task", "both for --format ud2m", got, remedy)
        found = import_ud2m(checkpoint, prior, task, name=name, max_bytes=limit)
        found.save(out)
        adapter = found.adapter
        facts = {"adapter": adapter.name, "prior": adapter.prior_name, "init": adapter.init}
        tell({"folder": str(out), **facts, "nfe": adapter.schedule.nfe}, as_json)
        return
    makers: dict[str, Callable[[], Any]] = {
        "guided-diffusion": lambda: import_guided_diffusion(
            checkpoint,
            preset,
            num_heads=num_heads,
            head_channels=head_channels,
            attention_order=attention_order,
            schedule=schedule,
            label=label,
            name=name,
            key=key,
            max_bytes=limit,
        ),
        "ddpm": lambda: import_ddpm(checkpoint, name=name, key=key, max_bytes=limit),
        "diffusers": lambda: import_diffusers(
            checkpoint, label=label, name=name, scheduler=scheduler, max_bytes=limit
        ),
    }
    if kind not in makers:
        known = ", ".join([*makers, "ud2m"])
        raise invalid("format", f"one of {known}", repr(kind), "choose the one that wrote it")
    made = makers[kind]()
    save_prior(made, out)
    tell({"folder": str(out), **prior_facts(made)}, as_json)


def size_limit(max_gb: float | None) -> int | None:
    """--max-gb in bytes."""
    if max_gb is None:
        return None
    if not 0 < max_gb < 1e6:
        raise invalid("max_gb", "a number above 0", f"{max_gb:g}", "leave it out")
    return int(1e9 * max_gb)


def prior_facts(prior: Any) -> dict[str, Any]:
    """What a prior is, as JSON types."""
    spec = prior.spec
    described = {k: v for k, v in spec.preconditioning.items() if k != "name" and v is not None}
    return {
        "prior": spec.name,
        "architecture": spec.architecture["name"],
        "parameters": sum(p.numel() for p in prior.denoiser.parameters()),
        "channels": spec.channels,
        "size_multiple": spec.size_multiple,
        "data_range": list(spec.data_range),
        "sigma": [spec.sigma_min, spec.sigma_max],
        "times": None if spec.sigma_table is None else len(spec.sigma_table),
        "parametrisation": {"name": spec.preconditioning["name"], **described},
        "sha256": prior.content_hash(),
    }


def tell(facts: dict[str, Any], as_json: bool) -> None:
    """Print the facts, as one JSON object or a line for each."""
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for field, value in facts.items():
        print(f"{field:16s} {value}")
