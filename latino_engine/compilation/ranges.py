"""How large the numbers of a network become, where they are stored in 16 bits of float16.

Many runtimes on a CPU compute a float16 graph in float32 and so hide an overflow that a GPU has:
the range is therefore measured in a graph that is float32 throughout.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from latino_engine.compilation.accuracy import probe_sample
from latino_engine.errors import AccuracyError
from latino_engine.export.mixed_precision import element_types
from latino_engine.priors.prior import Prior

if TYPE_CHECKING:
    import onnx

#: float16 ends at 65,504; images beyond the probes go a little further than those.
LARGEST_HALF = 6e4
_FLOAT, _HALF = 1, 10  # onnx.TensorProto
_PREFIX = "range."


@dataclass(frozen=True)
class Range:
    """The tensor of a graph with the largest number.

    Attributes:
        layer, op: the module that computes it, and its ONNX operation.
        largest: largest absolute value, infinite where it is no number.
        sigma: the noise level at which it comes; None for a weight.
    """

    layer: str
    op: str
    largest: float
    sigma: float | None


def largest_half(
    model: onnx.ModelProto, prior: Prior, sigmas: Sequence[float], sides: tuple[int, int]
) -> Range | None:
    """The largest number among all float16 tensors of a graph, computed in float32.

    Args:
        model: with inputs x and sigma, float16 inside, as an fp16 export or `to_typed` has it.
        prior: whose probe images go in.
        sigmas: their noise levels.
        sides: height and width of the probe images.

    Returns:
        The range of the largest tensor or weight; None where the graph has no float16 tensor.
    """
    wide, nodes = _widened(model)
    largest: list[Range] = []
    for tensor in model.graph.initializer:
        if tensor.data_type == _HALF:
            largest.append(Range(tensor.name, "weight", _top(tensor), None))
    if not nodes:
        return max(largest, key=lambda r: r.largest, default=None)
    run = session_of(wide)
    for sigma in sigmas:
        found = run(*probe_sample(prior, sigma, *sides))
        for name, node in nodes.items():
            value = float(found[f"{_PREFIX}{name}"])
            value = value if math.isfinite(value) else math.inf
            largest.append(Range(module_of(node), node.op_type, value, sigma))
    return max(largest, key=lambda r: r.largest)


def check_half(found: Range | None) -> None:
    """Refuses a network whose numbers float16 cannot hold.

    Raises:
        AccuracyError: a number above 6e4.
    """
    if found is None or found.largest <= LARGEST_HALF:
        return
    where = "" if found.sigma is None else f" at sigma {found.sigma:.6g}"
    raise AccuracyError(
        f"precision: expected numbers of at most {LARGEST_HALF:g} in fp16, which ends at 65504, "
        f"got {found.largest:.3g} from {found.layer} ({found.op}){where}; use bf16, whose range is "
        "that of float32, or fp32"
    )


def _top(tensor: onnx.TensorProto) -> float:
    import onnx

    values = np.abs(onnx.numpy_helper.to_array(tensor).astype(np.float32))
    top = float(values.max()) if values.size else 0.0
    return top if math.isfinite(top) else math.inf


def _widened(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, onnx.NodeProto]]:
    """The graph with float32 in place of float16 and the largest number of each tensor that was
    float16 as an output; with the nodes that compute these.
    """
    import onnx

    types = element_types(model)
    wide = type(model)()
    wide.CopyFrom(model)
    producers = {name: node for node in wide.graph.node for name in node.output}
    nodes = {name: node for name, node in producers.items() if types.get(name) == _HALF}
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                attribute.i = _FLOAT
            elif attribute.HasField("t") and attribute.t.data_type == _HALF:
                attribute.t.CopyFrom(_as_float(attribute.t))
    for tensor in wide.graph.initializer:
        if tensor.data_type == _HALF:
            tensor.CopyFrom(_as_float(tensor))
    del wide.graph.value_info[:]
    del wide.graph.output[:]
    make = onnx.helper.make_node
    for name in nodes:
        size, top = f"{_PREFIX}{name}.abs", f"{_PREFIX}{name}"
        wide.graph.node.extend(
            [make("Abs", [name], [size]), make("ReduceMax", [size], [top], keepdims=0)]
        )
        wide.graph.output.append(onnx.helper.make_tensor_value_info(top, _FLOAT, []))
    return wide, nodes


def _as_float(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    return onnx.numpy_helper.from_array(values, tensor.name)


def module_of(node: onnx.NodeProto) -> str:
    """Dotted name of the module behind a node, from what the exporter notes."""
    for entry in node.metadata_props:
        if entry.key.endswith("name_scopes"):
            scopes = [name for name in ast.literal_eval(entry.value)[:-1] if name]
            if scopes:
                return str(scopes[-1])
    return str(node.name)


def session_of(model: onnx.ModelProto) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """(x, sigma) -> all outputs of a graph by name, by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]

    def run(x: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {"x": x.numpy(), "sigma": sigma.numpy()})
        return {name: torch.as_tensor(v) for name, v in zip(names, found, strict=True)}

    return run
