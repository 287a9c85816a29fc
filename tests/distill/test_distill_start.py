"""A distillation that begins with an adapter: the same sampler before the first step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import blob_images, distillation
from tiny import tiny_prior
from tolerances import OTHER_RUNTIME

import latino_engine as le
from latino_engine.cli import program
from latino_engine.distill.distillation import _Run, distill
from latino_engine.errors import AdapterInvalid


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "blobs.npy"
    np.save(path, blob_images())
    return path


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """Folders of an adapter of low rank and of one of all weights, both far from the prior."""
    folder = tmp_path_factory.mktemp("trained")
    for targets in ("all-conv", "full", "attention"):
        options = distillation(source, targets=targets, alpha=3.0, learning_rate=2e-2)
        distill(tiny_prior(1), options, folder / targets)
    return folder


def samples(adapter, op, folder):
    engine = le.compile(tiny_prior(1), folder, "torch", adapter=adapter, image_size=16)
    y = op.measure(torch.from_numpy(blob_images(2)).float() / 255)
    return engine.sample(y, op, 2, seed=5).samples


def weights(adapter):
    prior = tiny_prior(1) if adapter is None else adapter.merge(tiny_prior(1))
    return torch.nn.utils.parameters_to_vector(prior.denoiser.parameters()).detach().double()


@pytest.mark.parametrize(
    "before, after, rank, alpha",
    [
        ("all-conv", "all-conv", 2, 3.0),
        ("all-conv", "all-conv", 5, 2.0),
        ("attention", "all-conv", 3, 6.0),
        ("all-conv", "full", 2, 1.0),
        ("full", "full", 2, 1.0),
    ],
)
def test_before_the_first_step_it_is_the_adapter(
    before, after, rank, alpha, source, trained, tmp_path
):
    options = distillation(
        source, targets=after, rank=rank, alpha=alpha, start=str(trained / before)
    )
    run = _Run(tiny_prior(1), options, tmp_path / "run", None, "cpu")
    found, first = run.adapter(run.average), le.load_adapter(trained / before)
    assert set(found.schedule.steps) == set(first.schedule.steps)
    for kind, tables in first.schedule.steps.items():
        for name, table in tables.items():
            assert np.allclose(found.schedule.steps[kind][name], table, rtol=1e-12)
    old, new, prior = weights(first), weights(found), weights(None)
    assert float((new - old).norm() / old.norm()) < 1e-7
    assert float((prior - old).norm() / old.norm()) > 1e-3


def test_the_samples_before_the_first_step(source, trained, tmp_path):
    options = distillation(source, rank=5, alpha=2.0, start=str(trained / "all-conv"))
    run, op = _Run(tiny_prior(1), options, tmp_path / "run", None, "cpu"), le.Denoising(0.1)
    first = le.load_adapter(trained / "all-conv")
    expected = samples(first, op, tmp_path / "b")
    found = samples(run.adapter(run.average), op, tmp_path / "a")
    error = (found - expected).norm() / expected.norm()
    assert float(error) < OTHER_RUNTIME


def test_an_operator_class_that_is_new_starts_at_the_mean(source, trained, tmp_path):
    options = distillation(source, operators=("denoise",), start=str(trained / "full"))
    run = _Run(tiny_prior(1), replace(options, targets="full"), tmp_path / "run", None, "cpu")
    first = le.load_adapter(trained / "full").schedule
    found = run.adapter(run.average).schedule.steps["Denoising"]
    for name, table in first.step_sizes(le.Denoising(0.1)).items():
        assert np.allclose(found[name], table, rtol=1e-12)


def test_training_goes_on_from_there_and_a_resumed_run_is_not_started_again(
    source, trained, tmp_path
):
    options = distillation(source, start=str(trained / "all-conv"), training_steps=2)
    distill(tiny_prior(1), options, tmp_path / "cut")
    longer = replace(options, training_steps=4)
    resumed = distill(tiny_prior(1), longer, tmp_path / "cut")
    begun = le.load_adapter(trained / "all-conv")
    assert resumed.training["steps_done"] == 4
    assert resumed.training["start"] == {
        "name": "blobs",
        "sha256": begun.content_hash(),
        "training": begun.training,
    }
    before = weights(begun)
    assert 0.0 < float((weights(resumed) - before).norm()) < 0.3 * float(before.norm())


@pytest.mark.parametrize(
    "before, changes, prior, sentence",
    [
        (
            "full",
            {},
            1,
            "start: expected an adapter that changes only what this run trains, got 'blobs', which "
            "changes '",
        ),
        (
            "all-conv",
            {"targets": "attention"},
            1,
            "start: expected an adapter that changes only what this run trains, got 'blobs', which "
            "changes '",
        ),
        (
            "all-conv",
            {"rank": 1},
            1,
            "start: expected an adapter of rank 1 or less, got 'blobs' of rank 2; choose rank 2 or "
            "more, or targets='full'",
        ),
        (
            "all-conv",
            {"steps": 3},
            1,
            "start: expected an adapter of 3 x 1 steps with c = 1 and zeta = 0.9, as this run, got "
            "one of 2 x 1 steps with c = 1 and zeta = 0.9; choose the same steps and unfold, or "
            "another adapter",
        ),
        ("all-conv", {}, 2, "adapter: expected one of the prior 'tiny' (sha256 "),
    ],
)
def test_adapters_that_cannot_be_begun_with(
    before, changes, prior, sentence, source, trained, tmp_path
):
    images = np.repeat(blob_images(), prior, axis=1)
    np.save(tmp_path / "images.npy", images)
    options = distillation(tmp_path / "images.npy", start=str(trained / before), **changes)
    with pytest.raises(AdapterInvalid) as caught:
        distill(tiny_prior(prior), options, tmp_path / "run")
    assert str(caught.value).startswith(sentence)
    assert not (tmp_path / "run").exists()


def test_command_line(source, trained, tmp_path, capsys):
    le.save_prior(tiny_prior(1), tmp_path / "prior")
    command = ["distill", tmp_path / "prior", source, "-o", tmp_path / "run"]
    command += ["--operator", "sr:factor=2", "--size", "16", "--batch", "2", "--steps", "2"]
    command += ["--unfold", "1", "--rank", "2", "--targets", "all-conv", "--training-steps", "1"]
    command += ["--smallest-scale", "0.5", "--start"]
    assert program.run([*map(str, command), str(trained / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: adapter: expected a shipped name or a folder")
    assert program.run([*map(str, command), str(trained / "all-conv")]) == 0
    training = le.load_adapter(tmp_path / "run").training
    assert training["start"]["name"] == "blobs" and training["smallest_scale"] == 0.5
    assert (
        program.run([*map(str, command), str(trained / "all-conv"), "--smallest-scale", "2"]) == 2
    )
    assert (
        "smallest_scale: expected a number above 0, at most 1, got 2.0" in capsys.readouterr().err
    )
