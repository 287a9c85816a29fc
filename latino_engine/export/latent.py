"""The three networks of a latent prior as ONNX graphs with dynamic batch, height and width."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latino_engine.export.denoiser import OPSET
from latino_engine.priors.latent.prior import (
    Conditioning,
    LatentModel,
    LatentPrior,
    denoiser_inputs,
)
from latino_engine.runtimes.latent import NETWORKS
from latino_engine.system.cache import through_cache
from latino_engine.system.quiet import quiet

#: protobuf's limit is 2 GiB: larger weights lie beside the graph.
_LARGEST_GRAPH = 3 << 29


class _Function(nn.Module):
    """One function of the model as a module."""

    def __init__(self, model: LatentModel, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def export_latent(prior: LatentPrior, model: LatentModel, folder: Path, key: str) -> None:
    """Write encoder.onnx, decoder.onnx and denoiser.onnx; float32 in and out; from the cache where
    they are there.

    Args:
        prior: for its sizes and its conditioning.
        model: its networks in the precision of the engine.
        folder: where the files go, and `NAME.data` beside one above protobuf's limit.
        key: a hash of all that shapes the graphs.
    """
    for name in NETWORKS:
        stem = name.partition(".")[0]
        export = partial(_export, prior, model, name, folder / name)
        through_cache(f"{key}.{stem}", folder / name, export)


def _export(prior: LatentPrior, model: LatentModel, name: str, target: Path) -> None:
    examples = example_inputs(prior, 4, 6)  # no two sizes alike
    functions: dict[str, Callable[..., Tensor]] = {
        "encoder.onnx": model.encode,
        "decoder.onnx": model.decode,
        "denoiser.onnx": model.denoise,
    }
    network = model.unet if name == "denoiser.onnx" else model.vae
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    inputs = examples[name]
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Function(model, functions[name]).eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(NETWORKS[name][0][: len(inputs)]),
            output_names=[NETWORKS[name][1]],
            dynamic_shapes={"inputs": _dynamic(prior, name, inputs)},
            verbose=False,
        )
        assert program is not None
        program.save(str(target), external_data=size > _LARGEST_GRAPH)


def example_inputs(prior: LatentPrior, rows: int, columns: int) -> dict[str, tuple[Tensor, ...]]:
    """Inputs of every network for two images of rows x columns multiples, of smooth noise."""
    spec, facts = prior.spec, prior.spec.architecture
    deep = spec.size_multiple // facts["factor"]
    z = torch.zeros(2, facts["channels"], rows * deep, columns * deep)
    x = torch.zeros(2, spec.channels, rows * spec.size_multiple, columns * spec.size_multiple)
    sigma = torch.tensor([spec.sigma_min, spec.sigma_max], dtype=torch.float64)
    conditioning = prior.conditioning.take(torch.zeros(2, dtype=torch.int64))
    conditioning = Conditioning(
        conditioning.prompt.contiguous(),
        None if conditioning.pooled is None else conditioning.pooled.contiguous(),
    )
    return {
        "encoder.onnx": (x,),
        "decoder.onnx": (z,),
        "denoiser.onnx": denoiser_inputs(spec, z, sigma, conditioning),
    }


def _dynamic(prior: LatentPrior, name: str, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    spec = prior.spec
    deep = spec.size_multiple // spec.architecture["factor"]
    batch = torch.export.Dim("batch", min=1, max=4096)
    # Sides are named as multiples: the exporter then knows that halving them is exact.
    rows = torch.export.Dim("rows", min=1, max=4096)
    columns = torch.export.Dim("columns", min=1, max=4096)
    multiple = spec.size_multiple if name == "encoder.onnx" else deep
    image = {0: batch, 2: multiple * rows, 3: multiple * columns}
    return (image, *({0: batch} for _ in inputs[1:]))
