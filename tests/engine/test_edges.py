"""What users really hand in: numpy integers, byte orders, overlapping calls, odd models."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.image_io import write_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("edges") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return path


@pytest.fixture
def engine(folder):
    return le.load(folder)


def test_overlapping_calls_put_back_torchs_threads(folder):
    """The second call begins within the first and ends after it."""
    engine = le.load(folder, threads=1)
    before = torch.get_num_threads()
    first_runs, second_runs = threading.Event(), threading.Event()

    def slow(done, total):
        first_runs.set()
        second_runs.wait(20)

    def late(done, total):
        second_runs.set()
        time.sleep(0.2)

    def call(progress):
        engine.sample(torch.rand(1, 3, 16, 16), le.Denoising(0.1), 1, steps=1, progress=progress)

    first = threading.Thread(target=call, args=(slow,))
    first.start()
    assert first_runs.wait(20)
    second = threading.Thread(target=call, args=(late,))
    second.start()
    first.join()
    second.join()
    seen = []
    fresh = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert torch.get_num_threads() == before and seen == [before]


def test_every_runtime_is_timed_with_the_stated_threads(tmp_path, monkeypatch):
    from latino_engine.compilation import compiler

    seen = []
    real = compiler.median_time_ms
    monkeypatch.setattr(
        compiler,
        "median_time_ms",
        lambda *a: (seen.append(torch.get_num_threads()), real(*a))[1],
    )
    le.compile(tiny_prior(), tmp_path / "a.engine", image_size=16, threads=1)
    assert seen == [1, 1, 1]  # onnxruntime, openvino and torch


def test_numpy_integers_are_integers(engine, tmp_path):
    y = torch.rand(1, 3, 16, 16)
    one = engine.sample(y, le.Denoising(0.1), num_samples=2, seed=3, steps=2)
    two = engine.sample(
        y, le.Denoising(0.1), num_samples=np.int64(2), seed=np.uint8(3), steps=np.int32(2)
    )
    assert torch.equal(one.samples, two.samples)
    two.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "posterior.json").read_text())["num_samples"] == 2


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f8", "<f4"])
def test_any_byte_order_and_read_only_arrays(engine, dtype, recwarn):
    y = np.random.default_rng(0).random((1, 3, 16, 16)).astype(np.float32)
    expected = engine.sample(y, le.Denoising(0.1), 1, steps=1).samples
    other = y.astype(dtype)
    other.flags.writeable = False
    assert torch.equal(engine.sample(other, le.Denoising(0.1), 1, steps=1).samples, expected)
    assert all("residual_chi2" in str(w.message) for w in recwarn.list)  # none about the array


def test_engine_denoise_has_the_contract_of_the_prior(engine):
    prior, x = tiny_prior(), torch.randn(2, 3, 17, 22)
    expected = prior.denoise(x, 0.3)
    for image in (x, x.double()):
        found = engine.denoise(image, 0.3)
        assert found.dtype == torch.float32
        assert float((found - expected).norm() / expected.norm()) < 1e-5
    with pytest.raises(ValueError, match="x_noisy: expected \\(B, 3, H, W\\), got"):
        engine.denoise(x[0], 0.3)


@pytest.mark.parametrize("size", ["256", 256.5, (64,), (16, 16, 16), [16, "a"]])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(ValueError, match="image_size: expected one side, or \\(height, width\\)"):
        le.compile(tiny_prior(), tmp_path / "a.engine", image_size=size)


def test_adapters_are_named_in_one_sentence(tmp_path):
    with pytest.raises(ValueError) as caught:
        le.compile(tiny_prior(), tmp_path / "a.engine", adapter="photo-small")
    sentence = str(caught.value)
    assert sentence.startswith("adapter: expected one of the prior 'tiny' (sha256 ")
    assert sentence.endswith("; use the prior that it was distilled from")
    assert not (tmp_path / "a.engine").exists()


def test_a_linear_operator_that_is_wrong(engine):
    y = torch.rand(1, 3, 8, 8)

    def up(z):
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)

    wrong_shape = le.LinearOperator(lambda x: x, up, 0.1)
    with pytest.raises(ValueError, match=r"A|y: expected"):
        engine.sample(y, wrong_shape, 1, steps=1)
    broken = le.LinearOperator(lambda x: x * torch.nan, lambda z: z, 0.1)
    with pytest.raises(ValueError) as caught:
        engine.sample(y, broken, 1, steps=1)
    assert str(caught.value) == (
        "A, A_adjoint: expected finite results for finite images, got NaN or infinite numbers; "
        "correct the model"
    )


def test_an_operator_that_lacks_something_is_told_what(engine):
    class Half:
        noise_std = 0.1

        def A(self, x):
            return x

    with pytest.raises(TypeError) as caught:
        engine.sample(torch.rand(1, 3, 16, 16), Half())
    assert str(caught.value) == (
        "op: expected an operator such as Blur or Inpainting, got Half without A_adjoint or prox; "
        "wrap your own model in LinearOperator(A, A_adjoint, noise_std)"
    )


@pytest.mark.filterwarnings("default")
def test_a_tiny_clean_image_has_no_ssim_and_its_json_is_valid(folder, tmp_path, capsys):
    write_image(tmp_path / "tiny.png", torch.rand(3, 9, 9))
    arguments = ["sample", folder, tmp_path / "tiny.png", "--operator", "denoise", "--simulate"]
    arguments += ["-o", tmp_path / "out", "--noise-std", "0", "--steps", "1", "--json"]
    assert program.run([str(a) for a in arguments]) == 0

    def refuse(text):
        raise AssertionError(text)

    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert report["quality"]["measured"] == {"psnr": None, "ssim": None}  # a perfect measurement


def test_an_output_that_cannot_be_is_refused_before_the_work(folder, tmp_path, capsys, monkeypatch):
    write_image(tmp_path / "image.png", torch.rand(3, 16, 16))
    (tmp_path / "out").write_text("a file")

    def never(*_, **__):
        raise AssertionError("sampled in vain")

    monkeypatch.setattr("latino_engine.engine.Engine.sample", never)
    arguments = ["sample", folder, tmp_path / "image.png", "--operator", "denoise"]
    assert program.run([*map(str, arguments), "-o", str(tmp_path / "out")]) == 2
    assert "expected the name of a folder" in capsys.readouterr().err


def test_compiling_leaves_logging_as_it_was(tmp_path):
    import logging

    logging.disable(logging.INFO)
    try:
        le.compile(tiny_prior(1), tmp_path / "a.engine", image_size=16)
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
