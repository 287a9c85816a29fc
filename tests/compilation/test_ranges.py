"""Numbers that float16 cannot hold are seen, also where the CPU computes in float32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import latino_engine as le
from latino_engine.compilation.accuracy import probe_sample
from latino_engine.compilation.audit import check_report
from latino_engine.compilation.ranges import Range, check_half, largest_half
from latino_engine.errors import AccuracyError
from latino_engine.export.denoiser import exact_graph, export_denoiser
from latino_engine.export.mixed_precision import to_typed
from latino_engine.priors.networks.unet import GroupNorm

SIDES = (16, 20)


class Loud(nn.Module):
    """x + 1e-3 tanh of a convolution whose output is `gain` times as large, then normalised."""

    def __init__(self, gain):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), GroupNorm(2, 4)
        self.last = nn.Conv2d(4, 3, 3, padding=1)
        with torch.no_grad():
            self.first.weight *= gain
            self.first.bias.zero_()

    def forward(self, x, sigma):
        return x + 1e-3 * torch.tanh(self.last(self.norm(self.first(x))))


GAIN = 3e4  # at sigma 5 the convolution gives some hundred thousands


@pytest.fixture(scope="module")
def prior():
    options = {"channels": 3, "sigma_min": 0.02, "sigma_max": 5.0}
    return le.from_module(Loud(GAIN), parametrization="denoiser", **options)


@pytest.fixture(scope="module")
def half(prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("half") / "denoiser.onnx"
    export_denoiser(prior, "fp16", path)
    return onnx.load(str(path))


@pytest.fixture(scope="module")
def exact(prior):
    return exact_graph(prior)


def test_the_largest_number_is_that_of_the_layer(prior, half, exact):
    found = largest_half(half, prior, [0.1, 5.0], SIDES)
    module = Loud(GAIN)
    with torch.no_grad():
        tops = [module.first(probe_sample(prior, s, *SIDES)[0]).abs().max() for s in (0.1, 5.0)]
    assert found.largest == pytest.approx(float(max(tops)), rel=1e-2)
    assert found.sigma == 5.0 and "first" in found.layer and found.op == "Conv"
    assert largest_half(exact, prior, [5.0], SIDES) is None  # nothing of it is float16
    check_half(Range("a", "Conv", 5.9e4, 1.0))


def test_what_a_gpu_would_overflow_is_refused(prior, half, exact, tmp_path):
    """onnx's reference evaluator computes in true float16: there the same graph has no numbers."""
    x, sigma = probe_sample(prior, 5.0, *SIDES)
    with np.errstate(all="ignore"):
        truth = ReferenceEvaluator(half).run(None, {"x": x.numpy(), "sigma": sigma.numpy()})[0]
    assert not np.isfinite(truth).all()
    with pytest.raises(AccuracyError, match=r"at most 60000 in fp16.* from .*first.* \(Conv\)"):
        le.compile(prior, tmp_path / "e.engine", "auto", "fp16", image_size=16)
    assert not (tmp_path / "e.engine").exists()
    typed = largest_half(to_typed(exact, "fp16"), prior, [5.0], SIDES)  # what TensorRT is given
    for refused in (lambda: check_half(typed), lambda: check_report({"largest": typed})):
        with pytest.raises(AccuracyError, match="at most 60000 in fp16"):
            refused()


def test_a_weight_that_is_infinite_in_half_precision(prior, half):
    graph = onnx.ModelProto()
    graph.CopyFrom(half)
    weight = next(t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.reshape(-1)[0] = np.inf
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(AccuracyError, match=r"got inf from .* \(weight\)"):
        check_half(largest_half(graph, prior, [], SIDES))
