"""Noise levels that are estimated from the measurement: against the truth and against numpy."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from tiny import tiny_prior

import latino_engine as le
from latino_engine.operators.parts.noise_estimate import wavelet_noise_std
from latino_engine.operators.serialisation import load_operator, save_operator

ASSETS = Path(le.__file__).parent / "assets"
RANDOM = np.random.default_rng(11)


def photograph(name="chelsea.png", side=192):
    pixels = np.array(Image.open(ASSETS / name).convert("RGB"))[:side, :side]
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None]


def noisy(image, level):
    return image + level * torch.from_numpy(RANDOM.normal(size=tuple(image.shape)))


@pytest.mark.parametrize(("height", "width"), [(40, 40), (33, 50)])
def test_it_is_donohos_median_of_daubechies_wavelets(height, width):
    """By the formula of the filter, scipy's convolution and numpy's median."""
    root = np.sqrt(3.0)
    low = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2.0))
    high = low * np.array([-1, 1, -1, 1])
    y = RANDOM.normal(size=(2, 3, height, width))
    expected = []
    for image in y:
        levels = []
        for plane in image:
            around = np.pad(plane, 4, mode="symmetric")
            bands = convolve2d(around, np.outer(high, high), mode="full")[4:, 4:]
            d = bands[1 : height + 3 : 2, 1 : width + 3 : 2]
            levels.append(np.median(np.abs(d)) / 0.6744897501960817)
        expected.append(np.mean(levels))
    found = wavelet_noise_std(torch.from_numpy(y))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_it_is_that_of_scikit_image():
    pytest.importorskip("pywt")
    restoration = pytest.importorskip("skimage.restoration")
    y = noisy(photograph(), 0.03)
    image = y[0].permute(1, 2, 0).numpy()
    expected = restoration.estimate_sigma(image, average_sigmas=True, channel_axis=-1)
    assert float(wavelet_noise_std(y)) == pytest.approx(expected, rel=1e-9)


BOX = torch.ones(192, 192)
BOX[60:140, 50:120] = 0.0
OPERATORS = {
    "blur": (lambda level: le.Blur.gaussian(1.6, level), 0.05),
    "bordered": (lambda level: le.BorderedBlur(le.Blur.gaussian(1.6, 0.0).kernel, level), 0.05),
    "then mask": (
        lambda level: le.Compose([le.Blur.gaussian(1.6, 0.0), le.Inpainting(BOX, level)]),
        0.05,
    ),
    "box": (lambda level: le.Inpainting(BOX, level), 0.25),
    "denoise": (lambda level: le.Denoising(level), 0.25),
    "grey": (lambda level: le.Colorization(level), 0.25),
    "mosaic": (lambda level: le.Demosaicing(level), 0.5),
    "smaller": (lambda level: le.SuperResolution(2, level), 0.25),
}


@pytest.mark.parametrize("level", [0.03, 0.1])
@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_near_the_truth(name, level):
    """Within 5 % behind a blur; textures raise it elsewhere, never lower it by more."""
    make, more = OPERATORS[name]
    x = photograph()
    clean = make(0.0).A(x)
    y = make(0.0).observed(noisy(clean, level))
    assert repr(make("estimate")).count("noise_std=estimate") == 1
    found = make("estimate").for_measurement(y)
    assert 0.95 * level < found.noise_std < (1.0 + more * 0.03 / level) * level * 1.05
    assert type(found) is type(make(level)) and "estimate" not in repr(found)
    assert torch.equal(found.A(x), clean)


def test_several_images_have_their_own():
    x = photograph().expand(3, -1, -1, -1)
    levels = torch.tensor([0.03, 0.06, 0.12], dtype=torch.float64)
    y = le.Blur.gaussian(2.0, levels).measure(x, seed=3)
    op = le.Blur.gaussian(2.0, "estimate").for_measurement(y)
    assert op.batch_size == 3
    torch.testing.assert_close(op.noise_std, levels, rtol=0.05, atol=0.0)
    one = op.take(torch.tensor([2]))
    assert one.noise_std == pytest.approx(float(op.noise_std[2]))


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (le.MRI(torch.ones(16, 16), "estimate"), (1, 2, 16, 16)),
        (le.Tomography(8, 16, "estimate"), (1, 1, 8, 16)),
        (le.Inpainting(torch.eye(16), "estimate"), (1, 3, 16, 16)),
        (le.LinearOperator(lambda x: x, lambda y: y, "estimate"), (1, 3, 16, 16)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_where_it_cannot_be_estimated_one_sentence_says_so(op, shape):
    with pytest.raises(ValueError, match=r"^noise_std: expected .*; (measure|state) ") as error:
        op.for_measurement(torch.rand(shape))
    assert "\n" not in str(error.value)


def test_what_needs_a_number_says_so():
    guess = le.Denoising("estimate")
    for use in (
        lambda: guess.measure(torch.rand(1, 3, 8, 8)),
        lambda: le.Stack([guess], (3, 8, 8)),
    ):
        with pytest.raises(ValueError, match=r"^noise_std: expected a noise level that is known"):
            use()
    with pytest.raises(
        ValueError, match=r"^noise_std: expected a number or 'estimate', got 'auto'"
    ):
        le.Denoising("auto")


def test_descriptions_and_files_keep_it(tmp_path):
    words = le.operator("sr:factor=2,noise=auto").spec()
    assert words.endswith("noise=auto") and "estimate" in repr(le.operator(words))
    save_operator(le.Blur.gaussian(1.0, "estimate"), tmp_path / "op.npz")
    assert "estimate" in repr(load_operator(tmp_path / "op.npz"))
    assert "estimate" in repr(pickle.loads(pickle.dumps(le.Denoising("estimate"))))


def test_a_call_estimates_and_says_what(tmp_path):
    engine = le.compile(tiny_prior(), tmp_path / "e.engine", "torch", image_size=16)
    y = noisy(photograph(side=48), 0.1).float()
    guess = engine.sample(y, le.Denoising("estimate"), 1, steps=1)
    level = float(wavelet_noise_std(y))
    stated = engine.sample(y, le.Denoising(level), 1, steps=1)
    assert torch.equal(guess.samples, stated.samples)
    assert guess.about["operator"] == f"Denoising(noise_std={level:g})"
