"""What may be asked of plans: package, TF32, workspace; and plans of an adapted prior."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import tensorrt_stand_in
from tiny import tiny_prior

import latino_engine as le
from latino_engine import manifest
from latino_engine.cli import program
from latino_engine.compilation import audit, plans
from latino_engine.compilation.accuracy import BOUNDS
from latino_engine.errors import AccuracyError, BackendNotAvailable, EngineInvalid, InvalidType
from latino_engine.runtimes import tensorrt_build, tensorrt_package
from latino_engine.runtimes.tensorrt import TensorRTDenoiser
from latino_engine.runtimes.tensorrt_build import BuildOptions, build_plan, make_profiles
from latino_engine.runtimes.tensorrt_package import Gpu, PlanOptions, resolve_architectures

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

PLAN = "denoiser.tensorrt.{}.fp32.plan"


@pytest.fixture
def both(monkeypatch):
    """Both packages, as far as building goes: TensorRT for RTX stands for the other one too."""
    monkeypatch.setattr(
        tensorrt_package, "installed_packages", lambda: ["tensorrt_rtx", "tensorrt"]
    )
    monkeypatch.setattr(tensorrt_build, "load_package", lambda name: trt)
    monkeypatch.setattr(
        tensorrt_build,
        "package_version",
        lambda name: {"tensorrt_rtx": trt.__version__, "tensorrt": "11.2"}[name],
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "tiny.engine"
    le.compile(
        tiny_prior(), path, backend="tensorrt", max_batch=1, gpu_architectures=["sm_89"], tf32=True,
        workspace_mib=512,
    )  # fmt: skip
    return path


@pytest.fixture
def folder(compiled, tmp_path):
    return shutil.copytree(compiled, tmp_path / "tiny.engine")


def record_of(folder):
    return manifest.read_manifest(folder)["runtimes"]["tensorrt"]


def test_the_package_is_chosen_by_name(both):
    here = Gpu("sm_89")
    assert resolve_architectures(["sm_89"], here) == {"sm_89": "tensorrt_rtx"}
    for name in ("tensorrt_rtx", "tensorrt"):
        assert resolve_architectures(["sm_89"], here, name) == {"sm_89": name}
    assert resolve_architectures(["sm_89", "sm_90"], Gpu("sm_90")) == {
        "sm_89": "tensorrt_rtx",
        "sm_90": "tensorrt",
    }
    with pytest.raises(BackendNotAvailable) as caught:
        resolve_architectures(["sm_120"], here, "tensorrt")
    assert str(caught.value) == (
        "gpu_architectures: expected some of sm_89, which tensorrt builds for, got 'sm_120'; for "
        "another GPU compile on a machine that has it, with the package tensorrt (pip install "
        "tensorrt)"
    )


@pytest.mark.parametrize("here, listed", [(["tensorrt_rtx"], "tensorrt_rtx"), ([], "none")])
def test_a_named_package_that_is_missing(monkeypatch, here, listed):
    monkeypatch.setattr(tensorrt_package, "installed_packages", lambda: here)
    with pytest.raises(BackendNotAvailable) as caught:
        resolve_architectures(["sm_89"], Gpu("sm_89"), "tensorrt")
    assert str(caught.value) == (
        f"tensorrt_package: expected one that is installed here ({listed}), got 'tensorrt'; "
        "install it with: pip install tensorrt"
    )


def test_a_missing_package_leaves_nothing_behind(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tensorrt_package, "installed_packages", lambda: ["tensorrt"])
    arguments = ["compile", "photo-small", "-o", str(tmp_path / "a.engine"), "--backend"]
    arguments += ["tensorrt", "--gpu", "sm_89", "--tensorrt-package", "tensorrt_rtx"]
    assert program.run(arguments) == 2
    assert capsys.readouterr().err == (
        "error: tensorrt_package: expected one that is installed here (tensorrt), got "
        "'tensorrt_rtx'; install it with: pip install tensorrt-rtx\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            {"package": "rtx"},
            "tensorrt_package: expected None, 'tensorrt_rtx' or 'tensorrt', got 'rtx'; choose one "
            "of these",
        ),
        ({"tf32": 1}, "tf32: expected True or False, got int; give a boolean"),
        (
            {"workspace_mib": 0},
            "workspace_mib: expected at least 1, got 0; leave it out for TensorRT's own limit",
        ),
        ({"workspace_mib": 0.5}, "workspace_mib: expected an integer, got float; give a whole "),
    ],
)
def test_options_that_are_none(options, sentence):
    with pytest.raises((ValueError, InvalidType)) as caught:
        PlanOptions(**options)
    assert str(caught.value).startswith(sentence)


def test_a_workspace_may_be_an_integer_of_numpy():
    options = PlanOptions(workspace_mib=np.int32(4096))
    assert options.workspace_bytes == 1 << 32 and type(options.workspace_mib) is int


def test_tf32_is_one_of_float32(tmp_path, folder):
    sentence = (
        "tf32: expected False for the precision 'fp16', got True; its products are rounded further "
        "already; leave it out"
    )
    with pytest.raises(ValueError) as caught:
        le.compile(tiny_prior(), tmp_path / "a.engine", "tensorrt", "fp16", tf32=True)
    assert str(caught.value) == sentence
    rewrite(folder, {**manifest.read_manifest(folder), "precision": "fp16"})
    with pytest.raises(ValueError) as caught:
        plans.rebuild_plans(folder, ["sm_89"], tf32=True)
    assert str(caught.value) == sentence
    assert not (tmp_path / "a.engine").exists()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"gpu_architectures": ["sm_89"]}, "gpu_architectures: expected None, got ['sm_89']; "),
        ({"tensorrt_package": "tensorrt"}, "tensorrt_package: expected None, got 'tensorrt'; "),
        ({"tf32": True}, "tf32: expected False, got True; "),
        ({"workspace_mib": 9}, "workspace_mib: expected None, got 9; "),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_options_of_plans_where_none_are_built(tmp_path, backend, options, sentence):
    with pytest.raises(BackendNotAvailable) as caught:
        le.compile(tiny_prior(), tmp_path / "a.engine", backend, **options)
    remedy = "neither onnxruntime nor torch builds for a GPU ahead of time, use backend='tensorrt'"
    assert str(caught.value) == sentence + remedy
    assert not list(tmp_path.iterdir())


def test_the_manifest_says_what_was_asked_and_built(compiled, capsys):
    record = record_of(compiled)
    assert record["options"] == {"package": None, "tf32": True, "workspace_mib": 512}
    facts = record["plans"][PLAN.format("sm_89")]
    assert facts["package"] == "tensorrt_rtx" and facts["tf32"] is True
    assert facts["workspace_limit_bytes"] == 512 << 20
    # Far above float32, far below its own bound: the factors were rounded.
    assert 1e-4 < record["relative_error"] <= record["bound"] == BOUNDS["tf32"] == 2e-2
    for name in ("bound", "relative_error", "measured_on"):
        assert facts[name] == record[name]
    assert program.run(["info", str(compiled)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "plans for sm_89, TF32, relative error" in shown


def test_rebuild_keeps_what_was_asked_and_changes_what_is_named(folder, both, monkeypatch, capsys):
    before = record_of(folder)["plans"][PLAN.format("sm_89")]
    assert program.run(["rebuild", str(folder), "--gpu", "sm_120", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    new = record["plans"][PLAN.format("sm_120")]
    assert new["tf32"] is True and new["workspace_limit_bytes"] == 512 << 20
    assert record["options"] == {"package": None, "tf32": True, "workspace_mib": 512}
    monkeypatch.setattr(plans, "local_gpu", lambda: Gpu("sm_90"))
    monkeypatch.setattr(plans, "_measure_here", lambda *a: None)
    arguments = ["rebuild", str(folder), "--gpu", "sm_90", "--tensorrt-package", "tensorrt"]
    assert program.run([*arguments, "--no-tf32", "--workspace-mib", "500", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    new = record["plans"][PLAN.format("sm_90")]
    assert new["package"] == "tensorrt" and new["version"] == "11.2" and new["tf32"] is False
    assert new["workspace_limit_bytes"] == 500 << 20 and new["bound"] == BOUNDS["fp32"]
    assert record["options"] == {"package": "tensorrt", "tf32": False, "workspace_mib": 500}
    assert record["version"] == f"tensorrt 11.2, tensorrt_rtx {trt.__version__}"
    kept = record["plans"][PLAN.format("sm_89")]
    assert kept == before and kept["bound"] == BOUNDS["tf32"]


def test_too_little_workspace_is_one_sentence(folder):
    before = manifest.read_manifest(folder)
    with pytest.raises(BackendNotAvailable) as caught:
        plans.rebuild_plans(folder, ["sm_89"], workspace_mib=1)
    text = str(caught.value)
    assert "builds for sm_89, got its refusal (" in text and "workspace limit" in text
    assert text.endswith("); choose a larger workspace_mib, another precision or backend")
    assert manifest.read_manifest(folder) == before


def test_load_rebuilds_with_the_package_that_was_named(folder, both, monkeypatch):
    fields = manifest.read_manifest(folder)
    fields["runtimes"]["tensorrt"]["options"]["package"] = "tensorrt"
    rewrite(folder, fields)
    (folder / PLAN.format("sm_89")).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(plans, "local_gpu", lambda: Gpu("sm_89"))
        patch.setattr(plans, "_measure_here", lambda *a: None)
        le.load(folder, backend="torch", rebuild=True)
    assert record_of(folder)["plans"][PLAN.format("sm_89")]["package"] == "tensorrt"
    (folder / PLAN.format("sm_89")).unlink()
    monkeypatch.setattr(tensorrt_package, "installed_packages", lambda: ["tensorrt_rtx"])
    with pytest.raises(BackendNotAvailable, match=r"^tensorrt_package: expected one that is inst"):
        le.load(folder, backend="torch", rebuild=True)


def test_a_damaged_plan_that_nothing_here_builds_leaves_the_engine(folder, both, monkeypatch):
    """On a machine with another GPU and TensorRT proper alone."""
    (folder / PLAN.format("sm_89")).write_bytes(b"damaged")
    monkeypatch.setattr(tensorrt_package, "installed_packages", lambda: ["tensorrt"])
    with pytest.raises(BackendNotAvailable, match=r"^gpu_architectures: expected the GPU of this"):
        plans.rebuild_plans(folder)
    monkeypatch.setattr(plans, "local_gpu", lambda: Gpu("sm_90"))
    monkeypatch.setattr(plans, "_measure_here", lambda *a: None)
    with pytest.warns(UserWarning) as caught:
        after = plans.rebuild_plans(folder)
    assert [str(entry.message) for entry in caught if entry.category is UserWarning] == [
        "the damaged plan for sm_89 is taken out of the engine: nothing here builds for that GPU"
    ]
    assert after["gpu_architectures"] == ["sm_90"]
    assert set(after["runtimes"]["tensorrt"]["plans"]) == {PLAN.format("sm_90")}
    assert not (folder / PLAN.format("sm_89")).exists()


def test_the_command_in_an_error_is_one_that_a_shell_takes(compiled, tmp_path):
    folder = shutil.copytree(compiled, tmp_path / "my engine's.engine")
    (folder / PLAN.format("sm_89")).unlink()
    with pytest.raises(EngineInvalid) as caught:
        le.load(folder)
    import shlex

    command = str(caught.value).partition("build it by: ")[2].partition(", or load")[0]
    assert shlex.split(command) == ["latino-engine", "rebuild", str(folder), "--gpu", "sm_89"]
    assert program.run(shlex.split(command)[1:]) == 0
    assert le.load(folder).backend == "tensorrt"


def test_measurements_of_tensorrt_proper_are_kept(tmp_path, both, monkeypatch):
    """TensorRT for RTX measures nothing and keeps no times; here it stands for the other one."""
    monkeypatch.setenv("LATINO_ENGINE_CACHE", str(tmp_path))
    graph, given = one_convolution(), []
    monkeypatch.setattr(
        trt.IBuilderConfig, "create_timing_cache", lambda self, known: given.append(bytes(known))
    )
    monkeypatch.setattr(trt.IBuilderConfig, "set_timing_cache", lambda self, cache, ignore: True)
    serialised = type("T", (), {"serialize": lambda self: b"times"})
    monkeypatch.setattr(trt.IBuilderConfig, "get_timing_cache", lambda self: serialised())
    for batch, package in ((1, "tensorrt"), (2, "tensorrt"), (3, "tensorrt_rtx")):
        options = BuildOptions("sm_89", package, make_profiles(None, batch, 4))
        build_plan(graph, options, tmp_path / "a.plan")
    assert given == [b"", b"times"]
    assert (tmp_path / "plans" / "11.2-sm_89.timing").read_bytes() == b"times"


def one_convolution():
    from onnx import helper, numpy_helper

    value = helper.make_tensor_value_info
    images = [value(name, 1, ["b", 1, "h", "w"]) for name in ("x", "x0_hat")]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Reshape", ["sigma", "column"], ["s"]),
        helper.make_node("Add", ["c", "s"], ["x0_hat"]),
    ]
    weights = {"k": np.ones((1, 1, 1, 1), np.float32), "column": np.array([-1, 1, 1, 1])}
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    inputs = [images[0], value("sigma", 1, ["b"])]
    graph = helper.make_graph(nodes, "g", inputs, images[1:], stored)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


@pytest.fixture
def this_gpu(monkeypatch):
    """A GPU of sm_89 whose TensorRT computes by onnxruntime, times a factor."""
    factor = [1.0]

    def open_plan(path, facts):
        graph = audit.exact_graph(tiny_prior()).SerializeToString()
        profiles = make_profiles(None, facts["profiles"][0]["batch"][2], 4)
        engine = tensorrt_stand_in.Engine(graph)
        runtime = TensorRTDenoiser(engine, profiles, "cpu", current_stream=lambda: 7)

        class Scaled:
            engine = None
            __call__ = staticmethod(lambda x, sigma: factor[0] * runtime(x, sigma))

        return Scaled()

    monkeypatch.setattr(plans, "local_gpu", lambda: Gpu("sm_89", "A GPU", "580.1"))
    monkeypatch.setattr(plans, "open_plan", open_plan)
    monkeypatch.setattr(plans, "inspected_types", lambda engine, form: {"Float": 3})
    return factor


def test_a_plan_for_single_images_is_measured(folder, this_gpu):
    record = plans.rebuild_plans(folder, ["sm_89", "sm_120"])["runtimes"]["tensorrt"]
    here, there = (record["plans"][PLAN.format(gpu)] for gpu in ("sm_89", "sm_120"))
    assert here["measured_on"] == record["measured_on"] == "A GPU"
    assert here["relative_error"] == record["relative_error"] <= 1e-5  # the stand-in rounds nothing
    assert there["measured_on"].startswith("typed graph by onnxruntime")
    assert 1e-4 < there["relative_error"] <= there["bound"] == here["bound"] == BOUNDS["tf32"]


def test_a_plan_with_tf32_above_its_bound_is_refused(folder, this_gpu):
    this_gpu[0] = 1.03
    before = manifest.read_manifest(folder)
    with pytest.raises(AccuracyError) as caught:
        plans.rebuild_plans(folder)
    text = str(caught.value)
    assert text.startswith("precision: expected a relative error of at most 0.02 against float32")
    assert "from tensorrt in tf32 at sigma " in text
    assert text.partition("(worst layers: ")[2].count(", ") == 2
    assert manifest.read_manifest(folder) == before


def rewrite(folder, fields):
    kept = {key: fields[key] for key in fields if key not in ("files", "format_version")}
    (folder / "engine.json").unlink()
    manifest.write_manifest(folder, kept)


def test_nothing_is_told_where_all_is_well(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plans.rebuild_plans(folder, ["sm_89"])
