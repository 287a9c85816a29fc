"""Distillation: it learns, it is resumed to the bit, processes share it, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import blob_images, distillation
from PIL import Image
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.distill import checkpoint
from latino_engine.distill import distillation as module
from latino_engine.distill.distillation import distill
from latino_engine.distill.prior_training import PriorTraining, train_prior
from latino_engine.errors import (
    ImageUnreadable,
    InvalidArgument,
    OutputNotWritable,
    PriorInvalid,
    TrainingStopped,
)

FILES = {"adapter.json", "adapter.safetensors", "training.safetensors", "loss.csv"}


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "blobs.npy", blob_images())
    return tmp_path / "blobs.npy"


def losses(folder):
    lines = (folder / "loss.csv").read_text().split()[1:]
    return [float(line.split(",")[1]) for line in lines]


def test_the_compiled_network_learns_the_same(source, tmp_path):
    runs = {}
    for compiled in (False, True):
        options = distillation(source, training_steps=3, targets="all-conv", compiled=compiled)
        runs[compiled] = distill(tiny_prior(1), options, tmp_path / str(compiled)).weights
    assert runs[True].keys() == runs[False].keys()
    moved = [float(w.abs().max()) for n, w in runs[False].items() if n.startswith("lora_B")]
    assert max(moved) > 1e-5  # from 0
    for name, weight in runs[False].items():
        torch.testing.assert_close(runs[True][name], weight, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("objective", ["energy", "paper", "mse"])
def test_it_learns(objective, source, tmp_path):
    options = distillation(
        source,
        objective=objective,
        operators=("denoise",),
        training_steps=120,
        targets="full",
        learning_rate=5e-3,
        adversarial=0.01,
        noise_std="0.1",
    )
    adapter = distill(tiny_prior(1), options, tmp_path / "run")
    curve = losses(tmp_path / "run")
    assert len(curve) == 120 and np.mean(curve[-20:]) < 0.6 * np.mean(curve[:5])
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES
    assert adapter.schedule.nfe == 2 and set(adapter.schedule.steps) == {"Denoising"}
    assert adapter.training["steps_done"] == 120 and adapter.training["rank"] == 2
    assert adapter.training["source"] == "blobs.npy"
    x = torch.from_numpy(blob_images(8)).float() / 255
    op = le.Denoising(0.1)
    y = op.measure(x)
    engine = le.compile(tiny_prior(1), tmp_path / "e.engine", "torch", adapter=adapter)
    learned = engine.sample(y, op, 4).mean
    plain = le.compile(tiny_prior(1), tmp_path / "p.engine", "torch")
    untrained = plain.sample(y, op, 4, sampler="ud2m", steps=2, unfold=1).mean
    error, before = (float((mean - x).square().mean()) for mean in (learned, untrained))
    assert error < 0.9 * before, (error, before)


@pytest.mark.parametrize("objective", ["energy", "paper"])
def test_a_resumed_run_is_the_uninterrupted_run(objective, source, tmp_path):
    options = distillation(source, training_steps=6, objective=objective, adversarial=0.1)
    whole = distill(tiny_prior(1), options, tmp_path / "whole")

    def stop(step, *_):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(tiny_prior(1), options, tmp_path / "cut", report=stop)
    assert len(losses(tmp_path / "cut")) == 3
    resumed = distill(tiny_prior(1), options, tmp_path / "cut")
    assert resumed.content_hash() == whole.content_hash()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    with pytest.raises(InvalidArgument, match="got another rank, seed; use the same options"):
        distill(tiny_prior(1), replace(options, rank=3, seed=1), tmp_path / "cut")


def test_a_restoration_network_is_trained_along(source, tmp_path):
    class Start(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.3))

        def forward(self, y, op):
            return self.gain * op.A_adjoint(y)

    network = Start()
    options = distillation(
        source, operators=("blur:std=1,size=5",), init="network", training_steps=5
    )
    adapter = distill(tiny_prior(1), options, tmp_path / "run", init_network=network)
    assert adapter.init == "network" and float(network.gain.detach()) != pytest.approx(0.3)
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES | {"init.safetensors"}
    with pytest.raises(InvalidArgument, match="init_network: expected init='network' and"):
        distill(tiny_prior(1), options, tmp_path / "other")


def test_nan_stops_and_keeps_the_last_good_average(source, tmp_path, monkeypatch):
    options = distillation(source, training_steps=8)
    loss = module.EnergyObjective.loss

    def broken(self, model, batch):
        value = loss(self, model, batch)
        return value * float("nan") if batch.step == 3 else value

    monkeypatch.setattr(module.EnergyObjective, "loss", broken)
    with pytest.raises(TrainingStopped, match="got nan at step 3; the last good average is kept"):
        distill(tiny_prior(1), options, tmp_path / "run")
    adapter = le.load_adapter(tmp_path / "run")
    assert adapter.training["steps_done"] == 3
    assert all(bool(torch.isfinite(w).all()) for w in adapter.weights.values())


def test_a_full_disk_leaves_what_was_there(source, tmp_path, monkeypatch):
    options = distillation(source, training_steps=3)
    distill(tiny_prior(1), options, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OutputNotWritable, match="no space left on device; free some space"):
        distill(tiny_prior(1), replace(options, training_steps=5), tmp_path / "run")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"training_steps": None},
            "minutes, training_steps: expected exactly one of the two, got n",
        ),
        ({"minutes": 1.0}, "minutes, training_steps: expected exactly one of the two, got both"),
        ({"training_steps": 0}, "minutes, training_steps: expected a length above 0"),
        ({"objective": "gan"}, "objective: expected one of energy, paper, mse"),
        ({"init": "zeros"}, "init: expected 'regularised'"),
        ({"targets": "none"}, "targets: expected one of attention, all-conv, full"),
        ({"num_samples": 1}, "num_samples: expected at least 2"),
        ({"rank": 0}, "rank, alpha: expected a rank of at least 1"),
        (
            {"rank": 1000},
            r"rank: expected a rank of at most \d+, that of the largest layer, got 1000",
        ),
        ({"alpha": math.inf}, "rank, alpha: .* a finite alpha above 0, got rank 2, alpha inf"),
        ({"size": 10}, "size: expected a multiple of 4, got 10"),
        ({"operators": ("blur:sdt=1",)}, "did you mean 'std'"),
        (
            {"operators": ("sr:factor=4|5",)},
            "^operator sr:factor=5, x: expected sides divisible by 5, got 16 x 16; choose",
        ),
        ({"seed": -1}, "seed: expected 0 <= seed < 2\\^64"),
        ({"pad": -1}, "pad: expected 0 or more"),
        ({"ema": 2.0}, "ema: expected a number from 0 to 1"),
        ({"patches": (0,)}, "patches: expected sides of at least 1"),
        ({"checkpoint_minutes": -5.0}, "checkpoint_minutes: expected a number above 0, got -5.0"),
        ({"learning_rate": math.inf}, "learning_rate: expected a number above 0, got inf"),
        ({"init": "network"}, "init_network: expected .* which only Python can pass"),
        ({"operators": ("sr:factor=2..4",)}, "divisible"),
    ],
)
def test_options_that_cannot_be_used(changes, sentence, source, tmp_path):
    options = replace(distillation(source), **changes)
    with pytest.raises(InvalidArgument, match=sentence):
        distill(tiny_prior(1), options, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_and_folders_that_cannot_be_used(source, tmp_path):
    with pytest.raises(InvalidArgument, match="source: expected images of 3 channels"):
        distill(tiny_prior(3), distillation(source), tmp_path / "run")
    (tmp_path / "folder").mkdir()
    Image.fromarray(blob_images()[0].squeeze()).save(tmp_path / "folder" / "blob.png")
    with pytest.raises(InvalidArgument, match=r"^pad: expected 0 for a folder"):
        distill(tiny_prior(1), distillation(tmp_path / "folder", pad=2), tmp_path / "run")
    with pytest.raises(ImageUnreadable, match="sides of at least 32"):
        distill(tiny_prior(1), distillation(source, size=32), tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(OutputNotWritable, match="out: expected a new folder"):
        distill(tiny_prior(1), distillation(source), tmp_path / "full")


def test_a_first_step_that_fails_leaves_nothing(source, tmp_path):
    options = distillation(source, operators=("sr:factor=2",), init="measurement")
    with pytest.raises(InvalidArgument, match="init: expected shape"):
        distill(tiny_prior(1), options, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    distill(tiny_prior(1), replace(options, init="regularised"), tmp_path / "run")


@pytest.mark.parametrize("train", ["distill", "train-prior"])
def test_what_cannot_be_written_is_said_before_the_first_step(train, source, tmp_path):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "run"
    with pytest.raises(OutputNotWritable) as caught:
        if train == "distill":
            distill(tiny_prior(1), distillation(source), out)
        else:
            small = {"widths": (8,), "groups": 4, "blocks_per_level": 1, "steps": 1, "size": 16}
            train_prior(PriorTraining(source=str(source), name="p", **small), out)
    assert str(caught.value) == (
        f"out: cannot write {out}: a part of this path is a file, not a folder; "
        "choose another folder"
    )
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("tpu", "device: expected 'cpu' or 'cuda', got 'tpu'; choose one of these"),
        ("cuda:99", "device: expected a device that is there, got 'cuda:99' with "),
    ],
)
def test_a_device_that_is_not_there(device, sentence, source, tmp_path):
    with pytest.raises(InvalidArgument) as caught:
        distill(tiny_prior(1), distillation(source), tmp_path / "run", device=device)
    assert str(caught.value).startswith(sentence)


def test_weights_that_are_not_finite_stop_the_run_and_it_goes_on(source, tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def exploding(self, *arguments, **more):
        step(self, *arguments, **more)
        if len(self.state) and int(next(iter(self.state.values()))["step"]) == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", exploding)
    options = distillation(source, training_steps=6)
    with pytest.raises(TrainingStopped, match="weights: expected finite numbers after 3 steps"):
        distill(tiny_prior(1), options, tmp_path / "run")
    kept = le.load_adapter(tmp_path / "run")
    assert all(torch.isfinite(weight).all() for weight in kept.weights.values())
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert distill(tiny_prior(1), options, tmp_path / "run").training["steps_done"] == 6


def test_a_damaged_checkpoint_names_its_remedy(source, tmp_path):
    distill(tiny_prior(1), distillation(source, training_steps=1), tmp_path / "run")
    (tmp_path / "run" / module.CHECKPOINT).write_bytes(b"half")
    with pytest.raises(PriorInvalid, match="delete its folder to start anew"):
        distill(tiny_prior(1), distillation(source), tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    distill(tiny_prior(1), distillation(source, training_steps=1), tmp_path / "run")


def test_a_run_is_resumed_from_another_folder_under_another_name(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    options = distillation(source.name, training_steps=1)
    distill(tiny_prior(1), options, tmp_path / "run")
    monkeypatch.chdir(tmp_path.parent)
    more = replace(options, source=str(source), name="renamed", training_steps=2)
    resumed = distill(tiny_prior(1), more, tmp_path / "run")
    assert (resumed.name, resumed.training["steps_done"]) == ("renamed", 2)


@pytest.mark.own_process
def test_interrupted_inside_a_step_the_run_stops_behind_it(source, tmp_path, monkeypatch):
    options = distillation(source, training_steps=6)
    whole = distill(tiny_prior(1), options, tmp_path / "whole")
    loss = module.EnergyObjective.loss

    def interrupted(self, model, batch):
        if batch.step == 2:
            signal.raise_signal(signal.SIGINT)
        return loss(self, model, batch)

    monkeypatch.setattr(module.EnergyObjective, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill(tiny_prior(1), options, tmp_path / "cut")
    assert len(losses(tmp_path / "cut")) == 3
    monkeypatch.setattr(module.EnergyObjective, "loss", loss)
    assert distill(tiny_prior(1), options, tmp_path / "cut").content_hash() == whole.content_hash()


def test_command_line(source, tmp_path, capsys):
    le.save_prior(tiny_prior(1), tmp_path / "prior")
    out = tmp_path / "run"
    arguments = ["distill", tmp_path / "prior", source, "-o", out, "--operator", "sr:factor=2"]
    more = ["--size", "16", "--batch", "2", "--steps", "1", "--unfold", "1", "--rank", "1"]
    command = [*map(str, arguments), *more, "--training-steps", "2"]
    assert program.run([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["schedule"]["unfold"] == 1 and facts["folder"] == str(out)
    assert le.load_adapter(out).content_hash() == facts["sha256"]
    assert program.run([*command, "--objective", "gan"]) == 2
    assert capsys.readouterr().err.startswith("error: objective: expected one of energy")
    engine = str(tmp_path / "e.engine")
    compiled = ["compile", str(tmp_path / "prior"), "-o", engine, "--adapter", str(out)]
    assert program.run([*compiled, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampler"] == {"name": "adapter", "nfe": 1}


@pytest.mark.slow
def test_two_processes_share_a_batch(source, tmp_path):
    le.save_prior(tiny_prior(1), tmp_path / "prior")
    run = ["-m", "latino_engine", "distill", str(tmp_path / "prior"), str(source)]
    run += ["--operator", "sr:factor=2", "--operator", "inpaint:random=0.3..0.7"]
    run += ["--noise-std", "0.05..0.1", "--size", "16", "--batch", "4", "--steps", "2"]
    run += ["--unfold", "1", "--training-steps", "4", "--targets", "all-conv", "--rank", "2"]
    run += ["--warmup", "1", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "29641"]
    for objective in ("energy", "paper"):
        for name, start in (("one", []), ("two", launch)):
            out = str(tmp_path / f"{objective}-{name}")
            command = [sys.executable, *start, *run, "-o", out, "--objective", objective]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
        one, two = (losses(tmp_path / f"{objective}-{name}") for name in ("one", "two"))
        assert np.allclose(one, two, rtol=1e-4)
        first, second = (le.load_adapter(tmp_path / f"{objective}-{n}") for n in ("one", "two"))
        for name, weight in first.weights.items():
            assert torch.allclose(weight, second.weights[name], atol=2e-5)
        for kind, tables in first.schedule.steps.items():
            for name, table in tables.items():
                assert np.allclose(table, second.schedule.steps[kind][name], rtol=1e-4)


def test_a_batch_that_the_processes_cannot_share(monkeypatch):
    from latino_engine.distill import processes

    class Three:
        device, num_processes, process_index = torch.device("cpu"), 3, 0

    monkeypatch.setattr(processes, "_accelerator", lambda device: Three())
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InvalidArgument, match="batch: expected a multiple of the 3 processes"):
        processes.Processes(None, 4)
    assert processes.Processes(None, 6).share().tolist() == [0, 1]
