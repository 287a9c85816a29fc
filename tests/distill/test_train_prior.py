"""Training a prior: it learns, it is resumed to the bit, and what it refuses."""

from __future__ import annotations

import gzip
import json
import math
import re
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import blob_images
from blobs import prior_training as options
from PIL import Image

import latino_engine as le
from latino_engine.cli import program
from latino_engine.distill import prior_training
from latino_engine.distill.batches import draw_batch
from latino_engine.distill.prior_training import sample_grid, train_prior
from latino_engine.errors import (
    ImageUnreadable,
    InvalidArgument,
    OutputNotWritable,
    TrainingStopped,
)
from latino_engine.image_io.datasets import open_images

SMALL = {"widths": (8, 16), "blocks_per_level": 1, "attention_heads": 2, "embedding": 16}
FILES = {"prior.json", "model.safetensors", "training.safetensors", "training.json", "loss.csv"}


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "blobs.npy", blob_images())
    return tmp_path / "blobs.npy"


def test_it_learns_to_denoise(source, tmp_path):
    prior = train_prior(options(source, steps=250, ema=0.97, learning_rate=4e-3), tmp_path / "run")
    x = torch.from_numpy(blob_images(16)).float() / 127.5 - 1.0
    noisy = x + 0.5 * torch.randn_like(x)
    error = float((prior.denoise(noisy, 0.5) - x).square().mean())
    assert error < 0.35 * float((noisy - x).square().mean())
    losses = [
        float(line.split(",")[1]) for line in (tmp_path / "run/loss.csv").read_text().split()[1:]
    ]
    assert len(losses) == 250 and np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])


def test_the_run_is_a_prior_that_compiles(source, tmp_path):
    prior = train_prior(options(source), tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == FILES | {"samples-0000006.png"}
    assert Image.open(tmp_path / "run" / "samples-0000006.png").size == (64, 64)
    again = le.load_prior(tmp_path / "run")
    assert again.content_hash() == prior.content_hash()
    assert again.spec.channels == 1 and again.spec.size_multiple == 4
    engine = le.compile(tmp_path / "run", tmp_path / "a.engine", image_size=16)
    assert engine.sample(torch.rand(1, 1, 16, 16), le.Denoising(0.1), 1, steps=1).nfe == 1


def test_the_same_run_twice_and_resumed_is_the_same_to_the_bit(source, tmp_path):
    whole = train_prior(options(source), tmp_path / "whole")
    assert train_prior(options(source), tmp_path / "again").content_hash() == whole.content_hash()
    assert (
        train_prior(options(source, seed=1), tmp_path / "o").content_hash() != whole.content_hash()
    )

    def stop(step, *_):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_prior(options(source), tmp_path / "cut", report=stop)
    assert json.loads((tmp_path / "cut" / "training.json").read_text())["steps"] == 6
    done = []
    resumed = train_prior(options(source), tmp_path / "cut", report=lambda n, *_: done.append(n))
    assert done == [5, 6]
    assert resumed.content_hash() == whole.content_hash()
    assert (tmp_path / "cut/loss.csv").read_text() == (tmp_path / "whole/loss.csv").read_text()


def test_a_killed_run_goes_on(source, tmp_path):
    """SIGKILL at any moment: the checkpoint is whole, and the run ends as if unhurt."""
    arguments = ["train-prior", source, "-o", tmp_path / "run", "--size", 16, "--batch", 8]
    arguments += ["--widths", "8,16", "--steps", 120, "--checkpoint-minutes", 0.0005]
    command = [sys.executable, "-m", "latino_engine", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "loss.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    le.load_prior(tmp_path / "run")
    before = prior_training.read_facts(tmp_path / "run" / prior_training.CHECKPOINT)["step"]
    assert 0 < before < 120
    subprocess.run(command, check=True, capture_output=True)
    facts = prior_training.read_facts(tmp_path / "run" / prior_training.CHECKPOINT)
    assert facts["step"] == 120 and len(facts["losses"]) == 120


def test_wall_time_ends_a_run(source, tmp_path):
    train_prior(options(source, steps=None, minutes=0.01), tmp_path / "run")
    facts = prior_training.read_facts(tmp_path / "run" / prior_training.CHECKPOINT)
    assert 0.6 <= facts["seconds"] < 10.0


def test_half_precision_storage_loads_as_float32(source, tmp_path):
    train_prior(options(source, half=True), tmp_path / "half")
    train_prior(options(source), tmp_path / "full")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    priors = [le.load_prior(tmp_path / n) for n in ("half", "full")]
    x = torch.randn(1, 1, 16, 16)
    a, b = (p.denoise(x, 0.3) for p in priors)
    assert a.dtype == torch.float32 and 0 < float((a - b).norm() / b.norm()) < 1e-2


def test_a_nan_stops_the_run_and_keeps_the_last_good_average(source, tmp_path, monkeypatch):
    real = prior_training.draw_batch

    def poisoned(*arguments):
        batch = real(*arguments)
        return batch * torch.nan if arguments[5] == 3 else batch

    monkeypatch.setattr(prior_training, "draw_batch", poisoned)
    with pytest.raises(TrainingStopped) as caught:
        train_prior(options(source), tmp_path / "run")
    assert str(caught.value) == (
        "loss: expected a finite number with finite gradients, got nan at step 3; the last good "
        "average is kept: lower the learning rate, or look at the images"
    )
    prior = le.load_prior(tmp_path / "run")
    assert all(torch.isfinite(p).all() for p in prior.denoiser.parameters())
    monkeypatch.setattr(prior_training, "draw_batch", real)
    assert train_prior(options(source), tmp_path / "run").spec.name == "blobs"


def test_a_full_disk_keeps_the_last_checkpoint(source, tmp_path, monkeypatch):
    train_prior(options(source, steps=2), tmp_path / "run")

    def full(*_, **__):
        raise OutputNotWritable("out: cannot write: no space left on device; free some space")

    monkeypatch.setattr(prior_training, "write_checkpoint", full)
    with pytest.raises(OutputNotWritable, match="no space left"):
        train_prior(options(source, steps=4), tmp_path / "run")
    facts = prior_training.read_facts(tmp_path / "run" / prior_training.CHECKPOINT)
    assert facts["step"] == 2
    assert le.load_prior(tmp_path / "run").spec.name == "blobs"


def test_a_folder_of_photographs_any_channel_count(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for n in range(3):
        pixels = random.integers(0, 255, (20 + n, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "deep" / f"{n}.png")
    images = open_images(tmp_path / "photos", crop=16)
    assert len(images) == 3 and images.channels == 3
    batch = draw_batch(images, 5, 16, True, 0, 7)
    assert (
        batch.shape == (5, 3, 16, 16) and -1.0 <= float(batch.min()) < 0 < float(batch.max()) <= 1.0
    )
    assert torch.equal(batch, draw_batch(images, 5, 16, True, 0, 7))
    assert not torch.equal(batch, draw_batch(images, 5, 16, True, 0, 8))
    prior = train_prior(options(tmp_path / "photos", steps=1, flip=True), tmp_path / "run")
    assert prior.channels == 3
    np.save(tmp_path / "two.npy", random.integers(0, 255, (4, 16, 16, 2), np.uint8))
    assert train_prior(options(tmp_path / "two.npy", steps=1), tmp_path / "two").channels == 2


def test_images_at_random_smaller_scales(tmp_path):
    """Stripes of 8 pixels become finer, their mean stays, and a scale never outgrows the image."""
    stripes = np.zeros((1, 64, 48), np.uint8)
    stripes[:, :, np.arange(48) % 16 < 8] = 200
    np.save(tmp_path / "stripes.npy", stripes)
    images = open_images(tmp_path / "stripes.npy", crop=16)

    def edges(batch):
        return (batch[..., 1:] - batch[..., :-1]).abs().gt(0.4).sum(dim=(1, 2, 3)).float().mean()

    plain = draw_batch(images, 40, 16, False, 0, 3)
    assert torch.equal(plain, draw_batch(images, 40, 16, False, 0, 3, 1.0))
    scaled = draw_batch(images, 40, 16, False, 0, 3, 0.25)
    assert scaled.shape == plain.shape and float(scaled.abs().max()) <= 1.0
    assert torch.equal(scaled, draw_batch(images, 40, 16, False, 0, 3, 0.25))
    assert edges(scaled) > 1.4 * edges(plain)
    assert float(scaled.mean()) == pytest.approx(float(plain.mean()), abs=0.1)
    whole = draw_batch(open_images(tmp_path / "stripes.npy", 48), 2, 48, False, 0, 0, 0.5)
    assert whole.shape == (2, 1, 48, 48) and len(whole.unique()) == 2  # nothing to spare


def test_idx_files_gzipped_or_not_padded(tmp_path):
    images = blob_images(5, 12)
    data = struct.pack(">HBBIII", 0, 8, 3, 5, 12, 12) + images.tobytes()
    (tmp_path / "images-idx3-ubyte").write_bytes(data)
    (tmp_path / "images.gz").write_bytes(gzip.compress(data))
    for name in ("images-idx3-ubyte", "images.gz"):
        found = open_images(tmp_path / name, crop=16, pad=2)
        assert len(found) == 5
        assert np.array_equal(found.image(3)[0, 2:-2, 2:-2], images[3, 0])
        assert found.image(3)[:, :2].max() == 0


def test_the_grid_is_the_same_for_a_seed(source, tmp_path):
    prior = train_prior(options(source, steps=1), tmp_path / "run")
    grid = sample_grid(prior, 16, seed=1)
    assert grid.shape == (1, 64, 64)
    assert torch.equal(grid, sample_grid(prior, 16, seed=1))
    assert not torch.equal(grid, sample_grid(prior, 16, seed=2))


def refused(error, call):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_images_that_cannot_be_used(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(ImageUnreadable, lambda: open_images(empty, 8)).startswith(
        f"{empty}: expected a folder with images ("
    )
    missing = tmp_path / "none"
    assert refused(ImageUnreadable, lambda: open_images(missing, 8)) == (
        f"{missing}: expected a folder, an idx file or an npy file, got no such file; check the "
        "path"
    )
    np.save(tmp_path / "small.npy", blob_images(2, 12))
    assert refused(ImageUnreadable, lambda: open_images(tmp_path / "small.npy", 16)).endswith(
        "got 12 x 12; choose a smaller --size, or add pixels by --pad"
    )
    labels = tmp_path / "labels"
    labels.write_bytes(struct.pack(">HBBI", 0, 8, 1, 3) + b"abc")
    assert refused(ImageUnreadable, lambda: open_images(labels, 8)).endswith(
        "got type 0x8 with 1 axes; name the file of images, not of labels"
    )
    short = tmp_path / "short"
    short.write_bytes(struct.pack(">HBBIII", 0, 8, 3, 2, 9, 9) + b"abc")
    assert "expected a whole file, got 3 of 162 bytes" in refused(
        ImageUnreadable, lambda: open_images(short, 8)
    )
    np.save(tmp_path / "range.npy", 255.0 * np.ones((2, 16, 16)))
    assert "expected floats in [0, 1]" in refused(
        ImageUnreadable, lambda: open_images(tmp_path / "range.npy", 8)
    )


def test_all_photographs_that_cannot_be_used_are_named_in_one_message(tmp_path):
    colour = np.zeros((20, 20, 3), np.uint8)
    for name in ("a", "b"):
        Image.fromarray(colour).save(tmp_path / f"{name}.png")
    assert len(open_images(tmp_path, 16)) == 2
    (tmp_path / "._a.png").write_bytes(b"Mac OS X resource fork")  # passed over
    assert len(open_images(tmp_path, 16)) == 2

    Image.fromarray(colour[..., 0]).save(tmp_path / "grey.png")
    assert refused(ImageUnreadable, lambda: open_images(tmp_path, crop=16)) == (
        f"{tmp_path}: expected images of 3 channels, as most of them have, with sides of at least "
        "16, the crop, got 1 file that cannot be used: grey.png (1 channel); take them out, "
        "convert them or choose a smaller --size"
    )

    (tmp_path / "more").mkdir()
    Image.fromarray(colour[:12]).save(tmp_path / "more" / "small.png")
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.jpg")
    frames = [Image.fromarray(colour), Image.fromarray(255 - colour)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    message = refused(ImageUnreadable, lambda: open_images(tmp_path, crop=16))
    assert "got 5 files that cannot be used: " in message
    for part in ("grey.png (1 channel)", "more/small.png (12 x 20 pixels)", "broken.jpg"):
        assert part in message
    assert "cmyk.jpg" in message and "moving.png" in message


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"steps": None}, "minutes, steps: expected exactly one of the two, got neither"),
        ({"minutes": 1.0}, "minutes, steps: expected exactly one of the two, got both"),
        ({"steps": 0}, "minutes, steps: expected a length above 0, got 0"),
        ({"batch": 0}, "batch: expected a number above 0, got 0"),
        ({"size": 18}, "size: expected a multiple of 4, got 18; choose another crop"),
        ({"widths": (6, 16)}, "widths: expected multiples of groups = 4, got (6, 16)"),
        (
            {"steps": None, "minutes": math.inf},
            "minutes, steps: expected a length above 0, got inf",
        ),
        ({"sampler_sigma_max": -1.0}, "sampler_sigma_max: expected a number above 0, got -1.0"),
        ({"sampler_sigma_max": math.nan}, "sampler_sigma_max: expected a number above 0, got nan"),
        ({"log_sigma_mean": math.nan}, "log_sigma_mean: expected a finite number, got nan"),
        ({"learning_rate": math.inf}, "learning_rate: expected a number above 0, got inf"),
        ({"ema": 1.5}, "ema: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_options_that_cannot_be_used(source, tmp_path, change, sentence):
    made = replace(options(source), **change)
    assert refused(InvalidArgument, lambda: train_prior(made, tmp_path / "run")).startswith(
        sentence
    )
    assert not (tmp_path / "run").exists()


def test_another_run_or_someone_elses_folder(source, tmp_path):
    train_prior(options(source, steps=1), tmp_path / "run")
    assert refused(
        InvalidArgument, lambda: train_prior(options(source, batch=4), tmp_path / "run")
    ) == (
        "out: expected the options of the run in 'run', got another batch; use the same options, "
        "or "
        "another folder"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"years of work")
    text = refused(OutputNotWritable, lambda: train_prior(options(source), tmp_path / "mine"))
    assert text.startswith("out: expected a new folder, an empty one or that of a run")
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == b"years of work"


def test_the_command(source, tmp_path, capsys):
    arguments = ["train-prior", source, "-o", tmp_path / "run", "--size", 16, "--widths", "8,16"]
    assert program.run([*map(str, arguments), "--steps", "2", "--batch", "4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["prior"]["name"] == "run" and facts["prior"]["channels"] == 1
    assert program.run([*map(str, arguments), "--steps", "2", "--widths", "8;16"]) == 2
    assert capsys.readouterr().err.startswith("error: widths: expected channel counts")
    assert program.run([*map(str, arguments), "--steps", "2", "--widths", "²"]) == 2
    assert capsys.readouterr().err.startswith("error: widths: expected channel counts")


@pytest.mark.own_process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_step_waits_for_its_end(source, tmp_path, monkeypatch, number):
    before = signal.getsignal(number)
    whole = train_prior(options(source), tmp_path / "whole")
    step = torch.optim.AdamW.step

    def interrupted(self, *arguments, **more):
        if int(self.state[self.param_groups[0]["params"][0]].get("step", 0)) == 2:
            signal.raise_signal(number)
        return step(self, *arguments, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_prior(options(source), tmp_path / "cut")
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert prior_training.read_facts(tmp_path / "cut" / prior_training.CHECKPOINT)["step"] == 3
    assert train_prior(options(source), tmp_path / "cut").content_hash() == whole.content_hash()
    assert signal.getsignal(number) is before


@pytest.mark.own_process
def test_a_run_that_is_piped_tells_its_steps_and_a_sigterm_leaves_it_whole(
    source, tmp_path, monkeypatch, capsys
):
    command = ["train-prior", source, "-o", tmp_path / "run", "--size", 16, "--batch", 2]
    command += ["--widths", "8,16", "--blocks-per-level", 1, "--no-torch-compile"]
    step = torch.optim.AdamW.step

    def ended(self, *arguments, **more):
        signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", ended)
    status = program.run([*map(str, command), "--minutes", "1"])
    told = capsys.readouterr().err
    assert status == 130 and re.search(r"^training: step 1, \d+ %, loss [\d.]+, \d+ images/s", told)
    assert "the same command goes on from there" in told
    assert prior_training.read_facts(tmp_path / "run" / prior_training.CHECKPOINT)["step"] == 1
    assert le.load_prior(tmp_path / "run").channels == 1


def test_a_first_step_that_fails_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        prior_training, "draw_batch", lambda *_: torch.full((2, 1, 16, 16), torch.nan)
    )
    with pytest.raises(TrainingStopped, match="got nan at step 0; nothing was written: lower the"):
        train_prior(options(source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_headers_of_every_kind(tmp_path):
    pixels = np.zeros((20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg")
    Image.fromarray(pixels).convert("P").save(tmp_path / "c.png")
    Image.fromarray(pixels).save(tmp_path / "d.tif")
    np.save(tmp_path / "e.npy", np.zeros((20, 24, 3), np.float32))
    assert open_images(tmp_path, crop=16).channels == 3
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "f.png")
    assert "f.png: expected an opaque image" in refused(
        ImageUnreadable, lambda: open_images(tmp_path, crop=16)
    )


def test_ctrl_c_writes_a_checkpoint(source, tmp_path, capsys, monkeypatch):
    def interrupt(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return real(self, step)

    real = prior_training._Run._batch
    monkeypatch.setattr(prior_training._Run, "_batch", interrupt)
    arguments = ["train-prior", source, "-o", tmp_path / "run", "--size", 16, "--widths", "8,16"]
    assert program.run([*map(str, arguments), "--steps", "9", "--batch", "4"]) == 130
    err = capsys.readouterr().err
    assert "written to" in err and "goes on from there" in err and "Traceback" not in err
    facts = prior_training.read_facts(tmp_path / "run" / prior_training.CHECKPOINT)
    assert facts["step"] == 3
