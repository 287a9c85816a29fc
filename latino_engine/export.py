"""The denoiser as an ONNX graph with dynamic batch, height and width, checked before it is
accepted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from latino_engine.atomic import atomic_file
from latino_engine.errors import OutputNotWritable
from latino_engine.priors.assembly import MODULE
from latino_engine.priors.precision import to_precision
from latino_engine.priors.prior import Prior
from latino_engine.quiet import quiet

OPSET = 18
EXPORTER_VERSION = (
    1  # raise it when the graph of the same prior changes: it is part of the cache's key
)


def cache_folder() -> Path:
    """Where exports are kept: $LATINO_ENGINE_CACHE, else the user's cache folder."""
    named = os.environ.get("LATINO_ENGINE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "latino-engine"


def export_denoiser(prior: Prior, precision: str, target: Path) -> str:
    """Write `target` (an ONNX file) for the prior's denoiser, from the cache where it is there.

    Inputs `x` (batch, C, H, W) and `sigma` (batch,), output `x0_hat`, float32; the sides must be
    multiples of the prior's size_multiple.

    Returns:
        The key under which the export is cached: a hash of the weights, the specification, the
            precision and
        the versions that shape the graph.
    """
    parts = [prior.content_hash(), precision, OPSET, EXPORTER_VERSION, torch.__version__]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if prior.spec.architecture.get("name") == MODULE:
        # The hash knows the weights, not the code of somebody's module: never from the cache.
        _export(to_precision(prior.denoiser, precision), prior, target)
        return key
    cached = cache_folder() / "exports" / f"{key}.onnx"
    checksum = cached.with_suffix(".sha256")
    if _intact(cached, checksum):
        shutil.copyfile(cached, target)
        return key
    _export(to_precision(prior.denoiser, precision), prior, target)
    # A cache that cannot be written costs the next compile ten seconds, not this one its result.
    with suppress(OSError, OutputNotWritable):
        with atomic_file(cached) as file:
            file.write(target.read_bytes())
        with atomic_file(checksum) as file:
            file.write(file_sha256(target).encode())
    return key


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _intact(cached: Path, checksum: Path) -> bool:
    try:
        return checksum.read_text() == file_sha256(cached)
    except OSError:
        return False


def _export(denoiser: nn.Module, prior: Prior, target: Path) -> None:
    multiple = prior.spec.size_multiple
    batch = torch.export.Dim("batch", min=1, max=4096)
    # Sides are named as multiples: the exporter then knows that halving them is exact.
    rows = torch.export.Dim("rows", min=1, max=4096)
    columns = torch.export.Dim("columns", min=1, max=4096)
    x = torch.zeros(2, prior.channels, 4 * multiple, 6 * multiple)  # no two sizes alike
    sigma = torch.tensor([0.3, 0.4])
    with quiet():
        program = torch.onnx.export(
            denoiser,
            (x, sigma),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x", "sigma"],
            output_names=["x0_hat"],
            dynamic_shapes={
                "x": {0: batch, 2: multiple * rows, 3: multiple * columns},
                "sigma": {0: batch},
            },
            verbose=False,
        )
        assert program is not None
        program.save(str(target), external_data=False)
