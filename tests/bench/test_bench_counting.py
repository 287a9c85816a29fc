"""What is counted, against torch's own counter and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_prior
from torch.utils.flop_counter import FlopCounterMode

import latino_engine as le
from latino_engine.bench import counting
from latino_engine.export.denoiser import export_denoiser
from latino_engine.operators.parts.cost import Count


@pytest.fixture(scope="module")
def tiny_graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "denoiser.onnx"
    export_denoiser(tiny_prior(), "fp32", path)
    return path


@pytest.fixture(scope="module")
def shipped_graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "denoiser.onnx"
    export_denoiser(le.load_prior("photo-small"), "fp32", path)
    return path


def torch_flops(prior, batch, height, width):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        prior.denoise(torch.zeros(batch, prior.channels, height, width), 0.3)
    return counter.get_total_flops()


@pytest.mark.parametrize("size", [(1, 16, 16), (3, 8, 24), (2, 32, 20)])
def test_convolutions_and_products_are_those_of_torch(tiny_graph, size):
    """torch counts neither biases nor, on the CPU, the two products of attention."""
    batch, height, width = size
    positions = (height // 4) * (width // 4)
    attention = 4 * batch * positions**2 * 16
    expected = torch_flops(tiny_prior(), *size) + attention
    found = counting.count_graph(tiny_graph, *size)
    assert expected <= found.matrix_flops <= 1.01 * expected
    assert found.flops > found.matrix_flops


def test_the_shipped_prior_is_counted_as_torch_counts_it(shipped_graph):
    found = counting.count_graph(shipped_graph, 1, 64, 96)
    expected = torch_flops(le.load_prior("photo-small"), 1, 64, 96)
    assert expected <= found.matrix_flops <= 1.01 * expected


def test_bytes_by_hand(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    shape = ["batch", 2, "rows", "columns"]
    x, out = (helper.make_tensor_value_info(n, 1, shape) for n in ("x", "x0_hat"))
    weight = helper.make_tensor("w", 1, [2, 2, 1, 1], [1.0, 2.0, 3.0, 4.0])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["x0_hat"]),
    ]
    graph = helper.make_graph(nodes, "two", [x], [out], [weight])
    path = tmp_path / "g.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    found = counting.count_graph(path, 3, 5, 7)
    pixels = 3 * 2 * 5 * 7
    assert found.flops == 2 * 2 * pixels + pixels  # two products per output, then the Relu
    assert found.matrix_flops == 2 * 2 * pixels
    assert found.bytes == 4 * (4 * pixels + 4)  # read, write, read, write, and the weights
    assert found.weight_bytes == 16 and found.nodes == {"Conv": 1, "Relu": 1}


def test_flops_grow_with_batch_and_pixels(tiny_graph):
    one = counting.count_graph(tiny_graph, 1, 16, 16)
    four = counting.count_graph(tiny_graph, 4, 16, 16)
    assert four.matrix_flops / one.matrix_flops == pytest.approx(4.0, rel=0.05)
    assert four.weight_bytes == one.weight_bytes


def test_data_steps_by_hand():
    shape, pixels = (2, 3, 16, 8), 2 * 3 * 16 * 8
    transforms = 2 * 2.5 * pixels * math.log2(128)
    blur = le.Blur.gaussian(1.0, 0.1, size=5).cost("data_step", shape)
    assert blur is not None and blur.flops == transforms + 8 * 6 * 16 * 5
    assert blur.bytes == 8 * pixels + 8 * 6 * 80 + 4 * 80
    masked = le.Inpainting(torch.ones(16, 8), 0.1).cost("data_step", shape)
    assert masked == Count(5 * pixels, 12 * pixels + 4 * 128)
    assert le.Denoising(0.1).cost("data_step", shape).flops == 3 * pixels
    higher = le.SuperResolution(2, 0.1).cost("data_step", shape)
    assert higher.flops > blur.flops
    mri = le.MRI(torch.ones(16, 8), 0.1).cost("data_step", (2, 2, 16, 8))
    assert mri.flops == 2 * 2.5 * 512 * math.log2(128) + 6 * 512
    assert le.JPEG(20).cost("data_step", shape).flops == 82 * pixels


def test_conjugate_gradients_have_no_count():
    op = le.LinearOperator(lambda x: x, lambda y: y, 0.1)
    assert op.cost("data_step", (1, 3, 8, 8)) is None
    coils = torch.ones(2, 8, 8, dtype=torch.complex64)
    assert le.MRI(torch.ones(8, 8), 0.1, coils).cost("data_step", (1, 2, 8, 8)) is None
