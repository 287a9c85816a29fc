"""Linear layers that share their input as one: an ONNX graph rewritten with fewer products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from latino_engine.export.mixed_precision import remove_unused_weights

if TYPE_CHECKING:
    import onnx


def merged_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every group of linear layers with the same input as one layer and a Split of its result.

    The projections of a time embedding, one for each block, are small products that read the same
    vector: one launch takes the place of a dozen. Every entry is the sum that it was.

    Args:
        model: float32 graph, topologically sorted, as `export_denoiser` writes it.
    """
    changed = type(model)()
    changed.CopyFrom(model)
    graph = changed.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    groups: dict[tuple[Any, ...], list[onnx.NodeProto]] = {}
    for node in graph.node:
        key = _mergeable(node, weights)
        if key is not None:
            groups.setdefault(key, []).append(node)
    replaced: dict[str, list[onnx.NodeProto]] = {}  # by the first output of a node
    for group in groups.values():
        if len(group) > 1:
            replaced |= {node.output[0]: [] for node in group}
            replaced[group[0].output[0]] = _merge(graph, group, weights)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(replaced.get(node.output[0], [node]))
    remove_unused_weights(graph)
    return changed


def _mergeable(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]
) -> tuple[Any, ...] | None:
    """(input, whether the weight is transposed) of x W + b with stored W and b, else None."""
    if node.op_type != "Gemm" or len(node.input) != 3:
        return None
    import onnx

    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    plain = found.get("alpha", 1.0) == found.get("beta", 1.0) == 1.0 and not found.get("transA", 0)
    stored = [weights.get(name) for name in node.input[1:]]
    if not plain or None in stored or len(weights[node.input[2]].dims) != 1:
        return None
    weight, bias = weights[node.input[1]], weights[node.input[2]]
    transposed = int(found.get("transB", 0))
    fits = weight.dims[1 - transposed] == bias.dims[0]  # a bias of one entry is spread over all
    return (node.input[0], transposed, weight.data_type) if fits else None


def _merge(
    graph: onnx.GraphProto, group: list[onnx.NodeProto], weights: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    import onnx

    first = group[0]
    transposed = any(a.name == "transB" and a.i for a in first.attribute)
    name = f"{first.name}.merged"
    parts = [[onnx.numpy_helper.to_array(weights[n]) for n in node.input[1:]] for node in group]
    stacked = {
        f"{name}.weight": np.concatenate([w for w, _ in parts], axis=0 if transposed else 1),
        f"{name}.bias": np.concatenate([b for _, b in parts]),
        f"{name}.sizes": np.array([len(b) for _, b in parts], np.int64),
    }
    for key, values in stacked.items():
        graph.initializer.append(onnx.numpy_helper.from_array(values, key))
    make, whole = onnx.helper.make_node, f"{name}.out"
    inputs = [first.input[0], f"{name}.weight", f"{name}.bias"]
    product = make("Gemm", inputs, [whole], name=name, transB=int(transposed))
    product.metadata_props.extend(first.metadata_props)
    outputs = [node.output[0] for node in group]
    split = make("Split", [whole, f"{name}.sizes"], outputs, name=f"{name}.split", axis=1)
    return [product, split]
