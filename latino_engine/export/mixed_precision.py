"""A float32 ONNX graph rewritten in two precisions: products in the lower one, sums that lose
digits in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

#: Products: they run in the lower precision (tensor cores add up in float32).
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Work on single values: in the precision of their inputs.
POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Sigmoid", "Relu", "Tanh", "Gelu"})
#: Values that only move: in the precision of their inputs.
MOVES = frozenset(
    {"Reshape", "Transpose", "Slice", "Split", "Concat", "Unsqueeze", "Squeeze", "Identity"}
    | {"DepthToSpace", "SpaceToDepth", "Expand", "Gather", "Pad", "Resize"}
)
# Everything else (normalisation, softmax, reductions, sines, roots) stays float32.

_TF32_SPLIT = 2.0**13 + 1.0  # x s - (x s - x) is x rounded to 24 - 13 = 11 significant bits

_FLOAT = 1  # onnx.TensorProto.FLOAT
_LOW = {"fp16": 10, "bf16": 16}  # onnx.TensorProto.FLOAT16, BFLOAT16


def to_typed(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph with its convolutions, linear layers and matrix products in `precision`.

    Statistics of normalisations, softmax, the time embedding's angles and the sum around the
    network (the pointwise nodes behind the last product) stay float32, as do inputs and outputs.
    A pointwise node or a move works in the lower precision where one of its inputs has it.

    Args:
        model: float32 graph, topologically sorted, as `export_denoiser` writes it.
        precision: "fp32" (returns a copy), "fp16" or "bf16".
    """
    copy = _copy(model)
    if precision != "fp32":
        _Converter(copy, precision).convert()
    return copy


def rounded_twin(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A float32 graph that computes what a typed one does: each low tensor is rounded to
    `precision` and back; for "tf32" the factors of every product of a float32 graph are.

    For runtimes without kernels of that precision (onnxruntime's CPU has no bfloat16 convolution).
    Products of rounded numbers are summed in float32 there, as tensor cores do.
    """
    import onnx

    if precision == "tf32":
        return _factors_in_tf32(model)
    low = _LOW[precision]
    types = element_types(model)
    twin = _copy(model)
    nodes = list(twin.graph.node)
    del twin.graph.node[:]
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == low:
                attribute.i = _FLOAT
        roundings = []
        for position, name in enumerate(node.output):
            if types.get(name) == low:
                node.output[position] = f"{name}.exact"
                roundings += rounding(f"{name}.exact", name, precision)
        twin.graph.node.extend([node, *roundings])
    for tensor in twin.graph.initializer:
        if tensor.data_type == low:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    del twin.graph.value_info[:]
    return twin


def rounding(source: str, target: str, precision: str) -> list[onnx.NodeProto]:
    """Nodes that round a float32 tensor to `precision` and back to float32."""
    import onnx

    if precision == "tf32":
        make, by, scaled, low = onnx.helper.make_node, *(f"{target}.{n}" for n in ("by", "s", "r"))
        return [
            make("Constant", [], [by], value_float=_TF32_SPLIT),
            make("Mul", [source, by], [scaled]),
            make("Sub", [scaled, source], [low]),
            make("Sub", [scaled, low], [target]),
        ]
    low = f"{target}.{precision}"
    return [
        onnx.helper.make_node("Cast", [source], [low], to=_LOW[precision]),
        onnx.helper.make_node("Cast", [low], [target], to=_FLOAT),
    ]


def rounded_inputs(node: onnx.NodeProto, precision: str) -> list[str]:
    """The inputs of a node that lose digits: in TF32 the factors of a product, not its bias."""
    return list(node.input[:2] if precision == "tf32" else node.input)


def _factors_in_tf32(model: onnx.ModelProto) -> onnx.ModelProto:
    twin, rounded = _copy(model), set[str]()
    nodes = list(twin.graph.node)
    del twin.graph.node[:]
    for node in nodes:
        if node.op_type in PRODUCTS:
            for position, name in enumerate(rounded_inputs(node, "tf32")):
                if name not in rounded:
                    rounded.add(name)
                    twin.graph.node.extend(rounding(name, f"{name}.tf32", "tf32"))
                node.input[position] = f"{name}.tf32"
        twin.graph.node.append(node)
    return twin


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX element type of every tensor of the graph."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def low_nodes(model: onnx.ModelProto, precision: str) -> set[str]:
    """Names of the nodes of a float32 graph that `to_typed`, or TF32, puts in lower precision."""
    if precision == "tf32":
        return {node.name for node in model.graph.node if node.op_type in PRODUCTS}
    converter = _Converter(_copy(model), precision)
    converter.convert()
    return converter.lowered


def transposed_convolutions_as_shuffles(model: onnx.ModelProto) -> onnx.ModelProto:
    """Writes a transposed convolution whose kernel is its stride as a 1 x 1 one and a shuffle.

    The sums are exactly the same. TensorRT for RTX has no bfloat16 transposed convolution.
    """
    import onnx

    changed = _copy(model)
    weights = {tensor.name: tensor for tensor in changed.graph.initializer}
    nodes = list(changed.graph.node)
    del changed.graph.node[:]
    for node in nodes:
        side = _stride_of_shuffle(node)
        if side is None or node.input[1] not in weights:
            changed.graph.node.append(node)
            continue
        kernel = onnx.numpy_helper.to_array(weights[node.input[1]])  # (in, out, side, side)
        flat = kernel.reshape(kernel.shape[0], -1).T[:, :, None, None]
        names = [node.input[0], f"{node.input[1]}.shuffled"]
        changed.graph.initializer.append(onnx.numpy_helper.from_array(flat.copy(), names[1]))
        if len(node.input) > 2:
            bias = onnx.numpy_helper.to_array(weights[node.input[2]]).repeat(side * side)
            names.append(f"{node.input[2]}.shuffled")
            changed.graph.initializer.append(onnx.numpy_helper.from_array(bias, names[2]))
        packed = f"{node.output[0]}.packed"
        make = onnx.helper.make_node
        conv = make("Conv", names, [packed], name=node.name, kernel_shape=[1, 1])
        conv.metadata_props.extend(node.metadata_props)
        shuffle = make(
            "DepthToSpace", [packed], [node.output[0]], name=f"{node.name}.shuffle",
            blocksize=side, mode="CRD",
        )  # fmt: skip
        changed.graph.node.extend([conv, shuffle])
    remove_unused_weights(changed.graph)
    return changed


def remove_unused_weights(graph: onnx.GraphProto) -> None:
    """Drop the initialisers that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _stride_of_shuffle(node: onnx.NodeProto) -> int | None:
    """s where the node is a transposed convolution with kernel = stride = s and nothing else."""
    if node.op_type != "ConvTranspose":
        return None
    import onnx

    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    strides, kernel = found.get("strides", []), found.get("kernel_shape", found.get("strides", []))
    plain = not any((*found.get("pads", []), *found.get("output_padding", [])))
    plain = plain and found.get("group", 1) == 1 and set(found.get("dilations", [1])) == {1}
    if len(strides) == 2 and list(strides) == list(kernel) and len(set(strides)) == 1 and plain:
        return int(strides[0])
    return None


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


class _Converter:
    """One walk through the graph, which puts each node in its precision and casts between them."""

    def __init__(self, model: onnx.ModelProto, precision: str) -> None:
        import onnx

        self.graph = model.graph
        self.types = element_types(model)
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.low = _LOW[precision]
        self.dtype: Any = onnx.helper.tensor_dtype_to_np_dtype(self.low)
        self.lowered: set[str] = set()
        self._made: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []

    def convert(self) -> None:
        nodes = list(self.graph.node)
        final = _final_sum(nodes, self.graph.output[0].name)
        for node in nodes:
            wanted = self._type_of(node, final)
            for position, name in enumerate(node.input):
                node.input[position] = self._as(name, wanted)
            self._nodes.append(node)
            if wanted == self.low:
                self.lowered.add(node.name)
            for name in node.output:
                if self._is_float(name):
                    self.types[name] = wanted
        self._outputs_in_float32()
        del self.graph.node[:]
        self.graph.node.extend(self._nodes)
        del self.graph.value_info[:]
        remove_unused_weights(self.graph)

    def _type_of(self, node: onnx.NodeProto, final: set[str]) -> int:
        if node.op_type in PRODUCTS:
            return self.low
        follows = node.op_type in POINTWISE | MOVES and node.name not in final
        inputs = (name for name in node.input if name not in self.weights)
        return (
            self.low if follows and any(self.types.get(n) == self.low for n in inputs) else _FLOAT
        )

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) in (_FLOAT, self.low)

    def _as(self, name: str, wanted: int) -> str:
        """The name of this tensor in the wanted precision; a cast or a second weight is made once.

        Integers and absent inputs keep their name.
        """
        import onnx

        if not self._is_float(name) or self.types[name] == wanted:
            return name
        cast = f"{name}.{'low' if wanted == self.low else 'float32'}"
        if cast not in self._made:
            self._made.add(cast)
            if name in self.weights:
                with np.errstate(over="ignore"):  # an infinite weight is the audit's to tell
                    values = onnx.numpy_helper.to_array(self.weights[name]).astype(self.dtype)
                self.graph.initializer.append(onnx.numpy_helper.from_array(values, cast))
            else:
                self._nodes.append(
                    onnx.helper.make_node("Cast", [name], [cast], name=cast, to=wanted)
                )
            self.types[cast] = wanted
        return cast

    def _outputs_in_float32(self) -> None:
        import onnx

        for value in self.graph.output:
            if self.types[value.name] != self.low:
                continue
            inner = f"{value.name}.low"
            for node in self._nodes:
                for names in (node.input, node.output):
                    for position, name in enumerate(names):
                        names[position] = inner if name == value.name else name
            self._nodes.append(
                onnx.helper.make_node("Cast", [inner], [value.name], name=inner, to=_FLOAT)
            )


def _final_sum(nodes: Iterable[onnx.NodeProto], output: str) -> set[str]:
    """Names of the pointwise nodes between the last product and the output."""
    producer = {name: node for node in nodes for name in node.output}
    found: set[str] = set()
    pending = [output]
    while pending:
        node = producer.get(pending.pop())
        if node is not None and node.op_type in POINTWISE and node.name not in found:
            found.add(node.name)
            pending += node.input
    return found
