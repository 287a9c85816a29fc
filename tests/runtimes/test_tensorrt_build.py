"""Plans for real, by TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine import manifest
from latino_engine.cli import program
from latino_engine.compilation import plans
from latino_engine.compilation.accuracy import BOUNDS
from latino_engine.errors import AccuracyError, BackendNotAvailable, EngineInvalid
from latino_engine.image_io import write_image
from latino_engine.runtimes import tensorrt
from latino_engine.runtimes.tensorrt_package import Gpu

trt = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt_rtx is missing: pip install tensorrt-rtx"
)
pytestmark = pytest.mark.tensorrt


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


PLAN = "denoiser.tensorrt.sm_89.fp16.plan"


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_missing_or_damaged_plan_is_refused(folder):
    remedy = (
        f"build it by: latino-engine rebuild {folder} --gpu sm_89, or load the engine with "
        "--rebuild (rebuild=True in Python)"
    )
    damage(folder / PLAN)
    with pytest.raises(EngineInvalid) as caught:
        le.load(folder)
    assert str(caught.value) == (
        f"{PLAN}: expected the contents that engine.json records, got other ones in "
        f"'tiny.engine'; copy the engine again from its source, or {remedy}"
    )
    (folder / PLAN).unlink()
    with pytest.raises(EngineInvalid) as caught:
        le.load(folder)
    assert str(caught.value) == (
        f"{PLAN}: expected a file of the engine 'tiny.engine', got none; {remedy}"
    )


@pytest.mark.parametrize("spoil", [damage, lambda path: path.unlink()], ids=["damaged", "missing"])
def test_the_flag_builds_a_plan_again(folder, tmp_path, capsys, spoil):
    """Here without a GPU: the plan is whole again, and another runtime samples."""
    before = manifest.read_manifest(folder)
    spoil(folder / PLAN)
    write_image(tmp_path / "y.png", torch.rand(1, 3, 16, 16))
    sample = ["sample", str(folder), str(tmp_path / "y.png"), "--operator", "denoise", "--steps"]
    sample += ["1", "--num-samples", "1", "--backend", "torch", "-o", str(tmp_path / "out")]
    assert program.run(sample) == 2
    assert "or load the engine with --rebuild" in capsys.readouterr().err
    assert program.run([*sample, "--rebuild"]) == 0
    assert manifest.read_manifest(folder)["files"] == before["files"]
    spoil(folder / PLAN)
    assert program.run(["rebuild", str(folder), "--gpu", "sm_120"]) == 0  # builds it along
    assert manifest.read_manifest(folder)["files"] == before["files"]


def test_other_damage_is_not_rebuilt(folder):
    damage(folder / "model.safetensors")
    damage(folder / PLAN)
    with pytest.raises(EngineInvalid, match=r"^model.safetensors: expected the contents that"):
        le.load(folder, rebuild=True)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, as far as loading a plan goes: it opens, and computes by torch."""

    class Opened:
        device, engine = "cpu", None
        __call__ = staticmethod(lambda x, sigma: tiny_prior().denoiser(x, sigma))

    here = Gpu("sm_80", "A GPU", "13.0")
    opened = []

    def open_plan(path, facts):
        if path.read_bytes()[:1] == b"!":
            raise EngineInvalid("refused by TensorRT")
        opened.append(path.name)
        return Opened()

    for module in (plans, tensorrt):
        monkeypatch.setattr(module, "local_gpu", lambda: here)
        monkeypatch.setattr(module, "open_plan", open_plan)
    monkeypatch.setattr(plans, "inspected_types", lambda engine, form: {"Half": 3})
    return opened


def test_loading_builds_the_plan_of_this_gpu(folder, gpu, monkeypatch):
    with pytest.raises(EngineInvalid) as caught:
        le.load(folder)
    assert str(caught.value) == (
        "backend: expected a TensorRT plan for this machine's GPU (sm_80), got plans for sm_120, "
        f"sm_89 in the engine 'tiny.engine'; build it by: latino-engine rebuild {folder} --gpu "
        "sm_80, or load the engine with --rebuild (rebuild=True in Python)"
    )
    engine = le.load(folder, rebuild=True)
    name = "denoiser.tensorrt.sm_80.fp16.plan"
    record = engine.manifest["runtimes"]["tensorrt"]
    assert gpu[-1] == name and len(record["plans"]) == 3
    assert record["measured_on"] == "A GPU"
    facts = record["plans"][name]
    assert facts["gpu"] == {"name": "A GPU", "architecture": "sm_80", "driver": "13.0"}
    assert facts["inspected_types"] == {"Half": 3}
    post = engine.sample(torch.rand(1, 3, 16, 16), le.Denoising(0.1), num_samples=1, steps=1)
    assert torch.isfinite(post.mean).all()
    with monkeypatch.context() as patch:  # now it fits, and nothing is built
        patch.setattr(plans, "build_for_gpus", lambda *a: pytest.fail("built again"))
        le.load(folder, rebuild=True)
        le.load(folder, backend="torch", rebuild=True)
    fields = manifest.read_manifest(folder)
    fields["runtimes"]["tensorrt"]["plans"][name]["version"] = "0.9"  # of an older TensorRT
    rewrite(folder, fields)
    with pytest.raises(BackendNotAvailable, match=r"expected the package tensorrt_rtx 0\.9, with"):
        le.load(folder)
    again = le.load(folder, rebuild=True).manifest["runtimes"]["tensorrt"]["plans"][name]
    assert again["version"] == trt.__version__
    (folder / name).write_bytes(b"!" + (folder / name).read_bytes()[1:])
    rewrite(folder, manifest.read_manifest(folder, plans=False))  # a plan that TensorRT refuses
    with pytest.raises(EngineInvalid, match="refused by TensorRT"):
        le.load(folder)
    le.load(folder, rebuild=True)


def test_a_plan_above_the_bound_is_refused_with_the_worst_layers(folder, gpu, monkeypatch):
    """The typed graph passes; what the GPU makes of it does not."""
    before = manifest.read_manifest(folder)
    monkeypatch.setattr(plans, "relative_errors", lambda *a: {"0.3": 0.1})
    with pytest.raises(AccuracyError) as caught:
        plans.rebuild_plans(folder)
    text = str(caught.value)
    assert "got 0.1 from tensorrt in fp16 at sigma 0.3; choose a higher precision" in text
    layers = text.partition("(worst layers: ")[2]
    assert layers.count(", ") == 2 and "network." in layers
    assert manifest.read_manifest(folder) == before


def rewrite(folder, fields):
    (folder / "engine.json").unlink()
    kept = {key: fields[key] for key in fields if key not in ("files", "format_version")}
    manifest.write_manifest(folder, kept)


def test_an_engine_of_other_runtimes_gets_its_plan(folder, gpu):
    fields = manifest.read_manifest(folder)
    for name in fields["runtimes"].pop("tensorrt")["plans"]:
        (folder / name).unlink()
    rewrite(folder, {**fields, "backend": "torch", "gpu_architectures": []})
    with pytest.raises(EngineInvalid) as caught:
        le.load(folder, backend="tensorrt")
    assert str(caught.value) == (
        "backend: expected one that the engine 'tiny.engine' serves, got 'tensorrt'; it was not "
        f"compiled for it; build it by: latino-engine rebuild {folder}, or load it with --rebuild"
    )
    engine = le.load(folder, backend="tensorrt", rebuild=True)
    assert engine.backend == "tensorrt" and gpu[-1] == "denoiser.tensorrt.sm_80.fp16.plan"
    assert engine.manifest["gpu_architectures"] == ["sm_80"]
    assert le.load(folder).backend == "torch"


def test_load_compiles_the_torch_runtime_where_it_is_asked(compiled, capsys):
    for asked in (True, False):
        runtime = le.load(compiled, backend="torch", torch_compile=asked).network.runtime
        assert (type(runtime._denoiser).__name__ == "_Compiled") is asked
    with pytest.raises(ValueError) as caught:
        le.load(compiled, torch_compile=True)
    text = (
        "torch_compile: expected False for the backend 'tensorrt', got True; leave it out, or "
        "load with backend='torch'"
    )
    assert str(caught.value) == text
    for command in ("bench", "sample"):
        arguments = [command, str(compiled), "--torch-compile"]
        if command == "sample":
            arguments += ["y.png", "--operator", "denoise", "-o", "out"]
        assert program.run(arguments) == 2 and capsys.readouterr().err == f"error: {text}\n"


def test_rebuild_adds_plans_and_keeps_the_rest(folder, capsys):
    before = manifest.read_manifest(folder)
    assert program.run(["rebuild", str(folder), "--gpu", "sm_80", "--json"]) == 0
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
    assert program.run(["rebuild", str(folder), "--gpu", "sm_61"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: gpu_architectures: expected some of sm_75, sm_80, sm_86, ")
    assert "got 'sm_61'" in error and error.count("\n") == 1
    assert program.run(["info", str(folder)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "plans for" in text and "tensorrt (chosen)" in text


def test_compile_from_the_command_line(tmp_path, capsys, compiled):
    out = tmp_path / "b.engine"
    arguments = ["compile", str(compiled), "-o", str(out), "--backend", "tensorrt"]
    arguments += ["--tensorrt-package", "tensorrt_rtx", "--workspace-mib", "900"]
    assert program.run([*arguments, "--precision", "fp16", "--gpu", "sm_89", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    asked = {"package": "tensorrt_rtx", "tf32": False, "workspace_mib": 900}
    assert fields["runtimes"]["tensorrt"]["options"] == asked
    (facts,) = fields["runtimes"]["tensorrt"]["plans"].values()
    assert facts["workspace_limit_bytes"] == 900 << 20
    assert fields["gpu_architectures"] == ["sm_89"]
    assert fields["prior_sha256"] == manifest.read_manifest(compiled)["prior_sha256"]
