"""TensorRT plans on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_prior
from tiny_adapters import make_adapter

import latino_engine as le
from latino_engine.compilation.accuracy import BOUNDS
from latino_engine.errors import BackendNotAvailable
from latino_engine.runtimes.tensorrt_package import PACKAGES

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

#: precision and TF32 by the key of the bound
KINDS = {"fp32": ("fp32", False), "tf32": ("fp32", True), "fp16": ("fp16", False),
         "bf16": ("bf16", False)}  # fmt: skip


def compiled(path, precision, **options):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU and a CUDA build of torch")
    try:
        return le.compile(tiny_prior(), path, backend="tensorrt", precision=precision, **options)
    except BackendNotAvailable as error:  # no such package here, or none that builds for this GPU
        pytest.skip(str(error))


@pytest.fixture(
    scope="module", params=[(p, kind) for p in PACKAGES for kind in KINDS], ids="-".join
)
def case(request, tmp_path_factory):
    package, kind = request.param
    precision, tf32 = KINDS[kind]
    path = tmp_path_factory.mktemp("gpu") / f"{kind}.engine"
    return kind, compiled(path, precision, tensorrt_package=package, tf32=tf32)


def test_the_plan_was_measured_on_this_gpu(case):
    kind, engine = case
    record = engine.manifest["runtimes"]["tensorrt"]
    assert record["measured_on"] == torch.cuda.get_device_name()
    assert record["relative_error"] <= record["bound"] == BOUNDS[kind]
    (facts,) = record["plans"].values()
    low = {"fp16": ("FP16", "Half"), "bf16": ("BF16", "BFloat16")}.get(kind, ("FP32", "Float"))
    assert any(name in text for text in facts["inspected_types"] for name in low), facts
    assert facts["gpu"]["driver"]
    assert facts["tf32"] is (kind == "tf32")


def test_samples_agree_with_torch(case):
    kind, engine = case
    op = le.Denoising(0.1)
    y = torch.rand(2, 3, 32, 48)
    found = engine.sample(y, op, num_samples=2, seed=1, steps=4).samples
    other = le.load(engine.folder, backend="torch", device="cuda")
    expected = other.sample(y, op, num_samples=2, seed=1, steps=4).samples
    assert (found - expected).norm() <= 4 * BOUNDS[kind] * expected.norm()


def test_a_plan_for_single_images(tmp_path):
    engine = compiled(tmp_path / "a.engine", "fp16", max_batch=1, image_size=(32, 48))
    y = torch.rand(2, 3, 32, 48)
    post = engine.sample(y, le.Denoising(0.1), num_samples=2, steps=2)
    assert torch.isfinite(post.samples).all()


def test_an_adapter_runs_from_its_plan(tmp_path):
    adapter = make_adapter(tiny_prior())
    engine = compiled(tmp_path / "a.engine", "fp16", adapter=adapter)
    y = torch.rand(1, 3, 32, 48)
    found = engine.sample(y, le.Denoising(0.1), num_samples=2, seed=1)
    other = le.load(engine.folder, backend="torch", device="cuda")
    expected = other.sample(y, le.Denoising(0.1), num_samples=2, seed=1).samples
    error = (found.samples - expected).norm() / expected.norm()
    assert error <= 4 * BOUNDS["fp16"] and found.nfe == adapter.schedule.nfe
