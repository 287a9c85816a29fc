"""From an image file to a folder of results: what the command `sample` does."""

from __future__ import annotations

import json
from contextlib import suppress
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
from latino_engine.image_io import read_image, write_image, write_npy
from latino_engine.image_io.arrays import read_kspace
from latino_engine.latent_engine import LatentEngine
from latino_engine.operators import JPEG, Luminance
from latino_engine.operators.parts.checks import as_noise_std
from latino_engine.operators.protocol import Operator
from latino_engine.operators.spec import REAL_BORDER, image_size_behind, operator_of_picture
from latino_engine.posterior import POSTERIOR_FILES, Posterior
from latino_engine.sampling.options import Sampling
from latino_engine.sampling.reporting import Progress
from latino_engine.system.json_values import finite


def restore(
    engine: Engine,
    image: str | Path,
    operator: str,
    out: str | Path,
    sampling: Sampling,
    *,
    noise_std: float | str = 0.02,
    simulate: bool = False,
    progress: Progress = None,
    delta: str | None = None,
    prompt_updates: int | None = None,
) -> dict[str, Any]:
    """Draw samples for the measurement in a file, and write them with mean, std and one picture.

    Args:
        engine: the loaded engine.
        image: file of the measurement, or of a clean image with `simulate`.
        operator: description such as "blur:std=1.6"; see `latino_engine.operators.spec`.
        out: folder to write; replaced only where it holds an earlier result.
        sampling: how the samples are drawn; all of them are kept.
        noise_std: noise level of the measurement, public units, or "estimate".
        simulate: measure the clean image first (with this seed), and compare the results with it.
        progress: as in `Engine.sample`.
        delta, prompt_updates: of a latent prior, as in `LatentEngine.sample`; delta as the name of
            a row, a number, or numbers with commas between them.

    Returns:
        The figures as JSON types: those of `Posterior.summary`, the folder, and with `simulate`
        the quality (PSNR in dB, SSIM) of the measurement, of the start, of one sample and of the
        mean.

    Raises:
        ValueError, TypeError, OSError: an input or output that cannot be used, in one sentence.
    """
    seed = ops.check_seed(sampling.seed)
    latent = _latent_options(engine, delta, prompt_updates)
    is_kspace = operator.strip().startswith("mri") and not simulate
    picture = read_kspace(image) if is_kspace else read_image(image)
    size = (picture.shape[-2], picture.shape[-1])
    if not simulate:
        size = image_size_behind(operator, size)
    if operator.strip() == "jpeg" and not simulate:
        op: Operator = JPEG.from_file(image)
        op = Luminance(op) if picture.shape[1] == 1 < engine.spec.channels else op
    else:
        border = "wrap" if simulate else REAL_BORDER
        level = as_noise_std(noise_std)
        channels = (engine.spec.channels if is_kspace else picture.shape[1], engine.spec.channels)
        op = operator_of_picture(operator, level, size, seed, channels, border)
    if not (simulate or is_kspace or op.measures_image):
        expected = "a measurement that is an image or k-space"
        remedy = "add --simulate, or call Engine.sample from Python"
        raise invalid("operator", expected, repr(operator), remedy)
    with about(f"operator {operator}"):
        y = op.measure(picture, seed=seed) if simulate else picture
    with atomic_folder(out, ours=POSTERIOR_FILES) as folder:  # refused before any work is done
        post = engine.sample(y, op, progress=progress, **sampling.arguments(), **latent)
        report = {**post.summary(), "folder": str(out)}
        if simulate:
            report["quality"] = quality(post, op, y, picture)
        truth = picture if simulate else None
        title = f"{operator}, {post.nfe} evaluations"
        _write(folder, post, y, op.measurement_picture(y), truth, title)
        text = json.dumps(report, indent=1, allow_nan=False)
        (folder / "posterior.json").write_text(text + "\n")
    return report


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
    folder: Path, post: Posterior, y: Tensor, shown: Tensor, truth: Tensor | None, title: str
) -> None:
    post.write_into(folder)
    write_npy(folder / "measurement.npy", y)
    if shown.shape[1] in (1, 3):
        write_image(folder / "measurement.png", shown)
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
