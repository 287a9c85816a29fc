"""Floating-point operations and bytes of a denoiser, counted from its graph.

Conventions. A multiply-add is two operations; every other arithmetic node counts one per element of
its result (a sigmoid too). Every node reads its inputs and writes its outputs, views excepted; a
runtime that fuses nodes or finds them in a cache moves less. The calls of an operator count
themselves: `Operator.cost`.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latino_engine.export.graph_memory import ITEM_BYTES
from latino_engine.operators.parts.cost import Count

_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Identity", "Shape", "Flatten")
_MOVES = ("Concat", "Split", "Slice", "Transpose", "DepthToSpace", "SpaceToDepth", "Expand")
_FREE = (*_VIEWS, *_MOVES, "Cast", "Gather", "Constant", "ConstantOfShape", "Pad")
_MATRIX = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_NORM_FLOPS, _SOFTMAX_FLOPS = 6, 5  # per element: two sums, difference, product; exp, sum, ...


@dataclass(frozen=True)
class GraphCount(Count):
    """A denoiser call: its `flops` with the `matrix_flops` among them, and what it is made of.

    Attributes:
        matrix_flops: those of convolutions and matrix products.
        weight_bytes: bytes of all weights.
        nodes: how many nodes of each type, after constants are folded.
    """

    matrix_flops: float
    weight_bytes: int
    nodes: dict[str, int]


def count_graph(path: str | Path, batch: int, height: int, width: int) -> GraphCount:
    """Count one call of the denoiser with images (batch, C, height, width).

    Args:
        path: denoiser.onnx of an engine.
        batch, height, width: sizes; the sides are multiples of the prior's.
    """
    model = fixed_shapes(path, batch, height, width)
    sizes, kinds = _shapes_and_types(model)
    weights = {w.name for w in model.graph.initializer}
    item = {name: ITEM_BYTES.get(kind, 4) for name, kind in kinds.items()}

    def volume(name: str) -> int:
        return math.prod(sizes[name]) * item[name] if name in sizes else 0

    flops = matrix = moved = 0.0
    nodes: dict[str, int] = {}
    for node in model.graph.node:
        nodes[node.op_type] = nodes.get(node.op_type, 0) + 1
        found = _node_flops(node, sizes)
        flops += found
        matrix += found if node.op_type in _MATRIX else 0.0
        if node.op_type not in _VIEWS:
            moved += sum(volume(name) for name in (*node.input, *node.output) if name)
    weight_bytes = sum(volume(name) for name in weights)
    return GraphCount(flops, moved, matrix, weight_bytes, dict(sorted(nodes.items())))


def fixed_shapes(path: str | Path, batch: int, height: int, width: int) -> Any:
    """The graph as an onnx.ModelProto at one size: constants folded, every shape known."""
    import onnx
    import onnxruntime

    asked = onnx.load(str(path), load_external_data=False).graph.input
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    for dim, size in zip(
        asked[0].type.tensor_type.shape.dim, (batch, None, height, width), strict=True
    ):
        if dim.dim_param and size is not None:
            options.add_free_dimension_override_by_name(dim.dim_param, size)
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.shape_inference.infer_shapes(onnx.load(str(folded)), data_prop=True)


def optimised_nodes(path: str | Path) -> dict[str, int]:
    """How many nodes of each type onnxruntime runs, after all its fusions for this processor."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as scratch:
        fused = Path(scratch) / "fused.onnx"
        options.optimized_model_filepath = str(fused)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes: dict[str, int] = {}
        for node in onnx.load(str(fused)).graph.node:
            nodes[node.op_type] = nodes.get(node.op_type, 0) + 1
    return dict(sorted(nodes.items()))


def _shapes_and_types(model: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    sizes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, int] = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        sizes[value.name] = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
        kinds[value.name] = tensor.elem_type
    for weight in model.graph.initializer:
        sizes[weight.name] = tuple(weight.dims)
        kinds[weight.name] = weight.data_type
    return sizes, kinds


def _node_flops(node: Any, sizes: dict[str, tuple[int, ...]]) -> float:
    out = math.prod(sizes[node.output[0]])
    if node.op_type in _FREE:
        return 0.0
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = sizes[node.input[1]]  # (out, in / groups, ...) or, transposed, (in, out / groups)
        positions = out if node.op_type == "Conv" else math.prod(sizes[node.input[0]])
        return 2.0 * positions * math.prod(weight[1:]) + (out if len(node.input) > 2 else 0)
    if node.op_type in ("MatMul", "Gemm"):
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        inner = sizes[node.input[0]][-2 if transposed else -1]
        return 2.0 * out * inner + (out if len(node.input) > 2 else 0)
    if node.op_type.endswith("Normalization"):
        return float(_NORM_FLOPS * out)
    return float((_SOFTMAX_FLOPS if node.op_type == "Softmax" else 1) * out)
