"""The remedies that a sentence names are tried: what they make is what the call wanted."""

from __future__ import annotations

import re

import numpy
import pytest
import torch
from PIL import Image

import latino_engine as le
from latino_engine.errors import channels_last

BLUR = le.Blur.gaussian(1.0, 0.02)
PIXELS = numpy.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=numpy.uint8)


def remedy_for(image):
    with pytest.raises((TypeError, ValueError)) as caught:
        BLUR.A(image)
    return str(caught.value).partition("; ")[2]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_of_pillow_becomes_an_image(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    code = remedy_for(image).removeprefix("convert it: ")
    found = eval(code, {"torch": torch, "numpy": numpy, "image": image})
    wanted = numpy.asarray(image, dtype=numpy.float32).reshape(12, 10, -1) / 255
    assert found.shape == (1, wanted.shape[2], 12, 10)
    assert numpy.allclose(found[0].permute(1, 2, 0).numpy(), wanted, atol=1e-7)
    assert BLUR.A(found).shape == found.shape


@pytest.mark.parametrize("batch", [True, False])
def test_channels_that_stand_last_move_to_the_front(batch):
    array = PIXELS.astype(numpy.float32) / 255
    array = array[None] if batch else array
    image = torch.from_numpy(array)
    of_torch, of_numpy = re.findall(r"(\S*move\S+\(.*?\)(?:\[None\])?)", remedy_for(image))
    wanted = (PIXELS.astype(numpy.float32) / 255).transpose(2, 0, 1)[None]
    assert numpy.array_equal(eval(of_torch, {"image": image}).numpy(), wanted)
    assert numpy.array_equal(eval(of_numpy, {"image": array, "numpy": numpy}), wanted)


def test_an_array_and_a_path_have_remedies_of_their_own(tmp_path):
    array = PIXELS.astype(numpy.float32).transpose(2, 0, 1)[None]
    assert remedy_for(array) == "convert it by torch.from_numpy"
    assert "read_image" in remedy_for("photo.png") and "read_image" in remedy_for(tmp_path)


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((1, 64, 48, 3), True),
        ((64, 48, 4), True),
        ((1, 3, 64, 3), False),  # an image of three columns
        ((2, 2, 64, 4), False),
        ((1, 8, 64, 64), False),
    ],
)
def test_only_what_is_no_other_image_counts_as_channels_last(shape, last):
    assert channels_last(shape) is last
    assert not channels_last((1, 8, 64, 4), channels=8)  # a prior of eight channels


@pytest.mark.parametrize("name", ["coffee", "chelsea"])
def test_the_shipped_photographs_are_those_of_the_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = le.sample_image(name)
    from importlib import resources

    with (resources.files("latino_engine") / "assets" / f"{name}.png").open("rb") as file:
        wanted = numpy.asarray(Image.open(file))
    assert found.shape == (1, 3, 256, 256) and found.dtype == torch.float32
    assert numpy.array_equal((255 * found[0]).round().byte().permute(1, 2, 0).numpy(), wanted)


def test_another_photograph_is_refused():
    with pytest.raises(ValueError, match="did you mean 'coffee'"):
        le.sample_image("cofee")
