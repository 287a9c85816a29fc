"""The step sizes that an adapter learned: tables, read from JSON, made a schedule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol, cast

import torch
from msgspec import Meta, Struct

from latino_engine.errors import AdapterInvalid
from latino_engine.schedule import DEFAULT_ZETA, Scalar, Schedule, ScheduleBuilder, ud2m_schedule
from latino_engine.system.described import Finite, NotAsDescribed, Positive, described

_STEP_SIZES = ("r", "d", "lam")
REMEDY = "distil it again, or copy the folder again from its source"
#: One (N, K) table as nested tuples, [n][k] with n = 0 the noisiest.
Table = tuple[tuple[float, ...], ...]


_Sizes = list[Annotated[list[Positive], Meta(min_length=1, max_length=1000)]]


class _TablesFile(Struct):
    r: _Sizes
    d: _Sizes
    lam: _Sizes


class _ScheduleFile(Struct):
    """The sampler of adapter.json, and the schedule of an engine's adapter."""

    sigmas: Annotated[list[Positive], Meta(min_length=1, max_length=1000)]
    unfold: Annotated[int, Meta(ge=1, le=1000)]
    steps: Annotated[dict[str, _TablesFile], Meta(min_length=1)]
    c: Positive
    zeta: Annotated[float, Meta(ge=0.0, le=1.0)]
    time_shift: list[list[Finite]] | None = None
    sigma_table: Annotated[list[Finite], Meta(min_length=3)] | None = None


class HasKind(Protocol):
    """An operator, as far as its step sizes need it."""

    @property
    def kind(self) -> str:
        """The name of its class, such as "Blur"."""


@dataclass(frozen=True)
class LearnedSchedule:
    """N outer steps of K inner iterations with learned step sizes; `builder` makes the schedule.

    Attributes:
        sigmas: noise level of each outer step, the largest first, internal units: N numbers.
        unfold: K.
        steps: {operator class, such as "Blur": {"r": table, "d": table, "lam": table}}. An operator
            of another class gets the geometric mean over all.
        c: factor on the Langevin noise.
        zeta: share of fresh noise in the reverse steps.
        time_shift, sigma_table: of `ud2m_schedule`, where the noise levels of the denoiser were
            learned as offsets in time.
    """

    sigmas: tuple[float, ...]
    unfold: int
    steps: Mapping[str, Mapping[str, Table]]
    c: float = 1.0
    zeta: float = DEFAULT_ZETA
    time_shift: Table | None = None
    sigma_table: tuple[float, ...] | None = None

    @property
    def outer(self) -> int:
        """N."""
        return len(self.sigmas)

    @property
    def nfe(self) -> int:
        """Network evaluations per sample, N K."""
        return self.outer * self.unfold

    def step_sizes(self, operator: HasKind) -> Mapping[str, Table]:
        """r, d and lam for this operator."""
        return self.step_sizes_of(operator.kind)

    def step_sizes_of(self, kind: str) -> Mapping[str, Table]:
        """r, d and lam for an operator class of this name."""
        return self.steps[kind] if kind in self.steps else _geometric_mean(self.steps.values())

    def builder(self, operator: HasKind) -> ScheduleBuilder:
        """sigma_y (internal units) -> the schedule for this operator [UD2M, Alg. 1]."""
        return self.builder_of(operator.kind)

    def builder_of(self, kind: str) -> ScheduleBuilder:
        """The same for an operator class of this name."""
        tables = self.step_sizes_of(kind)
        return lambda sigma_y: self.schedule(sigma_y, tables)

    def schedule(self, sigma_y: Scalar, tables: Mapping[str, Table]) -> Schedule:
        """The schedule at a noise level (internal units) with these r, d and lam."""
        return ud2m_schedule(
            sigma_y,
            self.sigmas,
            self.unfold,
            r=tables["r"],
            d=tables["d"],
            lam=tables["lam"],
            c=self.c,
            zeta=self.zeta,
            time_shift=self.time_shift,
            sigma_table=self.sigma_table,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, without those that are None."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return cast(dict[str, Any], json.loads(json.dumps(fields)))


def parse_schedule(fields: Any) -> LearnedSchedule:
    """A `LearnedSchedule` from its JSON form.

    Raises:
        AdapterInvalid: missing fields, or tables that are not N x K positive numbers.
    """
    try:
        found = described(fields, _ScheduleFile)
    except NotAsDescribed as error:
        raise AdapterInvalid(f"adapter.json: expected a sampler with {error}; {REMEDY}") from error
    steps = {
        kind: {name: _table(getattr(tables, name)) for name in _STEP_SIZES}
        for kind, tables in found.steps.items()
    }
    sigmas, shift = tuple(found.sigmas), found.time_shift
    levels = None if found.sigma_table is None else tuple(found.sigma_table)
    tables = [table for by_name in steps.values() for table in by_name.values()]
    if shift is not None:
        tables.append(_table(shift))
    if not (
        all(len(table) == len(sigmas) for table in tables)
        and all(len(row) == found.unfold for table in tables for row in table)
        and list(sigmas) == sorted(sigmas, reverse=True)
    ):
        raise AdapterInvalid(
            f"adapter.json: expected {len(sigmas)} falling noise levels and tables of "
            f"{len(sigmas)} x {found.unfold} positive step sizes, got others; {REMEDY}"
        )
    if (shift is None) != (levels is None) or list(levels or ()) != sorted(levels or ()):
        raise AdapterInvalid(
            "adapter.json: expected time_shift and a rising sigma_table, or neither, got others; "
            f"{REMEDY}"
        )
    offsets = None if shift is None else _table(shift)
    return LearnedSchedule(sigmas, found.unfold, steps, found.c, found.zeta, offsets, levels)


def _table(rows: Any) -> Table:
    return tuple(tuple(float(number) for number in row) for row in rows)


def _geometric_mean(all_tables: Any) -> dict[str, Table]:
    sets = list(all_tables)
    mean = {}
    for name in _STEP_SIZES:
        stacked = torch.tensor([tables[name] for tables in sets], dtype=torch.float64)
        mean[name] = _table(stacked.log().mean(dim=0).exp().tolist())
    return mean
