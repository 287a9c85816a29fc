"""Plans of an adapted prior hold its weights."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from tiny import tiny_prior
from tiny_adapters import make_adapter

import latino_engine as le
from latino_engine import manifest
from latino_engine.compilation import audit, plans
from latino_engine.compilation.accuracy import BOUNDS
from latino_engine.runtimes.tensorrt_build import build_plan

trt = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt_rtx is missing: pip install tensorrt-rtx"
)

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:Use Deprecated in TensorRT-RTX"
    ),  # where RTX stands for both
]


def record_of(folder):
    return manifest.read_manifest(folder)["runtimes"]["tensorrt"]


def test_the_weights_of_an_adapter_are_in_the_graph_of_a_plan(tmp_path, monkeypatch):
    """The graph that TensorRT is given, run by onnxruntime, is the network with W + scale B A."""
    prior = tiny_prior()
    adapter = make_adapter(prior)
    merged, graphs = adapter.merge(prior), []

    def spied(graph, options, target):
        graphs.append(graph)
        return build_plan(graph, options, target)

    monkeypatch.setattr(plans, "build_plan", spied)
    path = tmp_path / "a.engine"
    le.compile(
        prior, path, "tensorrt", "fp16", adapter=adapter, max_batch=1,
        gpu_architectures=["sm_89"],
    )  # fmt: skip
    fields = manifest.read_manifest(path)
    assert fields["adapter_sha256"] == adapter.content_hash()
    levels = {f"{s:.6g}" for s in adapter.schedule.sigmas}
    plans.rebuild_plans(path, ["sm_89"])  # from what the folder holds
    after = record_of(path)
    assert len(graphs) == 2 and next(iter(after["plans"].values()))["from_cache"]
    assert set(after["error_by_sigma"]) == set(fields["runtimes"]["torch"]["error_by_sigma"])
    assert levels & set(after["error_by_sigma"])
    x, sigma = audit.probe_sample(prior, 0.3, 16, 24)
    feed = {"x": x.numpy(), "sigma": sigma.numpy()}
    with torch.no_grad():
        wanted, plain = (p.denoiser(x, sigma).numpy() for p in (merged, prior))
    bound = BOUNDS["fp16"]
    for graph in graphs:
        found = onnxruntime.InferenceSession(graph).run(None, feed)[0]
        assert np.linalg.norm(found - wanted) <= bound * np.linalg.norm(wanted)
        assert np.linalg.norm(found - plain) > 4 * bound * np.linalg.norm(plain)
    assert stored_weights(graphs[0], merged) and not stored_weights(graphs[0], prior)


def stored_weights(graph, prior):
    """Whether a changed weight lies in the graph as the prior has it, rounded as the graph is."""
    import onnx

    weight = prior.denoiser.network.mid.attention.qkv.weight.detach().numpy()
    tensors = map(onnx.numpy_helper.to_array, onnx.load_from_string(graph).graph.initializer)
    same = (t for t in tensors if t.size == weight.size and t.dtype.kind == "f")
    return any(np.array_equal(t.ravel(), weight.astype(t.dtype).ravel()) for t in same)
