"""docs/results.md and docs/at-a-glance.md hold what the scored rows give; a row is scored once."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_prior

from benchmarks.quality import __main__ as quality
from benchmarks.quality import ablation, limits, rows, tables
from benchmarks.quality.pictures import most_doubtful
from latino_engine.priors import load_prior, save_prior
from latino_engine.priors.adapters import load_adapter

ROOT = Path(__file__).parents[2]
GLANCE = ROOT / "docs" / "at-a-glance.md"
PHOTOS_HASH, DIGITS_HASH = (load_prior(n).content_hash() for n in ("photo-small", "digits-32"))
ROW = {
    "name": "some sampler",
    "operator": "blur:std=2",
    "noise_std": 0.05,
    "num_images": 7,
    "nfe": 4,
    "num_samples": 8,
    "crps": 0.01234,
    "energy_score": 1.5,
    "psnr_mean": 25.0,
    "psnr_sample": 23.0,
    "coverage_active": {"0.5": 0.5123, "0.8": None},
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "rows")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "rows")
    monkeypatch.setattr(ablation, "RESULTS", tmp_path / "rows")
    monkeypatch.setattr(limits, "FILE", tmp_path / "rows" / "limits.json")
    return tmp_path / "rows"


def filed(table: str, problem: rows.Problem, sampler: str) -> dict[str, Any]:
    """The committed row of a problem and of a sampler, named as its file is."""
    path = rows.RESULTS / table / f"{rows._slug(problem)}--{sampler}.json"
    row: dict[str, Any] = json.loads(path.read_text())
    return row


def coverages(table, level, sampler, operators, noise, size) -> str:
    """The range of a row's coverages over the operators, in words."""
    found = [
        100 * filed(table, rows.Problem("", op, noise, size), sampler)["coverage_active"][level]
        for op in operators
    ]
    return f"{min(found):.0f} to {max(found):.0f} %"


def test_the_page_is_what_the_rows_give(tmp_path: Path):
    tables.write(tmp_path / "page.md")
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    message = "run `python -m benchmarks.quality tables`"
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == text, message


def test_the_photographs_at_a_glance_are_rows():
    text = GLANCE.read_text(encoding="utf-8")
    names = ("deblurring", "4x super-resolution", "half of the pixels missing")
    for task, operator in zip(names, quality.PHOTO_OPERATORS, strict=True):
        cells = []
        for name in ("LATINO_8", "distilled_2_x_2", "diffpir-100", "ddrm-20"):
            row = filed("photos", rows.Problem("", operator, 0.02, 256), name)
            own = "method" not in row
            cells += [f"{row['psnr_mean']:.2f}"] if own else []
            cells += [f"{row['crps']:.4f}"]
        assert f"| {task} | {' | '.join(cells)} |" in text
    held = coverages("photos", "0.5", "distilled_2_x_2", quality.PHOTO_OPERATORS, 0.02, 256)
    text = " ".join(text.split())
    assert f"The 50 % intervals of the distilled sampler hold {held} of the pixels in doubt" in text


@pytest.mark.parametrize("score", ["crps", "energy_score"])
def test_the_digits_at_a_glance_are_rows(score: str):
    found = [json.loads(file.read_text()) for file in (rows.RESULTS / "digits").glob("*.json")]
    for operator in quality.OPERATORS:
        mine = [row for row in found if row["operator"] == operator]
        ours = [row[score] for row in mine if row.get("name", "").startswith("distilled")]
        rest = [row for row in mine if not row.get("name", "").startswith("distilled")]
        assert len(ours) == 2
        assert sorted(row.get("name") or row["method"] for row in rest) == [
            "LATINO 100",
            "LATINO 32",
            "LATINO 8",
            "UD2M 3 x 3, untrained",
            "ddrm",
            "diffpir",
            "dps",
        ]
        assert {row["num_images"] for row in mine} == {512}
        assert max(ours) < min(row[score] for row in rest)


@pytest.mark.parametrize("name", ["digits-32-2x2", "digits-32-3x3"])
def test_the_shipped_samplers_of_digits_are_calibrated(name: str):
    """The rows are of the files that are shipped."""
    slug = "distilled_" + name[-3:].replace("x", "_x_")
    for operator in quality.OPERATORS:
        row = filed("digits", rows.Problem("", operator, 0.05, 32), slug)
        assert row["adapter_sha256"] == load_adapter(name).content_hash()
        assert row["num_images"] == 512
        assert abs(row["coverage_active"]["0.8"] - 0.8) <= 0.04


def test_what_the_page_says_of_digits():
    text = " ".join(GLANCE.read_text(encoding="utf-8").split())
    slugs = ("distilled_3_x_3", "distilled_2_x_2")
    ends = [coverages("digits", "0.8", s, quality.OPERATORS, 0.05, 32).split() for s in slugs]
    low, high = min(int(e[0]) for e in ends), max(int(e[2]) for e in ends)
    assert f"The 80 % intervals hold {low} to {high} % of the pixels in doubt" in text
    problem = rows.Problem("", "sr:factor=4", 0.05, 32)
    dps, *ours = (
        f"{filed('digits', problem, name)['energy_score']:.3f}" for name in ("dps-100", *slugs)
    )
    assert f"equal to within its error: {dps} beside {ours[0]} and {ours[1]}." in text


@pytest.mark.parametrize("operator", quality.PHOTO_OPERATORS)
def test_the_rows_of_photographs_are_of_the_shipped_adapter(operator: str):
    problem = rows.Problem("", operator, 0.02, 256)
    ours, latino = (filed("photos", problem, name) for name in ("distilled_2_x_2", "LATINO_8"))
    assert ours["adapter_sha256"] == load_adapter("photo-small").content_hash()
    assert ours["crps"] <= 0.9 * latino["crps"]
    assert ours["psnr_mean"] > latino["psnr_mean"]


def test_beyond_its_training_the_adapter_of_photographs_leads_still():
    """What the pages say of it, from the rows."""
    gains, below, narrow = [], 0, []
    for operator, noise in quality._PHOTOS_BEYOND:
        problem = rows.Problem("", operator, noise, 256)
        ours, latino = (
            filed("beyond-photos", problem, name) for name in ("distilled_2_x_2", "LATINO_8")
        )
        assert ours["adapter_sha256"] == load_adapter("photo-small").content_hash()
        assert ours["energy_score"] < 0.95 * latino["energy_score"]
        assert {row["prior_sha256"] for row in (ours, latino)} == {PHOTOS_HASH}
        assert abs(ours["psnr_mean"] - latino["psnr_mean"]) < 0.15
        below += ours["psnr_mean"] < latino["psnr_mean"]
        lost = operator in ("blur:std=2.4", "blur:std=4", "sr:factor=8", "inpaint:box=64")
        assert (ours["coverage_active"]["0.5"] < 0.3) == lost
        narrow += [100 * ours["coverage_active"]["0.5"]] * lost
        gains.append(round(100 * (1 - ours["crps"] / latino["crps"])))
    assert 2 * below == len(gains)
    text = " ".join(GLANCE.read_text(encoding="utf-8").split())
    assert f"keeps a CRPS {min(gains)} to {max(gains)} % below that of LATINO with 8" in text
    assert f"its 50 % intervals hold only {min(narrow):.0f} to {max(narrow):.0f} %" in text


def test_beyond_their_training_the_adapters_of_digits_have_no_sure_lead():
    better = worse = 0
    for name in ("digits-32-2x2", "digits-32-3x3"):
        slug = "distilled_" + name[-3:].replace("x", "_x_")
        for operator, noise in quality._DIGITS_BEYOND:
            problem = rows.Problem("", operator, noise, 32)
            ours, latino = (filed("beyond-digits", problem, n) for n in (slug, "LATINO_8"))
            assert ours["adapter_sha256"] == load_adapter(name).content_hash()
            assert {row["prior_sha256"] for row in (ours, latino)} == {DIGITS_HASH}
            better += ours["crps"] < latino["crps"]
            worse += ours["energy_score"] > latino["energy_score"]
    count = 2 * len(quality._DIGITS_BEYOND)
    assert count / 2 < better < count and count / 2 < worse < count


def test_no_digit_is_shown_twice():
    doubt = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert most_doubtful(doubt, 2, set()) == [1, 3]
    assert most_doubtful(doubt, 2, {1}) == [3, 2]


def test_rows_are_ordered_and_old_coverages_left_out(results: Path, tmp_path: Path):
    worse = {**ROW, "name": None, "method": "dps", "crps": 0.2}
    kinds = {"new": rows.COVERAGE_RULE, "old": None}
    for kind, rule in kinds.items():
        rows.write_row(results / "digits" / f"a--{kind}.json", {**ROW, "coverage_rule": rule})
    rows.write_row(results / "digits" / "b--dps.json", worse)
    tables.write(tmp_path / "page.md")
    lines = (tmp_path / "page.md").read_text().splitlines()
    shown = [line for line in lines if line.startswith(("| some", "| deepinv"))]
    head = "| some sampler | 7 | 4 | 8 | 0.0123 | 1.500 | 25.00 | 23.00"
    assert shown[:2] == [f"{head} | 51.2 | - |", f"{head} | - | - |"]
    assert shown[2].startswith("| deepinv dps |")
    assert "What limits" not in "\n".join(lines)


def test_the_limits_say_how_far_evaluations_go(results: Path, tmp_path: Path):
    operator = "sr:factor=4"
    curves = {"distilled": [23.0, 24.25], "LATINO 8": [23.5, 24.0]}
    evaluations = {"4": 23.5, "8": 24.0, "16": 24.31, "32": 24.2}
    row = {"samples": {operator: curves}, "evaluations": {operator: evaluations}}
    rows.write_row(limits.FILE, {**row, "trained": {operator: {"15": 24.5, "5": 24.4}}})
    text = limits.section()
    assert "of the mean of 2 samples" in text
    assert "gains +0.25 dB over LATINO with 8 evaluations" in text
    assert "| squared error, 5 min | squared error, 15 min |" in text
    assert (
        f"| `{operator}` | 23.50 | 24.00 | 24.31 | 24.20 | 24.25 | 26.01 | 24.40 | 24.50 |" in text
    )
    limits.picture(tmp_path / "limits.png")
    assert (tmp_path / "limits.png").read_bytes().startswith(b"\x89PNG")


def test_the_limits_on_file_are_of_the_shipped_adapter():
    row = rows.read_row(limits.FILE) or {}
    assert row["adapter_sha256"] == load_adapter(limits.ADAPTER).content_hash()
    assert row["prior_sha256"] == PHOTOS_HASH
    assert row["samples"].keys() == set(quality.PHOTO_OPERATORS)
    for operator, curves in row["samples"].items():  # what the page says of them
        reached = limits._all_samples(curves["distilled"])
        assert all(value < reached for value in row["trained"][operator].values())
        assert 0.0 < limits._gain(row, operator) < 0.5


def test_limits_are_whole_or_not_shown(results: Path):
    numbers = {"5": 24.0, "15": 24.5}
    some = {"a": numbers, "b": numbers}
    row = {"samples": some, "evaluations": some, "trained": some}
    assert limits._is_whole(row)
    for lacking in ({"a": numbers}, {"a": numbers, "b": {"5": 24.0}}, {}):
        assert not limits._is_whole({**row, "trained": lacking})
    assert not limits._is_whole({}) and limits.section() == ""


def test_numbers_of_another_adapter_are_dropped(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def curve(*_: object, samples: int = 8) -> list[float]:
        calls.append(samples)
        return [24.0 + n for n in range(samples)]

    calls: list[int] = []
    monkeypatch.setattr(limits, "_engine", lambda adapter: None)
    monkeypatch.setattr(limits, "_posterior_mean", lambda *_: None)
    monkeypatch.setattr(limits, "_curve", curve)
    stale = {"adapter_sha256": "of another", "samples": {"sr:factor=4": {"distilled": [1.0]}}}
    rows.write_row(limits.FILE, stale)
    for _ in range(2):  # the second time everything is known
        limits.measure(tmp_path, tmp_path, ("sr:factor=4",), [5.0])
        assert calls == [8, 8, 8, 8, 8, 1]
    row = rows.read_row(limits.FILE) or {}
    assert row["adapter_sha256"] == load_adapter(limits.ADAPTER).content_hash()
    assert row["samples"]["sr:factor=4"]["distilled"][0] == 24.0 and limits._is_whole(row)


def test_a_short_training_is_known_by_its_options(tmp_path: Path):
    """On a checkout without the weights its rows are taken as they are, else it is trained."""
    options = ablation._base(tmp_path, 80)
    facts = json.loads(json.dumps({**asdict(options), "source": "train-images-idx3-ubyte.gz"}))
    facts["steps_done"] = 80
    assert ablation._is_training_of(facts, options)
    assert ablation._is_training_of({**facts, "perceptual_network": "pyramid"}, options)
    del facts["image_exponent"]  # the record of a version that had no such option
    assert ablation._is_training_of(facts, options)
    assert not ablation._is_training_of(facts, replace(options, image_exponent=1.0))
    assert not ablation._is_training_of(facts, replace(options, training_steps=90))
    assert not ablation._is_training_of({**facts, "steps_done": 12}, options)
    assert not ablation._is_training_of({**facts, "rank": 4}, options)
    assert not ablation._is_training_of(None, options)


def test_all_short_trainings_on_file_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`make results` on a fresh checkout trains none of them again."""
    monkeypatch.setattr(ablation, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(ablation, "distill", lambda *a, **_: pytest.fail(f"{a[2]}: trained again"))
    monkeypatch.setattr(ablation, "score_row", lambda *_: None)
    ablation.choices(tmp_path, 80, 64)
    ablation.change_of_operator(tmp_path, 80, 64)


def test_a_row_is_scored_once(results: Path, tmp_path: Path):
    save_prior(tiny_prior(1), tmp_path / "tiny")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((5, 1, 12, 12)))
    problem = rows.Problem(str(tmp_path / "images.npy"), "denoise", 0.1, 12, limit=3)
    sampler = rows.Sampler("tiny", str(tmp_path / "tiny"), None, "latino", 2, num_samples=2)
    first = rows.score_row("table", problem, sampler)
    (file,) = (results / "table").iterdir()
    rows.write_row(file, {**first, "crps": -1.0})
    assert rows.score_row("table", problem, sampler)["crps"] == -1.0
    more = rows.Problem(problem.source, "denoise", 0.1, 12, limit=4)
    assert rows.score_row("table", more, sampler)["num_images"] == 4
    assert rows.score_row("table", more, sampler, again=True)["crps"] == pytest.approx(
        rows.read_row(file)["crps"]
    )


def test_a_mistake_is_one_line(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.argv", ["quality", "digits", "/no/such/folder"])
    assert quality.main() == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: /no/such/folder/{quality.TEST_IMAGES}: expected a folder, an")
    assert not list(results.rglob("*.json"))
