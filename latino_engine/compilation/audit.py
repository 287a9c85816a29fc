"""What a lower precision costs, layer by layer and in all, found without a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latino_engine.compilation.accuracy import (
    BOUNDS,
    check_accuracy,
    probe_sample,
    probe_sides,
    probe_sigmas,
    relative_errors,
)
from latino_engine.compilation.ranges import check_half, largest_half, module_of, session_of
from latino_engine.errors import AccuracyError, invalid
from latino_engine.export.denoiser import exact_graph
from latino_engine.export.mixed_precision import (
    POINTWISE,
    PRODUCTS,
    element_types,
    low_nodes,
    rounded_inputs,
    rounded_twin,
    rounding,
    to_typed,
)
from latino_engine.priors.loading import pixel_prior
from latino_engine.priors.prior import Prior

if TYPE_CHECKING:
    import onnx

_KEPT = frozenset(
    {"InstanceNormalization", "GroupNormalization", "LayerNormalization", "Softmax", "ReduceMean"}
)
_NUM_NAMED = 3
_FLOAT = 1  # onnx.TensorProto.FLOAT
_PREFIX = "audit."


@dataclass(frozen=True)
class LayerError:
    """One node of the network, computed from exact inputs in the lower precision.

    Attributes:
        layer: the module's name.
        op: its ONNX operation.
        error: ||low - exact|| / ||exact||, the worst over the noise levels; infinite where the
            lower precision overflows.
        largest: largest absolute value that it gives.
        kept: the typed graph keeps it in float32; `error` is at least what that saves: inputs and
            outputs are rounded, sums stay float32, where a GPU's kernel in the lower precision may
            also lose digits of, or overflow in, the squares of a normalisation.
    """

    layer: str
    op: str
    error: float
    largest: float
    kept: bool


def graph_runtime(model: onnx.ModelProto) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, sigma) -> x0_hat by onnxruntime on the CPU."""
    run = session_of(model)
    return lambda x, sigma: run(x, sigma)["x0_hat"]


def typed_errors(
    prior: Prior, exact: onnx.ModelProto, precision: str, sigmas: Sequence[float]
) -> dict[str, float]:
    """||out - ref|| / ||ref|| per noise level of the typed graph, against float32 torch.

    onnxruntime runs it with every tensor of the lower precision rounded there and back, since its
    own CPU kernels skip roundings that a GPU makes. "tf32" is the float32 graph whose products
    round their factors.

    Raises:
        AccuracyError: above the bound of the precision, or numbers that fp16 cannot hold; the worst
            layers are named.
    """
    if precision == "fp16":
        check_half(largest_half(to_typed(exact, precision), prior, sigmas, probe_sides(prior.spec)))
    errors = relative_errors(
        graph_runtime(_computed(exact, precision)), prior, sigmas, *probe_sides(prior.spec)
    )
    try:
        check_accuracy("the typed graph", precision, errors)
    except AccuracyError:
        if precision == "fp32":
            raise
        worst = audit_layers(prior, exact, precision, sigmas)
        check_report({"precision": precision, "error_by_sigma": errors, "layers": worst})
    return errors


def _computed(exact: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A float32 graph that computes what a plan of this precision, or one with TF32, does."""
    if precision in ("fp32", "tf32"):
        return exact if precision == "fp32" else rounded_twin(exact, precision)
    return rounded_twin(to_typed(exact, precision), precision)


def audit_prior(prior: Prior | str | Path, precision: str) -> dict[str, Any]:
    """Error of the whole network per noise level, and of each layer alone, the worst first.

    Args:
        prior: a `Prior`, a shipped name, or the folder of a prior or an engine.
        precision: "fp16", "bf16" or "tf32".

    Returns:
        prior, precision, bound, error_by_sigma, relative_error, layers (of `LayerError`), largest
        (the `Range` of the largest float16 number, None for other precisions).

    Raises:
        ValueError: another precision.
    """
    if precision not in ("fp16", "bf16", "tf32"):
        remedy = "float32 is what they are compared with"
        raise invalid("precision", "'fp16', 'bf16' or 'tf32'", repr(precision), remedy)
    prior = pixel_prior(prior)
    exact, sigmas = exact_graph(prior), probe_sigmas(prior)
    runtime = graph_runtime(_computed(exact, precision))
    errors = relative_errors(runtime, prior, sigmas, *probe_sides(prior.spec))
    worst = max(errors.values(), key=lambda e: math.inf if math.isnan(e) else e)
    half = None
    if precision == "fp16":
        half = largest_half(to_typed(exact, precision), prior, sigmas, probe_sides(prior.spec))
    return {
        "prior": prior.name,
        "precision": precision,
        "largest": half,
        "bound": BOUNDS[precision],
        "relative_error": math.inf if math.isnan(worst) else worst,
        "error_by_sigma": errors,
        "layers": audit_layers(prior, exact, precision, sigmas),
    }


def check_report(report: dict[str, Any]) -> None:
    """Raises `AccuracyError` if `audit_prior` found numbers that fp16 cannot hold, or too large an
    error, with the worst layers.
    """
    check_half(report.get("largest"))
    try:
        check_accuracy("the typed graph", report["precision"], report["error_by_sigma"])
    except AccuracyError as error:
        raise AccuracyError(f"{error} (worst layers: {named(report['layers'])})") from None


def named(layers: Sequence[LayerError]) -> str:
    """The layers with the largest error that the typed graph does compute in low precision."""
    low = [layer for layer in layers if not layer.kept][:_NUM_NAMED]
    return ", ".join(f"{layer.layer} {layer.op} {layer.error:.2g}" for layer in low)


def audit_layers(
    prior: Prior, exact: onnx.ModelProto, precision: str, sigmas: Sequence[float]
) -> list[LayerError]:
    """Measures each product, pointwise node, normalisation and softmax in the lower precision.

    The worst one comes first.

    Every one takes its inputs from the float32 graph, so that an error is the layer's own and none
    that came down to it.
    """
    model, nodes, kept = _audited(exact, precision)
    run = session_of(model)
    found = {name: (0.0, 0.0) for name in nodes}
    for sigma in sigmas:
        out = run(*probe_sample(prior, sigma, *probe_sides(prior.spec)))
        for name, (error, largest) in found.items():
            difference, norm, top = (float(out[f"{_PREFIX}{name}.{k}"]) for k in _MEASURES)
            own = difference / norm if norm > 0.0 else difference
            own = own if math.isfinite(own) else math.inf
            found[name] = (max(error, own), max(largest, top))
    layers = [
        LayerError(module_of(nodes[name]), nodes[name].op_type, *figures, kept=name in kept)
        for name, figures in found.items()
    ]
    return sorted(layers, key=lambda layer: layer.error, reverse=True)


_MEASURES = ("difference", "norm", "largest")


def _audited(
    exact: onnx.ModelProto, precision: str
) -> tuple[onnx.ModelProto, dict[str, onnx.NodeProto], set[str]]:
    """The graph with a rounded twin of every layer and three figures of each as outputs."""
    import onnx

    model = type(exact)()
    model.CopyFrom(exact)
    types = element_types(model)
    low = low_nodes(model, precision)
    wanted = {
        node.name: node
        for node in exact.graph.node
        if (node.name in low and node.op_type in PRODUCTS | POINTWISE)
        or (node.op_type in _KEPT and precision != "tf32")  # which is one of products alone
    }
    rounded: set[str] = set()
    del model.graph.output[:]
    for node in wanted.values():
        twin = type(node)()
        twin.CopyFrom(node)
        twin.name = f"{_PREFIX}{node.name}"
        for position, name in enumerate(rounded_inputs(node, precision)):
            if types.get(name) == _FLOAT:
                twin.input[position] = f"{_PREFIX}{name}"
                if name not in rounded:
                    rounded.add(name)
                    model.graph.node.extend(rounding(name, f"{_PREFIX}{name}", precision))
        twin.output[0] = f"{twin.name}.exact"
        model.graph.node.append(twin)
        model.graph.node.extend(_measured(node.output[0], twin.name, precision))
        for measure in _MEASURES:
            name = f"{twin.name}.{measure}"
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, _FLOAT, []))
    return model, wanted, set(wanted) - low


def _measured(exact: str, twin: str, precision: str) -> list[onnx.NodeProto]:
    import onnx

    make = onnx.helper.make_node
    stored = f"{twin}.exact" if precision == "tf32" else f"{twin}.rounded"  # TF32 is no storage
    return [
        *(() if precision == "tf32" else rounding(f"{twin}.exact", stored, precision)),
        make("Sub", [stored, exact], [f"{twin}.sub"]),
        make("ReduceL2", [f"{twin}.sub"], [f"{twin}.difference"], keepdims=0),
        make("ReduceL2", [exact], [f"{twin}.norm"], keepdims=0),
        make("Abs", [exact], [f"{twin}.abs"]),
        make("ReduceMax", [f"{twin}.abs"], [f"{twin}.largest"], keepdims=0),
    ]
