"""Latency budget of one network evaluation on an H100, counted from the networks; needs no GPU.

python -m benchmarks.floors.gpu_budget prints the tables of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from latino_engine import load_prior
from latino_engine.export.denoiser import exact_graph, export_denoiser
from latino_engine.priors import Prior
from latino_engine.priors.networks.unet import Attention, UNet

# NVIDIA's data sheet of the H100 SXM: dense float16 tensor cores, memory.
PEAK_FLOPS, PEAK_BYTES = 989e12, 3.35e12
HALF = 2  # bytes of a float16

SHIPPED = {"widths": [32, 64, 128], "blocks_per_level": 2, "attention_heads": 4,
           "embedding": 128, "groups": 8, "pixel_unshuffle": 2}  # fmt: skip
#: The widths of ADM for 256 x 256 images, with the blocks of this repository.
ADM_SIZED = {"widths": [256, 256, 512, 512, 1024, 1024], "blocks_per_level": 2,
             "attention_heads": 16, "embedding": 1024, "groups": 32,
             "pixel_unshuffle": 1}  # fmt: skip


@dataclass
class Budget:
    """What one call takes at least: pointwise work is fused into its neighbours, all in float16.

    Linear layers of the same input are one launch, as `merged_products` makes them in a plan.
    """

    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0
    parameters: int = 0
    embedding_flops: float = 0.0
    embedding_launches: int = 0
    merged_launches: int = 0  # that merging saves
    by_kind: dict[str, int] = field(default_factory=dict)
    _inputs: list[Tensor] = field(default_factory=list)  # of the linear layers

    def add(self, module: nn.Module, x: Tensor, out: Tensor) -> None:
        flops = _flops(module, x, out)
        kind = type(module).__name__
        self.by_kind[kind] = self.by_kind.get(kind, 0) + 1
        weights = sum(p.numel() for p in module.parameters(recurse=False))
        self.flops += flops
        # the scores of attention stay on the chip; its in- and outputs are the 1 x 1 convolutions'
        self.bytes += HALF * (x.numel() + out.numel() + weights)
        is_linear = isinstance(module, nn.Linear)
        merged = is_linear and any(x is other for other in self._inputs)
        self.launches += not merged
        if is_linear:
            self._inputs.append(x)
            self.embedding_flops += flops
            self.embedding_launches += not merged
            self.merged_launches += merged

    def to_json(self) -> dict[str, Any]:
        compute, memory = 1e6 * self.flops / PEAK_FLOPS, 1e6 * self.bytes / PEAK_BYTES
        return {
            "parameters_M": self.parameters / 1e6,
            "GFLOP": self.flops / 1e9,
            "MB": self.bytes / 1e6,
            "launches": self.launches,
            "compute_us": compute,
            "memory_us": memory,
            "embedding_launches": self.embedding_launches,
            "merged_launches": self.merged_launches,
            "embedding_GFLOP": self.embedding_flops / 1e9,
            "by_kind": dict(sorted(self.by_kind.items())),
        }


def _flops(module: nn.Module, x: Tensor, out: Tensor) -> float:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        positions = out if isinstance(module, nn.Conv2d) else x
        pixels = positions.shape[0] * positions.shape[2] * positions.shape[3]
        return 2.0 * pixels * module.weight.numel()
    if isinstance(module, nn.Linear):
        return 2.0 * out.shape[0] * module.weight.numel()
    if isinstance(module, Attention):
        batch, channels, height, width = x.shape
        return 4.0 * batch * channels * (height * width) ** 2
    return 6.0 * x.numel()  # normalisation


def budget(architecture: dict[str, Any], batch: int, side: int) -> Budget:
    """Count one call of the network on images (batch, 3, side, side), without computing it."""
    found = Budget()
    with torch.device("meta"):
        network = UNet(channels=3, **architecture).to("meta")  # all of it, whoever made a buffer
        for module in network.modules():
            if isinstance(
                module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.GroupNorm | Attention
            ):
                module.register_forward_hook(lambda m, inputs, out: found.add(m, inputs[0], out))
        x = torch.empty(batch, 3, side, side, device="meta")
        network(x, torch.empty(batch, device="meta"))
    found.parameters = sum(p.numel() for p in network.parameters())
    return found


def embedding_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of the exported denoiser depend on the noise level alone, and on shapes."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    sigma_only, on_shapes, seen = {"sigma"}, set(known), {"sigma": 0, "shape": 0, "matrix": 0}
    for node in model.graph.node:
        if node.op_type == "Shape" or all(name in on_shapes for name in node.input):
            on_shapes.update(node.output)
            seen["shape"] += 1
        elif all(name in sigma_only | on_shapes for name in node.input):
            sigma_only.update(node.output)
            seen["sigma"] += 1
            seen["matrix"] += node.op_type in ("Gemm", "MatMul")
    return {"nodes": len(model.graph.node), **seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    rows = {
        f"{name}, batch {batch}": budget(architecture, batch, arguments.size).to_json()
        for name, architecture in (("photo-small", SHIPPED), ("ADM-sized", ADM_SIZED))
        for batch in (1, 4)
    }
    prior = load_prior("photo-small")
    nodes = {
        "exported": embedding_nodes(_exported(prior)),
        "of the plan": embedding_nodes(exact_graph(prior)),
    }
    print(json.dumps({"networks": rows, "photo_small_nodes": nodes}, indent=1))


def _exported(prior: Prior) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "denoiser.onnx"
        export_denoiser(prior, "fp32", path)
        return onnx.load(str(path))


if __name__ == "__main__":
    main()
