"""The TensorRT runtime with a stand-in for TensorRT at its boundary, and all refusals of plans."""

from __future__ import annotations

import json
import threading

import pytest
import tensorrt_stand_in
import torch
from tiny import tiny_prior

from latino_engine.compilation import audit
from latino_engine.errors import BackendNotAvailable, EngineInvalid
from latino_engine.runtimes import tensorrt
from latino_engine.runtimes.tensorrt_build import Profile, make_profiles
from latino_engine.runtimes.tensorrt_package import Gpu

PROFILES = (
    Profile((1, 1, 1), (16, 16, 16), (16, 16, 16)),
    Profile((1, 4, 4), (16, 16, 16), (16, 16, 16)),
    Profile((1, 4, 4), (4, 16, 64), (4, 16, 64)),
)


@pytest.fixture(scope="module")
def graph():
    return audit.exact_graph(tiny_prior()).SerializeToString()


@pytest.fixture
def engine(graph):
    return tensorrt_stand_in.Engine(graph)


@pytest.fixture
def runtime(engine):
    return tensorrt.TensorRTDenoiser(engine, PROFILES, "cpu", current_stream=lambda: 7)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 16, 16), (2, 3, 64, 4)])
def test_it_hands_over_addresses_shapes_and_the_stream(engine, runtime, shape):
    x, sigma = torch.randn(shape), torch.rand(shape[0]) + 0.1
    expected = tiny_prior().denoiser(x, sigma)
    found = runtime(x, sigma)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    (context,) = engine.contexts
    assert context.launches == [(7, shape)]


def test_strided_and_double_inputs(runtime):
    x = torch.randn(2, 16, 16, 3).double().permute(0, 3, 1, 2)
    sigma = torch.tensor([0.3, 0.4], dtype=torch.float64)
    expected = tiny_prior().denoiser(x.float(), sigma.float())
    assert (runtime(x, sigma) - expected).norm() <= 1e-5 * expected.norm()


def test_the_first_profile_that_serves_is_taken(engine, runtime):
    for shape, index in [((1, 16, 16), 0), ((4, 16, 16), 1), ((1, 16, 20), 2), ((4, 64, 64), 2)]:
        runtime(torch.zeros(shape[0], 3, *shape[1:]), torch.ones(shape[0]))
        assert (index, 7) in {context.profile for context in engine.contexts}
    assert sorted(c.profile for c in engine.contexts) == [(0, 7), (1, 7), (2, 7)]


@pytest.mark.parametrize("shape", [(5, 16, 16), (1, 68, 16), (1, 16, 128)])
def test_a_size_beyond_every_profile(engine, runtime, shape):
    with pytest.raises(ValueError) as caught:
        runtime(torch.zeros(shape[0], 3, *shape[1:]), torch.ones(shape[0]))
    assert str(caught.value) == (
        "y: expected at most 4 images of 4 x 4 to 64 x 64, the sizes of the engine's TensorRT "
        f"plan, got {shape[0]} of {shape[1]} x {shape[2]}; compile the engine with this image_size"
    )
    assert not engine.contexts


def test_threads_share_a_stream_in_order_and_streams_have_their_own_context(engine):
    streams = {}
    runtime = tensorrt.TensorRTDenoiser(
        engine, PROFILES, "cpu", current_stream=lambda: streams[threading.get_ident()]
    )
    expected = {}
    for n in range(4):
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(n))
        expected[n] = (x, tiny_prior().denoiser(x, torch.full((2,), 0.3)))
    wrong = []

    def call(n):
        streams[threading.get_ident()] = n % 2
        x, good = expected[n]
        for _ in range(10):
            found = runtime(x, torch.full((2,), 0.3))
            if (found - good).norm() > 1e-5 * good.norm():
                wrong.append(n)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(c.profile for c in engine.contexts) == [(1, 0), (1, 1)]
    assert sum(len(c.launches) for c in engine.contexts) == 40


def test_a_graph_has_a_context_of_its_own_and_shares_the_memory(engine, runtime):
    """The context of one graph keeps its shapes; all work of a stream is done in one buffer."""
    small, large = torch.randn(1, 3, 4, 4), torch.randn(4, 3, 64, 64)
    graphs = [runtime.for_graph() for _ in range(3)]
    for graph, x in zip(graphs, (large, small, small), strict=True):
        graph(x, torch.ones(len(x)))
        graph(x, torch.ones(len(x)))
    first, second, third = engine.contexts
    assert [c.shapes["x"] for c in engine.contexts] == [large.shape, small.shape, small.shape]
    assert first.memory[0] == second.memory[0] == third.memory[0]
    assert first.memory[1] == large.numel() and second.memory[1] == small.numel()
    buffers = runtime._scratch._buffers
    assert len(buffers) == 1
    del graph, graphs
    assert not buffers  # and it goes with the last graph


def test_a_larger_shape_takes_a_larger_buffer(engine, runtime):
    small, large = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 64, 64)
    for x in (small, large, small):
        expected = tiny_prior().denoiser(x, torch.ones(1))
        assert (runtime(x, torch.ones(1)) - expected).norm() <= 1e-5 * expected.norm()
        (context,) = engine.contexts
        assert context.memory[1] == x.numel()
    other = runtime.for_graph()
    other(small, torch.ones(1))
    assert engine.contexts[1].memory[0] == context.memory[0]
    assert runtime.allows_capture() and other.allows_capture()
    context.capturable = False
    assert not runtime.allows_capture() and other.allows_capture()


@pytest.mark.parametrize("rtx", [True, False])
def test_contexts_are_given_their_memory_and_compile_at_once(engine, rtx):
    class Package:
        class ExecutionContextAllocationStrategy:
            USER_MANAGED = "given"

    class Config:
        def set_execution_context_allocation_strategy(self, strategy):
            self.memory = strategy

    if rtx:
        Package.DynamicShapesKernelSpecializationStrategy = type("S", (), {"EAGER": "at once"})
    engine.create_runtime_config = Config
    assert tensorrt._context_of(Package, engine) is engine.contexts[0]
    (options,) = engine.options
    if rtx:
        assert options.memory == "given"
        assert options.dynamic_shapes_kernel_specialization_strategy == "at once"
    else:
        assert options == "given"


def test_the_package_here_has_what_a_context_is_asked_for():
    trt = pytest.importorskip("tensorrt_rtx")
    asked = {
        trt.IRuntimeConfig: (
            "set_execution_context_allocation_strategy",
            "dynamic_shapes_kernel_specialization_strategy",
        ),
        trt.ICudaEngine: ("create_runtime_config", "create_execution_context"),
        trt.IExecutionContext: (
            "set_optimization_profile_async",
            "set_input_shape",
            "update_device_memory_size_for_shapes",
            "set_device_memory",
            "set_tensor_address",
            "execute_async_v3",
            "is_stream_capturable",
        ),
        trt.EngineInspector: ("execution_context", "get_engine_information"),
    }
    assert not [(k, name) for k, names in asked.items() for name in names if not hasattr(k, name)]
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert trt.DynamicShapesKernelSpecializationStrategy.EAGER


def test_a_launch_that_fails_is_no_result(engine, runtime):
    x, sigma = torch.zeros(1, 3, 16, 16), torch.ones(1)
    runtime(x, sigma)
    engine.contexts[0].works = False
    with pytest.raises(RuntimeError, match="TensorRT could not run the denoiser at 1 x 16 x 16"):
        runtime(x, sigma)


def test_profiles_follow_size_and_batch():
    assert make_profiles(None, 8, 8) == (
        Profile((1, 1, 1), (8, 256, 1024), (8, 256, 1024)),
        Profile((1, 8, 8), (8, 256, 1024), (8, 256, 1024)),
    )
    assert make_profiles((256, 320), 4, 8) == (
        Profile((1, 1, 1), (256, 256, 256), (320, 320, 320)),
        Profile((1, 4, 4), (256, 256, 256), (320, 320, 320)),
        Profile((1, 4, 4), (8, 256, 1024), (8, 320, 1024)),
    )
    assert make_profiles((2048, 2048), 1, 8)[-1].height == (8, 2048, 2048)
    assert len(make_profiles(None, 1, 8)) == 1
    assert make_profiles(None, 1, 48)[0].height == (48, 240, 1008)


PLANS = {
    "denoiser.tensorrt.sm_89.fp16.plan": {
        "architecture": "sm_89", "package": "tensorrt_rtx", "version": "1.7.1",
    },
    "denoiser.tensorrt.sm_120.fp16.plan": {
        "architecture": "sm_120", "package": "tensorrt_rtx", "version": "1.7.1",
    },
}  # fmt: skip


def fit(tmp_path, gpu, version="1.7.1", plans=PLANS):
    here = Gpu(gpu, "A GPU", "13.0")
    return tensorrt.fitting_plan(
        plans, "fp16", here, lambda package: version, tmp_path / "a.engine"
    )


def test_the_plan_of_the_gpu_is_taken(tmp_path):
    assert fit(tmp_path, "sm_89") == "denoiser.tensorrt.sm_89.fp16.plan"
    assert fit(tmp_path, "sm_120") == "denoiser.tensorrt.sm_120.fp16.plan"


@pytest.mark.parametrize("plans, built", [(PLANS, "sm_120, sm_89"), ({}, "none")])
def test_a_plan_for_another_gpu(tmp_path, plans, built):
    with pytest.raises(EngineInvalid) as caught:
        fit(tmp_path, "sm_86", plans=plans)
    assert str(caught.value) == (
        "backend: expected a TensorRT plan for this machine's GPU (sm_86), got plans for "
        f"{built} in the engine 'a.engine'; build it by: latino-engine rebuild "
        f"{tmp_path / 'a.engine'} --gpu sm_86, or load the engine with --rebuild (rebuild=True in "
        "Python)"
    )


@pytest.mark.parametrize("version, got", [("1.8.0", "version 1.8.0"), (None, "none")])
def test_a_plan_of_another_version(tmp_path, version, got):
    with pytest.raises(BackendNotAvailable) as caught:
        fit(tmp_path, "sm_89", version)
    assert str(caught.value) == (
        "backend: expected the package tensorrt_rtx 1.7.1, with which the plan "
        f"denoiser.tensorrt.sm_89.fp16.plan was built, got {got}; pip install "
        "tensorrt-rtx==1.7.1, or build it by: latino-engine rebuild "
        f"{tmp_path / 'a.engine'} --gpu sm_89, or load the engine with --rebuild (rebuild=True in "
        "Python)"
    )


class FakePackage:
    """The module `tensorrt_rtx`, as far as loading a plan goes."""

    class Logger:
        ERROR = 2

        def __init__(self, level):
            self.level = level

    def __init__(self, engine):
        self.engine, self.plans = engine, []

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, plan):
        self.plans.append(plan)
        return self.engine


@pytest.fixture
def folder(tmp_path):
    facts = {**PLANS["denoiser.tensorrt.sm_89.fp16.plan"], "profiles": [
        {"batch": [1, 4, 4], "height": [4, 16, 64], "width": [4, 16, 64]}
    ]}  # fmt: skip
    plans = {"denoiser.tensorrt.sm_89.fp16.plan": facts}
    (tmp_path / "engine.json").write_text(json.dumps({"runtimes": {"tensorrt": {"plans": plans}}}))
    (tmp_path / "denoiser.tensorrt.sm_89.fp16.plan").write_bytes(b"plan")
    return tmp_path


def test_opening_on_a_machine_with_the_gpu(folder, engine, monkeypatch):
    package = FakePackage(engine)
    monkeypatch.setattr(tensorrt, "local_gpu", lambda: Gpu("sm_89"))
    monkeypatch.setattr(tensorrt, "package_version", lambda name: "1.7.1")
    monkeypatch.setattr(tensorrt, "load_package", lambda name: package)
    runtime = tensorrt.open_runtime(folder, "fp16", None, None)
    assert runtime.device == "cuda" and package.plans == [b"plan"]
    package.engine = None
    with pytest.raises(EngineInvalid) as caught:
        tensorrt.open_runtime(folder, "fp16", None, None)
    assert str(caught.value) == (
        "denoiser.tensorrt.sm_89.fp16.plan: expected a plan that tensorrt_rtx can load here, got "
        f"its refusal; build it by: latino-engine rebuild {folder} --gpu sm_89, or load the engine "
        "with --rebuild (rebuild=True in Python)"
    )
    monkeypatch.setattr(tensorrt, "local_gpu", lambda: Gpu("sm_90"))
    with pytest.raises(EngineInvalid, match="--gpu sm_90"):
        tensorrt.open_runtime(folder, "fp16", None, None)


def test_without_a_gpu(folder, monkeypatch):
    monkeypatch.setattr(tensorrt, "local_gpu", lambda: None)
    with pytest.raises(ValueError) as caught:
        tensorrt.open_runtime(folder, "fp16", "cpu", None)
    assert str(caught.value) == (
        "device: expected None or 'cuda' for the backend 'tensorrt', got 'cpu'; leave it out, or "
        "load with backend='onnxruntime'"
    )
    remedy = (
        "which needs an NVIDIA GPU with its driver and a CUDA build of torch; load the engine "
        f"'{folder.name}' on such a machine, or with backend='onnxruntime' or backend='torch'"
    )
    with pytest.raises(BackendNotAvailable) as caught:
        tensorrt.open_runtime(folder, "fp16", "cuda", None)
    assert str(caught.value) == (
        f"device: expected one that runs on this machine, got 'cuda', {remedy}"
    )
    runtime = tensorrt.open_runtime(folder, "fp16", None, None)
    with pytest.raises(BackendNotAvailable) as caught:
        runtime(torch.zeros(1, 3, 16, 16), torch.ones(1))
    assert str(caught.value) == (
        f"backend: expected one that runs on this machine, got 'tensorrt', {remedy}"
    )


def test_the_inspector_is_read(engine, runtime):
    layers = [
        {"Name": "a", "Outputs": [{"Name": "t", "Format/Datatype": "Half"}]},
        {"Name": "b", "Outputs": [{"Name": "u", "Format/Datatype": "Float"}, {"Name": "v"}]},
        "a layer by its name only",
    ]

    class Inspector:
        """Of an engine for any size it tells types only with a context whose shapes are set."""

        def get_engine_information(self, json_format):
            assert json_format == "json"
            known = self.execution_context is not None and self.execution_context.shapes
            return json.dumps({"Layers": layers if known else []})

    engine.create_engine_inspector = Inspector
    assert tensorrt.inspected_types(runtime, "json") == {}
    runtime(torch.zeros(1, 3, 16, 16), torch.ones(1))
    assert tensorrt.inspected_types(runtime, "json") == {"Float": 1, "Half": 1, "unknown": 1}
