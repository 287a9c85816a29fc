"""Training a prior at speed: network of convolutions, bfloat16, rate, start and validation."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from blobs import blob_images
from blobs import prior_training as options
from torch.utils.flop_counter import FlopCounterMode

import latino_engine as le
from latino_engine.cli import program
from latino_engine.distill.batches import draw_batch
from latino_engine.distill.prior_step import Step, denoising_loss, faster
from latino_engine.distill.prior_training import _Run, train_prior
from latino_engine.errors import InvalidArgument
from latino_engine.image_io.datasets import open_images
from latino_engine.priors.networks.resunet import ResUNet
from latino_engine.priors.preconditioning import EDMDenoiser

RESUNET = {"network": "resunet", "widths": (8, 16), "down_blocks": (1, 1), "up_blocks": (1, 2)}


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "blobs.npy", blob_images())
    return tmp_path / "blobs.npy"


def resunet():
    torch.manual_seed(0)
    network = ResUNet(3, (8, 16), (1, 2), (1, 0))
    for parameter in network.parameters():  # some start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def flops(network, side):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side), torch.zeros(1))
    return counter.get_total_flops()


def test_work_of_the_network_of_convolutions_grows_with_the_pixels():
    network = resunet()
    a, b, c = (flops(network, side) for side in (32, 64, 128))
    assert c - b == 4 * (b - a)  # what is left is the embedding, once


def test_far_pixels_do_not_reach_a_pixel_of_the_network_of_convolutions():
    network = resunet()
    x = torch.randn(1, 3, 96, 96)
    there = x.clone()
    there[..., -8:] += 1.0
    with torch.no_grad():
        change = (network(there, torch.zeros(1)) - network(x, torch.zeros(1))).abs()
    assert float(change[..., -8:].max()) > 0.0 and float(change[..., :8].max()) == 0.0


def test_the_noise_level_reaches_every_pixel():
    network = resunet()
    x = torch.randn(2, 3, 16, 16)[:1].expand(2, -1, -1, -1)
    with torch.no_grad():
        out = network(x, torch.tensor([-1.0, 0.5]))
    assert float((out[0] - out[1]).abs().min()) > 0.0


def test_a_trained_network_of_convolutions_is_a_prior_that_compiles(source, tmp_path):
    prior = train_prior(options(source, steps=3, **RESUNET), tmp_path / "run")
    assert prior.spec.architecture == {
        "name": "resunet",
        "widths": [8, 16],
        "down_blocks": [1, 1],
        "up_blocks": [1, 2],
        "embedding": 16,
    }
    again = le.load_prior(tmp_path / "run")
    assert again.content_hash() == prior.content_hash()
    engine = le.compile(again, tmp_path / "a.engine", "onnxruntime", image_size=16)
    x, sigma = torch.randn(2, 1, 20, 12), torch.tensor([0.3, 2.0])
    torch.testing.assert_close(
        engine.denoise(x, sigma), prior.denoise(x, sigma), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", [RESUNET, {"network": "unet"}])
def test_gradients_in_bfloat16_are_those_of_float32_within_its_rounding(source, tmp_path, kind):
    run = _Run(options(source, steps=1, **kind), tmp_path / "run", "cpu")
    for parameter in run.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, eps, sigma = run._batch(0)
    found = {}
    for precision in ("fp32", "bf16"):
        run.model.zero_grad()
        Step(run.model, precision, False, x)(x, eps, sigma)
        found[precision] = torch.cat([p.grad.flatten() for p in run.model.parameters()])
    error = float((found["bf16"] - found["fp32"]).norm() / found["fp32"].norm())
    assert 0.0 < error < 0.05


def test_the_compiled_step_has_the_gradients_of_the_plain_one(source, tmp_path):
    run = _Run(options(source, steps=1, **RESUNET), tmp_path / "run", "cpu")
    for parameter in run.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, eps, sigma = run._batch(0)
    found = []
    for compiled in (False, True):
        run.model.zero_grad()
        loss = Step(run.model, "fp32", compiled, x)(x, eps, sigma)
        found.append((loss, torch.cat([p.grad.flatten() for p in run.model.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    assert float((found[0][1] - found[1][1]).norm() / found[0][1].norm()) < 1e-4


def test_the_loss_is_the_weighted_error_of_the_denoiser():
    model = EDMDenoiser(resunet(), 0.5)
    x, eps, sigma = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([0.1, 3.0])
    with torch.no_grad():
        found = float(denoising_loss(model, x, eps, sigma))
        errors = [
            (model(x[i : i + 1] + s * eps[i : i + 1], sigma[i : i + 1]) - x[i : i + 1])
            .square()
            .mean()
            for i, s in enumerate((0.1, 3.0))
        ]
    weights = [(s**2 + 0.25) / (0.5 * s) ** 2 for s in (0.1, 3.0)]
    expected = np.mean([w * float(e) for w, e in zip(weights, errors, strict=True)])
    assert math.isclose(found, expected, rel_tol=1e-5)


def test_auto_takes_what_took_less_time(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 12.0, 13.0, 15.0, 20.0, 29.0, 30.0, 31.0, 32.0, 33.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert faster(EDMDenoiser(resunet(), 0.5), torch.randn(1, 3, 8, 8)) == "bf16"


def test_quarter_turns_are_those_of_the_very_squares(source):
    images = open_images(source, 16)
    plain = draw_batch(images, 64, 16, False, 3, 0)
    turned = draw_batch(images, 64, 16, False, 3, 0, turn=True)
    turns = [k for k in range(4) if torch.equal(torch.rot90(plain[0], k, (1, 2)), turned[0])]
    assert len(turns) == 1
    corners = {float(t[0, 0, 0]) for t in turned}
    assert corners != {float(t[0, 0, 0]) for t in plain}


@pytest.mark.parametrize(
    "step, expected", [(0, 0.25), (3, 1.0), (60, 1.0), (79, 1.0), (90, 0.5), (100, 0.0)]
)
def test_the_rate_rises_stays_and_falls_along_a_cosine(source, tmp_path, step, expected):
    chosen = options(source, steps=100, warmup=4, cooldown=0.2, learning_rate=2.0)
    run = _Run(chosen, tmp_path / "run", "cpu")
    run.state.step = step
    assert math.isclose(run._rate(), 2.0 * expected, abs_tol=1e-9)


def test_a_run_begins_with_the_weights_of_another_prior(source, tmp_path):
    first = train_prior(options(source, steps=2, **RESUNET), tmp_path / "first")
    chosen = options(source, steps=2, seed=5, start=str(tmp_path / "first"), **RESUNET)
    run = _Run(chosen, tmp_path / "second", "cpu")
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.model.parameters(), first.denoiser.parameters(), strict=True)
    )
    other = options(source, steps=2, start=str(tmp_path / "first"), **RESUNET | {"widths": (8, 24)})
    with pytest.raises(InvalidArgument, match="start: expected a prior of the network"):
        train_prior(other, tmp_path / "third")


def test_validation_is_the_psnr_of_one_call_over_the_squares_seen(source, tmp_path):
    held_out = tmp_path / "held_out.npy"
    np.save(held_out, blob_images(3))
    chosen = options(source, steps=2, validation=str(held_out), **RESUNET)
    prior = train_prior(chosen, tmp_path / "run")
    with (tmp_path / "run" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["squares"]) for row in rows] == [2 * chosen.batch]
    images = (
        torch.from_numpy(np.load(held_out)).float().reshape(3, 1, 1, *np.load(held_out).shape[-2:])
    )
    decibels = []
    for number, pixels in enumerate(images):
        x = pixels / 127.5 - 1.0
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(number))
        out = prior.denoise(x + 25 / 127.5 * noise, 25 / 127.5).clamp(-1, 1)
        error = ((out - x) * 127.5).square().mean()  # in grey levels of 255
        decibels.append(10 * math.log10(255**2 / float(error)))
    assert math.isclose(float(rows[0]["psnr_25"]), np.mean(decibels), abs_tol=2e-3)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"network": "vit"}, "network: expected one of unet, resunet, got 'vit'"),
        ({"precision": "fp8"}, "precision: expected one of auto, fp32, bf16, got 'fp8'"),
        ({"cooldown": 0.0}, "cooldown: expected a number above 0, at most 1, got 0.0"),
        ({"network": "resunet", "down_blocks": (1,)}, "down_blocks: expected 2 numbers"),
    ],
)
def test_refusals(source, tmp_path, change, sentence):
    chosen = options(source, **{"widths": (8, 16)} | change)
    with pytest.raises(InvalidArgument, match=sentence):
        train_prior(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_the_blocks(source, tmp_path, capsys):
    command = f"train-prior {source} -o {tmp_path / 'run'} --size 16 --steps 1 --batch 2 --turn"
    more = (
        " --network resunet --widths 8,16 --down-blocks 1,0 --up-blocks 0,1 --cooldown 0.5 --json"
    )
    assert program.run((command + more).split()) == 0
    assert '"down_blocks": [\n    1,\n    0\n   ]' in capsys.readouterr().out
