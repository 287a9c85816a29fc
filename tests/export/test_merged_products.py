"""Linear layers of one input, merged: the same sums from fewer products."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from tiny import tiny_prior

from latino_engine.compilation import audit
from latino_engine.export.merged_layers import merged_products


def model(layers, weights, inputs=("x",)):
    """Linear layers (input, weight, bias, attributes) with outputs y0, y1, ..."""
    nodes = [
        helper.make_node("Gemm", [n for n in names if n], [f"y{i}"], name=f"g{i}", **attributes)
        for i, (*names, attributes) in enumerate(layers)
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, 1, ["batch", 4]) for name in inputs],
        [value(f"y{i}", 1, ["batch", None]) for i in range(len(layers))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def run(graph, inputs=("x",)):
    rng = np.random.default_rng(1)
    feed = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in inputs}
    return onnxruntime.InferenceSession(graph.SerializeToString()).run(None, feed)


def kinds(graph):
    return [node.op_type for node in graph.graph.node]


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    sizes = {"w5": (5, 4), "w2": (2, 4), "t5": (4, 5), "t2": (4, 2), "b5": (5,), "b2": (2,)}
    sizes |= {"b1": (1,), "row": (1, 5)}
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


@pytest.mark.parametrize("names, transposed", [(("w5", "w2"), 1), (("t5", "t2"), 0)])
def test_layers_of_one_input_become_one(weights, names, transposed):
    layers = [
        ("x", names[0], "b5", {"transB": transposed}),
        ("x", names[1], "b2", {"transB": transposed}),
        ("x", names[0], "b5", {"transB": transposed}),
    ]
    whole = model(layers, weights)
    merged = merged_products(whole)
    onnx.checker.check_model(merged)
    assert kinds(merged) == ["Gemm", "Split"]
    for found, expected in zip(run(merged), run(whole), strict=True):
        assert found.shape == expected.shape and np.allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert merged_products(merged) == merged


@pytest.mark.parametrize(
    "second",
    [
        ("z", "w2", "b2", {"transB": 1}),  # another input
        ("x", "t2", "b2", {"transB": 0}),  # stored in another way
        ("x", "w2", "b2", {"transB": 1, "alpha": 2.0}),
        ("x", "w2", "b2", {"transB": 1, "beta": 0.5}),
        ("x", "w2", None, {"transB": 1}),
        ("x", "w2", "b1", {"transB": 1}),  # one number for all columns
        ("x", "w5", "row", {"transB": 1}),
    ],
    ids=str,
)
def test_other_layers_stay(weights, second):
    whole = model([("x", "w5", "b5", {"transB": 1}), second], weights, ("x", "z"))
    merged = merged_products(whole)
    assert kinds(merged) == ["Gemm", "Gemm"]
    for found, expected in zip(run(merged, "xz"), run(whole, "xz"), strict=True):
        assert np.array_equal(found, expected)


def test_the_projections_of_the_time_embedding_are_one_product():
    exact = audit.exact_graph(tiny_prior())
    projections = 4  # of the residual blocks
    assert kinds(exact).count("Gemm") == 3
    (split,) = (node for node in exact.graph.node if node.name.endswith(".merged.split"))
    assert len(split.output) == projections
