"""Numbers that are not finite stop a training: what is kept, and from where it goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import blob_images, distillation, prior_training
from safetensors.torch import load_file
from tiny import tiny_prior
from torch import nn

import latino_engine as le
from latino_engine.distill import distillation as module
from latino_engine.distill import prior_training as priors
from latino_engine.distill.checkpoint import read_facts
from latino_engine.distill.distillation import distill
from latino_engine.distill.paper_objective import PaperObjective
from latino_engine.distill.prior_training import train_prior
from latino_engine.distill.runs import caught_up, falling_back, follow
from latino_engine.errors import TrainingStopped
from latino_engine.image_io.datasets import CHECKPOINT


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "blobs.npy", blob_images())
    return tmp_path / "blobs.npy"


def losses(run):
    return [float(line.split(",")[1]) for line in (run / "loss.csv").read_text().split()[1:]]


def check_forgotten(run):
    """In the checkpoint the model is the average, and no optimizer remembers anything."""
    tensors = load_file(run / CHECKPOINT)
    model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    assert model
    assert all(torch.equal(value, tensors[f"average.{key}"]) for key, value in model.items())
    assert not [key for key in tensors if "optimizer." in key]


def too_fast(run, step):
    """Instead of a step of the optimizer: weights that are finite, and give NaN."""

    def broken(self, *arguments, **more):
        self.taken = getattr(self, "taken", 0) + 1
        run(self, *arguments, **more)
        if self.taken == step:
            with torch.no_grad():
                for group in self.param_groups:
                    for weight in group["params"]:
                        if weight.dtype == torch.float32:  # step sizes are judged by themselves
                            weight.fill_(1e30)

    return broken


def interrupt_after(steps):
    """What Ctrl-C does between two steps: the rate still falls along the whole run's cosine."""

    def report(step, *_):
        if step == steps:
            raise KeyboardInterrupt

    return report


def test_weights_that_give_nan_never_reach_the_average(source, tmp_path, monkeypatch):
    """They are finite when they are made; only the next loss shows them."""
    options = distillation(source, training_steps=8)
    with pytest.raises(KeyboardInterrupt):
        distill(tiny_prior(1), options, tmp_path / "good", report=interrupt_after(2))
    monkeypatch.setattr(torch.optim.AdamW, "step", too_fast(torch.optim.AdamW.step, 3))
    with pytest.raises(TrainingStopped, match=r"at step 3; the last good average is kept"):
        distill(tiny_prior(1), options, tmp_path / "run")
    monkeypatch.undo()
    kept, good = le.load_adapter(tmp_path / "run"), le.load_adapter(tmp_path / "good")
    assert kept.training["steps_done"] == 3
    for name, weight in kept.weights.items():  # those of the two good steps
        torch.testing.assert_close(weight, good.weights[name], rtol=1e-5, atol=1e-7)
    check_forgotten(tmp_path / "run")
    lower = replace(options, learning_rate=1e-5, step_size_rate=1e-4)
    assert distill(tiny_prior(1), lower, tmp_path / "run").training["steps_done"] == 8
    curve = losses(tmp_path / "run")
    assert max(curve[3:]) < 2 * max(curve[:3])


def test_a_prior_whose_weights_give_nan_goes_on(source, tmp_path, monkeypatch):
    options = prior_training(source, steps=8)
    with pytest.raises(KeyboardInterrupt):
        train_prior(options, tmp_path / "good", report=interrupt_after(2))
    good = le.load_prior(tmp_path / "good").denoiser
    monkeypatch.setattr(torch.optim.AdamW, "step", too_fast(torch.optim.AdamW.step, 3))
    with pytest.raises(TrainingStopped, match=r"at step 3; the last good average is kept"):
        train_prior(options, tmp_path / "run")
    monkeypatch.undo()
    kept = le.load_prior(tmp_path / "run").denoiser
    for mine, theirs in zip(kept.parameters(), good.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    check_forgotten(tmp_path / "run")
    train_prior(replace(options, learning_rate=1e-5), tmp_path / "run")
    assert read_facts(tmp_path / "run" / CHECKPOINT)["step"] == 8
    curve = losses(tmp_path / "run")
    assert max(curve[3:]) < 3 * max(curve[:3])


def test_a_rate_far_too_high(source, tmp_path):
    """Nothing is replaced here: the rate alone makes weights that overflow."""
    options = prior_training(source, steps=40, learning_rate=1e30, warmup=1)
    with pytest.raises(TrainingStopped, match="the last good average is kept"):
        train_prior(options, tmp_path / "run")
    check_forgotten(tmp_path / "run")
    prior = train_prior(replace(options, learning_rate=1e-3), tmp_path / "run")
    assert all(bool(w.isfinite().all()) for w in prior.denoiser.parameters())
    assert max(losses(tmp_path / "run")) < 1e3


def test_step_sizes_far_too_fast(source, tmp_path):
    """Their logarithms stay finite; the noise levels that follow from them do not."""
    options = distillation(source, training_steps=2)
    distill(tiny_prior(1), options, tmp_path / "run")
    more = replace(options, training_steps=8)
    with pytest.raises(TrainingStopped) as caught:
        distill(tiny_prior(1), replace(more, step_size_rate=1e3), tmp_path / "run")
    assert str(caught.value) == (
        "step sizes: expected data steps and noise levels that float32 can hold after 3 steps, got "
        "others; the last good average is kept: lower step_size_rate"
    )
    check_forgotten(tmp_path / "run")
    assert distill(tiny_prior(1), more, tmp_path / "run").training["steps_done"] == 8


def test_a_first_step_that_fails_leaves_nothing_and_says_so(source, tmp_path):
    options = distillation(source, training_steps=2, step_size_rate=1e6)
    with pytest.raises(TrainingStopped) as caught:
        distill(tiny_prior(1), options, tmp_path / "run")
    assert str(caught.value) == (
        "step sizes: expected data steps and noise levels that float32 can hold after 1 step, got "
        "others; nothing was written: lower step_size_rate"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, value",
    [("log_d", 95.0), ("log_d", -250.0), ("log_r", 360.0), ("log_r", -360.0), ("log_lam", -120.0)],
)
def test_step_sizes_are_judged_in_float32(name, value, source, tmp_path, monkeypatch):
    """Each is in order in float64; a checkpoint that holds it falls back, and the run goes on."""
    distill(tiny_prior(1), distillation(source, training_steps=1), tmp_path / "run")
    resume = module._Run.resume

    def out_of_range(self):
        resume(self)
        with torch.no_grad():
            for sizes in self.model.steps.values():
                getattr(sizes, name).fill_(value)

    monkeypatch.setattr(module._Run, "resume", out_of_range)
    more = distillation(source, training_steps=3)
    with pytest.raises(TrainingStopped, match=r"step sizes: expected .* after 1 step, got others"):
        distill(tiny_prior(1), more, tmp_path / "run")
    monkeypatch.undo()
    check_forgotten(tmp_path / "run")
    assert distill(tiny_prior(1), more, tmp_path / "run").training["steps_done"] == 3


def test_a_mask_of_infinity_is_meant_so():
    """Such as an attention mask in a restoration network; one that becomes infinite is not."""
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    average = caught_up(model, model, 0.9, 0)
    follow(average, model, 0.9, 1)
    model.mask[0] = torch.inf
    with pytest.raises(TrainingStopped):
        follow(average, model, 0.9, 2)


def test_a_step_cut_in_two_does_not_reach_what_is_given():
    """A second Ctrl-C may leave weights that no one has judged: Ctrl-C is what is told."""
    model = nn.Linear(2, 2)
    average = caught_up(model, model, 0.9, 0)
    nn.init.constant_(model.weight, torch.nan)
    given = caught_up(average, model, 0.9, 3)
    assert torch.equal(given.weight, average.weight)


def test_a_discriminator_that_diverged_begins_anew(source, tmp_path, monkeypatch):
    options = distillation(source, objective="paper", training_steps=6)
    update = PaperObjective.update

    def diverged(self, batch):
        if batch.step == 3:
            with torch.no_grad():
                for weight in self.discriminator.parameters():
                    weight.fill_(1e30)
        update(self, batch)

    monkeypatch.setattr(PaperObjective, "update", diverged)
    with pytest.raises(TrainingStopped, match="discriminator: expected a finite loss"):
        distill(tiny_prior(1), options, tmp_path / "run")
    monkeypatch.undo()
    check_forgotten(tmp_path / "run")
    saved = load_file(tmp_path / "run" / CHECKPOINT)
    assert max(float(v.abs().max()) for k, v in saved.items() if "discriminator" in k) < 1.0
    lower = replace(options, discriminator_rate=1e-5)
    assert distill(tiny_prior(1), lower, tmp_path / "run").training["steps_done"] == 6


def test_buffers_are_judged_and_restored():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = caught_up(model, model, 0.9, 0)
    mean = model[1].running_mean
    mean.fill_(torch.inf)
    with pytest.raises(TrainingStopped) as caught:
        follow(average, model, 0.9, 5)
    assert str(caught.value) == (
        "weights: expected finite numbers after 5 steps, got others; the last good average is "
        "kept: lower the learning rate"
    )
    assert bool(average[1].running_mean.isfinite().all())
    with pytest.raises(TrainingStopped), falling_back(average, model, [], 1):
        raise TrainingStopped("stop")
    assert torch.equal(mean, average[1].running_mean)


def test_the_average_is_that_of_the_weights_so_far():
    """Without a decay that is smaller, all weights count alike, the first ones too."""
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    for step, value in enumerate((1.0, 2.0, 6.0)):
        nn.init.constant_(model.weight, value)
        nn.init.constant_(model.bias, value)
        given = caught_up(average, model, 1.0, step)
        follow(average, model, 1.0, step)
        assert torch.equal(given.weight, average.weight)
    assert float(average.weight.detach()) == pytest.approx(3.0)


def test_a_sample_grid_that_overflows_is_left_out(source, tmp_path, monkeypatch):
    nothing = torch.full((1, 64, 64), torch.nan)
    monkeypatch.setattr(priors, "sample_grid", lambda *_: nothing)
    train_prior(prior_training(source, steps=1), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.png"))
    assert (tmp_path / "run" / "prior.json").exists()
    assert module.CHECKPOINT in {p.name for p in (tmp_path / "run").iterdir()}
