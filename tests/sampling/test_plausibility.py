"""What is said where measurement, noise level and model can hardly belong together."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, distance_transform_cdt
from tiny import tiny_prior
from tiny_adapters import make_adapter

import latino_engine as le
from latino_engine.sampling.plausibility import check_drawn, check_inputs
from latino_engine.sampling.problem import make_problem
from latino_engine.schedule import Schedule

SIDE = 48
SPEC, GREY = tiny_prior().spec, tiny_prior(1).spec
RANDOM = np.random.default_rng(7)
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / SIDE
#: Bright at the bottom, dark at the top: what wraps around meets an edge.
IMAGE = np.stack([0.2 + 0.6 * ROWS, 0.5 + 0.3 * np.sin(9 * COLUMNS), 0.8 * ROWS * COLUMNS + 0.1])
X = torch.from_numpy(IMAGE)[None].float()
NOISE = torch.from_numpy(RANDOM.normal(size=(1, 3, SIDE, SIDE))).float()
KERNEL = le.Blur.gaussian(1.6, 0.02).kernel[0, 0]
MASK = torch.from_numpy((RANDOM.uniform(size=(SIDE, SIDE)) < 0.5).astype(np.float32))


def problem(y, op):
    return make_problem(y, op, GREY if op.kind == "MRI" else SPEC, None, "cpu")


def said(y, op):
    return " ".join(check_inputs(problem(y, op), None)[0])


def holes(y, op, radius=5):
    return check_inputs(problem(y, op), radius)[1]


def after(y, op, x, final_gamma=None):
    """The sentences where `x` was drawn twice."""
    found = problem(y, op)
    samples = torch.stack([x, x])
    chi2 = torch.stack([found.residual_chi2(x, torch.tensor([0]))] * 2)
    drawn = {"kept": samples, "running": None, "residual_chi2": chi2}
    return " ".join(check_drawn(found, drawn, Schedule((), final_gamma)))


NOISY = X + 0.02 * NOISE


MRI = le.MRI(MASK, 0.02, real_image=True)
SOUND = {
    "photograph": (le.Denoising(0.02), NOISY),
    "much noise": (le.Denoising(0.6), X + 0.6 * NOISE),
    "black": (le.Denoising(0.1), 0.1 * NOISE),
    "one grey": (le.Denoising(0.02), torch.full_like(X, 0.5)),
    "mask": (le.Inpainting(MASK, 0.02), MASK * NOISY),
    "small": (le.SuperResolution(2, 0.02), le.SuperResolution(2, 0.02).measure(X)),
    "sinogram": (le.Tomography(12, SIDE, 0.02), le.Tomography(12, SIDE, 0.02).measure(X)),
    "k-space": (MRI, MRI.measure(X[:, :1])),
    "hadamard": (
        le.CompressedSensing(0.5, SIDE, 0.02),
        le.CompressedSensing(0.5, SIDE, 0.02).measure(X),
    ),
    "photons": (le.PoissonNoise(le.Denoising(0.0), 50), X),
    "jpeg": (le.JPEG(30), le.JPEG(30).measure(X)),
    "differences": (
        le.LinearOperator(lambda x: x - x.roll(1, -1), lambda y: y - y.roll(-1, -1), 0.02),
        X - X.roll(1, -1) + 0.02 * NOISE,
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of_sound_measurements(name):
    op, y = SOUND[name]
    assert said(y, op) == ""


@pytest.mark.parametrize(
    ("op", "y", "sentence"),
    [
        (le.Denoising(0.02), 2 * X - 1, r"y: expected an image in \[0, 1\], got values down to -"),
        (le.JPEG(30), 2 * X - 1, r"y: expected an image in \[0, 1\], got values down to -"),
        (le.Denoising(0.02), 10 * X, r"y: expected .* a constant image of .* explains best"),
        (le.Tomography(12, SIDE, 0.02), None, "a constant image of .* explains best"),
        (le.Blur(18 * KERNEL, 0.02), NOISY, "18 times as bright; divide the kernel by its sum"),
        (le.Blur(KERNEL / 18, 0.02), NOISY, "a constant image of .* explains best"),
    ],
    ids=["-1 to 1", "jpeg -1 to 1", "counts", "pixel units", "sum 18", "sum 1/18"],
)
def test_units_that_are_not_those_of_the_image(op, y, sentence):
    y = SIDE / 2 * op.A(X) if y is None else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.warns(UserWarning, match=sentence):
            warnings.warn(said(y, op), UserWarning, stacklevel=1)


@pytest.mark.parametrize(
    "op",
    [le.Denoising(15.0), le.Inpainting(MASK, 15.0), le.Tomography(12, SIDE, 255.0)],
    ids=["denoise", "mask", "sinogram"],
)
def test_a_noise_level_in_grey_levels_is_refused(op):
    y = op.A(X) + 0.02 * torch.randn(op.A(X).shape)
    with pytest.raises(ValueError, match=r"^noise_std: expected .* grey levels of 0..255"):
        check_inputs(problem(y, op), 5)


@pytest.mark.parametrize("std", [1.6, 3.0])
def test_a_wrong_border_is_seen_and_a_right_one_is_not(std):
    kernel = le.Blur.gaussian(std, 0.02).kernel[0, 0]
    real = np.stack([convolve(c, kernel.numpy(), mode="reflect") for c in IMAGE])
    real = torch.from_numpy(real)[None].float() + 0.02 * NOISE
    wrapped = np.stack([convolve(c, kernel.numpy(), mode="wrap") for c in IMAGE])
    wrapped = torch.from_numpy(wrapped)[None].float() + 0.02 * NOISE
    wraps, reflects = le.Blur(kernel, 0.02), le.BorderedBlur(kernel, 0.02)
    assert "BorderedBlur" in after(real, wraps, X)
    chain = le.Compose([le.Blur(kernel, 0.0), le.Denoising(0.02)])
    assert "BorderedBlur" in after(real, chain, X)
    assert after(wrapped, wraps, X) == after(wrapped, chain, X) == after(real, reflects, X) == ""


def test_chi_square_names_the_causes_of_the_family():
    """Of the truth, whose residual is the noise: 0.02 of what was stated."""
    y = X + 0.02 * NOISE
    assert after(y, le.Denoising(0.02), X) == after(y, le.Denoising(0.06), X) == ""
    sentence = after(y, le.Denoising(0.005), X)
    assert "the likeliest causes: noise_std is too small" in sentence
    stated = float(sentence.partition("got ")[2].partition(";")[0])
    assert stated == pytest.approx(16.0 * float(NOISE.square().mean()), rel=0.01)
    assert "grey levels" in after(y, le.Denoising(0.4), X)
    assert after(y, le.Denoising(0.4), X, final_gamma=100.0) == ""  # the last prox fitted y
    for op, x in ((MRI, X[:, :1]), (le.Tomography(12, SIDE, 0.02), X)):
        word = "k-space" if op.kind == "MRI" else "convention"
        assert word in after(op.A(x.flip(-2)), op, x)


def hole(height, width, at=(0, 0)):
    mask = torch.ones(SIDE, SIDE)
    mask[at[0] : at[0] + height, at[1] : at[1] + width] = 0.0
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        hole(20, 30, (10, 10)),
        hole(20, 20),  # in a corner, with nothing behind
        hole(SIDE, 12, (0, 20)),
        hole(10, 30, (10, 10)),
        MASK,
        torch.ones(SIDE, SIDE),
    ],
)
def test_wide_holes_are_named_with_their_depth(mask):
    """The distance to the nearest seen pixel is scipy's chessboard transform."""
    found = holes(mask * NOISY, le.Inpainting(mask, 0.02), 5)
    farthest = distance_transform_cdt(mask.numpy() == 0, metric="chessboard").max()
    assert (farthest > 5) == bool(found)
    if found:
        assert f"got {farthest};" in found[0]
    assert holes(mask * NOISY, le.Inpainting(mask, 0.02), None) == []


def test_holes_behind_a_blur_and_under_a_mosaic():
    wide = hole(20, 30, (10, 10))
    chain = le.Compose([le.Blur(KERNEL, 0.0), le.Inpainting(wide, 0.02)])
    assert holes(wide * NOISY, chain, 5)
    assert holes(NOISY[:, :1], le.Demosaicing(0.02), 5) == []


def test_the_training_of_an_adapter_says_what_it_fills():
    def radius(*operators):
        training = {"size": 64, "operators": list(operators)}
        return make_adapter(tiny_prior(), training=training).hole_radius

    assert radius("blur:std=1", "inpaint:random=0.3..0.7") is None
    assert radius("inpaint:random=0.5", "inpaint:box") == 16  # half of a box of half the side
    assert radius("inpaint:box=8..24") == 12


def test_a_call_warns_at_the_callers_line_and_keeps_the_sentence(tmp_path):
    engine = le.compile(tiny_prior(), tmp_path / "e.engine", "torch", image_size=16)
    with pytest.warns(UserWarning, match="got values down to") as caught:
        post = engine.sample(2 * X - 1, le.Denoising(0.05), 1, steps=1)
    assert [w.filename for w in caught] == [__file__]
    assert post.about["warnings"] == [str(w.message) for w in caught]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.sample(X, le.Denoising(0.05), 1, steps=1).about["warnings"] == []
