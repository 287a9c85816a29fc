"""Plans for real, by TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine import audit, cli, manifest
from latino_engine.accuracy import BOUNDS
from latino_engine.errors import BackendNotAvailable, EngineInvalid
from latino_engine.runtimes import tensorrt_build
from latino_engine.runtimes.tensorrt_build import BuildOptions, build_plan, make_profiles, plan_key
from latino_engine.typed_graph import to_typed

trt = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt_rtx is missing: pip install tensorrt-rtx"
)
pytestmark = pytest.mark.tensorrt

LAYER_TYPE = {"fp32": "float", "fp16": "half", "bf16": "bf16"}


@pytest.fixture(scope="module")
def shipped():
    return audit.exact_graph(le.load_prior("photo-small"))


@pytest.fixture(scope="module")
def tiny():
    return audit.exact_graph(tiny_prior())


@pytest.fixture
def options():
    return BuildOptions("sm_89", "tensorrt_rtx", make_profiles(None, 2, 4))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATINO_ENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_120"])
def test_the_shipped_prior_builds_in_every_precision(shipped, tmp_path, architecture, precision):
    graph = to_typed(shipped, precision).SerializeToString(deterministic=True)
    profiles = make_profiles(None, 8, 8)
    options = BuildOptions(architecture, "tensorrt_rtx", profiles)
    facts = build_plan(graph, options, tmp_path / "a.plan")
    own = LAYER_TYPE[precision]
    assert facts["layer_types"] == {
        "convolution": {own: 38},  # two of them were transposed convolutions
        "matrix_multiply": {own: 16},
        "normalization": {"float": 26},
        "softmax": {"float": 1},
    }
    assert facts["node_coverage"] == 1.0 and facts["tf32"] is False
    assert len(facts["profiles"]) == 2 and facts["scratch_bytes"] > 0
    assert facts["version"] == trt.__version__ and facts["workspace_limit_bytes"] > 0
    again = build_plan(graph, options, tmp_path / "b.plan")
    assert again == {**facts, "from_cache": True}
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()
    assert (tmp_path / "a.plan").stat().st_size > 4_000_000


def test_a_damaged_cache_is_built_again(tiny, options, own_cache, tmp_path):
    graph = tiny.SerializeToString(deterministic=True)
    first = build_plan(graph, options, tmp_path / "a.plan")
    (cached,) = own_cache.glob("*.plan")
    assert not first["from_cache"] and cached.stem == first["key"] == plan_key(graph, options)
    cached.write_bytes(b"damaged")
    assert not build_plan(graph, options, tmp_path / "b.plan")["from_cache"]
    cached.with_suffix(".json").write_text("{")
    assert not build_plan(graph, options, tmp_path / "c.plan")["from_cache"]
    assert build_plan(graph, options, tmp_path / "d.plan")["from_cache"]


def test_all_that_shapes_a_plan_is_in_its_key(tiny, options, monkeypatch):
    graph = tiny.SerializeToString(deterministic=True)
    keys = [plan_key(graph, options), plan_key(graph + b" ", options)]
    for change in (
        {"architecture": "sm_120"},
        {"profiles": make_profiles(None, 3, 4)},
        {"tf32": True},
        {"workspace_bytes": 1 << 20},
        {"package": "tensorrt"},
    ):
        keys.append(plan_key(graph, BuildOptions(**{**vars(options), **change})))
    monkeypatch.setattr(tensorrt_build, "package_version", lambda package: "9.9")
    keys.append(plan_key(graph, options))
    assert len(set(keys)) == len(keys)


def test_tf32_and_the_workspace_are_what_was_asked(tiny, options, own_cache, tmp_path):
    asked = BuildOptions(**{**vars(options), "tf32": True, "workspace_bytes": 1 << 28})
    facts = build_plan(tiny.SerializeToString(), asked, tmp_path / "a.plan")
    assert facts["tf32"] is True and facts["workspace_limit_bytes"] == 1 << 28


def test_what_tensorrt_refuses_is_one_sentence(options, own_cache, tmp_path):
    for graph in (b"no graph", _unknown_operation()):
        with pytest.raises(BackendNotAvailable) as caught:
            build_plan(graph, options, tmp_path / "a.plan")
        text = str(caught.value)
        version = trt.__version__
        assert text.startswith(
            f"backend: expected a graph that tensorrt_rtx {version} builds for sm_89, got its "
            "refusal ("
        )
        assert text.endswith("); choose another precision or backend") and "\n" not in text
    assert not (tmp_path / "a.plan").exists() and not list(own_cache.glob("*"))


def _unknown_operation():
    from onnx import helper

    value = helper.make_tensor_value_info("x", 1, [1, 1, 8, 2])
    out = helper.make_tensor_value_info("x0_hat", 1, [1, 1, 8, 2])
    node = helper.make_node("DFT", ["x"], ["x0_hat"], axis=2)
    graph = helper.make_graph([node], "g", [value], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def test_progress_is_told_and_interrupted(tiny, options, own_cache, tmp_path, monkeypatch):
    from contextlib import contextmanager

    told = []

    @contextmanager
    def bar(title):
        def update(done, total):
            told.append((done, total))
            if len(told) == limit:
                raise KeyboardInterrupt

        yield update

    monkeypatch.setattr(tensorrt_build, "progress_bar", bar)
    graph, limit = tiny.SerializeToString(), 10
    with pytest.raises(KeyboardInterrupt):
        build_plan(graph, options, tmp_path / "a.plan")
    assert not (tmp_path / "a.plan").exists() and not list(own_cache.glob("*"))
    told.clear()
    limit = 0
    build_plan(graph, options, tmp_path / "a.plan")
    assert len(told) > 50 and [done for done, _ in told] == list(range(1, len(told) + 1))
    assert all(done <= total for done, total in told)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "tiny.engine"
    le.compile(
        tiny_prior(), path, backend="tensorrt", precision="fp16", image_size=(16, 24), max_batch=3,
        gpu_architectures=["sm_89", "sm_120", "sm_89"],
    )  # fmt: skip
    return path


@pytest.fixture
def folder(compiled, tmp_path):
    return shutil.copytree(compiled, tmp_path / "tiny.engine")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_compile_succeeds_without_a_gpu_and_sample_says_the_sentence(compiled):
    engine = le.load(compiled)
    assert engine.backend == "tensorrt"
    y = torch.rand(1, 3, 16, 16)
    with pytest.raises(BackendNotAvailable) as caught:
        engine.sample(y, le.Denoising(0.1))
    assert str(caught.value).startswith(
        "backend: expected one that runs on this machine, got 'tensorrt', which needs an NVIDIA "
        "GPU with its driver and a CUDA build of torch; load the engine 'tiny.engine' on such"
    )
    post = le.load(compiled, backend="torch").sample(y, le.Denoising(0.1), num_samples=1, steps=2)
    assert torch.isfinite(post.mean).all()


def test_the_manifest_of_plans(compiled):
    fields = manifest.read_manifest(compiled)
    assert fields["backend"] == "tensorrt"
    assert fields["gpu_architectures"] == ["sm_89", "sm_120"]
    record = fields["runtimes"]["tensorrt"]
    names = {f"denoiser.tensorrt.{gpu}.fp16.plan" for gpu in ("sm_89", "sm_120")}
    assert set(record["plans"]) == names <= set(fields["files"])
    for name, facts in record["plans"].items():
        assert facts["sha256"] == fields["files"][name]["sha256"]
        assert facts["architecture"] in name and facts["version"] == trt.__version__
        assert facts["layer_types_from"] == "strongly typed network"
        assert [profile["batch"] for profile in facts["profiles"]] == [
            [1, 1, 1],
            [1, 3, 3],
            [1, 3, 3],
        ]
        assert facts["profiles"][0]["height"] == [16, 16, 16]
    assert 1e-5 < record["relative_error"] <= record["bound"] == BOUNDS["fp16"]
    assert set(record["error_by_sigma"]) == set(fields["runtimes"]["torch"]["error_by_sigma"])
    if not torch.cuda.is_available():
        assert record["measured_on"].startswith("typed graph by onnxruntime on the CPU")


def test_a_missing_or_damaged_plan_is_refused(folder):
    plan = folder / "denoiser.tensorrt.sm_89.fp16.plan"
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.raises(EngineInvalid, match="expected the contents that "):
        le.load(folder)
    plan.unlink()
    with pytest.raises(EngineInvalid, match=r"sm_89.fp16.plan: expected a file of the engine"):
        le.load(folder)


def test_rebuild_adds_plans_and_keeps_the_rest(folder, capsys):
    before = manifest.read_manifest(folder)
    assert cli.run(["rebuild", str(folder), "--gpu", "sm_80", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    after = manifest.read_manifest(folder)
    assert after["runtimes"]["tensorrt"] == record
    assert after["gpu_architectures"] == ["sm_120", "sm_80", "sm_89"]
    assert set(after["files"]) - set(before["files"]) == {"denoiser.tensorrt.sm_80.fp16.plan"}
    for name, facts in before["files"].items():
        assert after["files"][name] == facts
    same = set(before) - {"runtimes", "gpu_architectures", "files"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert after["runtimes"]["torch"] == before["runtimes"]["torch"]
    new = record["plans"]["denoiser.tensorrt.sm_80.fp16.plan"]
    assert new["profiles"] == record["plans"]["denoiser.tensorrt.sm_89.fp16.plan"]["profiles"]


def test_the_commands_refuse(folder, capsys):
    assert cli.run(["rebuild", str(folder), "--gpu", "sm_61"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: gpu_architectures: expected some of sm_75, sm_80, sm_86, ")
    assert "got 'sm_61'" in error and error.count("\n") == 1
    assert cli.run(["info", str(folder)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "plans for" in text and "tensorrt (chosen)" in text


def test_compile_from_the_command_line(tmp_path, capsys, compiled):
    out = tmp_path / "b.engine"
    arguments = ["compile", str(compiled), "-o", str(out), "--backend", "tensorrt"]
    assert cli.run([*arguments, "--precision", "fp16", "--gpu", "sm_89", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["gpu_architectures"] == ["sm_89"]
    assert fields["prior_sha256"] == manifest.read_manifest(compiled)["prior_sha256"]
