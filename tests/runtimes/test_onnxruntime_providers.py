"""Execution providers of onnxruntime: which are chosen, with a stand-in, and binding by address."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_prior

from latino_engine.errors import BackendNotAvailable
from latino_engine.export.denoiser import export_denoiser
from latino_engine.runtimes import onnxruntime as runtime
from latino_engine.system.cache import cache_folder

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("providers")
    export_denoiser(tiny_prior(), "fp32", path / "denoiser.onnx")
    return path


@pytest.mark.parametrize(
    "available, device, precision, expected",
    [
        ([CPU], "cpu", "fp32", [CPU]),
        ([CPU], "cuda", "fp32", []),
        ([TENSORRT, CPU], "cuda", "fp16", []),
        ([CUDA, CPU], "cpu", "fp32", [CPU]),
        ([CUDA, CPU], "cuda", "fp32", [CUDA, CPU]),
        ([TENSORRT, CUDA, CPU], "cuda", "fp32", [CUDA, CPU]),
        ([TENSORRT, CUDA, CPU], "cuda", "fp16", [TENSORRT, CUDA, CPU]),
        ([OPENVINO, CPU], "cpu", "fp32", [OPENVINO, CPU]),
    ],
)
def test_the_choice_of_providers(available, device, precision, expected):
    chosen = runtime.choose_providers(available, device, precision)
    assert [name for name, _ in chosen] == expected
    options = dict(chosen)
    assert options.get(CUDA, {"use_tf32": "0"}) == {"use_tf32": "0"}


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 8, 20)])
def test_binding_by_address(folder, shape):
    import onnxruntime

    path = str(folder / "denoiser.onnx")
    session = onnxruntime.InferenceSession(path, providers=[CPU])
    waits = []
    bound = runtime.BoundDenoiser(session, "cpu", lambda: waits.append(1))
    x, sigma = torch.randn(shape), torch.rand(shape[0]) + 0.1
    expected = tiny_prior().denoiser(x, sigma)
    for images in (x, x.double(), x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)):
        found = bound(images, sigma)
        assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert len(waits) == 3


def test_a_session_on_a_gpu_is_bound(folder, monkeypatch):
    import onnxruntime

    asked = []

    class Session:
        def __init__(self, path, options, providers):
            asked.append(providers)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    opened = runtime.open_runtime(folder, "fp16", "cuda", None)
    assert isinstance(opened, runtime.BoundDenoiser) and opened.device == "cuda"
    assert [name for name, _ in asked[0]] == [TENSORRT, CUDA, CPU]
    kept = str(cache_folder() / "onnxruntime")
    assert asked[0][0][1] == {"trt_engine_cache_enable": "1", "trt_engine_cache_path": kept}
    assert isinstance(runtime.open_runtime(folder, "fp16", None, 1), runtime.OnnxRuntimeDenoiser)
    assert [name for name, _ in asked[1]] == [CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CPU])
    with pytest.raises(BackendNotAvailable) as caught:
        runtime.open_runtime(folder, "fp16", "cuda", None)
    assert str(caught.value) == (
        "device: expected one that onnxruntime was built for, got 'cuda'; install the CUDA build "
        "(pip install onnxruntime-gpu) or use device='cpu'"
    )


def test_the_real_session_runs(folder):
    opened = runtime.open_runtime(folder, "fp32", None, 1)
    x, sigma = torch.randn(1, 3, 16, 16), torch.tensor([0.4])
    expected = tiny_prior().denoiser(x, sigma)
    assert (opened(x, sigma) - expected).norm() <= 1e-5 * expected.norm()
