"""The denoiser as an ONNX graph with dynamic batch, height and width."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from latino_engine.export.merged_layers import merged_products
from latino_engine.export.mixed_precision import transposed_convolutions_as_shuffles
from latino_engine.export.sizes import example_sides, exporting
from latino_engine.priors.assembly import MODULE
from latino_engine.priors.precision import to_precision
from latino_engine.priors.prior import Prior
from latino_engine.system.cache import through_cache
from latino_engine.system.quiet import quiet

if TYPE_CHECKING:
    import onnx

OPSET = 18
EXPORTER_VERSION = (
    1  # raise it when the graph of the same prior changes: it is part of the cache's key
)


def export_denoiser(prior: Prior, precision: str, target: Path) -> str:
    """Write `target` (an ONNX file) for the prior's denoiser, from the cache where it is there.

    Inputs `x` (batch, C, H, W) and `sigma` (batch,), output `x0_hat`, float32; the sides must be
    multiples of the prior's size_multiple.

    Returns:
        The key under which the export is cached: a hash of the weights, the specification, the
        precision and the versions that shape the graph.
    """
    parts = [prior.content_hash(), precision, OPSET, EXPORTER_VERSION, torch.__version__]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if prior.spec.architecture.get("name") == MODULE:
        # The hash knows the weights, not the code of somebody's module: never from the cache.
        _export(to_precision(prior.denoiser, precision), prior, target)
        return key
    through_cache(
        key, target, lambda: _export(to_precision(prior.denoiser, precision), prior, target)
    )
    return key


def exact_graph(prior: Prior) -> onnx.ModelProto:
    """The prior's denoiser as a float32 graph of operations that TensorRT has in each precision,
    linear layers of the same input merged.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "denoiser.onnx"
        export_denoiser(prior, "fp32", path)
        return merged_products(transposed_convolutions_as_shuffles(onnx.load(str(path))))


def _export(denoiser: nn.Module, prior: Prior, target: Path) -> None:
    multiple = prior.spec.size_multiple
    batch = torch.export.Dim("batch", min=1, max=4096)
    # Sides are named as multiples: the exporter then knows that halving them is exact.
    rows = torch.export.Dim("rows", min=1, max=4096)
    columns = torch.export.Dim("columns", min=1, max=4096)
    x = torch.zeros(2, prior.channels, *example_sides(prior))
    sigma = torch.tensor([0.3, 0.4])
    with quiet(), exporting(prior):
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
