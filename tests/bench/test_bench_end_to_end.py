"""The end-to-end comparison: the baseline computes what the engine computes; rows are whole."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_prior

import latino_engine as le
from benchmarks.end_to_end import __main__ as command
from benchmarks.end_to_end import authors_style, measure, peers
from latino_engine.bench import table
from latino_engine.distill.lora import adapt, trained_weights
from latino_engine.evaluation.evaluator import score

SIDE = 16


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a tiny prior and of an adapter with low-rank layers and one whole layer."""
    root = tmp_path_factory.mktemp("parts")
    prior = tiny_prior()
    shipped = le.load_adapter("photo-small")
    network = copy.deepcopy(prior.denoiser.network)
    adapt(network, "all-conv", 2, 3.0, seed=0)
    weights = {key: 0.1 * torch.randn_like(w) for key, w in trained_weights(network).items()}
    adapter = replace(
        shipped, prior_name="tiny", prior_sha256=prior.content_hash(), weights=weights, scale=1.5
    )
    le.save_prior(prior, root / "prior")
    le.save_adapter(adapter, root / "adapter")
    return str(root / "prior"), str(root / "adapter")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, parts):
    root = tmp_path_factory.mktemp("engines")
    found = {}
    for sampler, adapter in ((measure.DISTILLED, parts[1]), (measure.ZERO_SHOT, None)):
        for precision in ("fp32", "bf16"):
            found[sampler, precision] = folder = root / f"{sampler[0]}-{precision}.engine"
            options = {"adapter": adapter, "precision": precision}
            le.compile(parts[0], folder, image_size=SIDE, threads=1, **options)
    return found


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("sampler", [measure.DISTILLED, measure.ZERO_SHOT])
@pytest.mark.parametrize("operator", measure.OPERATORS)
def test_the_baseline_draws_the_engines_sample(
    one_thread, parts, folders, photographs, operator, sampler
):
    task = measure.Task(photographs, operator, 1, *parts, SIDE)
    engine = task.engine_method(folders, "torch", sampler)
    eager = task.eager_method(sampler)
    low = task.engine_method(folders, "torch bf16", sampler)
    assert low.error is not None and 1e-5 < low.error(engine) <= measure.AGREEMENT["bf16"]
    assert eager.error is not None and eager.error(engine) <= 1e-5
    other = task.engine_method(folders, "torch", _other(sampler))
    assert eager.error(other) > 1e-3, "the comparison tells samplers apart"


def _other(sampler):
    return measure.ZERO_SHOT if sampler == measure.DISTILLED else measure.DISTILLED


def test_low_rank_layers_stay_beside_the_weights(parts):
    prior, adapter = le.load_prior(parts[0]), le.load_adapter(parts[1])
    found = authors_style.unmerged(prior, adapter)
    changed = [n for n, m in found.denoiser.named_modules() if hasattr(m, "lora_A")]
    assert len(changed) == sum(key.startswith("lora_A.") for key in adapter.weights)
    x = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        ours = adapter.merge(prior).denoise(x, 0.3)
        error = (found.denoise(x, 0.3) - ours).norm() / ours.norm()
    assert error <= 1e-5 and float((prior.denoise(x, 0.3) - ours).norm() / ours.norm()) > 0.01


def test_the_rows_of_a_task(one_thread, parts, folders, photographs):
    task = measure.Task(photographs, "inpaint:random=0.5", 2, *parts, SIDE)
    sampler = measure.DISTILLED
    engine = task.engine_method(folders, "onnxruntime", sampler)
    eager = task.eager_method(sampler)
    order = []

    def watched(method):
        def draw(image, number):
            order.append((method.name, image, number))
            return method.draw(image, number)

        return replace(method, draw=draw, error=None)

    own, other = measure.measure(task, [watched(engine), watched(eager)], 2)
    names = [engine.name, eager.name]
    turns = [(name, i, n) for n in range(2) for i in range(2) for name in names]
    assert order == [(name, 0, 2) for name in names] + turns
    details = json.loads(other["details"])
    assert details["nfe"] == 4 and details["images"] == 2 and details["samples"] == 2
    assert 0.0 < other["p20"] <= other["value"] <= other["p80"]
    assert details["engine"] == engine.name
    assert details["engine_ms"] == pytest.approx(own["value"], abs=0.01)
    drawn = torch.stack([torch.cat([engine.draw(i, n) for i in range(2)]) for n in range(2)])
    expected = score(drawn, task.truth)
    found = json.loads(own["details"])
    for key in ("psnr_sample", "psnr_mean", "crps"):
        assert found[key] == pytest.approx(expected[key], abs=1e-4)
    assert 0.0 < found["outside_network_percent"] < 100.0
    (stamped,) = table.stamp([other], "abc", {}, {})
    assert set(stamped) <= set(table.COLUMNS)


def test_a_mismatch_is_a_failed_row_without_a_time(parts, folders, photographs):
    task = measure.Task(photographs, "denoise", 1, *parts, SIDE)
    engine = task.engine_method(folders, "torch", measure.DISTILLED)
    engine = replace(engine, reference=engine.name)
    wrong = replace(engine, name="wrong", error=lambda reference: 0.5)
    own, row = measure.measure(task, [engine, wrong], 2)
    assert own["value"] > 0.0
    assert row["status"] == "failed" and "value" not in row


def test_slow_methods_take_turns_with_the_engine_alone(parts, folders, photographs, monkeypatch):
    task = measure.Task(photographs, "denoise", 1, *parts, SIDE)
    quick, slow = (f"eager PyTorch, {measure.DISTILLED}", measure.engine_name("torch", "slow"))
    make = measure.make_method

    def with_slow(task, name, *rest):
        if name != slow:
            return make(task, name, *rest)
        return replace(make(task, quick, *rest), name=slow, slow=True)

    monkeypatch.setattr(measure, "make_method", with_slow)
    reference = measure.engine_name("onnxruntime", measure.DISTILLED)
    together, alone = measure.groups(task, [quick, slow], folders, None)
    assert [m.name for m in together.drawn] == [quick, reference]
    assert [m.name for m in together.wanted] == [quick]
    assert [m.name for m in alone.drawn] == [reference, slow]
    assert [m.name for m in alone.wanted] == [slow]


def test_engines_are_kept_where_one_asks_for_it(tmp_path, folders, monkeypatch):
    made = []

    def compile(prior, folder, **options):
        made.append((folder.name, options["adapter"], options["precision"]))
        folder.mkdir(parents=True)

    monkeypatch.setattr(measure.le, "compile", compile)
    for _ in range(2):
        with measure.compiled(tmp_path) as found:
            assert {sampler for sampler, _ in found} == {measure.DISTILLED, measure.ZERO_SHOT}
    assert made == [
        ("distilled.engine", "photo-small", "fp32"),
        ("distilled-bf16.engine", "photo-small", "bf16"),
        ("zero-shot.engine", None, "fp32"),
        ("zero-shot-bf16.engine", None, "bf16"),
    ]


def test_what_is_in_the_table_is_not_measured_again(tmp_path):
    path = tmp_path / "t.csv"
    row = {"suite": "end_to_end", "name": "denoise", "provider": "a", "value": 1.0}
    path.write_bytes(table.appended(path, table.stamp([row], "abc", {}, {})))
    assert command._done(path, "abc") == {("denoise", "a")}
    assert command._done(path, "abd") == set() == command._done(tmp_path / "none.csv", "abc")


def test_mistakes_are_one_sentence(photographs, monkeypatch, capsys):
    for arguments, beginning in (
        (["--samples", "1"], "samples: expected at least 2, got 1"),
        (["--images", "0"], "images: expected at least 1, got 0"),
        (["--only", "magic"], "only: expected part of one of latino-engine onnxruntime, "),
    ):
        monkeypatch.setattr("sys.argv", ["end_to_end", str(photographs), *arguments])
        with pytest.raises(SystemExit) as stopped:
            command.main()
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and err.count("\n") == 1
        assert err.startswith(f"benchmarks.end_to_end: {beginning}"), err


def test_parameters_must_come_from_somewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "PARAMETERS", tmp_path / "none.json")
    with pytest.raises(ValueError, match="grid: expected a folder of other photographs"):
        peers.parameters_of(peers.PEERS[0], tiny_prior(), "denoise", 0.02, None)
