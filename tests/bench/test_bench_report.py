"""README and docs/benchmarks.md hold what the table of measurements gives."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.report import __main__ as report
from benchmarks.report import measured, pictures, tables
from latino_engine.bench import table

MARKERS = re.compile(r"<!-- table: (\w+) -->")


def test_the_pages_are_what_the_table_gives():
    rows = table.read_rows(report.MEASUREMENTS)
    shown = []
    for page in report.PAGES:
        text = page.read_text(encoding="utf-8")
        shown += MARKERS.findall(text)
        assert report.filled(text, rows) == text, f"{page.name}: run `make report`"
    assert set(shown) == set(tables.TABLES)


def test_a_changed_figure_would_be_seen():
    rows = table.read_rows(report.MEASUREMENTS)
    (page,) = [page for page in report.PAGES if page.name == "benchmarks.md"]
    text = page.read_text(encoding="utf-8")
    shown = [r for r in rows if r["unit"] == "ms" and r["shape"].endswith("256x256")]
    for suite in dict.fromkeys(row["suite"] for row in shown):
        last = [row for row in shown if row["suite"] == suite][-1]
        other = [{**row, "value": "123456"} if row is last else row for row in rows]
        assert report.filled(text, other) != text, suite


def test_every_row_is_whole():
    for row in table.read_rows(report.MEASUREMENTS):
        assert row["commit"] and "dirty" not in row["commit"]
        assert json.loads(row["machine"])["cores"] and "torch" in json.loads(row["versions"])
        assert row["status"] in ("ok", "failed") and (row["value"] != "") == (row["status"] == "ok")


def sample(name, ms, crps, psnr=20.0):
    return measured.Sample(
        "t", name, ms, ms, ms, 4, psnr, psnr, crps, 1, 2, "latino-engine", 10.0, None
    )


def test_the_front():
    found = [
        sample("fast", 1.0, 0.5, 18.0),
        sample("beaten", 2.0, 0.6, 17.0),
        sample("good", 3.0, 0.2, 25.0),
        sample("late", 4.0, 0.2, 25.0),
        sample("sharp", 5.0, 0.3, 26.0),
    ]
    assert [s.name for s in measured.front(found, "crps")] == ["fast", "good"]
    assert [s.name for s in measured.front(found, "psnr_sample")] == ["fast", "good", "sharp"]
    assert found[1].ratio == pytest.approx(0.2)


def operation(provider, value, timestamp, status="ok", mode="call"):
    return {
        "suite": "operators", "name": "Blur.A", "provider": provider, "shape": "1x3x256x256",
        "metric": "time", "value": value, "percent_of_peak": "50", "status": status,
        "timestamp": timestamp, "details": json.dumps({"mode": mode}),
    }  # fmt: skip


def test_providers_of_one_session_are_compared():
    rows = [
        operation("latino-engine", "9.0", "one"),
        operation("deepinv", "9.0", "one"),
        operation("latino-engine", "2.0", "two"),
        operation("latino-engine (graph)", "1.0", "two", mode="graph"),
        operation("eager", "5.0", "two"),
        operation("torch.compile", "", "two", status="failed"),
    ]
    (timed,) = measured.operations(rows).values()
    assert [t.provider for t in timed] == ["latino-engine", "eager", "torch.compile"]
    line = tables.operators(rows).splitlines()[-1]
    assert line == "| `Blur.A` | 1 x 3 x 256 x 256 | 2 | 50 % | 2.50x | failed | - |"


def test_every_commit_of_a_shown_row_is_named():
    about = {"machine": '{"processor": "p", "cores": 2}', "versions": "{}", "threads": "2"}
    rows = [
        {**operation("latino-engine", "1.0", "2026-01-01"), "commit": "a", **about},
        {**operation("eager", "1.0", "2026-01-01"), "commit": "a", **about},
        {**operation("eager", "1.0", "2026-01-02"), "commit": "b", **about},
    ]
    assert [line.split(" | ")[1:3] for line in tables.about(rows).splitlines()[2:]] == [
        ["a", "2026-01-01"],
        ["b", "2026-01-02"],
    ]
    assert tables.about(rows[1:]).count("operators") == 1, "nothing of the first commit is left"


def test_what_falls_short_is_said():
    rows = [operation("latino-engine", "2.0", "one"), operation("deepinv", "3.0", "one")]
    assert "| 2x | 1.50x | no |" in tables.goals(rows)
    rows = [operation("latino-engine", "1.0", "one"), operation("deepinv", "3.0", "one")]
    assert "| 2x | 3.00x | yes |" in tables.goals(rows)


def test_the_picture_is_a_png_of_all_methods():
    rows = table.read_rows(report.MEASUREMENTS)
    drawn = pictures.quality_over_time(rows)
    assert drawn.startswith(b"\x89PNG") and len(drawn) > 20_000
