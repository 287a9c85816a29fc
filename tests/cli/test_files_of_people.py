"""`sample` on the files that people have: folders, 16 bits, transparency, soft masks, odd sides."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile
import torch
from PIL import Image, ImageDraw
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program, restoration
from latino_engine.cli.restoration import restore
from latino_engine.image_io import read_mask, read_picture
from latino_engine.operators.combined_spec import size_divisor
from latino_engine.sampling import network as networks
from latino_engine.sampling.options import Sampling

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 28, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (24, 28), dtype=np.uint8)
ONE = Sampling(num_samples=1, steps=1)
QUICK: dict[str, Any] = {"sampling": ONE, "noise_std": 0.05}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("engines") / "tiny.engine"
    return le.compile(tiny_prior(), path, backend="torch", image_size=16)


def save_png16(path: Path, pixels: np.ndarray) -> None:
    height, width, planes = pixels.shape
    kind = {"greyscale": planes < 3, "alpha": planes in (2, 4), "bitdepth": 16}
    with path.open("wb") as file:
        png.Writer(width, height, **kind).write(file, pixels.reshape(height, -1).tolist())


def read_png16(path: Path) -> np.ndarray:
    width, height, rows, facts = png.Reader(str(path)).asDirect()
    assert facts["bitdepth"] == 16
    return np.array([list(row) for row in rows]).reshape(height, width, facts["planes"])


def files_with_alpha(folder: Path) -> list[tuple[Path, np.ndarray, np.ndarray]]:
    """Files, the colours (H, W, C) and alpha (H, W) in [0, 1] that other programs wrote there."""
    colours, alpha = RGB / 255, ALPHA / 255
    Image.fromarray(np.dstack([RGB, ALPHA])).save(folder / "rgba.png")
    Image.fromarray(np.dstack([RGB[..., 0], ALPHA])).save(folder / "la.png")
    wide = np.dstack([257 * RGB.astype(np.uint16), 257 * ALPHA.astype(np.uint16)])
    save_png16(folder / "rgba16.png", wide)
    save_png16(folder / "la16.png", wide[..., [0, 3]])
    more = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(folder / "rgba.tif", np.dstack([RGB, ALPHA]), **more)
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(folder / "palette.png", transparency=3)
    seen = np.asarray(Image.open(folder / "palette.png").convert("RGBA")) / 255
    return [
        (folder / "rgba.png", colours, alpha),
        (folder / "la.png", colours[..., :1], alpha),
        (folder / "rgba16.png", colours, alpha),
        (folder / "la16.png", colours[..., :1], alpha),
        (folder / "rgba.tif", colours, alpha),
        (folder / "palette.png", seen[..., :3], seen[..., 3]),
    ]


def test_transparency_is_read_apart(tmp_path: Path) -> None:
    for path, colours, alpha in files_with_alpha(tmp_path):
        found = read_picture(path)
        assert found.alpha is not None
        image = found.image[0].permute(1, 2, 0).numpy()
        assert np.allclose(image, colours, atol=1e-6), path.name
        assert np.allclose(found.alpha.numpy(), alpha, atol=1e-6), path.name
        assert found.bits == (16 if "16" in path.name else 8)
    Image.fromarray(np.dstack([RGB, np.full_like(ALPHA, 255)])).save(tmp_path / "opaque.png")
    assert read_picture(tmp_path / "opaque.png").alpha is None


def test_a_damaged_file_with_alpha_is_one_sentence(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected an undamaged image"):
        read_picture(tmp_path / "a.png")


def test_transparency_and_16_bits_come_back(engine: Any, tmp_path: Path) -> None:
    wide = RNG.integers(0, 65536, (24, 28, 4)).astype(np.uint16)
    save_png16(tmp_path / "a.png", wide)
    report = restore(engine, tmp_path / "a.png", "denoise", tmp_path / "out", **QUICK)
    assert restoration.ALPHA_NOTE in report["notes"]
    mean = np.load(tmp_path / "out" / "mean.npy")[0].transpose(1, 2, 0)
    for name in ("mean.png", "sample_000.png"):
        written = read_png16(tmp_path / "out" / name)
        assert np.array_equal(written[..., 3], wide[..., 3])
        assert np.array_equal(written[..., :3], np.rint(65535 * mean.clip(0, 1)))
    assert np.array_equal(read_png16(tmp_path / "out" / "measurement.png"), wide)


def test_transparency_grows_with_the_image(engine: Any, tmp_path: Path) -> None:
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    Image.fromarray(np.dstack([RGB[:16, :16], alpha])).save(tmp_path / "a.png")
    restore(engine, tmp_path / "a.png", "sr:factor=2", tmp_path / "out", **QUICK)
    written = np.asarray(Image.open(tmp_path / "out" / "mean.png"))
    wanted = np.asarray(Image.fromarray(alpha).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(written[..., 3].astype(int) - wanted).max() <= 1


def call(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    status = program.run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_folder_and_several_files(engine: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/a.png", ".hidden.png"):
        Image.fromarray(RGB).save(folder / name)
    Image.fromarray(RGB).save(folder / "b.jpg")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("passed over")
    fixed = ["--operator", "denoise", "--noise-std", 0.05, "--num-samples", 1, "--steps", 1]
    out = tmp_path / "out"
    status, told, err = call(
        capsys, "sample", engine.folder, folder, *fixed, "-o", out, "--json", "--backend", "torch"
    )
    report = json.loads(told)
    assert status == 1 and list(report["failures"]) == [str(folder / "bad.png")]
    names = {"a", "b.png", "b.jpg", "deep/a"}
    assert {str(p.parent.relative_to(out)) for p in out.rglob("posterior.json")} == names
    assert len(report["images"]) == 4 and err.count("written to") == 4
    alone = tmp_path / "alone"
    restore(le.load(engine.folder, backend="torch"), folder / "a.png", "denoise", alone, **QUICK)
    for name in ("a", "deep/a"):
        assert np.array_equal(np.load(out / name / "mean.npy"), np.load(alone / "mean.npy"))
    two = [folder / "a.png", folder / "b.png"]
    status, told, _ = call(capsys, "sample", engine.folder, *two, *fixed, "-o", tmp_path / "two")
    assert status == 0 and told.count(".png") == 2
    status, _, err = call(
        capsys, "sample", engine.folder, two[0], folder / "deep" / "a.png", *fixed, "-o", out
    )
    assert status == 2 and "files of different names" in err


def test_the_report_says_what_made_it(engine: Any, tmp_path: Path) -> None:
    kernel = tmp_path / "psf.npy"
    np.save(kernel, np.ones((3, 3)))
    Image.fromarray(RGB).save(tmp_path / "a.png")
    text = f"blur:kernel={kernel}"
    restore(engine, tmp_path / "a.png", text, tmp_path / "out", **QUICK)
    report = json.loads((tmp_path / "out" / "posterior.json").read_text())
    manifest = json.loads((engine.folder / "engine.json").read_text())
    assert report["engine"] == "tiny.engine" and report["engine_sha256"] == manifest["sha256"]
    assert (report["prior"], report["adapter"]) == ("tiny", None)
    assert report["image"] == str(tmp_path / "a.png") and report["description"] == text
    assert report["image_sha256"] == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert report["files"] == {str(kernel): hashlib.sha256(kernel.read_bytes()).hexdigest()}
    assert report["versions"]["latino-engine"] == le.__version__
    assert le.Posterior.load(tmp_path / "out").about["adapter"] is None


@pytest.mark.parametrize(
    ("operator", "given", "told"),
    [
        ("denoise", None, True),
        ("denoise", 0.02, False),
        ("denoise,noise=0.1", None, False),
        ("jpeg:quality=50", None, False),
    ],
)
def test_a_noise_level_that_nobody_gave_is_told(
    engine: Any, tmp_path: Path, operator: str, given: float | None, told: bool
) -> None:
    operator = operator.replace("denoise,", "denoise:")
    Image.fromarray(RGB).save(tmp_path / "a.png")
    options = QUICK | {"noise_std": given}
    report = restore(engine, tmp_path / "a.png", operator, tmp_path / "out", **options)
    assert any("0.02" in note and "--noise-std" in note for note in report["notes"]) is told


def test_crop_cuts_the_middle(engine: Any, tmp_path: Path, capsys: Any) -> None:
    Image.fromarray(RGB[:23, :27]).save(tmp_path / "a.png")
    fixed = ["sample", engine.folder, tmp_path / "a.png", "--operator", "sr:factor=4"]
    fixed += ["--simulate", "--steps", 1, "--num-samples", 1, "-o", tmp_path / "out"]
    status, _, err = call(capsys, *fixed)
    assert status == 2 and "sides divisible by 4" in err and err.endswith("add --crop\n")
    status, _, err = call(capsys, *fixed, "--crop")
    assert status == 0 and "cropped from 23 x 27 to 20 x 24" in err
    truth = torch.from_numpy(RGB[1:21, 1:25] / np.float32(255)).permute(2, 0, 1)[None]
    y = le.SuperResolution(4, 0.02, grid="centred").measure(truth, seed=0)
    found = torch.from_numpy(np.load(tmp_path / "out" / "measurement.npy"))
    torch.testing.assert_close(found, y, atol=1e-6, rtol=0)
    assert size_divisor("sr:factor=2 then sr:factor=3 and blur:std=1") == 6


def test_tiles_where_memory_asks_for_them(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = engine.network
    whole = network._bytes_of(600, 600)
    monkeypatch.setattr(networks, "available_bytes", lambda device: 2.1 * whole)
    assert network.tile_for(600, 600) is None  # a little less than half of it
    monkeypatch.setattr(networks, "available_bytes", lambda device: 1.9 * whole)
    assert network.tile_for(600, 600) == 256
    monkeypatch.setattr(networks, "_TILE", 16)
    monkeypatch.setattr(networks, "available_bytes", lambda device: 1.9 * network._bytes_of(24, 28))
    Image.fromarray(RGB).save(tmp_path / "a.png")
    auto = restore(engine, tmp_path / "a.png", "denoise", tmp_path / "b", auto_tile=True, **QUICK)
    assert auto["tile"] == 16 and any("tiles of 16" in note for note in auto["notes"])
    options = QUICK | {"sampling": replace(ONE, tile=16)}
    restore(engine, tmp_path / "a.png", "denoise", tmp_path / "c", **options)
    found, stated = (np.load(tmp_path / name / "mean.npy") for name in ("b", "c"))
    assert np.array_equal(found, stated)


def disc(scale: int) -> np.ndarray:
    """A white disc on black; drawn larger and made smaller, its edge is soft."""
    image = Image.new("L", (64 * scale, 64 * scale))
    ImageDraw.Draw(image).ellipse((10 * scale, 10 * scale, 50 * scale, 50 * scale), fill=255)
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX))


def test_a_mask_with_soft_edges_is_thresholded_with_a_note(tmp_path: Path) -> None:
    soft = disc(8)
    between = int(((soft > 0) & (soft < 255)).sum())
    assert between > 50
    Image.fromarray(soft).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match=rf"a\.png: {between} of 4096 values of the mask"):
        mask = read_mask(tmp_path / "a.png")
    assert np.array_equal(mask.numpy(), (soft / 255.0 >= 0.5).astype(np.float32))
    Image.fromarray(disc(1)).save(tmp_path / "b.jpg", quality=90)
    with pytest.warns(UserWarning, match="soft edges"):
        mask = read_mask(tmp_path / "b.jpg")
    assert np.array_equal(mask.numpy(), (disc(1) > 127).astype(np.float32))


def test_a_mask_that_is_almost_empty_is_asked_back(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:5, :5] = 255  # what a restorer paints: white is the damage
    Image.fromarray(mask).save(tmp_path / "mask.png")
    text = f"inpaint:mask={tmp_path / 'mask.png'}"
    with pytest.raises(ValueError, match=r"at least 2 % white.*got 0\.61 %.*observed=black"):
        le.operator(text, image_shape=(64, 64))
    black = le.operator(f"{text},observed=black", image_shape=(64, 64))
    white = le.operator(f"{text},observed=white", image_shape=(64, 64))
    assert np.array_equal(black.mask[0, 0].numpy(), mask == 0)
    assert np.array_equal(white.mask[0, 0].numpy(), mask > 0)
