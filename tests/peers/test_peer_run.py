"""The command that scores a peer: the measurements of `evaluate`, its scores, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_prior
from typer.testing import CliRunner

pytest.importorskip("deepinv", reason="peers: run make test-peers")

import typer

import latino_engine as le
from benchmarks.peers import grid, run, samplers
from latino_engine.evaluation.evaluator import Evaluation, evaluate, score
from latino_engine.priors import save_prior

pytestmark = pytest.mark.peers

SIZE = 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten smooth grey images, 12 x 12."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((10, 1, 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")
    np.save(tmp_path / "images.npy", smooth.clamp(0, 1).numpy())
    return tmp_path / "images.npy"


def _options(images: Path, operator: str = "inpaint:box=4", **more: Any) -> Evaluation:
    settings = {"noise_std": 0.05, "size": SIZE, "limit": 6, "num_samples": 3, "seed": 2, **more}
    return Evaluation(str(images), operator, **settings)


def _peer(method: str = "ddrm", **more: Any) -> run.PeerRun:
    return run.PeerRun(method, **{"steps": 3, "grid_limit": 4, "grid_samples": 2, **more})


@pytest.fixture
def short_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    for method, points in grid.GRIDS.items():
        monkeypatch.setitem(grid.GRIDS, method, points[:2])


@pytest.mark.parametrize("method", samplers.METHODS)
@pytest.mark.usefixtures("short_grids")
def test_the_report_has_the_fields_of_evaluate(method: str, images: Path, tmp_path: Path) -> None:
    prior = tiny_prior(1)
    found = run.evaluate_peer(prior, _options(images, "sr:factor=2"), _peer(method))
    engine = le.compile(prior, tmp_path / "tiny.engine", backend="torch")
    known = evaluate(engine, _options(images, "sr:factor=2"), tmp_path / "scores")
    assert set(known) - set(found) == {"engine", "sampler"}
    assert found["nfe"] == found["steps"] == 3
    assert found["seconds"] > 0
    assert found["grid"]["num_images"] == 4
    assert found["parameters"] in [point["parameters"] for point in found["grid"]["tried"]]
    assert len(found["grid"]["tried"]) == 2
    json.dumps(found, allow_nan=False)


@pytest.mark.usefixtures("short_grids")
def test_the_measurements_are_those_of_evaluate(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = tiny_prior(1)
    seen: list[torch.Tensor] = []
    engine = le.compile(prior, tmp_path / "tiny.engine", backend="torch")
    real_sample, real_peer = type(engine).sample, samplers.sample

    def engine_sample(self: object, y: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(y)
        return real_sample(self, y, *rest, **more)

    def peer_sample(method: str, denoiser: Any, op: Any, y: torch.Tensor, *rest: Any) -> Any:
        seen.append(y.clone())
        return real_peer(method, denoiser, op, y, *rest)

    monkeypatch.setattr(type(engine), "sample", engine_sample)
    monkeypatch.setattr(run, "sample", peer_sample)
    evaluate(engine, _options(images), tmp_path / "scores")
    run.evaluate_peer(prior, _options(images), _peer())
    by_engine, *by_grid, by_peer = seen
    assert len(by_grid) == 2
    assert torch.equal(by_peer, by_engine)
    assert all(len(y) == 4 and not torch.equal(y, by_peer[:4]) for y in by_grid)


@pytest.mark.usefixtures("short_grids")
def test_the_scores_are_those_of_the_samples(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []
    real_peer = samplers.sample

    def peer_sample(*arguments: Any) -> Any:
        samples, nfe = real_peer(*arguments)
        drawn.append(samples)
        return samples, nfe

    monkeypatch.setattr(run, "sample", peer_sample)
    found = run.evaluate_peer(tiny_prior(1), _options(images), _peer())
    truth = torch.from_numpy(np.rint(np.load(images)[:6] * 255.0) / 255.0).float()
    for name, value in score(drawn[-1], truth).items():
        assert found[name] == value
    for number, point in enumerate(found["grid"]["tried"]):
        last = torch.from_numpy(np.rint(np.load(images)[6:] * 255.0) / 255.0).float()
        assert point["crps"] == score(drawn[number], last)["crps"]


def _command(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(run.command)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("short_grids")
def test_the_command_writes_one_json(images: Path, tmp_path: Path) -> None:
    save_prior(tiny_prior(1), tmp_path / "prior")
    out = tmp_path / "out.json"
    sizes = ["--size", str(SIZE), "--limit", "3", "--num-samples", "2", "--grid-limit", "2"]
    method = ["--operator", "blur:std=1,size=5", "--method", "dps", "--steps", "2"]
    ran = _command(str(tmp_path / "prior"), str(images), *method, *sizes, "-o", str(out))
    assert ran.exit_code == 0, ran.output
    found = json.loads(out.read_text())
    assert (found["method"], found["nfe"], found["num_images"]) == ("dps", 2, 3)
    assert "| blur:std=1,size=5 | 3 | 2 |" in ran.output


@pytest.mark.usefixtures("short_grids")
def test_what_an_earlier_report_chose_is_not_tried_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, report = tiny_prior(1), tmp_path / "report.json"
    first = run.evaluate_peer(prior, _options(images), _peer())
    report.write_text(json.dumps(first))
    counts: list[int] = []
    real_peer = samplers.sample

    def peer_sample(*arguments: Any) -> Any:
        counts.append(len(arguments[3]))
        return real_peer(*arguments)

    monkeypatch.setattr(run, "sample", peer_sample)
    again = run.evaluate_peer(prior, _options(images, limit=5), _peer(known=str(report)))
    assert counts == [5]
    assert (again["parameters"], again["grid"]) == (first["parameters"], first["grid"])
    for options, peer in ((_options(images, noise_std=0.1), {}), (_options(images), {"steps": 4})):
        counts.clear()
        run.evaluate_peer(prior, options, _peer(known=str(report), **peer))
        assert len(counts) == 3
    monkeypatch.setitem(grid.GRIDS, "ddrm", grid.GRIDS["ddrm"][:1])
    counts.clear()
    run.evaluate_peer(prior, _options(images), _peer(known=str(report)))
    assert len(counts) == 2


MISTAKES = {
    "method": ({}, {"method": "x"}, "method: expected one of diffpir, ddrm, dps, got 'x';"),
    "steps": ({}, {"steps": 1}, "steps: expected at least 2 network evaluations, got 1;"),
    "samples": ({"num_samples": 1}, {}, "num_samples: expected at least 2, got 1;"),
    "grid samples": ({}, {"grid_samples": 1}, "grid_samples: expected at least 2, got 1;"),
    "limit": ({"limit": 0}, {}, "limit: expected at least 1, got 0;"),
    "batch": ({}, {"batch": 0}, "batch: expected at least 1, got 0;"),
    "overlap": (
        {"limit": 7},
        {},
        "limit: expected at most 6 of the 10 images",
    ),
    "known": (
        {},
        {"known": "no.json"},
        "known: expected a JSON report of benchmarks.peers.run, got",
    ),
    "operator": ({"operator": "jpeg:quality=9"}, {}, "operator: expected Blur, SuperResolution,"),
}


@pytest.mark.parametrize(("options", "peer", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(
    options: dict[str, Any], peer: dict[str, Any], sentence: str, images: Path
) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        run.evaluate_peer(tiny_prior(1), _options(images, **options), _peer(**peer))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_mistake_on_the_command_line_is_status_2(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_prior(tiny_prior(1), tmp_path / "prior")
    arguments = [str(tmp_path / "prior"), str(images), "--operator", "denoise", "--method", "dps"]
    more = ["--size", "12", "--limit", "9", "-o", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["run", *arguments, *more])
    with pytest.raises(SystemExit) as stopped:
        run.main()
    assert stopped.value.code == 2
    written = capsys.readouterr().err.strip().splitlines()
    assert written == [
        "benchmarks.peers.run: limit: expected at most 0 of the 10 images of the source, got 9; "
        "the last ones choose the parameters (--grid-limit)"
    ]
    assert not (tmp_path / "out.json").exists()
