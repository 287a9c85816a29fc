"""Compare, time, record: one test for every operation and size.

    python -m pytest benchmarks/operations --grid curated --rows benchmarks/results/measurements.csv

All providers of a case run in turn in one loop, so that whatever else the machine does falls on all
of them. The package's own provider then goes through pytest-benchmark once more, whose
`--benchmark-autosave` and `--benchmark-compare` set one commit against another.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from benchmarks.operations import grid
from benchmarks.operations.calls import call_cases
from benchmarks.operations.case import OURS, Case, measure, rows
from benchmarks.operations.fused import fused_cases
from benchmarks.operations.operators import operator_cases, sensor_cases

_SUITES = {
    "fused": fused_cases,
    "calls": call_cases,
    "operators": operator_cases,
    "sensors": sensor_cases,
}
_ROUNDS = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for every case of the grid, made by its names: building one takes memory."""
    chosen = metafunc.config.getoption("--grid")
    found = []
    for suite, cases in _SUITES.items():
        names = [case.name for case in cases(1, 16, 16)]
        for size in grid.sizes(chosen, suite):
            found += [
                pytest.param(suite, name, size, grid.is_compiled(chosen, suite, name, size),
                             id=f"{suite}-{name}-{'x'.join(map(str, size))}")
                for name in names
            ]  # fmt: skip
    metafunc.parametrize(("suite", "name", "size", "compiled"), found)


def test_operation(
    suite: str,
    name: str,
    size: grid.Size,
    compiled: bool,
    device: str,
    peaks: dict[str, float],
    recorded: list[dict[str, Any]],
    benchmark: Any,
    request: pytest.FixtureRequest,
) -> None:
    """A mismatch is a failed row and a failed test."""
    (case,) = [case for case in _cases(suite, size, device) if case.name == name]
    if compiled:
        case = with_compiled(case)
    found = measure(case, device, grid.BUDGET_S[request.config.getoption("--grid")])
    recorded += rows(case, found, peaks, suite, torch.get_num_threads())
    ours = next(provider for label, provider in case.providers.items() if label.startswith(OURS))
    benchmark.group = name
    benchmark.extra_info |= {"suite": suite, "shape": case.shape}
    with torch.no_grad():
        benchmark.pedantic(ours, case.make(), rounds=_ROUNDS, warmup_rounds=1)
    wrong = {
        label: timing.broken or timing.error for label, timing in found.items() if not timing.agrees
    }
    assert not wrong, f"{case.title}: relative errors above {case.bound:g}: {wrong}"


@lru_cache(maxsize=1)  # tests of one suite and size follow each other
def _cases(suite: str, size: grid.Size, device: str) -> list[Case]:
    return _SUITES[suite](*size, device)


def with_compiled(case: Case) -> Case:
    """The case with its plain composition through torch.compile beside it."""
    torch.compiler.reset()
    providers, checked = dict(case.providers), dict(case.checked)
    providers["torch.compile"] = torch.compile(providers["eager"], dynamic=False)
    if "eager" in checked:
        checked["torch.compile"] = torch.compile(checked["eager"], dynamic=False)
    return Case(**{**vars(case), "providers": providers, "checked": checked})
