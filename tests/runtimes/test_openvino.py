"""The OpenVINO runtime: results, compiled sizes, callers, precisions, refusals."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_prior
from tolerances import OTHER_RUNTIME

import latino_engine as le
from latino_engine import runtimes
from latino_engine.compilation.accuracy import BOUNDS
from latino_engine.errors import BackendNotAvailable, RuntimeFailed
from latino_engine.export.denoiser import export_denoiser
from latino_engine.priors import PriorSpec
from latino_engine.priors.assembly import build_prior
from latino_engine.priors.networks.resunet import ResUNet

pytest.importorskip("openvino", reason="the package openvino is not installed")

from latino_engine.runtimes import openvino as runtime

ABLE = runtime.package().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif("BF16" not in ABLE, reason="this processor has no bfloat16")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("openvino") / "denoiser.onnx"
    export_denoiser(tiny_prior(), "fp32", target)
    return target


def call(models, x, sigma):
    return torch.from_numpy(models({"x": x.numpy(), "sigma": sigma.numpy()}))


def error(found, x, sigma):
    with torch.no_grad():
        expected = tiny_prior().denoiser(x, sigma)
    return float((found - expected).norm() / expected.norm())


def layers(compiled, kind):
    """Precision of every layer of a type in the compiled graph, as OpenVINO tells it."""
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return [str(i["runtimePrecision"].value) for i in info if i["layerType"].value == kind]


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 8, 20)])
def test_float32_is_the_network(path, shape):
    denoiser = runtime.open_runtime(path.parent, "fp32", None, 1)
    x, sigma = torch.randn(shape), torch.rand(shape[0]) + 0.1
    for images in (x, x.double(), x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)):
        assert error(denoiser(images, sigma), x, sigma) <= OTHER_RUNTIME
    assert denoiser.device == "cpu"


@needs_bf16
def test_bfloat16_is_used_for_every_product(path):
    models = runtime.open_models(path, "bf16", None, 1)
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 2.0])
    assert BOUNDS["fp32"] < error(call(models, x, sigma), x, sigma) <= BOUNDS["bf16"]
    compiled = models.model((("x", (2, 3, 16, 16)), ("sigma", (2,)))).compiled
    assert set(layers(compiled, "Convolution")) == {"bf16"}
    exact = runtime.open_models(path, "fp32", None, 1)
    call(exact, x, sigma)
    compiled = exact.model((("x", (2, 3, 16, 16)), ("sigma", (2,)))).compiled
    assert set(layers(compiled, "Convolution")) == {"f32"}


def test_a_size_is_compiled_once(path):
    models = runtime.open_models(path, "fp32", None, 1)
    x, sigma = torch.randn(1, 3, 16, 16), torch.tensor([0.3])
    first = call(models, x, sigma)
    (shapes,) = models.sizes
    compiled = models.model(shapes)
    for _ in range(3):
        assert torch.equal(call(models, x, sigma), first)
    assert models.model(shapes) is compiled and models.sizes == [shapes]
    assert compiled.num_requests == 1  # one caller, one request
    assert compiled.compiled.output(0).partial_shape.is_static


def test_further_sizes_share_one_model_until_they_have_come_often(path, monkeypatch):
    monkeypatch.setattr(runtime, "_WORTH_A_MODEL", 3)
    models = runtime.open_models(path, "fp32", None, 1, most=2)
    sigma = torch.tensor([0.3])
    x = {side: torch.randn(1, 3, side, 8) for side in (8, 12, 16, 20)}
    sides = lambda: [dict(shapes)["x"][2] for shapes in models.sizes]  # noqa: E731
    for side in (8, 12, 8, 16, 20):
        assert error(call(models, x[side], sigma), x[side], sigma) <= OTHER_RUNTIME
    assert sides() == [12, 8]  # 16 and 20 were run by the model of any size
    assert models._any_size is not None
    assert models._any_size.compiled.output(0).partial_shape.is_dynamic
    for _ in range(3):
        assert error(call(models, x[20], sigma), x[20], sigma) <= OTHER_RUNTIME
    assert sides() == [8, 20]  # in place of 12, which was not asked for longest


def test_a_very_large_network_has_one_model_for_all_sizes(path, monkeypatch):
    monkeypatch.setattr(runtime, "_WEIGHT_BYTES", path.stat().st_size - 1)
    models = runtime.open_models(path, "fp32", None, 1)
    x, sigma = torch.randn(1, 3, 8, 8), torch.tensor([0.3])
    for _ in range(2):
        assert error(call(models, x, sigma), x, sigma) <= OTHER_RUNTIME
    assert models.sizes == []


def test_every_caller_has_a_request_of_its_own(path):
    models, callers = runtime.open_models(path, "fp32", None, 1), 4
    barrier, worst = threading.Barrier(callers), [0.0] * callers

    def work(number):
        generator = torch.Generator().manual_seed(number)
        barrier.wait(timeout=60)
        for _ in range(5):
            x = torch.randn(1, 3, 16, 16, generator=generator)
            sigma = torch.rand(1, generator=generator) + 0.1
            found = call(models, x, sigma)
            worst[number] = max(worst[number], error(found, x, sigma))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.0 < max(worst) <= OTHER_RUNTIME
    assert 1 <= models.model(models.sizes[0]).num_requests <= callers


def test_results_stay_the_callers_own(path):
    models = runtime.open_models(path, "fp32", None, 1)
    x, sigma = torch.randn(1, 3, 16, 16), torch.tensor([0.3])
    first = call(models, x, sigma)
    kept = first.clone()
    call(models, -x, sigma)
    assert torch.equal(first, kept)


def test_threads_and_cores(path, monkeypatch):
    options = lambda: runtime.open_models(path, "fp32", None, 2)._options  # noqa: E731
    monkeypatch.delenv("LATINO_ENGINE_WAIT", raising=False)
    assert options()["INFERENCE_NUM_THREADS"] == 2 and not options()["ENABLE_CPU_PINNING"]
    monkeypatch.setenv("LATINO_ENGINE_WAIT", "active")
    assert options()["ENABLE_CPU_PINNING"]
    monkeypatch.setenv("LATINO_ENGINE_WAIT", "sometimes")
    with pytest.raises(ValueError) as caught:
        options()
    assert str(caught.value) == (
        "LATINO_ENGINE_WAIT: expected 'active' or 'passive', got 'sometimes'; set it so, or unset "
        "it"
    )


def test_an_engine(tmp_path):
    engine = le.compile(tiny_prior(), tmp_path / "e.engine", "openvino", image_size=16, threads=1)
    record = engine.manifest["runtimes"]["openvino"]
    assert engine.backend == "openvino" and record["relative_error"] <= BOUNDS["fp32"]
    assert record["version"] == runtimes.version("openvino") and record["time_ms"] > 0.0
    assert engine.manifest["versions"]["openvino"] == record["version"]
    op = le.Blur.gaussian(1.0, 0.05)
    y = op.measure(torch.rand(1, 3, 16, 20))
    found = engine.sample(y, op, num_samples=2).samples
    expected = le.load(tmp_path / "e.engine", "torch", threads=1).sample(y, op, num_samples=2)
    assert (found - expected.samples).norm() <= OTHER_RUNTIME * expected.samples.norm()


def test_no_message_is_sent_by_the_import(tmp_path):
    program = (
        "import sys; from latino_engine.runtimes import openvino as r; ov = r.package(); "
        "r.package().Core(); assert 'openvino_telemetry' not in sys.modules; "
        "stub = sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__; "
        "print(stub, callable(ov.convert_model))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": ""},
        check=True,
    )
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "True"]
    assert list(tmp_path.iterdir()) == []  # it would keep an identity there


def test_what_is_not_there_is_one_sentence(path, monkeypatch):
    with pytest.raises(BackendNotAvailable) as caught:
        runtime.open_runtime(path.parent, "fp32", "cuda", None)
    assert str(caught.value) == (
        "device: expected 'cpu' for the backend 'openvino', got 'cuda'; use 'cpu', or "
        "backend='onnxruntime', 'torch' or 'tensorrt' for a GPU"
    )
    old = SimpleNamespace(get_property=lambda device, name: ["FP32", "INT8"])
    monkeypatch.setattr(runtime, "package", lambda: SimpleNamespace(Core=lambda: old))
    with pytest.raises(ValueError) as caught:
        runtime.open_runtime(path.parent, "bf16", None, None)
    assert str(caught.value) == (
        "precision: expected fp32 for the backend 'openvino' on this processor, which has no "
        "bfloat16, got bf16; choose fp32 or backend='torch'"
    )
    monkeypatch.setattr(runtimes, "_present", lambda package: package != "openvino")
    with pytest.raises(BackendNotAvailable, match=r"install it with: pip install 'latino-engine"):
        runtimes.runtime_module("openvino")


def test_a_graph_that_is_refused_is_one_sentence(tmp_path):
    (tmp_path / "denoiser.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendNotAvailable) as caught:
        runtime.open_runtime(tmp_path, "fp32", None, 1)
    text = str(caught.value)
    assert text.startswith("backend: expected a network that OpenVINO can load, got (")
    assert text.endswith("; choose another backend or precision") and "\n" not in text


def test_a_call_that_fails_is_one_sentence(path):
    models = runtime.open_models(path, "fp32", None, 1)
    with pytest.raises(RuntimeFailed) as caught:
        models({"x": np.zeros((1, 5, 16, 16), np.float32), "sigma": np.ones(1, np.float32)})
    text = str(caught.value)
    assert text.startswith("backend: expected OpenVINO to run the network, got (")
    assert text.endswith("; load the engine with another backend") and "\n" not in text


def test_an_image_beyond_all_memory_is_a_memory_error(path):
    models = runtime.open_models(path, "fp32", None, 1)
    side = 1 << 20
    x = np.broadcast_to(np.float32(0), (1, 3, side, side))
    with pytest.raises(MemoryError, match=r"^OpenVINO could not allocate: "):
        models({"x": x, "sigma": np.ones(1, np.float32)})


def resunet(target, blocks, precision):
    """A network of convolutions with `blocks` residual blocks at each of two resolutions."""
    widths = {"widths": [16, 32], "down_blocks": [blocks] * 2, "up_blocks": [blocks] * 2}
    architecture = {"embedding": 32, "pixel_unshuffle": 2, **widths}
    spec = PriorSpec(
        name="resunet",
        channels=3,
        size_multiple=4,
        data_range=(0.0, 1.0),
        sigma_min=0.01,
        sigma_max=30.0,
        architecture={"name": "resunet", **architecture},
        preconditioning={"name": "edm", "sigma_data": 0.5},
    )
    prior = build_prior(spec, ResUNet(channels=3, **architecture).state_dict())
    export_denoiser(prior, precision, target)
    return runtime.open_models(target, precision, None, 1)


def image_layout_changes(compiled):
    """Reorders of what has a height or width: those of weights and of time embeddings are small."""
    nodes = compiled.get_runtime_model().get_ops()
    changes = [n for n in nodes if n.get_rt_info()["layerType"].value == "Reorder"]
    shapes = [list(node.get_output_partial_shape(0).to_shape()) for node in changes]
    return sum(len(shape) == 4 and max(shape[2:]) > 1 for shape in shapes)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_no_layout_changes_inside_the_blocks_of_a_network_of_convolutions(tmp_path, precision):
    shapes = (("x", (1, 3, 32, 32)), ("sigma", (1,)))
    found = []
    for blocks in (1, 2):
        compiled = resunet(tmp_path / f"{blocks}.onnx", blocks, precision).model(shapes).compiled
        convolutions = len(layers(compiled, "Convolution"))
        found.append((convolutions, image_layout_changes(compiled)))
    (few, changes), (many, more) = found
    assert many - few == 8  # two more in each of four blocks
    assert more == changes
