"""One plan: how it is built, cached, refused and told of."""

from __future__ import annotations

import pytest
from tiny import tiny_prior

import latino_engine as le
from latino_engine.compilation import audit
from latino_engine.errors import BackendNotAvailable
from latino_engine.export.mixed_precision import to_typed
from latino_engine.runtimes import tensorrt_build
from latino_engine.runtimes.tensorrt_build import BuildOptions, build_plan, make_profiles, plan_key

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
        "matrix_multiply": {own: 5},  # twelve projections of the time embedding are one of them
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
