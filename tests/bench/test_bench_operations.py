"""The benchmark of operations: outputs are compared before timing, a mismatch is a failed row."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import latino_engine as le
from benchmarks.operations import grid
from benchmarks.operations.calls import call_cases
from benchmarks.operations.case import OURS, Case, measure, relative_error, rows
from benchmarks.operations.fused import fused_cases
from benchmarks.operations.operators import operator_cases, sensor_cases
from latino_engine import operators, ops
from latino_engine.operators.parts.cost import Count

PEAKS = {"matrix_gflops": 100.0, "copy_gb_per_s": 10.0}
SIZE = (2, 16, 24)
FUSED = {case.name: case for case in fused_cases(*SIZE) + call_cases(*SIZE)}
OPERATORS = {case.name: case for case in operator_cases(*SIZE) + sensor_cases(*SIZE)}


@pytest.mark.parametrize("name", [*FUSED, *OPERATORS])
def test_providers_agree_with_plain_torch(one_thread, name):
    case = (FUSED | OPERATORS)[name]
    expected = case.expected()
    for label, provider in case.providers.items():
        run = case.checked.get(label, provider)
        with torch.no_grad():
            assert relative_error(run(*case.make()), expected) <= case.bound, label


def test_every_fused_operation_has_a_case():
    assert set(FUSED) == set(ops.TABLES)


def test_every_operator_has_its_cases():
    models = {name.split(".")[0].split(",")[0] for name in OPERATORS}
    named = {name for name in operators.__all__ if hasattr(getattr(operators, name), "prox")}
    assert models == named - {"Operator"} and len(named) > 12
    methods = {name.split(".")[1] for name in OPERATORS if name.startswith("MRI")}
    assert methods == {"A", "A_adjoint", "prox"}


def case_of(**providers):
    return Case(
        "double",
        (1, 1, 4, 4),
        lambda: (torch.ones(1, 1, 4, 4),),
        providers,
        lambda: 2.0 * torch.ones(1, 1, 4, 4, dtype=torch.float64),
        count=Count(1e6, 1e6),
    )


def test_a_mismatch_is_a_failed_row_without_a_time():
    calls = []

    def wrong(x):
        calls.append(x)
        return 2.001 * x

    case = case_of(**{OURS: lambda x: 2.0 * x, "wrong": wrong, "flat": lambda x: 2.0 * x[0]})
    found = measure(case, "cpu", 0.0)
    made = {row["provider"]: row for row in rows(case, found, PEAKS, "fused", 1)}
    assert made[OURS]["status"] == "ok" and made[OURS]["value"] > 0.0
    for name in ("wrong", "flat"):
        assert made[name]["status"] == "failed" and "value" not in made[name]
    assert len(calls) == 1, "compared once, never timed"
    assert json.loads(made["wrong"]["details"])["error"] == pytest.approx(5e-4, rel=0.01)


def test_a_provider_that_raises_is_a_failed_row():
    def broken(x):
        raise ValueError("no such thing\nand more")

    case = case_of(**{OURS: lambda x: 2.0 * x, "broken": broken})
    made = {row["provider"]: row for row in rows(case, measure(case, "cpu", 0.0), PEAKS, "f", 1)}
    assert made[OURS]["status"] == "ok" and made["broken"]["status"] == "failed"
    assert json.loads(made["broken"]["details"]) == {"broken": "ValueError: no such thing"}


def test_noise_of_their_own_is_replaced_for_the_comparison():
    case = replace(
        case_of(own=lambda x: x + torch.randn(x.shape)), checked={"own": lambda x: 2.0 * x}
    )
    assert measure(case, "cpu", 0.0)["own"].agrees


def test_not_a_number_never_agrees():
    case = case_of(nan=lambda x: x * float("nan"))
    assert not measure(case, "cpu", 0.0)["nan"].agrees


def test_share_of_the_peak_by_hand(monkeypatch):
    """1e6 operations at 100 GFLOP/s take 0.01 ms, 1e6 bytes at 10 GB/s take 0.1 ms."""
    monkeypatch.setattr("latino_engine.bench.timer.time_once", lambda run, device: 0.4)
    case = case_of(**{OURS: lambda x: 2.0 * x})
    (row,) = rows(case, measure(case, "cpu", 0.0), PEAKS, "fused", 1)
    assert row["value"] == row["p20"] == 0.4
    assert row["percent_of_peak"] == pytest.approx(25.0)


def test_the_sizes_of_the_full_grid():
    full = grid.GRIDS["full"]
    assert {size[0] for size in full} >= {1, 4, 16}
    sides = {size[1:] for size in full}
    assert {(64, 64), (1024, 1024)} <= sides and any(h != w for h, w in sides)
    assert set(grid.GRIDS["curated"]) <= set(full)
    assert all(h % 8 == w % 8 == 0 for h, w in sides)
    curated = grid.GRIDS["curated"]
    assert {batch for batch, _, _ in curated} >= {1, 16}
    assert {(1, 64, 64), (1, 1024, 1024)} <= set(curated)
    assert {h * w > 320 * 320 for _, h, w in curated if h != w} == {False, True}
    assert set(grid.sizes("curated", "sensors")) < set(grid.sizes("curated", "fused"))
    size = grid.COMPILED["curated"][0]
    assert grid.is_compiled("curated", "fused", "gaussian_noise", size)
    assert not grid.is_compiled("curated", "sensors", "Stack.prox", size)
    assert grid.is_compiled("full", "sensors", "Stack.prox", size)


def test_a_call_counts_the_share_of_y():
    shape = (2, 3, 16, 8)
    for op in (le.Blur.gaussian(1.0, 0.1, size=5), le.SuperResolution(2, 0.1), le.JPEG(20)):
        assert op.cost("prox", shape).flops > op.cost("data_step", shape).flops
    mask = le.Inpainting(torch.ones(16, 8), 0.1)
    assert mask.cost("prox", shape) == mask.cost("data_step", shape)
    assert mask.cost("A", shape) == Count(768, 2 * 4 * 768 + 4 * 128)
    assert le.LinearOperator(abs, abs, 0.1).cost("prox", shape) is None
