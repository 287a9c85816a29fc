"""Every way to call `sample` wrongly, and the sentence that it earns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_prior

import latino_engine as le


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return le.compile(tiny_prior(), tmp_path_factory.mktemp("e") / "tiny.engine", image_size=16)


def y(*shape, dtype=torch.float32):
    return torch.zeros(shape or (1, 3, 16, 16), dtype=dtype)


def nan_image():
    image = y()
    image[0, 0, 0, :3] = torch.nan
    image[0, 1, 0, 0] = torch.inf
    return image


DENOISING = le.Denoising(0.1)

CASES = {
    "rank": (
        lambda: (y(3, 16, 16), DENOISING, {}),
        ValueError,
        "y: expected (B, 3, H, W) float32, got (3, 16, 16); add a batch axis",
    ),
    "rank 5": (
        lambda: (y(1, 1, 3, 16, 16), DENOISING, {}),
        ValueError,
        "y: expected (B, 3, H, W) float32, got (1, 1, 3, 16, 16); reshape it",
    ),
    "grey": (
        lambda: (y(1, 1, 16, 16), DENOISING, {}),
        ValueError,
        "y: expected 3 channels, as the prior 'tiny' has, got 1; "
        "wrap the operator: Luminance(op) measures the grey image of a colour one",
    ),
    "channels": (
        lambda: (y(1, 4, 16, 16), DENOISING, {}),
        ValueError,
        "y: expected 3 channels, as the prior 'tiny' has, got 4; "
        "use a prior with as many channels as the image",
    ),
    "small": (
        lambda: (y(1, 3, 3, 16), DENOISING, {}),
        ValueError,
        "y: expected sides of at least 4, got (3, 16); pad or enlarge the image",
    ),
    "bytes": (
        lambda: (y(dtype=torch.uint8), DENOISING, {}),
        TypeError,
        "y: expected floating-point numbers in the public range, got torch.uint8; "
        "convert it, for example y.float() / 255",
    ),
    "complex": (
        lambda: (y(dtype=torch.complex64), DENOISING, {}),
        TypeError,
        "y: expected real numbers, got torch.complex64; "
        "store real and imaginary parts as two channels (torch.view_as_real)",
    ),
    "list": (
        lambda: ([1.0], DENOISING, {}),
        TypeError,
        "y: expected a torch tensor or a numpy array, got list; convert it by torch.as_tensor",
    ),
    "path": (
        lambda: ("photo.png", DENOISING, {}),
        TypeError,
        "y: expected a torch tensor or a numpy array, got str; "
        "read the file first: latino_engine.image_io.read_image(path)",
    ),
    "pillow": (
        lambda: (Image.new("RGB", (16, 16)), DENOISING, {}),
        TypeError,
        "y: expected a torch tensor or a numpy array, got Image; "
        "convert it: torch.tensor(numpy.array(image)).permute(2, 0, 1)[None] / 255",
    ),
    "pillow, grey": (
        lambda: (Image.new("L", (16, 16)), DENOISING, {}),
        TypeError,
        "y: expected a torch tensor or a numpy array, got Image; "
        "convert it: torch.tensor(numpy.array(image))[None, None] / 255",
    ),
    "channels last": (
        lambda: (y(1, 16, 16, 3), le.Blur.gaussian(1.0, 0.02), {}),
        ValueError,
        "y: expected (B, 3, H, W) float32, got (1, 16, 16, 3); move the channels before height "
        "and width: image.movedim(-1, -3), or numpy.moveaxis(image, -1, -3)",
    ),
    "channels last, no batch": (
        lambda: (y(16, 16, 3).numpy(), DENOISING, {}),
        ValueError,
        "y: expected (B, 3, H, W) float32, got (16, 16, 3); move the channels and add a batch "
        "axis: image.movedim(-1, -3)[None], or numpy.moveaxis(image, -1, -3)[None]",
    ),
    "nan": (
        lambda: (nan_image(), DENOISING, {}),
        ValueError,
        "y: expected finite numbers, got 4 NaN or infinite entries; "
        "clean the measurement, or mark these entries as missing with Inpainting",
    ),
    "255": (
        lambda: (y() + 255.0, DENOISING, {}),
        ValueError,
        "y: expected an image in the prior's range [0, 1], got values up to 255; "
        "rescale it, for example y / 255",
    ),
    "empty": (
        lambda: (y(0, 3, 16, 16), DENOISING, {}),
        ValueError,
        "y: expected at least one measurement, got an empty batch; give one or more",
    ),
    "operator": (
        lambda: (y(), "blur", {}),
        TypeError,
        "op: expected an operator such as Blur or Inpainting, got str; "
        "wrap your own model in LinearOperator(A, A_adjoint, noise_std)",
    ),
    "adjoint": (
        lambda: (y() + 0.5, le.LinearOperator(lambda x: 2.0 * x, lambda y: y, 0.1), {}),
        ValueError,
        "A_adjoint: expected the adjoint of A, so that <x, A_adjoint(A x)> = ||A x||^2, got 0.5 of "
        "it for x = A_adjoint(y); correct it, or the scale of one of the two",
    ),
    "num_samples": (
        lambda: (y(), DENOISING, {"num_samples": 0}),
        ValueError,
        "num_samples: expected at least 1, got 0; ask for one sample or more",
    ),
    "num_samples type": (
        lambda: (y(), DENOISING, {"num_samples": 2.5}),
        TypeError,
        "num_samples: expected an integer, got float; give a whole number",
    ),
    "seed": (
        lambda: (y(), DENOISING, {"seed": -1}),
        ValueError,
        "seed: expected 0 <= seed < 2^64, got -1; choose another seed",
    ),
    "sampler": (
        lambda: (y(), DENOISING, {"sampler": "ddim"}),
        ValueError,
        "sampler: expected one of 'auto', 'latino', 'ud2m', got 'ddim'; choose one of these",
    ),
    "steps": (
        lambda: (y(), DENOISING, {"steps": 0}),
        ValueError,
        "steps: expected at least 1, got 0; choose the number of network evaluations",
    ),
    "steps type": (
        lambda: (y(), DENOISING, {"steps": "8"}),
        TypeError,
        "steps: expected an integer, got str; give a whole number",
    ),
    "unfold": (
        lambda: (y(), DENOISING, {"unfold": 2}),
        ValueError,
        "unfold: expected None for the sampler 'latino', got 2; leave it out, or use "
        "sampler='ud2m'",
    ),
    "keep_samples": (
        lambda: (y(), DENOISING, {"keep_samples": 1}),
        TypeError,
        "keep_samples: expected True or False, got int; give a boolean",
    ),
    "image_ids": (
        lambda: (y(), DENOISING, {"image_ids": [1, 2]}),
        ValueError,
        "image_ids: expected length 1, got shape (2,); give one id per image",
    ),
    "image_ids range": (
        lambda: (y(), DENOISING, {"image_ids": [2**22]}),
        ValueError,
        "image_ids: expected values in [0, 4194304), got 4194304..4194304; renumber the images",
    ),
    "init": (
        lambda: (y(), DENOISING, {"init": "zeros"}),
        ValueError,
        "init: expected None, 'measurement', an image or a function (y, op) -> image, got 'zeros'; "
        "choose one of these",
    ),
    "init shape": (
        lambda: (y(), DENOISING, {"init": y(1, 3, 8, 8)}),
        ValueError,
        "init: expected shape (1, 3, 16, 16), got (1, 3, 8, 8); "
        "give one public image for each measurement",
    ),
    "init nan": (
        lambda: (y(), DENOISING, {"init": nan_image()}),
        ValueError,
        "init: expected finite numbers, got NaN or infinite entries; clean the start",
    ),
    "init measurement": (
        lambda: (y(1, 3, 8, 8), le.SuperResolution(2, 0.1), {"init": "measurement"}),
        ValueError,
        "init: expected shape (1, 3, 16, 16), got (1, 3, 8, 8); "
        "use init=None where y is no image of the same size",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sentence(engine, name):
    make, error, sentence = CASES[name]
    measurement, op, options = make()
    with pytest.raises(error) as caught:
        engine.sample(measurement, op, **options)
    assert str(caught.value) == sentence


def test_a_mask_of_another_size(engine):
    with pytest.raises(ValueError, match=r"mask|y: expected"):
        engine.sample(y(), le.Inpainting(np.ones((8, 8)), 0.1))


def test_a_kernel_larger_than_the_image(engine):
    with pytest.raises(ValueError, match="kernel"):
        engine.sample(y(), le.Blur(np.ones((17, 3)) / 51, 0.1))


def test_as_many_parameters_as_images(engine):
    with pytest.raises(ValueError, match=r"expected a batch of 2|2 images"):
        engine.sample(y(), le.Denoising(torch.tensor([0.1, 0.2])))
