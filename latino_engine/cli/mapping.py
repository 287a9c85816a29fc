"""The command map: every image of a folder, in this process or on a Ray cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from latino_engine.cli.dataclass_options import with_options
from latino_engine.cli.options import Backend, EnginePath, Json
from latino_engine.sampling.options import Sampling


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command("map")(map_command)


@with_options(Sampling, hidden=("keep_samples",))
def map_command(
    engine: EnginePath,
    images: Annotated[Path, typer.Argument(help="Folder with the measurements.")],
    operator: Annotated[str, typer.Option(help="As for sample: blur:std=1.6, sr:factor=4, ...")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it may go on.")],
    noise_std: Annotated[float, typer.Option(help="Noise level, image range 0 to 1.")] = 0.02,
    *,
    sampling: Sampling,
    simulate: Annotated[bool, typer.Option("--simulate", help="The images are clean.")] = False,
    moments: Annotated[bool, typer.Option("--moments", help="Keep mean and std alone.")] = False,
    ray: Annotated[
        str | None, typer.Option(help="auto, or the address of a Ray cluster; none: this process.")
    ] = None,
    actors: Annotated[int | None, typer.Option(help="Processes with an engine each.")] = None,
    gpus_per_actor: Annotated[float, typer.Option(help="1 or a share; 0: CPUs.")] = 0.0,
    backend: Backend = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    threads: Annotated[int, typer.Option(help="Of each engine.")] = 1,
    as_json: Json = False,
) -> None:
    """Draw the posterior of every image below a folder; exit status 1 where some could not be.

    One npz file for each image. What is there already is not drawn again.
    """
    from latino_engine.interop.ray import Request, map_images

    sampling = replace(sampling, keep_samples=not moments)
    request = Request(operator, noise_std, simulate, **sampling.arguments())
    told = map_images(
        engine,
        images,
        out,
        request,
        ray=ray,
        actors=actors,
        gpus_per_actor=gpus_per_actor,
        backend=backend,
        device=device,
        threads=threads,
        progress=not as_json,
    )
    if as_json:
        print(json.dumps(told, indent=1))
    else:
        print(f"{told['drawn']} drawn, {told['kept']} were there, {len(told['failures'])} failed")
        for sentence in told["failures"].values():
            print(f"  {sentence}")
    if told["failures"]:
        raise typer.Exit(1)
