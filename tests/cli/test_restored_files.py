"""`sample` on files of the world: a JPEG with its own tables, a resized photograph on its grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli.restoration import restore
from latino_engine.sampling.options import Sampling

ASSETS = Path(le.__file__).parent / "assets"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("engines") / "tiny.engine"
    return le.compile(tiny_prior(), path, backend="torch", image_size=16)


def photograph() -> Image.Image:
    return Image.open(ASSETS / "chelsea.png").convert("RGB").crop((96, 80, 144, 128))


def test_a_jpeg_takes_its_own_tables(engine: Any, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    photograph().save(file, quality=35)  # Pillow's own subsampling
    one = Sampling(num_samples=1, steps=1)
    own = restore(engine, file, "jpeg", tmp_path / "own", one)
    assert own["operator"] == "JPEG(quality=35, subsampling='4:2:0')"
    text = "jpeg:quality=35,subsampling=4:2:0"
    restore(engine, file, text, tmp_path / "stated", one)
    found, stated = (np.load(tmp_path / name / "mean.npy") for name in ("own", "stated"))
    assert np.array_equal(found, stated)
    with pytest.raises(ValueError, match=r"^operator jpeg: expected one of the keys"):
        restore(engine, file, "jpeg", tmp_path / "simulated", one, simulate=True)


@pytest.mark.parametrize("grid", ["centred", "corner"])
def test_the_measured_psnr_is_that_on_the_grid(engine: Any, tmp_path: Path, grid: str) -> None:
    """Of the measurement enlarged and laid where it was taken; elsewhere it is far lower."""
    file, pixels = tmp_path / "photo.png", np.array(photograph())
    half = np.concatenate([pixels, pixels[::-1]])
    pixels = np.concatenate([half, half[:, ::-1]], axis=1)  # wraps around without an edge
    Image.fromarray(pixels).save(file)
    one = Sampling(num_samples=1, steps=1)
    operator, out = f"sr:factor=4,grid={grid}", tmp_path / "out"
    report = restore(engine, file, operator, out, one, noise_std=0.002, simulate=True)
    truth = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    y = torch.from_numpy(np.load(out / "measurement.npy"))
    around = torch.nn.functional.pad(y, (2, 2, 2, 2), mode="circular")
    large = torch.nn.functional.interpolate(around, scale_factor=4, mode="bicubic")[..., 8:-8, 8:-8]
    shift = 0 if grid == "centred" else -1  # `interpolate` is centred
    there = large.roll((shift, shift), dims=(2, 3))
    elsewhere = there.roll((1, 1), dims=(2, 3))
    right, wrong = (
        -10 * float((image - truth).square().mean().log10()) for image in (there, elsewhere)
    )
    assert report["quality"]["measured"]["psnr"] == pytest.approx(right, abs=0.5)
    assert wrong < right - 1.0
