"""docs/results.md from the rows on file; what its paragraphs say of them is tested."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality import denoising, limits
from benchmarks.quality.rows import COVERAGE_RULE, RESULTS, read_row
from latino_engine.atomic import atomic_file

_HEAD = """# Results

`make results` writes this page, and every row is a file in `benchmarks/results/quality/`.
[Results at a glance](at-a-glance.md) has the short version.

- **CRPS and energy score** are proper scores, and lower is better. Their estimators are unbiased in
  the number of samples S, so that rows of 4 and of 16 samples compare.
- **PSNR** is that of the mean and of one sample, in dB. The PSNR of the mean grows with S.
- **Coverage** is that of the central interval, by the rank of the truth among the samples. It
  counts the pixels where samples and truth together have a std of at least 0.02. Exact posterior
  samples cover what they should, however often values repeat. 80 % needs nine samples or more, and
  rows scored by an older rule show none.
- **NFE** is the number of network evaluations per sample.
"""
_SECTIONS = (
    (
        "digits",
        "Digits",
        "All rows have the prior `digits-32` and noise 0.05. The distilled samplers are two "
        "adapters, each for all three problems. deepinv's methods run with the best of a grid of "
        "their own parameters, chosen by CRPS on other digits (`benchmarks/peers/grid.py`). Most "
        "pixels of a digit are exactly 0. Samples scatter closely around it, so that their "
        "intervals hold more than their level there.",
    ),
    (
        "photos",
        "Photographs, seven of 256 x 256",
        "All rows have the prior `photo-small` and noise 0.02. One adapter serves all three "
        "problems. deepinv's methods draw 4 samples, so that their PSNR of the mean compares with "
        "our row of 4 samples.",
    ),
    (
        "ablation",
        "One choice changed at a time",
        "These are short trainings of digits for one operator each. `training-*.json` beside the "
        "rows has the number of steps. The other rows change N=2, K=2 in one choice. It has all "
        "weights at a rate of 2e-4, the energy score and the regularised start. Low-rank changes "
        "are trained at 1e-3, as fewer weights need.",
    ),
    (
        "change",
        "Another forward model than in training",
        "The forward model is a Gaussian blur. One sampler was trained on std 1..2.5 and noise "
        "0.02..0.08, and one on each tested operator alone, with the same number of steps. The "
        "steps are so few that LATINO with 8 evaluations still has the lower CRPS everywhere. The "
        "rows say what the range costs. The table of digits says how far training leads.",
    ),
    (
        "beyond-photos",
        "The shipped adapter of photographs on other forward models",
        "`photo-small` was trained on blur std 0.8..2.5, super-resolution by 2 and 4, 30 to "
        "70 % of the pixels missing, and noise 0.01..0.04. Blur std 1 and 2.4, factor 2 and 30 % "
        "missing lie inside of this range or at an end. Blur std 4, noise 0.1, factor 8 and the "
        "box lie outside. In all of them its CRPS and energy score are below LATINO's with 8 "
        "evaluations. The PSNR of the mean is LATINO's to within 0.15 dB, in half of them below. "
        "Where much is lost (blur std 2.4 and 4, factor 8, the box) its intervals are far too "
        "narrow.",
    ),
    (
        "beyond-digits",
        "The shipped adapters of digits on other forward models",
        "They were trained on three forward models alone, at noise 0.05: blur std 2, a box of 16, "
        "super-resolution by 4. On others they have no lead that can be relied on. Their CRPS is "
        "often lower than LATINO's with 8 evaluations, and their energy score is often higher. To "
        "serve a range, train on it.",
    ),
)
_COLUMNS = (
    "| sampler | images | NFE | S | CRPS | energy score | PSNR mean | PSNR sample "
    "| coverage 50 % | 80 % |"
)


def write(path: Path) -> None:
    """Write the page, whole or not at all."""
    parts = [_HEAD]
    for table, title, text in _SECTIONS:
        rows = [
            row for file in sorted((RESULTS / table).glob("*--*.json")) if (row := read_row(file))
        ]
        if rows:
            parts.append(f"\n## {title}\n\n{text}\n")
            parts += list(_tables(rows))
        if table == "photos":
            parts.append(limits.section())
            parts += list(denoising.section())
    with atomic_file(path) as file:
        file.write("".join(parts).encode())


def _tables(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    problems = dict.fromkeys((row["operator"], row["noise_std"]) for row in rows)
    for operator, noise_std in problems:
        yield f"\n### `{operator}`, noise {noise_std:g}\n\n{_COLUMNS}\n"
        yield "|---|---|---|---|---|---|---|---|---|---|\n"
        mine = [r for r in rows if (r["operator"], r["noise_std"]) == (operator, noise_std)]
        for row in sorted(mine, key=lambda r: r["crps"]):
            yield _line(row)


def _line(row: dict[str, Any]) -> str:
    cells = [
        row.get("name") or f"deepinv {row['method']}",
        row["num_images"],
        row["nfe"],
        row["num_samples"],
        f"{row['crps']:.4f}",
        f"{row['energy_score']:.3f}",
        f"{row['psnr_mean']:.2f}",
        f"{row['psnr_sample']:.2f}",
        *(_coverage(row, level) for level in ("0.5", "0.8")),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def _coverage(row: dict[str, Any], level: str) -> str:
    known = row.get("coverage_rule") == COVERAGE_RULE
    share: float | None = row["coverage_active"][level] if known else None
    return "-" if share is None else f"{100 * share:.1f}"
