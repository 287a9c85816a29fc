"""The command info: what an engine, a prior or an adapter is; none: this installation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from latino_engine.cli import importing
from latino_engine.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command of this file to the program."""
    app.command("info")(info)


def info(
    what: Annotated[
        str | None,
        typer.Argument(
            help="Folder of an engine, a prior or an adapter, or a shipped name; none: this "
            "installation."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what an engine, a prior or an adapter is and whether it is intact; none: this
    installation.
    """
    if what is None:
        _tell_installation(as_json)
    elif (facts := _facts_of(what)) is not None:
        importing.tell(facts, as_json)
    else:
        from latino_engine import manifest

        found = manifest.read_manifest(Path(what))
        if as_json:
            print(json.dumps(found, indent=1))
        else:
            Console().print(engine_table(Path(what), found))


def _facts_of(what: str) -> dict[str, Any] | None:
    """Facts of a prior or an adapter, None where it is neither: an engine then, or nothing."""
    from latino_engine.priors import adapters, load_prior
    from latino_engine.priors.loading import SHIPPED, is_diffusers_folder

    folder = Path(what)
    if (folder / "engine.json").is_file():
        return None
    if not folder.is_dir() and what in SHIPPED:
        prior = load_prior(what)
        shipped = [adapters.load_adapter(name) for name in adapters.SHIPPED]
        mine = [a.name for a in shipped if a.prior_sha256 == prior.content_hash()]
        return {**importing.prior_facts(prior), "adapters": ", ".join(mine) or None}
    if (folder / adapters.ADAPTER_FILES[0]).is_file() or what in adapters.SHIPPED:
        return adapter_facts(adapters.load_adapter(what))
    if (folder / "prior.json").is_file() or is_diffusers_folder(folder):
        return importing.prior_facts(load_prior(what))
    if not folder.exists():
        load_prior(what)  # raises, and names what is shipped
    return None


def adapter_facts(adapter: Any) -> dict[str, Any]:
    """What an adapter is, as JSON types."""
    schedule, levels = adapter.schedule, adapter.noise_levels
    return {
        "adapter": adapter.name,
        "prior": adapter.prior_name,
        "prior_sha256": adapter.prior_sha256,
        "operators": sorted(schedule.steps),
        "noise_std": None if levels is None else list(levels),
        "steps": [len(schedule.sigmas), schedule.unfold],
        "nfe": schedule.nfe,
        "init": adapter.init,
        "parameters": sum(w.numel() for w in adapter.weights.values()),
        "sha256": adapter.content_hash(),
    }


def _tell_installation(as_json: bool) -> None:
    from latino_engine.ops import cpu_extension
    from latino_engine.runtimes import installed
    from latino_engine.system import machine, waiting

    facts: dict[str, Any] = {
        "versions": machine.versions(),
        "backends": installed(),
        "native_cpu": cpu_extension.missing() or "built",
        "machine": machine.machine(),
        "usable_cores": machine.usable_cores(),
        "threads_wait": waiting.policy(),
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    table = Table(show_header=False)
    for name, value in facts.items():
        lines = [f"{k} {v}" for k, v in value.items()] if isinstance(value, dict) else value
        table.add_row(name, "\n".join(lines) if isinstance(lines, list) else str(lines))
    Console().print(table)


def engine_table(folder: Path, fields: dict[str, Any]) -> Table:
    """What a manifest says, for people."""
    prior = fields["prior"]
    table = Table(title=str(folder), show_header=False)
    table.add_row(
        "prior", f"{prior['name']}, {prior['channels']} channels, {fields['prior_sha256'][:12]}"
    )
    latent = prior["architecture"]
    if latent.get("name") == "latent":
        text = f"{latent['pipeline']}, factor {latent['factor']}, {latent['channels']} channels"
        table.add_row("latent", f"{text}, prompt {latent['prompt']!r}")
    else:
        adapter, nfe = fields.get("adapter"), fields["sampler"]["nfe"]
        table.add_row("adapter", f"{adapter['name']}, {nfe} NFE" if adapter else "none, zero-shot")
    table.add_row("precision", fields["precision"])
    table.add_row("sampler", f"{fields['sampler']['name']}, {fields['sampler']['nfe']} evaluations")
    for name, record in fields["runtimes"].items():
        chosen = " (chosen)" if name == fields["backend"] else ""
        table.add_row(name + chosen, _runtime_text(record))
    size = sum(facts["bytes"] for facts in fields["files"].values())
    table.add_row("files", f"{len(fields['files'])}, {1e-6 * size:.1f} MB, SHA-256 as recorded")
    return table


def _runtime_text(record: dict[str, Any]) -> str:
    if "refused" in record:
        return f"{record['version']}: {record['refused']}"
    if "plans" in record:
        gpus = ", ".join(sorted(facts["architecture"] for facts in record["plans"].values()))
        gpus += ", TF32" if record.get("options", {}).get("tf32") else ""
        return (
            f"{record['version']}: plans for {gpus}, relative error {record['relative_error']:.1e} "
            f"(bound {record['bound']:.0e}; {record['measured_on']})"
        )
    size = " x ".join(str(n) for n in record["timed_at"])
    return (
        f"{record['version']}: relative error {record['relative_error']:.1e} "
        f"(bound {record['bound']:.0e}), {record['time_ms']:.0f} ms at {size}"
    )
