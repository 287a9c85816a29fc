"""Typed graphs and the audit: which node works in which precision, and what that costs."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.compilation import audit
from latino_engine.compilation.accuracy import BOUNDS, probe_sides, probe_sigmas, relative_errors
from latino_engine.errors import AccuracyError
from latino_engine.export.mixed_precision import (
    POINTWISE,
    PRODUCTS,
    element_types,
    rounded_twin,
    to_typed,
    transposed_convolutions_as_shuffles,
)
from latino_engine.priors.folder import save_prior

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
NUMPY = {name: helper.tensor_dtype_to_np_dtype(dtype) for name, dtype in LOW.items()}


@pytest.fixture(scope="module")
def exact():
    return audit.exact_graph(tiny_prior())


def run(model, **feed):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]


def graph(nodes, inputs, outputs, weights=()):
    values = [
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in side]
        for side in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights]
    for position, node in enumerate(nodes):
        node.name = f"node{position}"
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(
        helper.make_graph(nodes, "g", *values, tensors), opset_imports=opset, ir_version=10
    )


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_each_node_has_its_precision(exact, precision):
    typed = to_typed(exact, precision)
    types = element_types(typed)
    weights = {tensor.name for tensor in typed.graph.initializer}
    kept = {"InstanceNormalization", "Softmax", "Sin", "Cos", "Log", "Sqrt", "Pow", "Reciprocal"}
    seen = set()
    for node in typed.graph.node:
        floats = {types[name] for name in node.input if types.get(name) in (1, LOW[precision])}
        if node.op_type != "Cast":
            assert len(floats) <= 1, f"{node.name} mixes its inputs' types"
        if node.op_type in PRODUCTS:
            assert floats == {LOW[precision]} and types[node.output[0]] == LOW[precision]
        if node.op_type in kept:
            assert floats == {1} and types[node.output[0]] == 1
        seen.add(node.op_type)
    assert {"Conv", "Gemm", "MatMul"} <= seen and kept & seen >= {
        "InstanceNormalization",
        "Softmax",
    }
    (last,) = (n for n in typed.graph.node if n.output[0] == "x0_hat")
    assert last.op_type in POINTWISE and all(types[name] == 1 for name in last.input)
    assert not weights - {name for node in typed.graph.node for name in node.input}
    assert [v.type.tensor_type.elem_type for v in (*typed.graph.input, *typed.graph.output)] == [
        1
    ] * 3


def test_float32_changes_nothing(exact):
    assert to_typed(exact, "fp32") == exact


def test_the_typed_graph_runs_and_is_near(exact):
    x, sigma = audit.probe_sample(tiny_prior(), 0.3, 16, 24)
    expected = run(exact, x=x.numpy(), sigma=sigma.numpy())
    typed = to_typed(exact, "fp16")
    for model in (typed, rounded_twin(typed, "fp16")):
        error = relative(run(model, x=x.numpy(), sigma=sigma.numpy()), expected)
        assert 1e-5 < error < BOUNDS["fp16"]  # at 1e-7 it would still be float32


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_rounded_twin_rounds_factors_and_product(precision):
    generator = np.random.default_rng(0)
    x, w = (generator.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 3)))
    node = helper.make_node("MatMul", ["x", "w"], ["out"])
    typed = to_typed(graph([node], [("x", [5, 7])], [("out", [5, 3])], [("w", w)]), precision)
    low = NUMPY[precision]
    product = x.astype(low).astype(np.float32) @ w.astype(low).astype(np.float32)
    expected = product.astype(low).astype(np.float32)
    found = run(rounded_twin(typed, precision), x=x)
    assert relative(found, x @ w) > 1e-5
    # The sum's order may differ in its last float32 digit, and then round to the neighbour.
    assert np.mean(found == expected) >= 0.8 and np.allclose(found, expected, rtol=1e-2)


def test_a_weight_of_both_precisions_is_kept_twice():
    w = np.full((4, 4), 0.1, np.float32)
    nodes = [
        helper.make_node("Exp", ["w"], ["e"]),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Softmax", ["m"], ["s"]),
        helper.make_node("Add", ["s", "e"], ["out"]),
    ]
    typed = to_typed(graph(nodes, [("x", [4, 4])], [("out", [4, 4])], [("w", w)]), "fp16")
    types = sorted(tensor.data_type for tensor in typed.graph.initializer)
    assert types == [TensorProto.FLOAT, TensorProto.FLOAT16]
    assert element_types(typed)["out"] == TensorProto.FLOAT


@pytest.mark.parametrize("side, bias", [(2, True), (3, False), (2, False)])
def test_transposed_convolutions_become_shuffles_exactly(side, bias):
    module = torch.nn.ConvTranspose2d(5, 4, side, stride=side, bias=bias)
    x = torch.randn(2, 5, 6, 7)
    weights = [("w", module.weight.detach().numpy())]
    weights += [("b", module.bias.detach().numpy())] if bias else []
    names = ["x", *(name for name, _ in weights)]
    node = helper.make_node("ConvTranspose", names, ["out"], strides=[side, side],
                            kernel_shape=[side, side])  # fmt: skip
    model = graph([node], [("x", [2, 5, 6, 7])], [("out", [2, 4, 6 * side, 7 * side])], weights)
    changed = transposed_convolutions_as_shuffles(model)
    assert [n.op_type for n in changed.graph.node] == ["Conv", "DepthToSpace"]
    found = run(changed, x=x.numpy())
    assert relative(found, module(x).detach().numpy()) < 1e-6


@pytest.mark.parametrize(
    "options", [{"strides": [1, 1]}, {"pads": [1, 1, 1, 1]}, {"group": 2}, {"strides": [2, 1]}]
)
def test_other_transposed_convolutions_stay(options):
    attributes = {"strides": [2, 2], "kernel_shape": [2, 2], **options}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["out"], **attributes)
    w = np.zeros((4, 4, 2, 2), np.float32)
    model = graph([node], [("x", [1, 4, 6, 6])], [("out", [1, None, None, None])], [("w", w)])
    assert transposed_convolutions_as_shuffles(model) == model


def loud_prior():
    """Its first convolution gives numbers that float16 cannot hold; normalisation hides them."""
    prior = tiny_prior()
    with torch.no_grad():
        prior.denoiser.network.conv_in.weight.mul_(1e5)
    return prior


def test_the_audit_names_the_layer_that_overflows(exact):
    prior = loud_prior()
    loud = audit.exact_graph(prior)
    layers = audit.audit_layers(prior, loud, "fp16", [0.3])
    assert layers[0].error == math.inf and layers[0].largest > 65504
    assert "network.conv_in" in {layer.layer for layer in layers if layer.error == math.inf}
    quiet = audit.audit_layers(tiny_prior(), exact, "fp16", [0.3])
    assert quiet[0].error < 0.01
    assert {layer.op for layer in quiet if layer.kept} == {"InstanceNormalization", "Softmax"}
    assert {"Conv", "Gemm", "MatMul"} <= {layer.op for layer in quiet if not layer.kept}


def test_an_error_is_the_layers_own():
    """The overflow of the first layer does not spoil the figures of those far behind it."""
    prior = loud_prior()
    layers = audit.audit_layers(prior, audit.exact_graph(prior), "fp16", [0.3])
    found = {(layer.layer, layer.op): layer.error for layer in layers}
    assert found["network.conv_in", "Conv"] == math.inf
    assert 0.0 < found["network.conv_out", "Conv"] < 0.01
    assert 0.0 < found["network.up.1.blocks.0.conv2", "Conv"] < 0.01


def test_the_gate_refuses_with_the_worst_layers():
    prior = loud_prior()
    with pytest.raises(AccuracyError) as caught:
        audit.typed_errors(prior, audit.exact_graph(prior), "fp16", [0.3])
    text = str(caught.value)
    assert text.startswith("precision: expected numbers of at most 60000 in fp16, which ends at ")
    assert "from network.conv_in (Conv) at sigma 0.3; use bf16" in text
    assert audit.typed_errors(prior, audit.exact_graph(prior), "fp32", [0.3])["0.3"] < 1e-5


#: Of the shipped prior, as measured.
SHIPPED = {"tf32": 1.6e-3, "fp16": 2.1e-3, "bf16": 1.6e-2}


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", ["tiny", "photo-small"])
def test_every_sigma_of_the_schedule_is_measured(name, precision):
    prior = tiny_prior() if name == "tiny" else le.load_prior(name)
    sigmas = probe_sigmas(prior)
    errors = audit.typed_errors(prior, audit.exact_graph(prior), precision, sigmas)
    assert list(errors) == [f"{sigma:.6g}" for sigma in sigmas]
    assert max(errors.values()) <= BOUNDS[precision]
    assert precision == "fp32" or max(errors.values()) > 1e-5
    if name == "photo-small" and precision in SHIPPED:
        assert SHIPPED[precision] / 1.3 < max(errors.values()) < 1.3 * SHIPPED[precision]


def test_tf32_keeps_ten_bits_of_the_factors_alone():
    generator = np.random.default_rng(0)
    x, w, b = (generator.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 3), (3,)))
    bits = np.ldexp(1.0, np.frexp(x)[1] - 11)  # the value of the last of 11 significant bits
    nodes = audit.rounding("x", "out", "tf32")
    found = run(graph(nodes, [("x", [5, 7])], [("out", [5, 7])]), x=x)
    assert np.array_equal(found, np.round(x.astype(np.float64) / bits) * bits)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["out"])
    model = graph([node], [("x", [5, 7])], [("out", [5, 3])], [("w", w), ("b", b)])
    kept = rounded_twin(model, "tf32").graph.node[-1]
    assert list(kept.input) == ["x.tf32", "w.tf32", "b"]
    assert to_typed(model, "fp32") == model


def cut_off(tensor):
    """Float32 with the last 13 bits zero, as tensor cores read it where nothing rounds before."""
    bits = tensor.contiguous().view(torch.int32) & ~0x1FFF
    return bits.view(torch.float32)


def to_nearest(tensor):
    return cut_off((tensor.contiguous().view(torch.int32) + 0x1000).view(torch.float32))


class Tf32(torch.overrides.TorchFunctionMode):
    """torch with the factors of its products in TF32."""

    def __init__(self, convert):
        super().__init__()
        self.convert = convert

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ == "scaled_dot_product_attention":
            q, k, v = (self.convert(t) for t in args[:3])
            weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
            return self.convert(weights) @ v
        if function.__name__ in ("conv2d", "conv_transpose2d", "linear"):
            args = (self.convert(args[0]), self.convert(args[1]), *args[2:])
        return function(*args, **(kwargs or {}))


def test_the_bound_of_tf32_holds_for_both_roundings():
    """The graph of the gate against torch's own products of rounded factors, and hardware that cuts
    digits off: measured 1.6e-3 and 7.4e-3.
    """
    prior, errors = le.load_prior("photo-small"), {}
    sigmas, sides = probe_sigmas(prior), probe_sides(prior.spec)
    for convert in (to_nearest, cut_off):

        def runtime(x, sigma, convert=convert):
            with torch.no_grad(), Tf32(convert):
                return prior.denoiser(x, sigma)

        errors[convert] = max(relative_errors(runtime, prior, sigmas, *sides).values())
    assert SHIPPED["tf32"] / 1.3 < errors[to_nearest] < 1.3 * SHIPPED["tf32"]
    assert 5e-3 < errors[cut_off] <= BOUNDS["tf32"] / 2


def test_the_audit_of_tf32_looks_at_products():
    prior = tiny_prior()
    layers = audit.audit_layers(prior, audit.exact_graph(prior), "tf32", [0.3])
    assert {layer.op for layer in layers} == {"Conv", "Gemm", "MatMul"}
    assert 1e-5 < layers[0].error < 1e-2 and not any(layer.kept for layer in layers)


def test_the_command_prints_and_refuses(tmp_path, capsys):
    save_prior(tiny_prior(), tmp_path / "tiny")
    save_prior(loud_prior(), tmp_path / "loud")
    assert program.run(["audit", str(tmp_path / "tiny"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["relative_error"] <= report["bound"] == BOUNDS["fp16"]
    errors = [layer["error"] for layer in report["layers"]]
    assert errors == sorted(errors, reverse=True) and len(errors) > 20
    assert program.run(["audit", str(tmp_path / "loud")]) == 2
    out, err = capsys.readouterr()
    assert "conv_in" in out and err.count("\n") == 1 and "from network.conv_in (Conv)" in err
    assert program.run(["audit", str(tmp_path / "loud"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["layers"][0]["error"] is None  # JSON has no infinity
    assert program.run(["audit", str(tmp_path / "tiny"), "--precision", "fp32"]) == 2
    assert capsys.readouterr().err == (
        "error: precision: expected 'fp16', 'bf16' or 'tf32', got 'fp32'; float32 is what they are "
        "compared with\n"
    )


def test_a_graph_in_float32_survives_onnx_checks(exact):
    onnx.checker.check_model(exact)
    onnx.checker.check_model(to_typed(exact, "fp16"))
