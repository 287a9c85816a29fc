"""The command export: the denoiser, or the whole sampler, as one ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from latino_engine.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command("export")(export)


def export(
    prior: Annotated[str, typer.Argument(help="Shipped name, a prior's or an engine's folder.")],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="The ONNX file to write.")
    ] = None,
    whole_sampler: Annotated[
        bool, typer.Option("--whole-sampler", help="With the steps and the data step around it.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="Of the denoiser alone: fp32, fp16 or bf16.")
    ] = "fp32",
    size: Annotated[str, typer.Option(help="Whole sampler: 256 or 256x320.")] = "256",
    operator: Annotated[str, typer.Option(help="Whole sampler: blur or mask.")] = "blur",
    dft: Annotated[str, typer.Option(help="Whole sampler: matmul or dft.")] = "matmul",
    triton_repository: Annotated[
        Path | None,
        typer.Option(help="Folder to write for NVIDIA's Triton Inference Server, of an engine."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one ONNX file for a runtime of your own.

    The denoiser takes any size and batch. The whole sampler is a Loop over the steps for images of
    one size; its coefficients and its noise are inputs, and an npz file beside it holds an example
    of them.
    """
    from latino_engine.cli.options import parse_size
    from latino_engine.errors import invalid
    from latino_engine.priors.loading import pixel_prior

    if triton_repository is not None:
        from latino_engine.export.triton_repository import export_triton_repository

        export_triton_repository(prior, triton_repository, parse_size(size), operator, dft)
        print(json.dumps({"folder": str(triton_repository)}) if as_json else triton_repository)
        return
    if out is None:
        remedy = "add -o model.onnx or --triton-repository DIR"
        raise invalid("output", "a file to write", "none", remedy)
    loaded = pixel_prior(prior)
    inputs: Path | None = None
    if whole_sampler:
        from latino_engine.export.sampler_inputs import write_example_inputs
        from latino_engine.export.whole_sampler import export_whole_sampler

        sides = parse_size(size)
        export_whole_sampler(loaded, out, sides, operator, dft)
        inputs = out.with_suffix(".npz")
        both = (sides, sides) if isinstance(sides, int) else sides
        write_example_inputs(prior, loaded.spec, inputs, both, operator, dft)
    else:
        _export_denoiser(loaded, out, precision)
    facts = _interface(out) | ({"example_inputs": str(inputs)} if inputs else {})
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    print(f"{out}: {1e-6 * facts['bytes']:.1f} MB, {facts['nodes']} nodes")
    for side in ("inputs", "outputs"):
        for name, shape in facts[side].items():
            print(f"  {side[:-1]} {name} ({', '.join(str(n) for n in shape)})")
    if inputs is not None:
        print(f"{inputs}: example inputs of these names, and the units (scale, offset)")


def _export_denoiser(loaded: Any, out: Path, precision: str) -> None:
    import tempfile

    from latino_engine.atomic import atomic_file
    from latino_engine.errors import invalid
    from latino_engine.export.denoiser import export_denoiser
    from latino_engine.priors.precision import PRECISIONS

    if precision not in PRECISIONS:
        known = ", ".join(repr(name) for name in PRECISIONS)
        raise invalid("precision", f"one of {known}", repr(precision), "choose one of these")
    with tempfile.TemporaryDirectory() as folder, atomic_file(out) as file:
        export_denoiser(loaded, precision, Path(folder) / "denoiser.onnx")
        file.write((Path(folder) / "denoiser.onnx").read_bytes())


def _interface(path: Path) -> dict[str, Any]:
    import onnx

    graph = onnx.load(str(path)).graph

    def shapes(values: Any) -> dict[str, list[int | str]]:
        return {
            v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in values
        }

    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "nodes": len(graph.node),
        "inputs": shapes(graph.input),
        "outputs": shapes(graph.output),
    }
