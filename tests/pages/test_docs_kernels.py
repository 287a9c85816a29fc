"""docs/kernels.md says what the tables of the operations and the recorded times say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.operations import inner_step
from benchmarks.operations.case import OURS, measure, rows
from latino_engine import ops
from latino_engine.bench import table
from latino_engine.ops import cpu_extension

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kernels.md").read_text()


def test_the_table_of_operations_is_that_of_the_code():
    start = PAGE.index("| operation | cpu | triton | cuda |")
    shown = PAGE[start:].split("\n\n")[0].splitlines()[2:]
    backends = ("cpu", "triton", "cuda")
    expected = [
        f"| `{name}` | "
        + " | ".join("yes" if b in ops.TABLES[name] else "" for b in backends)
        + " |"
        for name in sorted(ops.TABLES)
    ]
    assert shown == expected


def test_the_times_are_those_on_record():
    lines = inner_step.tables(table.read_rows(inner_step.RESULTS))
    assert len(lines) > 2
    assert "\n".join(lines) in PAGE


def test_a_run_is_recorded(tmp_path, monkeypatch, capsys, one_thread):
    if cpu_extension.missing() is not None:
        pytest.skip(str(cpu_extension.missing()))
    path = tmp_path / "new" / "rows.csv"
    options = ["--sizes", "2x16", "--threads", "1", "--repeats", "2", "--rows", str(path)]
    inner_step.main(options)
    made = table.read_rows(path)
    assert {row["name"] for row in made} == set(inner_step.OPERATIONS)
    assert all(row["status"] == "ok" and float(row["value"]) > 0 for row in made)
    assert all({"torch", "python"} <= set(json.loads(row["versions"])) for row in made)
    printed = capsys.readouterr().out
    inner_step.main(["--table", "--threads", "1", "--rows", str(path)])
    assert capsys.readouterr().out == printed
    inner_step.main(options)
    assert len(table.read_rows(path)) == 2 * len(made)  # rows are only ever added


def test_a_provider_that_differs_has_no_time(one_thread):
    (case, *_) = list(inner_step.cases(1, 16))[1:]
    ours = case.providers[OURS]
    wrong = replace(case, checked={**case.checked, OURS: lambda: ours() + 1e-3})
    made = rows(wrong, measure(wrong, "cpu", 0.0, 1), inner_step.PEAKS, "inner step", 1)
    found = {row["provider"]: row for row in made}
    assert found[OURS]["status"] == "failed" and "value" not in found[OURS]
    assert found["torch"]["status"] == found["memory"]["status"] == "ok"
    assert "error" not in json.loads(found["memory"]["details"]), "a floor is no result"
    (line,) = inner_step.tables(made, 1)[2:]
    cells = dict(zip(inner_step.PROVIDERS, line.split(" | ")[2:], strict=False))
    assert cells[OURS] == "" and float(cells["torch"]) >= 0


def test_wrong_options(capsys, tmp_path):
    with pytest.raises(SystemExit):
        inner_step.main(["--sizes", "256"])
    assert "expected BATCHxSIDE such as 8x256, got 256" in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OSError, match=r"^csv: expected a new file or a table of measurements, got"):
        inner_step.main(["--rows", str(tmp_path / "rows.csv")])
