"""TensorRT plans on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.accuracy import BOUNDS
from latino_engine.errors import BackendNotAvailable

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16"])
def engine(request, tmp_path_factory):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU and a CUDA build of torch")
    path = tmp_path_factory.mktemp("gpu") / f"{request.param}.engine"
    try:
        return le.compile(tiny_prior(), path, backend="tensorrt", precision=request.param)
    except BackendNotAvailable as error:  # no TensorRT that builds for this GPU
        pytest.skip(str(error))


def test_the_plan_was_measured_on_this_gpu(engine):
    record = engine.manifest["runtimes"]["tensorrt"]
    assert record["measured_on"] == torch.cuda.get_device_name()
    assert record["relative_error"] <= BOUNDS[engine.precision]
    (facts,) = record["plans"].values()
    assert facts["inspected_types"]


def test_samples_agree_with_torch(engine):
    op = le.Denoising(0.1)
    y = torch.rand(2, 3, 32, 48)
    found = engine.sample(y, op, num_samples=2, seed=1, steps=4).samples
    other = le.load(engine.folder, backend="torch", device="cuda")
    expected = other.sample(y, op, num_samples=2, seed=1, steps=4).samples
    assert (found - expected).norm() <= 4 * BOUNDS[engine.precision] * expected.norm()
