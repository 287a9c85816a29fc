"""Time beside quality: this engine, eager PyTorch, deepinv, with one prior on the same photographs.

    .venv-peers/bin/python -m benchmarks.end_to_end PHOTOS --grid OTHERS

PHOTOS is a folder of photographs of at least 256 x 256, OTHERS one of further ones, on which the
parameters of deepinv's methods are chosen where they are not on file. Draws are timed one image and
one sample at a time, all methods of a task in turn; those that take very long (DPS) afterwards, in
turn with this engine. Rows are added to the table when they are there; what this commit has in the
table already is left out, so that a run that was stopped goes on. Without deepinv (`make peers`)
its rows are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.end_to_end.measure import (
    OPERATORS,
    Task,
    compiled,
    groups,
    measure,
    method_names,
)
from latino_engine.atomic import atomic_file
from latino_engine.bench import table
from latino_engine.errors import UserError, invalid
from latino_engine.system import machine

RESULTS = Path(__file__).parents[1] / "results" / "measurements.csv"


def command(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    grid: Annotated[Path | None, typer.Option(help="Other photographs.")] = None,
    only: Annotated[str, typer.Option(help="Only methods whose name holds this.")] = "",
    operator: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    images: Annotated[int, typer.Option(help="The first photographs of the folder.")] = 4,
    samples: Annotated[int, typer.Option(help="Draws of each.")] = 2,
    engines: Annotated[
        Path | None, typer.Option(help="Folder that keeps the compiled engines.")
    ] = None,
    rows: Annotated[Path, typer.Option(help="Table of measurements.")] = RESULTS,
    again: Annotated[bool, typer.Option(help="Also what is in the table already.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
) -> None:
    """Measure and add the rows."""
    for name, value, least in (("images", images, 1), ("samples", samples, 2)):
        if value < least:
            raise invalid(name, f"at least {least}", value, "choose more")
    if threads is not None:
        torch.set_num_threads(threads)
    names = [name for name in method_names() if only in name]
    if not names:
        expected = f"part of one of {', '.join(method_names())}"
        raise invalid("only", expected, repr(only), "choose one of these")
    table.appended(rows, ())  # a file of someone else is refused before the work
    commit = machine.commit()
    done = set() if again or commit.endswith("-dirty") else _done(rows, commit)
    with compiled(engines) as folders:
        for text in operator or OPERATORS:
            task = Task(photos, text, images)
            for group in groups(task, names, folders, grid):
                wanted = {name for name in names if (text, name) not in done}
                if not wanted & {method.name for method in group.wanted}:
                    continue
                found = measure(task, group.drawn, samples)
                kept = [row for row in found if row["provider"] in wanted]
                done |= {(text, row["provider"]) for row in kept}
                for row in kept:
                    print(text, row["provider"], row.get("value"), row["details"], file=sys.stderr)
                facts = (commit, machine.machine_facts(), machine.software_versions())
                with atomic_file(rows, argument="rows") as file:
                    table.append_rows(file, rows, table.stamp(kept, *facts))


def _done(rows: Path, commit: str) -> set[tuple[str, str]]:
    if not rows.is_file():
        return set()
    mine = [r for r in table.read_rows(rows) if r["suite"] == "end_to_end"]
    return {(r["name"], r["provider"]) for r in mine if r["commit"] == commit}


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and status 2."""
    try:
        typer.run(command)
    except UserError as error:
        print(f"benchmarks.end_to_end: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
