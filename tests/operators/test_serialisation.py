"""Operators come back from text, from JSON and from files as they were, to the last bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from operator_cases import LINEAR_CASES as CASES

import latino_engine as le
from latino_engine.errors import ImageUnreadable, InvalidArgument
from latino_engine.operators.serialisation import (
    load_operator,
    record,
    restored,
    save_operator,
    spec_of,
)

SIDE = 16
SAVED = [case for case in CASES if type(case.build(SIDE, SIDE)) is not le.LinearOperator]
OTHERS = {
    "jpeg": lambda: le.JPEG(30, grey=True),
    "poisson of a blur": lambda: le.PoissonNoise(le.Blur.gaussian(1.0, 0.0), 40.0),
    "phase": lambda: le.PhaseRetrieval.coded_diffraction((SIDE, SIDE), 0.05, 2, seed=4),
    "two noise levels": lambda: le.Denoising([0.1, 0.2]),
    "centred": lambda: le.SuperResolution(2, 0.1, torch.rand(4, 6), grid="centred"),
    "a library's": lambda: le.SuperResolution(2, 0.1, kernel="pillow-bicubic"),
    "authors' kernel": lambda: le.SuperResolution(2, 0.1, kernel="gaussian", compat="ud2m"),
}


def stored(op):
    """Through JSON text and arrays, as a file holds them."""
    fields, arrays = record(op)
    return restored(json.loads(json.dumps(fields)), arrays)


def same_measurement(one, other, x):
    assert type(one) is type(other)
    assert one.batch_size == other.batch_size
    level = torch.as_tensor(one.noise_std)
    assert torch.equal(level, torch.as_tensor(other.noise_std))
    y = one.measure(x, seed=3)
    assert torch.equal(y, other.measure(x, seed=3))
    assert torch.equal(one.initial_estimate(y), other.initial_estimate(y))


@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.name)
def test_a_record_is_the_operator(case):
    side = SIDE - SIDE % case.factor
    op = case.build(side, side)
    x = torch.rand(op.batch_size or 2, case.channels, side, side)
    same_measurement(op, stored(op), x)


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_others(build, tmp_path):
    op = build()
    channels = 1 if isinstance(op, le.JPEG) else 3
    x = torch.rand(2, channels, SIDE, SIDE)
    save_operator(op, tmp_path / "op.npz")
    same_measurement(op, load_operator(tmp_path / "op.npz"), x)


def test_a_blur_from_words_is_the_gaussian():
    op = le.operator("blur:std=1.6,size=9,noise=0.05")
    offsets = np.arange(9) - 4.0
    line = np.exp(-(offsets**2) / (2 * 1.6**2))
    expected = np.outer(line, line) / np.outer(line, line).sum()
    np.testing.assert_allclose(op.kernel[0, 0].numpy(), expected, atol=1e-12)
    assert op.noise_std == 0.05


def test_the_level_of_the_call_and_the_level_in_words():
    assert le.operator("denoise", noise_std=0.3).noise_std == 0.3
    assert le.operator("denoise:noise=0.07", noise_std=0.3).noise_std == 0.07
    chain = le.operator("blur:std=1 then inpaint:random=0.5,noise=0.1", image_shape=(SIDE, SIDE))
    assert chain.noise_std == 0.1
    assert [op.noise_std for op in chain.operators] == [0.0, 0.1]


@pytest.mark.parametrize(
    "op",
    [
        le.Denoising(0.1),
        le.JPEG(35),
        le.SuperResolution(4, 0.03),
        le.SuperResolution(2, 0.1 + 0.2, kernel="gaussian"),
        le.SuperResolution(3, 0.1, kernel="torch-bicubic"),
        le.Demosaicing(0.01, "GBRG"),
        le.Colorization(0.2),
    ],
    ids=lambda op: type(op).__name__,
)
def test_words_where_there_are_some(op):
    again = le.operator(op.spec())
    assert repr(again) == repr(op)
    assert again.noise_std == op.noise_std


def test_arrays_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    op = le.Blur(torch.rand(3, 5, dtype=torch.float64), 0.05)
    assert op.spec("psf.npz") == "saved:file=psf.npz"
    again = le.operator("saved:file=psf.npz")
    assert torch.equal(again.kernel, op.kernel)
    assert again.noise_std == 0.05


def test_what_cannot_be_written_or_read(tmp_path):
    functions = le.LinearOperator(lambda x: x, lambda y: y, 0.1)
    with pytest.raises(InvalidArgument, match="LinearOperator, which holds functions"):
        save_operator(functions, tmp_path / "op.npz")
    with pytest.raises(InvalidArgument, match="name an npz file"):
        spec_of(le.Blur.gaussian(1.0, 0.1))
    with pytest.raises(ImageUnreadable, match="no such file"):
        le.operator(f"saved:file={tmp_path / 'none.npz'}")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ImageUnreadable, match="damaged"):
        load_operator(tmp_path / "bad.npz")
    np.savez(tmp_path / "pickled.npz", operator=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ImageUnreadable, match="another or a damaged one"):
        load_operator(tmp_path / "pickled.npz")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("inpaint:box=4", "image_shape: expected .H, W. for the operator inpaint"),
        ("blur:std=1 then jpeg:quality=20", "several operators together"),
        ("jpeg:quality=20,noise=0.1", "a noise level of its own"),
        ("denoise:noise=-1", "one number >= 0"),
    ],
)
def test_sentences(text, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        le.operator(text)
