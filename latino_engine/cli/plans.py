"""The commands around plans for GPUs: audit and rebuild."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from latino_engine.cli.options import EnginePath, Json, TensorRTPackage, WorkspaceMib
from latino_engine.system.json_values import finite

_NUM_SHOWN = 12


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command("audit")(audit)
    app.command("rebuild")(rebuild)


def audit(
    prior: Annotated[str, typer.Argument(help="Shipped name, a prior's or an engine's folder.")],
    precision: Annotated[str, typer.Option(help="fp16, bf16 or tf32.")] = "fp16",
    as_json: Json = False,
) -> None:
    """Tell what a lower precision costs, layer by layer and in all; exit status 2 above the bound.

    Runs on the CPU. Layers that stay in float32 are shown with the least that they would cost:
    their inputs and outputs are rounded, their sums are not.
    """
    from latino_engine.compilation.audit import audit_prior, check_report

    report = audit_prior(prior, precision)
    if as_json:
        layers = [asdict(layer) for layer in report["layers"]]
        largest = None if report["largest"] is None else asdict(report["largest"])
        print(json.dumps(finite({**report, "layers": layers, "largest": largest}), indent=1))
    else:
        _print_report(report)
    check_report(report)


def rebuild(
    engine: EnginePath,
    gpu: Annotated[
        list[str] | None, typer.Option(help="sm_89; may be repeated. By default the GPU here.")
    ] = None,
    tensorrt_package: TensorRTPackage = None,
    tf32: Annotated[
        bool | None,
        typer.Option("--tf32/--no-tf32", help="In fp32: round the factors of products to 10 bits."),
    ] = None,
    workspace_mib: WorkspaceMib = None,
    as_json: Json = False,
) -> None:
    """Build TensorRT plans into an engine: for further GPUs, or again after an update.

    Damaged plans for other GPUs are built again along, or taken out where nothing here builds for
    them. Options that are left out are those of the last build.
    """
    from latino_engine.compilation.plans import rebuild_plans

    manifest = rebuild_plans(engine, gpu or None, tensorrt_package, tf32, workspace_mib)
    record = manifest["runtimes"]["tensorrt"]
    if as_json:
        print(json.dumps(record, indent=1))
        return
    for name, facts in sorted(record["plans"].items()):
        print(f"{name}: {facts['package']} {facts['version']}, {len(facts['profiles'])} profiles")


def _print_report(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    whole = report["relative_error"]
    title = f"{report['prior']} in {report['precision']}: {whole:.2e} (bound {report['bound']:g})"
    table = Table(title=title)
    for name in ("layer", "operation", "own error", "largest", "computed in"):
        table.add_column(name, overflow="fold")
    for layer in report["layers"][:_NUM_SHOWN]:
        where = "float32" if layer.kept else report["precision"]
        table.add_row(layer.layer, layer.op, f"{layer.error:.1e}", f"{layer.largest:.3g}", where)
    Console().print(table)
