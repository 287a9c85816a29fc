"""Fill the tables of README.md and docs/benchmarks.md, and draw their pictures: `make report`.

    python -m benchmarks.report

Between `<!-- table: NAME -->` and `<!-- /table -->` a page holds what `tables.TABLES[NAME]` makes
of the newest rows of benchmarks/results/measurements.csv; everything else in it is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import pictures
from benchmarks.report.measured import Row
from benchmarks.report.tables import TABLES
from latino_engine.atomic import atomic_file
from latino_engine.bench.table import read_rows

ROOT = Path(__file__).parents[2]
MEASUREMENTS = ROOT / "benchmarks" / "results" / "measurements.csv"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
PICTURE = ROOT / "docs" / "quality-over-time.png"
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.S)


def filled(text: str, rows: Sequence[Row]) -> str:
    """The page with every marked table made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}\n{TABLES[m[2]](rows)}\n{m[3]}", text)


def main() -> None:
    """Write the pages and the picture, each whole or not at all."""
    rows = read_rows(MEASUREMENTS)
    for page in PAGES:
        text = filled(page.read_text(encoding="utf-8"), rows)
        with atomic_file(page) as file:
            file.write(text.encode())
    with atomic_file(PICTURE) as file:
        file.write(pictures.quality_over_time(rows))


if __name__ == "__main__":
    main()
