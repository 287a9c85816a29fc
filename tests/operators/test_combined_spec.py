"""Descriptions of several operators, and of blur that varies: what they build, what is refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import relative_error
from PIL import Image

import latino_engine as le
from latino_engine.cli.program import run
from latino_engine.distill.operator_draws import parse_draws
from latino_engine.image_io import write_image
from latino_engine.operators.spec import image_size_behind, parse_operator

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def parsed(text: str, channels: int = 3) -> Any:
    return parse_operator(text, 0.02, (32, 32), seed=5, channels=channels)


def test_one_after_another() -> None:
    op = parsed("blur:std=2 then sr:factor=2 then inpaint:random=0.5")
    assert isinstance(op, le.Compose) and op.noise_std == 0.02
    blur, small = le.Blur.gaussian(2.0, 0.0), le.SuperResolution(2, 0.0)
    mask = parse_operator("inpaint:random=0.5", 0.02, (16, 16), seed=5)
    assert torch.equal(op.A(X), mask.A(small.A(blur.A(X))))  # the mask has the size of its image


def test_photons_behind_another_operator() -> None:
    op = parsed("blur:std=1 then poisson:peak=50")
    assert isinstance(op, le.PoissonNoise) and op.peak == 50.0
    assert isinstance(op.operator, le.Blur) and op.operator.noise_std == 0.0
    assert isinstance(parsed("blur:std=1 then colorize then poisson:peak=9").operator, le.Compose)


def test_several_measurements_with_their_own_noise() -> None:
    op = parsed("blur:std=2 and sr:factor=4 then denoise,noise=0.05 and colorize:noise=0.1", 3)
    assert isinstance(op, le.Stack) and op.image_shape == (3, 32, 32)
    assert [part.noise_std for part in op.operators] == [0.02, 0.05, 0.1]
    assert isinstance(op.operators[1], le.Compose)
    assert parsed("denoise and denoise", channels=1).image_shape == (1, 32, 32)


@pytest.mark.parametrize(
    "text",
    [
        "blur:std=1 then sr:factor=4 then denoise and denoise",
        "sr:kernel=gaussian, factor=2",
        "blur:std=1",
        "blur:std=1,border=reflect",
        "blur:std=1,border=valid",
        "uniform:size=5,border=valid",
        "motion:size=7,seed=2,border=valid",
        "blur:std=1, border = valid ,size=20 then inpaint:random=0.5",  # larger than what is left
        "blur:border=valid,kernel=psf.npy then sr:factor=2 then blur:std=0.5,border=valid",
    ],
)
def test_the_image_behind_a_small_measurement(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("psf.npy", np.ones((3, 5)))
    shape = (32, 36)
    op = parse_operator(text, 0.02, shape)
    first = op.operators[0] if isinstance(op, le.Stack) else op
    y = first.A(torch.rand(1, 3, *shape))
    assert image_size_behind(text, (y.shape[-2], y.shape[-1])) == shape


def test_varying_blur(tmp_path: Path) -> None:
    kernels = np.random.default_rng(0).random((2, 3, 4, 5))
    np.save(tmp_path / "psfs.npy", kernels)
    op = parsed(f"varying:kernels={tmp_path / 'psfs.npy'}")
    expected = torch.from_numpy(kernels / kernels.sum(axis=(2, 3), keepdims=True))
    assert isinstance(op, le.SpatiallyVaryingBlur)
    assert relative_error(op.kernels, expected) < 1e-12
    op = parsed("varying:std=0.8x2.5,grid=3")
    place = torch.arange(op.kernels.shape[-1], dtype=torch.float64)
    place = place - place.shape[0] // 2
    spread = (op.kernels.sum(dim=-1) * place**2).sum(dim=-1).sqrt()
    assert float(spread[1, 1]) == pytest.approx(0.8, rel=0.01)
    assert float(spread[0, 2]) == pytest.approx(2.5, rel=0.03)
    assert float(spread[0, 1]) == pytest.approx(0.8 + 1.7 / 2, rel=0.02)


def test_training_draws_them() -> None:
    draws = parse_draws(
        ["blur:std=1..2 then poisson:peak=20..40", "denoise and sr:factor=2|4"], "0.1"
    )
    assert draws.kinds(16, 1) == ("PoissonNoise", "Stack")
    seen = [draws.draw(2, 16, seed=1, step=step, channels=1) for step in range(12)]
    peaks = {op.peak for op in seen if isinstance(op, le.PoissonNoise)}
    factors = {op.operators[1].factor for op in seen if isinstance(op, le.Stack)}
    assert len(peaks) > 2 and all(20 <= p <= 40 for p in peaks) and factors == {2, 4}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    le.compile("photo-small", folder / "a.engine", backend="torch", image_size=32)
    write_image(folder / "clean.png", X[0])
    write_image(folder / "small.png", X[0, :, ::2, ::2])
    write_image(folder / "cropped.png", X[0, :, 6:26, 6:26])
    return folder


@pytest.mark.parametrize(
    "operator",
    [
        "blur:std=1 then poisson:peak=50",
        "denoise and sr:factor=2 and cs:ratio=0.5,noise=0.1",
        "blur:std=1 then cs:ratio=0.5",
        "varying:std=0.5x1.5",
    ],
)
def test_the_command_draws_the_measurement(
    engine: Path, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(engine)
    options = ["--num-samples", "1", "--steps", "1", "-o", str(tmp_path / "out"), "--simulate"]
    assert run(["sample", "a.engine", "clean.png", "--operator", operator, *options]) == 0
    picture = Image.open(tmp_path / "out" / "measurement.png")
    assert picture.getextrema() != ((0, 0),) * 3
    if " and " in operator:
        assert picture.size[0] == 3 * picture.size[1]  # its parts side by side


@pytest.mark.parametrize(
    ("file", "operator"),
    [
        ("small.png", "blur:std=1 then sr:factor=2"),
        ("cropped.png", "blur:std=1,size=13,border=valid then inpaint:random=0.5"),
    ],
)
def test_a_small_measurement_gives_an_image_of_its_size(
    engine: Path, file: str, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(engine)
    options = ["--num-samples", "1", "--steps", "1", "-o", str(tmp_path / "out")]
    assert run(["sample", "a.engine", file, "--operator", operator, *options]) == 0
    assert Image.open(tmp_path / "out" / "mean.png").size == (32, 32)


COMMAND = {
    "no picture": (
        ["--operator", "denoise and denoise"],
        "operator: expected a measurement that is an image or k-space, got 'denoise and denoise'; "
        "add --simulate, or call Engine.sample from Python",
    ),
    "delta": (
        ["--operator", "denoise", "--delta", "sr16"],
        "delta: expected none for this engine, got sr16; it belongs to text-to-image",
    ),
    "prompt updates": (
        ["--operator", "denoise", "--prompt-updates", "3"],
        "prompt_updates: expected none for this engine, got 3; it belongs to text-to-image",
    ),
}


@pytest.mark.parametrize("name", COMMAND)
def test_what_the_command_refuses(
    engine: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, sentence = COMMAND[name]
    files = [str(engine / "a.engine"), str(engine / "clean.png")]
    assert run(["sample", *files, "-o", str(tmp_path / "out"), *arguments]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"error: {sentence}") and found.count("\n") == 1
    assert not (tmp_path / "out").exists()


REFUSED = {
    "cs:ratio=0.5 then denoise": "operator cs:ratio=0.5: expected an image before `then`, got "
    "another y; let it be the last",
    "jpeg:quality=5 then denoise": "operator jpeg:quality=5: expected a linear operator before "
    "`then`, got JPEG; photon noise may be the last; JPEG and phase retrieval stand alone",
    "denoise and jpeg:quality=3": "operators[1]: expected a linear operator, got JPEG; sample "
    "JPEG, phase retrieval and photon counts by themselves",
    "denoise and denoise:noise=x": "operator denoise:noise=x, noise: expected one number >= 0, or "
    "auto, got 'x'; write noise=0.05",
    "denoise and denoise:noise=1,noise=2": "operator denoise:noise=1,noise=2, noise: expected one "
    "number >= 0, or auto, got several; write noise=0.05",
    "blur:std=1 then blurr:std=1": "operator: expected one of blur, uniform, motion, sr, inpaint, "
    "denoise, jpeg, mri, demosaic, colorize, tomography, cs, phase, poisson, varying, saved, "
    "got 'blurr'; "
    "did you mean 'blur'?",
    "varying:std=2": "operator varying, std: expected CENTRExCORNER in pixels, above 0, at most 8, "
    "got '2'; write e.g. varying:std=0.8x2.5,grid=5",
    "varying:std=1x2,grid=1": "operator varying, grid: expected a whole number from 2 to 64, got "
    "'1'; write e.g. varying:std=0.8x2.5,grid=5",
    "varying:kernels=a.png": "a.png: expected an npy file with a grid of kernels, (R, S, kh, kw) "
    "real, got the extension '.png'; save it by np.save",
    "varying:kernels=none.npy": "none.npy: expected an npy file with a grid of kernels, (R, S, kh, "
    "kw) real, got no such file; save it by np.save",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        parsed(text)
    assert str(caught.value) == REFUSED[text]


def test_kernel_files_that_are_refused(tmp_path: Path) -> None:
    for name, array, got in (
        ("flat.npy", np.ones((3, 3)), r"float64 of shape \(3, 3\)"),
        ("words.npy", np.full((1, 1, 2, 2), "a"), r"<U1 of shape \(1, 1, 2, 2\)"),
        ("dark.npy", np.zeros((1, 1, 2, 2)), "another one; give kernels that preserve brightness"),
        ("nan.npy", np.full((1, 1, 2, 2), np.nan), "another one"),
    ):
        np.save(tmp_path / name, array)
        with pytest.raises(ValueError, match=f"{name}: expected .*, got {got}"):
            parsed(f"varying:kernels={tmp_path / name}")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:90])
    with pytest.raises(ValueError, match=r"got one that cannot be read; save it by np\.save"):
        parsed(f"varying:kernels={tmp_path / 'cut.npy'}")


def test_the_descriptions_of_the_page_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    (commands,) = re.findall(r"```console\n(.*?)```", text, re.S)
    words = [shlex.split(line) for line in commands.splitlines()]
    kinds = [type(parsed(line[line.index("--operator") + 1])).__name__ for line in words]
    assert kinds == ["Compose", "PoissonNoise", "Stack"]
