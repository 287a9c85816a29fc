"""How much memory one denoiser call takes, counted from its graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: By ONNX element type.
ITEM_BYTES = {1: 4, 10: 2, 16: 2, 11: 8, 7: 8, 6: 4, 9: 1, 2: 1, 3: 1}


def peak_bytes(model: onnx.ModelProto, side: int, multiple: int) -> int:
    """Bytes of all tensors alive at once while the graph runs one image of side x side, at the
    worst moment.

    Counted from the shapes that stand in the graph and from the last use of each tensor; weights
    are not counted.
    """
    sizes = _tensor_bytes(model, side // multiple)
    last_use: dict[str, int] = {}
    for position, node in enumerate(model.graph.node):
        for name in node.input:
            last_use[name] = position
    alive: dict[str, int] = {}
    peak = 0
    for position, node in enumerate(model.graph.node):
        alive.update((name, sizes[name]) for name in node.output)
        peak = max(peak, sum(alive.values()))
        for name in node.input:
            if last_use[name] == position:
                alive.pop(name, None)
    return peak


def memory_model(model: onnx.ModelProto, multiple: int) -> dict[str, float]:
    """Bytes per image as a n + b n^2 in the number of pixels n.

    A small image gives a, and large ones give b.

    b is there where attention holds a score for each pair of positions.
    """
    small, large, larger = (factor * multiple for factor in (8, 64, 128))
    per_pixel = peak_bytes(model, small, multiple) / small**2
    slopes = [peak_bytes(model, side, multiple) / side**2 for side in (large, larger)]
    quadratic = max(0.0, (slopes[1] - slopes[0]) / (larger**2 - large**2))
    return {"per_pixel": per_pixel, "per_pixel_squared": quadratic}


def memory_of(files: Sequence[Path], multiple: int) -> dict[str, float]:
    """`memory_model` of the hungriest of some networks, which run one after the other."""
    import onnx

    models = [
        memory_model(onnx.load(str(file), load_external_data=False), multiple) for file in files
    ]
    return {key: max(model[key] for model in models) for key in models[0]}


def _tensor_bytes(model: onnx.ModelProto, blocks: int) -> dict[str, int]:
    """Bytes of every tensor for one square image of side `blocks` times the prior's multiple.

    The exporter writes dimensions as expressions of the sides, such as "4*rows"; whatever its names
    for them, they all equal `blocks` here. Where it knows no size, the tensor is taken as large as
    the node's largest input, and a product of matrices (the scores of an attention) as rows x
    columns.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes: dict[str, list[int | None]] = {}
    found: dict[str, int] = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        dims = shapes[value.name] = [_dimension(dim, blocks) for dim in tensor.shape.dim]
        if all(size is not None for size in dims):
            count = math.prod(size for size in dims if size is not None)
            found[value.name] = count * ITEM_BYTES.get(tensor.elem_type, 4)
    for node in model.graph.node:
        inputs = [name for name in node.input if name not in weights]
        guess = max((found.get(name, 0) for name in inputs), default=0)
        left = shapes.get(node.input[0], []) if node.input else []
        if node.op_type == "MatMul" and len(inputs) == 2 and len(left) > 2 and None not in left:
            rows, inner = (size for size in left[-2:] if size is not None)
            guess = rows * found.get(inputs[1], 0) // inner
        for name in node.output:
            found.setdefault(name, guess)
    return found


def _dimension(dim: onnx.TensorShapeProto.Dimension, blocks: int) -> int | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    size = 1
    for factor in dim.dim_param.split("*"):
        if factor.isdigit():
            size *= int(factor)
        elif factor.isidentifier():
            size *= 1 if factor == "batch" else blocks
        else:
            return None
    return size
