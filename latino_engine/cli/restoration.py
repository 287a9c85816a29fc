"""From an image file to a folder of results: what the command `sample` does."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from latino_engine import ops
from latino_engine.atomic import atomic_folder
from latino_engine.engine import Engine
from latino_engine.errors import about, invalid
from latino_engine.evaluation.metrics import SSIM_WINDOW, psnr, ssim
from latino_engine.evaluation.pictures import restoration_picture
from latino_engine.image_io import Picture, read_picture, write_image, write_npy
from latino_engine.image_io.arrays import read_kspace
from latino_engine.latent_engine import LatentEngine
from latino_engine.operators import JPEG, Luminance
from latino_engine.operators.combined_spec import size_divisor
from latino_engine.operators.parts.checks import as_noise_std
from latino_engine.operators.protocol import Operator
from latino_engine.operators.spec import (
    REAL_BORDER,
    file_hashes,
    image_size_behind,
    operator_of_picture,
)
from latino_engine.posterior import POSTERIOR_FILES, Posterior
from latino_engine.sampling.options import Sampling
from latino_engine.sampling.reporting import Progress
from latino_engine.system.cache import file_sha256
from latino_engine.system.json_values import finite

NOISE_STD = 0.02  # where nobody says another
ALPHA_NOTE = "the transparency of the image was kept aside and is put back"


def restore(
    engine: Engine,
    image: str | Path,
    operator: str,
    out: str | Path,
    sampling: Sampling,
    *,
    noise_std: float | str | None = None,
    simulate: bool = False,
    progress: Progress = None,
    delta: str | None = None,
    prompt_updates: int | None = None,
    crop: bool = False,
    auto_tile: bool = False,
) -> dict[str, Any]:
    """Draw samples for the measurement in a file, and write them with mean, std and one picture.

    Pictures are written with as many bits as the measurement has. Transparency is kept aside and
    put back.

    Args:
        engine: the loaded engine.
        image: file of the measurement, or of a clean image with `simulate`.
        operator: description such as "blur:std=1.6"; see `latino_engine.operators.spec`.
        out: folder to write; replaced only where it holds an earlier result.
        sampling: how the samples are drawn; all of them are kept.
        noise_std: noise level of the measurement, public units, or "estimate"; None: 0.02, and a
            note says so.
        simulate: measure the clean image first (with this seed), and compare the results with it.
        progress: as in `Engine.sample`.
        crop: cut a clean image so that the operator's factor divides its sides.
        auto_tile: take tiles where a whole image asks for more than half of the free memory.
        delta, prompt_updates: of a latent prior, as in `LatentEngine.sample`; delta as the name of
            a row, a number, or numbers with commas between them.

    Returns:
        The figures as JSON types: those of `Posterior.summary`, image and operator as given, with
        the hashes of their files, the notes to the user, the folder, and with `simulate`
        the quality (PSNR in dB, SSIM) of the measurement, of the start, of one sample and of the
        mean.

    Raises:
        ValueError, TypeError, OSError: an input or output that cannot be used, in one sentence.
    """
    seed = ops.check_seed(sampling.seed)
    latent = _latent_options(engine, delta, prompt_updates)
    is_kspace = operator.strip().startswith("mri") and not simulate
    read = Picture(read_kspace(image), None, 8) if is_kspace else read_picture(image)
    notes = [] if read.alpha is None else [ALPHA_NOTE]
    if crop and simulate:
        read = _cropped(read, size_divisor(operator), notes)
    picture = read.image
    size = (picture.shape[-2], picture.shape[-1])
    if not simulate:
        size = image_size_behind(operator, size)
    if auto_tile:
        tile = _tile_for(engine, size, notes)
        overlap = None if tile is None else sampling.overlap
        sampling = replace(sampling, tile=tile, overlap=overlap)
    level = NOISE_STD if noise_std is None else noise_std
    if operator.strip() == "jpeg" and not simulate:
        op: Operator = JPEG.from_file(image)
        op = Luminance(op) if picture.shape[1] == 1 < engine.spec.channels else op
    else:
        border = "wrap" if simulate else REAL_BORDER
        channels = (engine.spec.channels if is_kspace else picture.shape[1], engine.spec.channels)
        op = operator_of_picture(operator, as_noise_std(level), size, seed, channels, border)
    if not (simulate or is_kspace or op.measures_image):
        expected = "a measurement that is an image or k-space"
        remedy = "add --simulate, or call Engine.sample from Python"
        raise invalid("operator", expected, repr(operator), remedy)
    if noise_std is None and "noise=" not in operator and _is_level(op, NOISE_STD):
        notes.append(
            f"the noise level {NOISE_STD:g} is a guess, as none was given; add --noise-std"
        )
    with about(f"operator {operator}", "add --crop"):
        y = op.measure(picture, seed=seed) if simulate else picture
    with atomic_folder(out, ours=POSTERIOR_FILES) as folder:  # refused before any work is done
        post = engine.sample(y, op, progress=progress, **sampling.arguments(), **latent)
        report = {
            **post.summary(),
            "image": str(image),
            "image_sha256": file_sha256(Path(image)),
            "description": operator,
            "files": file_hashes(operator),
            "notes": notes,
            "folder": str(out),
        }
        if simulate:
            report["quality"] = quality(post, op, y, picture)
        truth = picture if simulate else None
        title = f"{operator}, {post.nfe} evaluations"
        _write(folder, post, y, op.measurement_picture(y), truth, title, read)
        text = json.dumps(report, indent=1, allow_nan=False)
        (folder / "posterior.json").write_text(text + "\n")
    return report


def _cropped(read: Picture, divisor: int, notes: list[str]) -> Picture:
    """The middle of a picture, its sides the largest multiples of `divisor`."""
    height, width = read.image.shape[-2:]
    high, wide = height - height % divisor, width - width % divisor
    if (high, wide) == (height, width) or 0 in (high, wide):
        return read
    top, left = (height - high) // 2, (width - wide) // 2
    rows, columns = slice(top, top + high), slice(left, left + wide)
    notes.append(f"the image was cropped from {height} x {width} to {high} x {wide}")
    alpha = None if read.alpha is None else read.alpha[rows, columns]
    return Picture(read.image[..., rows, columns].contiguous(), alpha, read.bits)


def _tile_for(engine: Engine, size: tuple[int, int], notes: list[str]) -> int | None:
    """The side of tiles, None for the whole image: also with a latent prior, which has none."""
    if isinstance(engine, LatentEngine):
        return None
    tile = engine.network.tile_for(*size)
    if tile is not None:
        notes.append(f"the network sees tiles of {tile}, as memory asks for them; see --tile")
    return tile


def _is_level(op: Operator, level: float) -> bool:
    """Whether the operator's noise level is the one of the call."""
    return not isinstance(op.noise_std, Tensor) and float(op.noise_std) == level


def _resized(alpha: Tensor | None, image: Tensor) -> Tensor | None:
    """Alpha for an image of another size."""
    if alpha is None or alpha.shape == image.shape[-2:]:
        return alpha
    resized = F.interpolate(alpha[None, None], tuple(image.shape[-2:]), mode="bilinear")
    return resized[0, 0].clamp(0.0, 1.0)


def _latent_options(
    engine: Engine, delta: str | None, prompt_updates: int | None
) -> dict[str, Any]:
    """What was given for a latent prior, refused for any other."""
    options = {"delta": delta, "prompt_updates": prompt_updates}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if not isinstance(engine, LatentEngine):
            remedy = f"it belongs to text-to-image pipelines, and {engine.spec.name!r} is none"
            raise invalid(name, "none for this engine", value, remedy)
    if delta is not None:
        with suppress(ValueError):  # the name of a row
            numbers = [float(number) for number in delta.split(",")]
            given["delta"] = numbers[0] if len(numbers) == 1 else numbers
    return given


def quality(
    post: Posterior, op: Operator, y: Tensor, truth: Tensor
) -> dict[str, dict[str, float | None]]:
    """PSNR (dB) and SSIM of each stage beside the truth; a small measurement is enlarged
    bicubically, its pixels laid where the operator took them.
    """
    start = op.as_result(op.initial_estimate(y))
    images = {"start": start, "one sample": post.samples[0], "mean": post.mean}
    if y.ndim == 4 and y.shape[:2] == truth.shape[:2]:
        images = {"measured": _enlarged(op, y, truth), **images}
    return {
        name: {"psnr": finite(float(psnr(x, truth).mean())), "ssim": _ssim(x, truth)}
        for name, x in images.items()
        if x.shape == truth.shape
    }


def _enlarged(op: Operator, y: Tensor, truth: Tensor) -> Tensor:
    y = op.enlarged(y)
    return y if y.shape == truth.shape else F.interpolate(y, truth.shape[-2:], mode="bicubic")


def _ssim(x: Tensor, truth: Tensor) -> float | None:
    """None where the image is smaller than the window."""
    return None if min(x.shape[-2:]) < SSIM_WINDOW else finite(float(ssim(x, truth).mean()))


def _write(
    folder: Path,
    post: Posterior,
    y: Tensor,
    shown: Tensor,
    truth: Tensor | None,
    title: str,
    read: Picture,
) -> None:
    alpha = _resized(read.alpha, post.mean)
    post.write_into(folder, read.bits, alpha)
    write_npy(folder / "measurement.npy", y)
    if shown.shape[1] in (1, 3):
        path, of_shown = folder / "measurement.png", _resized(read.alpha, shown)
        write_image(path, shown, bits=read.bits, alpha=of_shown)
    if post.mean.shape[1] not in (1, 3):
        return
    restoration_picture(
        folder / "restoration.png",
        measurement=shown,
        samples=post.samples[:, 0],
        mean=post.mean,
        std=post.std,
        truth=truth,
        title=title,
    )
