"""What the commands of this folder share: sizes as they are typed, and rows as they are kept."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latino_engine.atomic import atomic_file
from latino_engine.bench import table
from latino_engine.system import machine


def batch_and_side(text: str, multiple: int = 1) -> tuple[int, int]:
    """ "8x256" as (8, 256).

    Args:
        text: BATCHxSIDE, a batch of 1 or more and a side of 16 or more.
        multiple: of which the side is one.
    """
    try:
        batch, side = map(int, text.split("x"))
    except ValueError:
        batch = side = 0
    if batch < 1 or side < 16 or side % multiple:
        raise argparse.ArgumentTypeError(f"expected BATCHxSIDE such as 8x256, got {text}")
    return batch, side


def record(made: Sequence[Mapping[str, Any]], path: Path, device: str) -> None:
    """Add rows to a table of measurements, with commit, machine and versions."""
    facts = (machine.commit(), machine.machine_facts(device), machine.software_versions())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, argument="rows") as file:
        table.append_rows(file, path, table.stamp([dict(row) for row in made], *facts))
