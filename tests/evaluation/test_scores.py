"""The scores against what is known of them, and `evaluate` from file to report."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from blobs import blob_images, distillation
from PIL import Image
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.distill.distillation import distill
from latino_engine.errors import InvalidArgument
from latino_engine.evaluation import scores
from latino_engine.evaluation.evaluator import Evaluation, evaluate


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_crps_of_a_gaussian_has_its_closed_form():
    """CRPS(N(m, s^2), x) = s (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)), z = (x - m) / s."""
    mean, std, x = 0.3, 0.2, 0.55
    z = (x - mean) / std
    phi = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    expected = std * (z * math.erf(z / math.sqrt(2)) + 2 * phi - 1 / math.sqrt(math.pi))
    samples = mean + std * normals(400, 1, 1, 40, 40)
    found = scores.crps(samples, torch.full((1, 1, 40, 40), x, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=0.01)


def test_crps_and_energy_do_not_depend_on_the_number_of_samples():
    truth = normals(400, 1, 4, 4, seed=1)
    for score in (scores.crps, scores.energy_score):
        few, many = (score(normals(n, 400, 1, 4, 4, seed=2), truth).mean() for n in (2, 40))
        assert float(few) == pytest.approx(float(many), rel=0.06)


def test_energy_score_by_hand():
    samples = torch.tensor([0.0, 3.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2).double()
    truth = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    # distances to the truth 2 and 4, between the samples 6
    assert float(scores.energy_score(samples, truth)) == pytest.approx((2 + 4) / 2 - 6 / 2)


@pytest.mark.parametrize("score", [scores.crps, scores.energy_score])
def test_they_are_proper(score):
    """The true distribution beats a shifted, a narrow and a wide one."""
    truth = normals(300, 1, 5, 5, seed=3)
    samples = normals(16, 300, 1, 5, 5, seed=4)
    best = float(score(samples, truth).mean())
    for other in (samples + 0.3, 0.6 * samples, 1.6 * samples):
        assert float(score(other, truth).mean()) > 1.01 * best


@pytest.mark.parametrize("count", [4, 9, 39])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_coverage_is_the_level_for_exchangeable_samples(count, level):
    found = scores.coverage(normals(count, 40, 1, 20, 20), normals(40, 1, 20, 20, seed=1), level)
    if level > (count - 1) / (count + 1) + 1e-9:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(level, abs=0.015)


def test_coverage_sees_overconfidence():
    truth = normals(40, 1, 20, 20, seed=1)
    assert scores.coverage(0.5 * normals(19, 40, 1, 20, 20), truth, 0.8) < 0.6
    assert scores.coverage(2.0 * normals(19, 40, 1, 20, 20), truth, 0.8) > 0.95


def test_coverage_of_the_pixels_in_doubt():
    samples, truth = normals(19, 10, 1, 8, 8), normals(10, 1, 8, 8, seed=1)
    samples[..., 4:], truth[..., 4:] = 0.0, 0.0  # sure and right
    assert scores.coverage(samples, truth, 0.8) == pytest.approx(0.8, abs=0.03)
    assert scores.coverage(samples, truth, 0.8, least_std=0.02) == pytest.approx(0.8, abs=0.05)
    assert math.isnan(scores.coverage(samples, truth, 0.8, least_std=99.0))
    truth[..., 4:] = 1.0  # sure and wrong: the truth has a part in the choice
    assert scores.coverage(samples, truth, 0.8, least_std=0.02) == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize("level", [0.5, 0.8])
@pytest.mark.parametrize("count", [9, 16])
def test_values_that_repeat_cover_the_level(level, count):
    """Pixels of 8 bits, exactly 0 in 7 of 10 places: the central interval would hold 9 of 10."""

    def draw(*shape, seed):
        ink = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3
        levels = (64 + 16 * normals(*shape, seed=seed + 50)).round()
        return torch.where(ink, levels, 0.0)

    samples, truth = draw(count, 200, 1, 20, 20, seed=2), draw(200, 1, 20, 20, seed=3)
    assert scores.coverage(samples, truth, level) == pytest.approx(level, abs=0.005)
    low, high = (truth.quantile(q) for q in (0.5 - 0.5 * level, 0.5 + 0.5 * level))
    assert float(((truth >= low) & (truth <= high)).double().mean()) > level + 0.05


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_exact_samples_of_sparse_images_cover_the_level(level):
    """Ink in 3 % of the pixels, nothing measured: draws of the model are its exact posterior."""

    def draw(*shape, seed):
        paper = 1e-3 * normals(*shape, seed=seed)
        ink = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.03
        return torch.where(ink, 0.5 + 0.2 * normals(*shape, seed=seed + 50), paper)

    samples, truth = draw(19, 400, 1, 20, 20, seed=2), draw(400, 1, 20, 20, seed=3)
    found = scores.coverage(samples, truth, level, least_std=0.02)
    assert found == pytest.approx(level, abs=0.005)
    kept = samples.std(dim=0) >= 0.02  # by the samples alone
    chosen = samples[:, kept].reshape(19, -1, 1, 1, 1), truth[kept].reshape(-1, 1, 1, 1)
    assert scores.coverage(*chosen, level) > level + 0.01


def test_sliced_wasserstein():
    a = normals(200, 1, 6, 6)
    assert scores.sliced_wasserstein(a, a) == 0.0
    assert scores.sliced_wasserstein(a[torch.randperm(200)], a) == pytest.approx(0.0, abs=1e-12)
    assert scores.sliced_wasserstein(a + 0.5, a) == pytest.approx(0.5, rel=0.1)
    near, far = (scores.sliced_wasserstein(s * normals(200, 1, 6, 6, seed=5), a) for s in (1, 2))
    assert far > 2 * near


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: scores.crps(normals(1, 2, 1, 4, 4), normals(2, 1, 4, 4)),
            "samples: expected at least 2 samples, got 1; draw more",
        ),
        (
            lambda: scores.energy_score(normals(3, 2, 1, 4, 4), normals(1, 1, 4, 4)),
            "samples: expected shape (S, *(1, 1, 4, 4)), got (3, 2, 1, 4, 4); "
            "give the posterior of this truth",
        ),
        (
            lambda: scores.coverage(normals(3, 2, 1, 4, 4), normals(2, 1, 4, 4), 80),
            "level: expected a probability in (0, 1), got 80; for example 0.8",
        ),
        (
            lambda: scores.sliced_wasserstein(normals(3, 1, 4, 4), normals(2, 1, 4, 4)),
            "samples: expected shape (2, 1, 4, 4), got (3, 1, 4, 4); match them",
        ),
    ],
)
def test_sentences(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate") / "tiny.engine"
    le.compile(tiny_prior(1), path, image_size=16)
    return path


def test_evaluate_from_file_to_report(engine, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (5, 20, 20), np.uint8)
    np.save(tmp_path / "images.npy", images)
    arguments = ["evaluate", engine, tmp_path / "images.npy", "--operator", "blur:std=1"]
    arguments += ["-o", tmp_path / "out", "--size", 16, "--num-samples", 4, "--steps", 2]
    assert program.run([*map(str, arguments), "--limit", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "evaluation.json",
        "evaluation.md",
        "calibration.png",
    }
    assert report == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["num_images"] == 4 and report["nfe"] == 2
    assert report["coverage"]["0.95"] is None and 0 <= report["coverage"]["0.5"] <= 1
    assert Image.open(tmp_path / "out" / "calibration.png").size[0] > 500
    assert program.run([*map(str, arguments), "--limit", "4"]) == 0  # replaces its own folder
    assert "energy score" in capsys.readouterr().out
    table = (tmp_path / "out" / "evaluation.md").read_text().splitlines()
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    names, _, values = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    row = dict(zip(names, values, strict=True))
    half, _, nearly = row["coverage 50, 80, 95 %"].split(", ")
    assert half == f"{100 * report['coverage']['0.5']:.0f}" and nearly == "-"
    assert row["SSIM sample"] == f"{report['ssim_sample']:.3f}" and row["LPIPS"] == "-"


def test_every_image_has_its_own_noise_and_its_own_draws(engine, tmp_path):
    """The first images score the same whatever comes after them, and equal images differ."""
    images = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 16, 16), np.uint8), 3, axis=0)
    np.save(tmp_path / "same.npy", images)
    fixed = {"operator": "denoise", "size": 16, "num_samples": 2, "steps": 1}
    options = [Evaluation(str(tmp_path / "same.npy"), limit=n, **fixed) for n in (1, 3)]
    one, three = (evaluate(le.load(engine), o, tmp_path / str(o.limit)) for o in options)
    assert one["psnr_sample"] != pytest.approx(three["psnr_sample"], abs=1e-9)


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--num-samples", "1"], "error: num_samples: expected at least 2, got 1; scores compare"),
        (["--size", "0"], "error: size: expected at least 1, got 0; say which square is scored"),
        (["--pad", "-1"], "error: pad: expected 0 or more, got -1; choose how many black pixels"),
        (["--limit", "0"], "error: limit: expected at least 1, got 0; say how many images"),
        (["--size", "32"], "got 16 x 16; choose a smaller --size, or add pixels by --pad"),
        (["--operator", "sr:factor=3"], "; choose another operator or another --size"),
        (["--operator", "sr:factor=3"], "error: operator sr:factor=3, x: expected sides"),
        (["--seed", 2**64 - 1], "error: seed: expected at most 2^64 - 2, as each image has a seed"),
        (
            ["--operator", "demosaic"],
            "error: operator demosaic, x: expected 3 channels, got 1; a Bayer pattern samples red",
        ),
        (["--seed", "-1"], "error: seed: expected 0 <= seed < 2^64, got -1"),
    ],
)
def test_mistakes(engine, tmp_path, capsys, more, sentence):
    np.save(tmp_path / "images.npy", np.zeros((2, 16, 16), np.uint8))
    arguments = ["evaluate", engine, tmp_path / "images.npy", "--operator", "denoise"]
    arguments += ["-o", tmp_path / "out", "--size", 16, *more]
    assert program.run([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_of_other_channels(engine, tmp_path):
    """Those of a colour camera with an engine of grey images, not an error of the measurement."""
    np.save(tmp_path / "colour.npy", np.zeros((2, 3, 16, 16), np.uint8))
    colour = Evaluation(str(tmp_path / "colour.npy"), "denoise", size=16)
    expected = "source: expected images of 1 channels, as the prior of the engine has, got 3; use"
    with pytest.raises(InvalidArgument, match=f"^{expected}"):
        evaluate(le.load(engine), colour, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_restoration_network_starts_the_chain(tmp_path):
    """An adapter trained with one is scored with the one that is given, not with another start."""
    np.save(tmp_path / "images.npy", blob_images())
    blur, calls = "blur:std=1,size=5", []

    class Start(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.9))

        def forward(self, y, op):
            calls.append(tuple(y.shape))
            return self.gain * op.initial_estimate(y)

    options = distillation(
        tmp_path / "images.npy", operators=(blur,), init="network", training_steps=1
    )
    prior, start = tiny_prior(1), Start()
    adapter = distill(prior, options, tmp_path / "run", init_network=start)
    compiled = le.compile(prior, tmp_path / "e.engine", "torch", adapter=adapter, image_size=16)
    few = Evaluation(options.source, blur, size=16, limit=3, num_samples=2)
    calls.clear()
    found = evaluate(compiled, few, tmp_path / "scores", restoration=start.requires_grad_(False))
    assert calls == [(3, 1, 16, 16)]
    same = evaluate(
        compiled, few, tmp_path / "again", restoration=lambda y, op: 0.9 * op.initial_estimate(y)
    )
    assert found["crps"] == pytest.approx(same["crps"], rel=0.05)
    with pytest.raises(ValueError, match="init: expected"):
        evaluate(compiled, few, tmp_path / "without")
    assert not (tmp_path / "without").exists()
