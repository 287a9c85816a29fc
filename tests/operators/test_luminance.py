"""Grey measurements with a prior of colour images: prox against dense solves, files, sampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli.restoration import restore
from latino_engine.operators.serialisation import load_operator, save_operator
from latino_engine.sampling.options import Sampling

ASSETS = Path(le.__file__).parent / "assets"
WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
SIDE, ONE = 8, Sampling(num_samples=1, steps=1)
RANDOM = np.random.default_rng(5)
MASK = (RANDOM.uniform(size=(SIDE, SIDE)) < 0.6).astype(np.float64)
KERNEL = le.Blur.gaussian(1.0, 0.0, size=5).kernel[0, 0]

GREY = {
    "Denoising": le.Denoising(0.05),
    "Blur": le.Blur(KERNEL, 0.05),
    "BorderedBlur": le.BorderedBlur(KERNEL, 0.05, "replicate"),
    "Inpainting": le.Inpainting(MASK, 0.05),
    "SuperResolution": le.SuperResolution(2, 0.05),
    "MRI": le.MRI(MASK, 0.05),
    "Tomography": le.Tomography(6, SIDE, 0.05),
    "Compose": le.Compose([le.Blur(KERNEL, 0.0), le.Inpainting(MASK, 0.05)]),
}


def image(*shape):
    return torch.from_numpy(RANDOM.uniform(size=shape))


def columns(op, channels):
    """A as a matrix, by its images of unit vectors."""
    pixels = torch.eye(channels * SIDE * SIDE, dtype=torch.float64)
    y = op.A(pixels.reshape(-1, channels, SIDE, SIDE))
    y = torch.view_as_real(y) if y.is_complex() else y
    return y.flatten(1).T.numpy()


@pytest.mark.parametrize("name", GREY)
def test_the_prox_is_that_of_the_joined_matrix(name):
    """A L with L = w (x) I by numpy, and the normal equations solved densely."""
    op = le.Luminance(GREY[name])
    one = columns(op.operator, 1)
    both = one @ np.kron(WEIGHTS, np.eye(SIDE * SIDE))
    np.testing.assert_allclose(columns(op, 3), both, atol=1e-6)
    x, v = image(1, 3, SIDE, SIDE), image(1, 3, SIDE, SIDE)
    y = op.measure(x, seed=3)
    flat = (torch.view_as_real(y) if y.is_complex() else y).reshape(-1).numpy()
    for gamma in (0.3, 20.0):
        right = v.reshape(-1).numpy() + gamma * both.T @ flat
        expected = np.linalg.solve(np.eye(len(right)) + gamma * both.T @ both, right)
        found = op.prox(v, y, gamma).reshape(-1).numpy()
        np.testing.assert_allclose(found, expected, atol=3e-5)
    assert float(op.num_observed(y)) == float(op.operator.num_observed(y))  # noise counted once


def test_the_luminance_is_pillows():
    pixels = np.array(Image.open(ASSETS / "chelsea.png").convert("RGB"))[:64, :64]
    grey = np.array(Image.fromarray(pixels).convert("L"))
    x = torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None]
    found = le.Luminance(le.Denoising(0.0)).A(x)[0, 0].numpy() * 255
    assert np.abs(found - grey).max() <= 0.51  # Pillow rounds
    mean = le.Luminance(le.Denoising(0.0), weights=[1, 1, 1]).A(x)
    torch.testing.assert_close(mean, x.mean(dim=1, keepdim=True))


def test_jpeg_of_a_grey_file_stays_in_its_cells():
    x = image(1, 3, 16, 16)
    op = le.Luminance(le.JPEG(30))
    y = op.measure(x)
    assert y.shape == (1, 1, 16, 16)
    z = op.for_measurement(y).prox(image(1, 3, 16, 16), y, 4.0)
    assert torch.allclose(op.A(z), y, atol=1e-5)  # rounded to the same levels


def test_one_operator_for_each_image_and_files(tmp_path):
    op = le.Luminance(le.Blur(KERNEL, torch.tensor([0.01, 0.1], dtype=torch.float64)))
    y = op.measure(image(2, 3, SIDE, SIDE).expand(2, -1, -1, -1), seed=1)
    one = op.take(torch.tensor([1]))
    assert one.noise_std == 0.1 and one.batch_size is None
    torch.testing.assert_close(one.A_adjoint(y[1:]), op.A_adjoint(y)[1:])
    save_operator(op, tmp_path / "op.npz")
    assert repr(load_operator(tmp_path / "op.npz")) == repr(op)
    with pytest.raises(ValueError, match=r"^y: expected \(B, 1, H, W\), got"):
        op.initial_estimate(image(2, 3, SIDE, SIDE))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "tiny.engine"
    return le.compile(tiny_prior(), path, backend="torch", image_size=16)


@pytest.mark.parametrize("keep", [True, False])
def test_grey_images_are_returned(engine, keep):
    op = le.Luminance(le.Denoising(0.1))
    y = op.measure(image(2, 1, 16, 16).float(), seed=2)
    post = engine.sample(y, op, 3, steps=2, keep_samples=keep)
    assert post.mean.shape == post.std.shape == (2, 1, 16, 16)
    if keep:
        assert post.samples.shape == (3, 2, 1, 16, 16)
        again = engine.sample(y, op, 3, steps=2, init="measurement")
        torch.testing.assert_close(again.samples, post.samples)  # the start of denoising is y
        assert torch.equal(post.repeat(engine).samples, post.samples)
    with pytest.raises(ValueError, match=r"wrap the operator: Luminance\(op\)"):
        engine.sample(y, le.Denoising(0.1), 1)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("blur:std=1", "Luminance(BorderedBlur"),
        ("sr:factor=2", "Luminance(SuperResolution"),
        ("jpeg", "Luminance(JPEG"),
        ("blur:std=1 then inpaint:random=0.3", "Luminance(Compose"),
        ("colorize", "Colorization("),
        ("demosaic", "Demosaicing("),
    ],
)
def test_a_grey_file_is_taken_as_it_is(engine, tmp_path, operator, expected):
    grey = Image.open(ASSETS / "chelsea.png").convert("L").crop((96, 80, 128, 112))
    file = tmp_path / ("grey.jpg" if operator == "jpeg" else "grey.png")
    grey.save(file, quality=40) if operator == "jpeg" else grey.save(file)
    report = restore(engine, file, operator, tmp_path / "out", ONE)
    assert report["operator"].startswith(expected)
    channels = 1 if expected.startswith("Luminance") else 3
    assert np.load(tmp_path / "out" / "mean.npy").shape[1] == channels
    assert Image.open(tmp_path / "out" / "mean.png").mode == ("L" if channels == 1 else "RGB")


def test_a_grey_file_can_be_simulated(engine, tmp_path):
    file = tmp_path / "grey.png"
    Image.open(ASSETS / "chelsea.png").convert("L").crop((96, 80, 128, 112)).save(file)
    report = restore(engine, file, "blur:std=1", tmp_path / "out", ONE, simulate=True)
    assert set(report["quality"]) == {"measured", "start", "one sample", "mean"}
