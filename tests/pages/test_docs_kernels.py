"""docs/kernels.md says what the tables of the operations and the recorded times say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from latino_engine import ops
from latino_engine.bench import table
from latino_engine.ops import cpu_extension

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kernels.md").read_text()
_spec = importlib.util.spec_from_file_location("inner_step", ROOT / "benchmarks" / "inner_step.py")
inner_step = importlib.util.module_from_spec(_spec)
sys.modules["inner_step"] = inner_step  # dataclasses look their module up
_spec.loader.exec_module(inner_step)


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


def test_a_provider_that_differs_has_no_time():
    (case, *_) = inner_step.cases(1, 16)
    ours = case.providers[inner_step.OURS]
    wrong = inner_step.Case(
        case.name,
        case.shape,
        case.providers,
        {inner_step.OURS: lambda: ours() + 1e-3},
        case.expected,
    )
    rows = {row["provider"]: row for row in inner_step.rows(wrong, 1, 1)}
    assert rows[inner_step.OURS]["status"] == "failed" and "value" not in rows[inner_step.OURS]
    assert rows["torch"]["status"] == "ok"
    (line,) = inner_step.tables(rows.values(), 1)[2:]
    assert line.split(" | ")[2] == "" and torch.get_num_threads() >= 1


def test_wrong_options(capsys, tmp_path):
    with pytest.raises(SystemExit):
        inner_step.main(["--sizes", "256"])
    assert "expected BATCHxSIDE such as 8x256, got 256" in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OSError, match=r"^csv: expected a new file or a table of measurements, got"):
        inner_step.main(["--rows", str(tmp_path / "rows.csv")])
