"""A posterior as the body of an answer: npz, npy, PNG, or JSON with PNGs in it."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.posterior import Posterior
from latino_engine.system.json_values import finite

#: (media type, body)
Answer = tuple[str, bytes]
_SAMPLE = re.compile(r"sample-([0-9]{1,4})")


def answer(post: Posterior, form: str, what: str | None) -> Answer:
    """The body of an answer.

    Args:
        post: of one image.
        form: "npz" for all of it as `Posterior.save` writes it, "json" for figures and pictures,
            "npy" for one array (mean, std or samples), "png" for one picture (mean, std, sample-0,
            ..., measurement).
        what: for npy and png; the mean by default.

    Raises:
        InvalidArgument: a picture or an array that this posterior lacks.
    """
    if form == "npz":
        file = io.BytesIO()
        post.write_npz(file)
        return "application/zip", file.getvalue()
    if form == "json":
        return "application/json", json.dumps(figures(post) | {"images": _pictures(post)}).encode()
    wanted = what or "mean"
    if form == "npy":
        return "application/octet-stream", _npy(post, wanted)
    return "image/png", _png(_picture(post, wanted))


def figures(post: Posterior) -> dict[str, Any]:
    """The figures of a posterior of one image."""
    return {
        "num_samples": post.num_samples,
        "nfe": post.nfe,
        "time_ms": post.time_ms,
        "stages_ms": post.stages_ms,
        "residual_chi2": finite(post.residual_chi2[:, 0].tolist()),
        "operator": post.about["operator"],
        "sampler": post.about["sampler"],
        "seed": post.about["seed"],
        "shape": list(post.mean.shape[1:]),
        "engine_sha256": post.about["engine_sha256"],
        "versions": post.about["versions"],
    }


def _npy(post: Posterior, what: str) -> bytes:
    arrays = {"mean": post.mean[0], "std": post.std[0], "samples": post.samples[:, 0]}
    if what not in arrays:
        raise invalid("what", f"one of {', '.join(arrays)}", repr(what[:80]), "choose one")
    file = io.BytesIO()
    np.save(file, arrays[what].cpu().numpy())
    return file.getvalue()


def _picture(post: Posterior, what: str) -> Tensor:
    """(C, H, W), nominally in [0, 1]."""
    low, high = (float(side) for side in post.about["data_range"])
    if what == "std" and post.num_samples > 1:
        return post.std[0] / (high - low)
    return (_image(post, what) - low) / (high - low)


def _image(post: Posterior, what: str) -> Tensor:
    if what == "mean":
        return post.mean[0]
    if what == "measurement" and post.asked is not None and post.asked.measurement.ndim == 4:
        return post.asked.measurement[0]
    found = _SAMPLE.fullmatch(what)
    if found and int(found[1]) < post.num_samples:
        return post.samples[int(found[1]), 0]
    expected = f"mean, std, measurement or sample-0 to sample-{post.num_samples - 1}"
    raise invalid("what", expected, repr(what[:80]), "choose one; std needs two samples")


def _pictures(post: Posterior) -> dict[str, Any]:
    names = [f"sample-{s}" for s in range(post.num_samples)]
    shown: dict[str, Any] = {"samples": [_base64(_picture(post, name)) for name in names]}
    shown["mean"] = _base64(_picture(post, "mean"))
    if post.num_samples > 1:
        std = _picture(post, "std")
        largest = float(std.max())
        shown["std"] = _base64(std / max(largest, 1e-6))  # the largest is white, to be seen
        shown["std_white"] = largest
    asked = post.asked
    if asked is not None and asked.measurement.ndim == 4 and asked.measurement.shape[1] in (1, 3):
        shown["measurement"] = _base64(_picture(post, "measurement"))
    return shown


def _base64(image: Tensor) -> str:
    return base64.b64encode(_png(image)).decode()


def _png(image: Tensor) -> bytes:
    """8 bits, clamped; channels other than 1 or 3 as their root mean square."""
    if image.shape[0] not in (1, 3):
        image = image.square().sum(dim=0, keepdim=True).sqrt()
    pixels = (torch.nan_to_num(image).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()
