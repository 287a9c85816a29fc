"""The step sizes that an adapter learned: tables, read from JSON, made a schedule."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import torch

from latino_engine.errors import AdapterInvalid
from latino_engine.schedule import DEFAULT_ZETA, Scalar, Schedule, ScheduleBuilder, ud2m_schedule

_STEP_SIZES = ("r", "d", "lam")
REMEDY = "distil it again, or copy the folder again from its source"
#: One (N, K) table as nested tuples, [n][k] with n = 0 the noisiest.
Table = tuple[tuple[float, ...], ...]


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
        sigmas = tuple(float(s) for s in fields["sigmas"])
        unfold = int(fields["unfold"])
        steps = {
            str(kind): {name: _table(tables[name]) for name in _STEP_SIZES}
            for kind, tables in fields["steps"].items()
        }
        c, zeta = float(fields["c"]), float(fields["zeta"])
        shift, levels = _time_offsets(fields, len(sigmas), unfold)
        if unfold < 1 or not (c > 0 and math.isfinite(c)):
            raise ValueError(f"unfold {unfold}, c {c}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdapterInvalid(
            "adapter.json: expected a sampler with sigmas, unfold, steps, c and zeta, got one "
            f"that cannot be read ({error!r}); {REMEDY}"
        ) from error
    rows = [row for tables in steps.values() for table in tables.values() for row in table]
    right = all(len(t) == len(sigmas) for tables in steps.values() for t in tables.values())
    numbers = [*sigmas, *(number for row in rows for number in row)]
    if not (
        steps
        and sigmas
        and right
        and all(len(row) == unfold for row in rows)
        and all(math.isfinite(number) and number > 0 for number in numbers)
        and list(sigmas) == sorted(sigmas, reverse=True)
        and 0 <= zeta <= 1
    ):
        raise AdapterInvalid(
            f"adapter.json: expected {len(sigmas)} falling noise levels and tables of "
            f"{len(sigmas)} x {unfold} positive step sizes, got others; {REMEDY}"
        )
    return LearnedSchedule(sigmas, unfold, steps, c, zeta, shift, levels)


def _time_offsets(
    fields: Any, steps: int, unfold: int
) -> tuple[Table | None, tuple[float, ...] | None]:
    """time_shift and sigma_table, both or neither."""
    if "time_shift" not in fields:
        return None, None
    shift, levels = _table(fields["time_shift"]), tuple(float(s) for s in fields["sigma_table"])
    finite = all(math.isfinite(number) for row in shift for number in row)
    fits = len(shift) == steps and all(len(row) == unfold for row in shift)
    if not (finite and fits and len(levels) > 2 and list(levels) == sorted(levels)):
        raise ValueError("time_shift or sigma_table of another size")
    return shift, levels


def _table(rows: Any) -> Table:
    return tuple(tuple(float(number) for number in row) for row in rows)


def _geometric_mean(all_tables: Any) -> dict[str, Table]:
    sets = list(all_tables)
    mean = {}
    for name in _STEP_SIZES:
        stacked = torch.tensor([tables[name] for tables in sets], dtype=torch.float64)
        mean[name] = _table(stacked.log().mean(dim=0).exp().tolist())
    return mean
