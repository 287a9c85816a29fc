"""What the table of measurements holds, the newest of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Sample:
    """A row of the end-to-end comparison.

    Attributes:
        task: operator text.
        name: of the method.
        ms, p20, p80: of one sample of one image.
        nfe: network evaluations.
        psnr_sample, psnr_mean: dB, of one draw and of the mean of `samples`.
        crps: lower is better.
        engine, engine_ms: the row of this engine that took turns with it, and its time then.
        outside: percent of the call outside of the network, where it is this engine.
    """

    task: str
    name: str
    ms: float
    p20: float
    p80: float
    nfe: int
    psnr_sample: float
    psnr_mean: float
    crps: float
    images: int
    samples: int
    engine: str
    engine_ms: float
    outside: float | None

    @property
    def ratio(self) -> float:
        """Its time over that of the engine's row, measured in turn."""
        return self.ms / self.engine_ms


@dataclass(frozen=True)
class Timed:
    """A provider of an operation; ms is None where its output was wrong or it raised."""

    provider: str
    ms: float | None
    percent_of_peak: float | None


def samples(rows: Iterable[Row]) -> list[Sample]:
    """The newest row of every task and method, in the order of the first ones."""
    newest = {
        (row["name"], row["provider"]): row
        for row in rows
        if row["suite"] == "end_to_end" and row["status"] == "ok"
    }
    return [_sample(row) for row in newest.values()]


def _sample(row: Row) -> Sample:
    about: dict[str, Any] = json.loads(row["details"])
    return Sample(
        row["name"],
        row["provider"],
        *(float(row[key]) for key in ("value", "p20", "p80")),
        about["nfe"],
        *(float(about[key]) for key in ("psnr_sample", "psnr_mean", "crps")),
        about["images"],
        about["samples"],
        about["engine"],
        float(about["engine_ms"]),
        about.get("outside_network_percent"),
    )


def front(found: Sequence[Sample], quality: str) -> list[Sample]:
    """Those that no other one beats in both time and quality ("crps", "psnr_sample"), by time."""
    sign = 1.0 if quality == "crps" else -1.0
    best, kept = float("inf"), []
    for sample in sorted(found, key=lambda s: (s.ms, sign * getattr(s, quality))):
        if sign * getattr(sample, quality) < best:
            best = sign * getattr(sample, quality)
            kept.append(sample)
    return kept


def operations(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Timed]]:
    """(suite, name, shape) -> its providers in the newest session that measured it."""
    chosen: dict[tuple[str, str, str], tuple[str, list[Timed]]] = {}
    for row in rows:
        if row["metric"] != "time" or json.loads(row["details"]).get("mode") == "graph":
            continue
        key, session = (row["suite"], row["name"], row["shape"]), row["timestamp"]
        if key not in chosen or chosen[key][0] != session:
            chosen[key] = (session, [])
        numbers = [float(row[c]) if row[c] else None for c in ("value", "percent_of_peak")]
        chosen[key][1].append(Timed(row["provider"], *numbers))
    return {key: timed for key, (_, timed) in chosen.items()}


def engine(rows: Iterable[Row]) -> dict[tuple[str, str, str], Row]:
    """(provider, shape, metric) -> the newest row of `latino-engine bench --csv`."""
    return {(r["provider"], r["shape"], r["metric"]): r for r in rows if r["suite"] == "engine"}


def newest_peaks(rows: Iterable[Row], near: Row) -> dict[str, float]:
    """Matrix rate and copy bandwidth of the session of a row."""
    same = [r for r in rows if r["suite"] == "machine" and r["timestamp"] == near["timestamp"]]
    return {row["metric"]: float(row["value"]) for row in same}
