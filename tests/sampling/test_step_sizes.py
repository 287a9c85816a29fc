"""Which step sizes of an adapter an operator gets, and what is said about it."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny import tiny_prior
from tiny_adapters import make_adapter

import latino_engine as le
from latino_engine.operators.parts.families import seen_family
from latino_engine.sampling.step_sizes import (
    learned_families,
    learned_kind,
    outside_of,
    warn_outside,
)

SIDE = 16
IMAGE = torch.zeros(1, 3, SIDE, SIDE)
KERNEL = le.Blur.gaussian(1.0, 0.0, size=5).kernel[0, 0]
MASK = (torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.5).float()
BLUR, SMALLER = le.Blur(KERNEL, 0.0), le.SuperResolution(2, 0.0)


def mine(op):
    """The same operator as a user's own functions."""
    return le.LinearOperator(op.A, op.A_adjoint, 0.05)


SEEN = {
    "deblurring": mine(BLUR),
    "super-resolution": mine(SMALLER),
    "inpainting": le.LinearOperator(lambda x: MASK * x, lambda y: MASK * y, 0.05),
    "denoising": le.LinearOperator(lambda x: 2.0 * x, lambda y: 2.0 * y, 0.05),
    "unknown": mine(le.MRI(MASK, 0.0, real_image=True)),
}


@pytest.mark.parametrize("family", SEEN)
def test_the_family_of_functions_is_seen(family):
    image = IMAGE[:, :1] if family == "unknown" else IMAGE
    assert seen_family(SEEN[family], image) == family


def test_a_bordered_blur_is_seen_and_a_varying_one_is_not():
    assert seen_family(mine(le.BorderedBlur(KERNEL, 0.0, "replicate")), IMAGE) == "deblurring"
    soft = le.Blur.gaussian(2.0, 0.0, size=5).kernel[0, 0]
    varying = le.SpatiallyVaryingBlur(torch.stack([KERNEL, soft])[None], 0.0)
    assert seen_family(mine(varying), IMAGE) == "unknown"


OPERATORS = {
    "Blur": (le.Blur(KERNEL, 0.05), "Blur"),
    "BorderedBlur": (le.BorderedBlur(KERNEL, 0.05), "Blur"),
    "SpatiallyVaryingBlur": (le.SpatiallyVaryingBlur(KERNEL[None, None], 0.05), "Blur"),
    "LinearOperator": (mine(BLUR), "Blur"),
    "Poisson blur": (le.PoissonNoise(BLUR, 50), "Blur"),
    "blur then mask": (le.Compose([BLUR, le.Inpainting(MASK, 0.05)]), "Blur"),
    "Inpainting": (le.Inpainting(MASK, 0.05), "Inpainting"),
    "own mask": (SEEN["inpainting"], "Inpainting"),
    "Demosaicing": (le.Demosaicing(0.05), None),
    "Denoising": (le.Denoising(0.05), None),
    "Colorization": (le.Colorization(0.05), None),
    "SuperResolution": (le.SuperResolution(2, 0.05), None),
    "JPEG": (le.JPEG(30), None),
    "Tomography": (le.Tomography(8, SIDE, 0.05), None),
    "CompressedSensing": (le.CompressedSensing(0.5, SIDE, 0.05), None),
    "PhaseRetrieval": (le.PhaseRetrieval.coded_diffraction(SIDE, 0.05), None),
    "Stack": (le.Stack([le.Blur(KERNEL, 0.05), le.Inpainting(MASK, 0.05)], (3, SIDE, SIDE)), None),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    adapter = make_adapter(tiny_prior(), training={"noise_std": "0.01..0.1"})
    folder = tmp_path_factory.mktemp("e") / "tiny.engine"
    return le.compile(tiny_prior(), folder, "torch", adapter=adapter, image_size=SIDE)


@pytest.mark.parametrize("name", OPERATORS)
def test_auto_takes_the_family_or_zero_shot_latino(engine, name):
    op, kind = OPERATORS[name]
    assert learned_kind(engine.schedule, op, IMAGE) == kind
    y = op.measure(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))
    post = engine.sample(y, op, 1)
    assert post.about["step_sizes"] == kind
    assert post.about["sampler"] == ("latino" if kind is None else "adapter")
    if kind is None:
        assert torch.equal(post.samples, engine.sample(y, op, 1, sampler="latino").samples)


def test_noise_outside_of_the_training_is_said_once(engine):
    assert engine.manifest["adapter"]["noise_std"] == [0.01, 0.1]
    y = torch.full((1, 3, SIDE, SIDE), 0.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="noise_std")
        engine.sample(y, le.Blur(KERNEL, 0.15), 1)
        engine.sample(y, le.Denoising(0.4), 1)
    with pytest.warns(UserWarning, match="noise_std: expected about 0.01 to 0.1, .* got 0.4; the"):
        engine.sample(y, le.Blur(KERNEL, 0.4), 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="noise_std")
        engine.sample(y, le.Blur(KERNEL, 0.4), 1)


def test_the_level_that_is_named_is_the_one_outside():
    with pytest.warns(UserWarning, match="about 0.05 to 0.05, .* got 0.02; the"):
        warn_outside((0.05, 0.05), torch.tensor([0.02, 0.05]))


def test_families_and_levels_by_name():
    assert learned_families(le.load_adapter("photo-small").schedule) == (
        *("deblurring", "inpainting", "super-resolution"),
    )
    assert le.load_adapter("photo-small").noise_levels == (0.01, 0.04)
    assert le.load_adapter("digits-32-2x2").noise_levels == (0.05, 0.05)
    assert outside_of((0.01, 0.04), torch.tensor([0.02, 0.1]))
    assert not outside_of((0.01, 0.04), 0.08)
