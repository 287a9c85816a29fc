"""What the runtimes' libraries raise: out of memory in smaller chunks, the rest in one sentence."""

from __future__ import annotations

import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException
from tiny import tiny_prior
from tolerances import SAME_RUNTIME

import latino_engine as le
from latino_engine.errors import BackendNotAvailable, InvalidArgument, RuntimeFailed
from latino_engine.runtimes import onnxruntime as runtime

#: As onnxruntime 1.32 words it.
NO_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
    "MatMul node. Name:'node_matmul' Status Message: Failed to allocate memory for requested "
    "buffer of size 549755813888\nstack"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("failures") / "e.engine"
    return le.compile(tiny_prior(), path, "onnxruntime", image_size=16, threads=1)


class Session:
    """The real session, which fails with an error where a test says so."""

    def __init__(self, real, error, most=0):
        self.real, self.error, self.most, self.batches = real, error, most, []

    def run(self, names, feed):
        self.batches.append(len(feed["x"]))
        if len(feed["x"]) > self.most:
            raise self.error
        return self.real.run(names, feed)


def measured():
    op = le.Blur.gaussian(1.0, 0.05)
    return op.measure(torch.rand(2, 3, 16, 16)), op


def test_out_of_memory_ends_in_smaller_chunks(engine, monkeypatch):
    y, op = measured()
    expected = engine.sample(y, op, num_samples=3, steps=2)
    session = Session(engine.network.runtime._session, RuntimeException(NO_MEMORY), most=2)
    monkeypatch.setattr(engine.network.runtime, "_session", session)
    found = engine.sample(y, op, num_samples=3, steps=2)
    assert session.batches[0] == 6 and session.batches[-1] <= 2
    assert (found.samples - expected.samples).norm() <= SAME_RUNTIME * expected.samples.norm()


@pytest.mark.parametrize(
    "tile, remedy",
    [
        (None, "let the network see tiles, for example tile=256, or free some memory"),
        (8, "choose a smaller tile, or free some memory"),
    ],
)
def test_one_image_that_does_not_fit_is_one_sentence(engine, monkeypatch, tile, remedy):
    y, op = measured()
    session = Session(engine.network.runtime._session, RuntimeException(NO_MEMORY))
    monkeypatch.setattr(engine.network.runtime, "_session", session)
    with pytest.raises(InvalidArgument) as caught:
        engine.sample(y, op, num_samples=1, steps=1, tile=tile)
    assert str(caught.value) == (
        "y: expected an image that fits into the free memory, got 16 x 16, for which it ran out; "
        + remedy
    )
    assert isinstance(caught.value.__cause__, MemoryError)


def test_another_failure_is_one_sentence(engine, monkeypatch):
    y, op = measured()
    error = Fail("[ONNXRuntimeError] : 1 : FAIL : the kernel broke.\nits stack")
    monkeypatch.setattr(
        engine.network.runtime, "_session", Session(engine.network.runtime._session, error)
    )
    with pytest.raises(RuntimeFailed) as caught:
        engine.sample(y, op, num_samples=1, steps=1)
    assert str(caught.value) == (
        "backend: expected onnxruntime to run the network, got ([ONNXRuntimeError] : 1 : FAIL : "
        "the kernel broke); load the engine with another backend"
    )


def test_wrong_sizes_reach_onnxruntime_and_come_back_as_one_sentence(engine):
    with pytest.raises(RuntimeFailed, match=r"^backend: .*INVALID_ARGUMENT.*; load the engine"):
        engine.network.runtime(torch.zeros(1, 5, 16, 16), torch.ones(1))


@pytest.mark.slow
def test_onnxruntime_that_runs_out_of_memory(engine):
    """The scores of attention over 2048 x 2048 pixels would take 275 GB for each head."""
    with pytest.raises(MemoryError, match=r"^onnxruntime could not allocate: "):
        engine.network.runtime(torch.zeros(1, 3, 2048, 2048), torch.ones(1))


def test_a_graph_that_is_refused_is_one_sentence(tmp_path):
    (tmp_path / "denoiser.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendNotAvailable) as caught:
        runtime.open_runtime(tmp_path, "fp32", None, 1)
    text = str(caught.value)
    assert text.startswith("backend: expected a network that onnxruntime can load, got ([ONNX")
    assert text.endswith("; choose another backend or precision") and "\n" not in text


def test_sessions_sleep_and_are_bound_to_no_core(monkeypatch):
    monkeypatch.delenv("LATINO_ENGINE_WAIT", raising=False)
    monkeypatch.setattr(runtime, "usable_cores", lambda: 3)
    spinning = "session.intra_op.allow_spinning"
    options = runtime._options(None)
    assert options.get_session_config_entry(spinning) == "0"
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.intra_op_num_threads == 3 and runtime._options(1).intra_op_num_threads == 1
    monkeypatch.setenv("LATINO_ENGINE_WAIT", "active")
    assert runtime._options(None).get_session_config_entry(spinning) == "1"
