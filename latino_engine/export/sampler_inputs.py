"""An example of inputs beside an exported whole sampler, for those who run it without this package.

The npz file holds every input of the graph by its name, for a shipped photograph that was measured,
and `scale` and `offset` of the units: internal = scale * public + offset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from latino_engine.atomic import atomic_file
from latino_engine.export.whole_sampler import whole_sampler_inputs
from latino_engine.image_io.samples import sample_image
from latino_engine.learned_schedule import parse_schedule
from latino_engine.manifest import read_manifest
from latino_engine.operators import Blur, Inpainting
from latino_engine.operators.parts.mask_patterns import random_pixels
from latino_engine.priors.prior import PriorSpec
from latino_engine.schedule import ScheduleBuilder, latino_schedule

_NOISE_STD = 0.02


def write_example_inputs(
    source: str | Path,
    spec: PriorSpec,
    target: str | Path,
    size: tuple[int, int],
    operator: str = "blur",
    dft: str = "matmul",
) -> None:
    """Write the inputs of one sample of the photograph "coffee".

    It is blurred (Gaussian, std 1.6 pixels) or half of its pixels are missing; noise std 0.02,
    public units.

    Args:
        source: what was exported: the folder of an engine with an adapter gives the adapter's
            schedule, anything else that of zero-shot LATINO.
        spec: of the prior.
        target: the npz file.
        size: (H, W) of the graph's images.
        operator, dft: as exported.

    Raises:
        OutputNotWritable: the file cannot be written.
    """
    photograph = F.interpolate(sample_image("coffee"), size, mode="bicubic", antialias=True)
    x = photograph.clamp(0.0, 1.0)
    if spec.channels == 1:
        x = x.mean(dim=1, keepdim=True)
    low, high = spec.data_range
    x = low + (high - low) * x
    level = _NOISE_STD * (high - low)
    op: Blur | Inpainting = Blur.gaussian(1.6, level)
    if operator == "mask":
        op = Inpainting(random_pixels(0.5, size, 0), level)
    y = op.measure(x, seed=1)
    inputs = whole_sampler_inputs(spec, y, op, _schedule(Path(source), spec, op.kind), dft=dft)
    units = {"scale": np.float32(spec.scale), "offset": np.float32(spec.offset)}
    arrays: dict[str, Any] = {**inputs, **units}
    with atomic_file(target) as file:
        np.savez(file, **arrays)


def _schedule(source: Path, spec: PriorSpec, kind: str) -> ScheduleBuilder:
    if (source / "engine.json").is_file():
        adapter = read_manifest(source, plans=False).get("adapter")
        if adapter is not None:
            learned = parse_schedule(adapter["schedule"])
            if kind in learned.steps:
                return learned.builder_of(kind)
    levels = spec.latino_sigmas(None)
    return lambda sigma_y: latino_schedule(sigma_y, levels)
