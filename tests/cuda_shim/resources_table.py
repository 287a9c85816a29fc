"""tests/data/kernel_resources.json: one table for the kernels of both compilers, a row a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_table(path: Path, parts: Mapping[str, Any]) -> None:
    """Puts these parts, a version or a dict of rows each, in the place of those on record."""
    table = (json.loads(path.read_text()) if path.exists() else {}) | parts
    lines = []
    for name, part in table.items():
        if isinstance(part, dict):
            rows = [f"    {json.dumps(row)}: {json.dumps(values)}" for row, values in part.items()]
            part_text = "{\n" + ",\n".join(rows) + "\n  }"
        else:
            part_text = json.dumps(part)
        lines.append(f"  {json.dumps(name)}: {part_text}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
