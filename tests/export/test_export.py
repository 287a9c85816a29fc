"""The exported graph: dynamic sizes, numerical parity, the cache, the count of memory."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import tiny_prior
from tolerances import OTHER_RUNTIME

from latino_engine import load_prior
from latino_engine.compilation.accuracy import BOUNDS, check_accuracy, probe_sigmas, relative_errors
from latino_engine.errors import AccuracyError
from latino_engine.export import denoiser
from latino_engine.export.denoiser import export_denoiser
from latino_engine.export.graph_memory import memory_model, peak_bytes
from latino_engine.system.memory import bytes_per_image


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "denoiser.onnx"
    export_denoiser(tiny_prior(), "fp32", path)
    return path


def run(path, x, sigma):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"x": x.numpy(), "sigma": sigma.numpy()})[0]


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 32, 32), (1, 3, 44, 20), (4, 3, 4, 64)])
@pytest.mark.parametrize("level", [0.01, 0.3, 5.0])
def test_parity_at_every_size_and_batch(graph, shape, level):
    x = torch.randn(shape)
    sigma = torch.full((shape[0],), level)
    expected = tiny_prior().denoiser(x, sigma).numpy()
    found = run(graph, x, sigma)
    assert np.linalg.norm(found - expected) <= OTHER_RUNTIME * np.linalg.norm(expected)


def test_each_image_has_its_own_noise_level(graph):
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.1, 2.0])
    both = run(graph, x, sigma)
    for i in range(2):
        alone = run(graph, x[i : i + 1], sigma[i : i + 1])
        assert np.linalg.norm(both[i] - alone[0]) <= OTHER_RUNTIME * np.linalg.norm(alone)


def test_statistics_are_float32_in_a_half_precision_graph(tmp_path):
    export_denoiser(tiny_prior(), "fp16", tmp_path / "half.onnx")
    model = onnx.load(str(tmp_path / "half.onnx"))
    types = {t.name: t.data_type for t in model.graph.initializer}
    typed = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    norms = [
        n for n in model.graph.node if n.op_type in ("InstanceNormalization", "GroupNormalization")
    ]
    assert convolutions and all(types[n.input[1]] == onnx.TensorProto.FLOAT16 for n in convolutions)
    assert norms and all(typed[n.output[0]] == onnx.TensorProto.FLOAT for n in norms)


def test_the_second_export_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATINO_ENGINE_CACHE", str(tmp_path / "cache"))
    calls = []
    real = denoiser._export
    monkeypatch.setattr(denoiser, "_export", lambda *a: (calls.append(1), real(*a)))
    prior = tiny_prior()
    first = export_denoiser(prior, "fp32", tmp_path / "a.onnx")
    second = export_denoiser(prior, "fp32", tmp_path / "b.onnx")
    assert first == second and len(calls) == 1
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    (cached,) = (tmp_path / "cache" / "exports").glob("*.onnx")
    cached.write_bytes(b"damaged")
    export_denoiser(prior, "fp32", tmp_path / "c.onnx")
    assert len(calls) == 2
    assert (tmp_path / "c.onnx").stat().st_size > 1000
    with torch.no_grad():
        next(prior.denoiser.parameters()).add_(1.0)
    assert export_denoiser(prior, "fp32", tmp_path / "d.onnx") != first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LATINO_ENGINE_CACHE", str(tmp_path / "file"))
    export_denoiser(tiny_prior(), "fp32", tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").stat().st_size > 1000


def test_the_gate_measures_and_refuses():
    prior = tiny_prior()
    sigmas = probe_sigmas(prior)
    assert min(sigmas) == prior.spec.sigma_min and max(sigmas) == prior.spec.sigma_max
    exact = relative_errors(prior.denoiser, prior, sigmas, 16, 24)
    assert check_accuracy("torch", "fp32", exact) == 0.0

    def off(x, sigma):
        return prior.denoiser(x, sigma) * (1.0 + 1e-3)

    errors = relative_errors(off, prior, sigmas, 16, 24)
    with pytest.raises(AccuracyError) as caught:
        check_accuracy("a runtime", "fp32", errors)
    text = str(caught.value)
    assert text.startswith(
        "precision: expected a relative error of at most 1e-05 against float32 torch, got 0.001 "
        "from a runtime in "
        "fp32 at sigma "
    )
    assert text.endswith("; choose a higher precision or another backend")
    with pytest.raises(AccuracyError, match="got nan"):
        check_accuracy("a runtime", "fp16", {"0.1": 0.0, "0.2": float("nan")})
    assert BOUNDS["fp32"] < BOUNDS["fp16"] < BOUNDS["bf16"]


def test_memory_counts_what_is_alive_at_once():
    """Two images of 4 x 4 feeding a sum: x, its square and the sum are alive together at the worst
    moment.
    """
    x = onnx.helper.make_tensor_value_info("x", 1, ["batch", 2, "4*rows", "4*columns"])
    square = onnx.helper.make_tensor_value_info("square", 1, ["batch", 2, "4*s1", "4*s2"])
    out = onnx.helper.make_tensor_value_info("x0_hat", 1, ["batch", 2, "4*rows", "4*columns"])
    nodes = [
        onnx.helper.make_node("Mul", ["x", "x"], ["square"]),
        onnx.helper.make_node("Add", ["square", "x"], ["unnamed"]),
        onnx.helper.make_node("Neg", ["unnamed"], ["x0_hat"]),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x], [out], value_info=[square])
    )
    image = 2 * 8 * 8 * 4
    assert peak_bytes(model, 8, 4) == 2 * image  # outputs alive: square and the sum
    assert memory_model(model, 4) == {"per_pixel": pytest.approx(16.0), "per_pixel_squared": 0.0}


def test_memory_of_the_shipped_prior_grows_with_attention(tmp_path):
    export_denoiser(load_prior("photo-small"), "fp32", tmp_path / "d.onnx")
    memory = memory_model(onnx.load(str(tmp_path / "d.onnx")), 8)
    # 4 heads x (n / 64)^2 scores, float32, before and after the softmax
    assert memory["per_pixel_squared"] == pytest.approx(2 * 4 * 4 / 64**2, rel=0.05)
    assert bytes_per_image(memory, 256, 256) == pytest.approx(50e6, rel=0.3)  # measured: 47 MB
