"""The operators of docs/operators.md from end to end, with the shipped prior."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from PIL import Image

import latino_engine as le
from latino_engine.cli.restoration import restore
from latino_engine.errors import InvalidArgument
from latino_engine.evaluation.metrics import psnr
from latino_engine.image_io import write_image
from latino_engine.sampling.options import Sampling

SIDE = 64
SHARP, SOFT = (le.Blur.gaussian(std, 0.0, size=9).kernel[0, 0] for std in (0.6, 2.0))

#: Operator, and whether the mean must beat the start; the start of a low-pass y is hard to beat,
#: and a grey one is not coloured by a short zero-shot run.
CASES: dict[str, tuple[Callable[[], Any], bool]] = {
    "demosaicing": (lambda: le.Demosaicing(0.02), True),
    "colorization": (lambda: le.Colorization(0.02), False),
    "reflect": (lambda: le.BorderedBlur(SOFT, 0.02), True),
    "valid": (lambda: le.BorderedBlur(SOFT, 0.02, border="valid"), True),
    "varying": (lambda: le.SpatiallyVaryingBlur(torch.stack((SHARP, SOFT))[None], 0.02), True),
    "tomography": (lambda: le.Tomography(40, SIDE, 0.01), True),
    "hadamard": (lambda: le.CompressedSensing(0.25, SIDE, 0.02), True),
    "stack": (
        lambda: le.Stack([le.Blur(SOFT, 0.02), le.SuperResolution(2, 0.05)], (3, SIDE, SIDE)),
        True,
    ),
    "compose": (
        lambda: le.Compose([le.Blur(SHARP, 0.0), le.Inpainting(torch.eye(SIDE) < 1, 0.02)]),
        False,
    ),
    "phase": (lambda: le.PhaseRetrieval.coded_diffraction(SIDE, 0.05, num_masks=2), True),
    "poisson": (lambda: le.PoissonNoise(le.Denoising(0.0), 20.0), True),
    "poisson_blur": (lambda: le.PoissonNoise(le.Blur(SHARP, 0.0), 50.0), True),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[le.Engine]:
    with tempfile.TemporaryDirectory() as folder:
        yield le.compile("photo-small", Path(folder) / "a.engine", image_size=SIDE)


def photograph() -> torch.Tensor:
    pixels = skimage.data.chelsea()[80 : 80 + SIDE, 150 : 150 + SIDE].copy()
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", CASES)
def test_it_samples(engine: le.Engine, name: str) -> None:
    build, improves = CASES[name]
    op, x = build(), photograph()
    y = op.measure(x, seed=1)
    post = engine.sample(y, op, num_samples=2)
    assert bool(torch.isfinite(post.samples).all())
    assert float(post.residual_chi2.min()) > 0.0 and float(post.residual_chi2.max()) < 2.0
    start = float(psnr(op.initial_estimate(y), x)[0])
    gained = float(psnr(post.mean, x)[0]) - start
    assert gained > (0.3 if improves else -1.0), (start, gained)


@pytest.mark.parametrize(
    "operator",
    ["cs:ratio=0.25", "phase:masks=2", "tomography:angles=20", "poisson:peak=30", "demosaic"],
)
def test_the_command_line_simulates_and_draws_the_measurement(
    engine: le.Engine, operator: str, tmp_path: Path
) -> None:
    write_image(tmp_path / "clean.png", photograph())
    two = Sampling(num_samples=2, steps=2, sampler="latino")
    out = tmp_path / "out"
    report = restore(engine, tmp_path / "clean.png", operator, out, two, simulate=True)
    assert report["quality"]["mean"]["psnr"] > 10
    for picture in ("measurement.png", "restoration.png"):
        assert Image.open(out / picture).getextrema() != ((0, 0),) * 3
    if operator.startswith(("cs", "phase", "tomography")):
        with pytest.raises(InvalidArgument) as caught:
            restore(engine, tmp_path / "clean.png", operator, tmp_path / "b", two)
        assert str(caught.value) == (
            f"operator: expected a measurement that is an image or k-space, got '{operator}'; "
            "add --simulate, or call Engine.sample from Python"
        )


def test_the_code_of_the_page_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 13
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "operators.md", "exec"), names)
        assert "z" not in names or bool(torch.isfinite(names["z"]).all())


def test_the_filtered_back_projection_inverts_many_angles() -> None:
    row = torch.linspace(-1.0, 1.0, 48, dtype=torch.float64)
    x = torch.exp(-8.0 * (row[:, None] ** 2 + (row - 0.2) ** 2))[None, None]
    op = le.Tomography(120, 48, 0.0)
    error = op.filtered_back_projection(op.A(x)) - x
    assert float(error.norm() / x.norm()) < 0.02


def test_projections_are_scikit_images() -> None:
    from skimage.transform import radon

    row = torch.linspace(-1.0, 1.0, 49, dtype=torch.float64)
    x = torch.exp(-20.0 * (row[:, None] ** 2 + (row - 0.3) ** 2))
    theta = [0.0, 30.0, 90.0, 140.0]
    expected = torch.from_numpy(radon(x.numpy(), theta=theta, circle=True)).T
    found = 49.0 * le.Tomography(theta, 49, 0.0, num_detectors=49).A(x[None, None])[0, 0]
    assert float((found - expected).norm() / expected.norm()) < 0.02
