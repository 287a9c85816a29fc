"""Floating-point operations and bytes, counted from the graph and from the operator.

Conventions. A multiply-add is two operations; every other arithmetic node counts one per element of
its result (a sigmoid too). A real FFT of n points takes 2.5 n log2 n, a complex one twice that.
Bytes of the graph: every node reads its inputs and writes its outputs, views excepted; a runtime
that fuses nodes or finds them in a cache moves less. Bytes of a data step: what must be read and
written once.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latino_engine.operators import JPEG, MRI, Blur, Denoising, Inpainting, SuperResolution

_ITEM_BYTES = {1: 4, 10: 2, 16: 2, 11: 8, 7: 8, 6: 4, 9: 1, 2: 1, 3: 1}  # by ONNX element type
_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Identity", "Shape", "Flatten")
_MOVES = ("Concat", "Split", "Slice", "Transpose", "DepthToSpace", "SpaceToDepth", "Expand")
_FREE = (*_VIEWS, *_MOVES, "Cast", "Gather", "Constant", "ConstantOfShape", "Pad")
_MATRIX = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_NORM_FLOPS, _SOFTMAX_FLOPS = 6, 5  # per element: two sums, difference, product; exp, sum, ...


@dataclass(frozen=True)
class Count:
    """Operations and bytes of one call."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


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
    item = {name: _ITEM_BYTES.get(kind, 4) for name, kind in kinds.items()}

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


def count_prox(op: object, shape: tuple[int, ...]) -> Count | None:
    """Count one data step on images of this shape, from its formula with y's part precomputed.

    Args:
        op: the operator.
        shape: (B, C, H, W) of the images.

    Returns:
        None for data steps by conjugate gradients, whose length depends on the data.
    """
    batch, channels, height, width = shape
    planes, pixels = batch * channels, height * width
    image, half = 4 * planes * pixels, height * (width // 2 + 1)  # bytes; bins
    transform = 2.5 * pixels * math.log2(max(2, pixels))  # of one real plane, one way
    if isinstance(op, Blur):
        kernels = math.prod(op.kernel.shape[:-2])
        flops = planes * (2 * transform + 8 * half)
        return Count(flops, 2 * image + 8 * planes * half + 4 * kernels * half)
    if isinstance(op, SuperResolution):
        kernels = math.prod(op.kernel.shape[:-2])
        flops = planes * (2 * transform + 24 * half)
        return Count(flops, 2 * image + 8 * planes * half + 8 * kernels * half)
    if isinstance(op, Inpainting):
        return Count(5 * planes * pixels, 3 * image + 4 * op.mask.numel())
    if isinstance(op, Denoising):
        return Count(3 * planes * pixels, 3 * image)
    if isinstance(op, JPEG):
        return Count((64 + 12 + 6) * planes * pixels, 3 * image)  # DCT and back, colours, cells
    if isinstance(op, MRI) and op.coil_maps is None:
        flops = planes * (2 * transform + 6 * pixels)
        return Count(flops, 3 * image + 4 * op.mask.numel())
    return None


def count_call(op: object, method: str, shape: tuple[int, ...]) -> Count | None:
    """Count one call of "A", "A_adjoint" or "prox" on images of this shape.

    Here `prox` is given y itself: its share of the work is counted too.

    Returns:
        None for conjugate gradients and for models that are not known here.
    """
    batch, channels, height, width = shape
    planes, pixels = batch * channels, height * width
    image, half = 4 * planes * pixels, height * (width // 2 + 1)
    transform = 2.5 * pixels * math.log2(max(2, pixels))
    step = count_prox(op, shape)
    if isinstance(op, Blur):
        call = Count(planes * (2 * transform + 6 * half), 2 * image + 8 * half)
        extra = Count(planes * (transform + 6 * half), image)
    elif isinstance(op, SuperResolution):
        small = pixels // op.factor**2
        low = planes * (transform + 2.5 * small * math.log2(max(2, small)))
        call = Count(low + 6 * planes * half, image * (1 + op.factor**-2) + 8 * half)
        extra = Count(planes * (2.5 * small * math.log2(max(2, small)) + 6 * half), 0)
    elif isinstance(op, Inpainting):
        call, extra = Count(planes * pixels, 2 * image + 4 * op.mask.numel()), Count(0, 0)
    elif isinstance(op, MRI) and op.coil_maps is None:
        call = Count(planes * transform + planes * pixels, 2 * image + 4 * op.mask.numel())
        extra = Count(0, 0)  # y is k-space already
    elif isinstance(op, JPEG):
        call, extra = Count(82 * planes * pixels, 2 * image), Count(38 * planes * pixels, 0)
    elif isinstance(op, Denoising):
        call, extra = Count(0, 2 * image), Count(0, 0)
    else:
        return None
    if method != "prox":
        return call
    assert step is not None
    return Count(step.flops + extra.flops, step.bytes + extra.bytes)
