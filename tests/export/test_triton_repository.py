"""A repository for Triton Inference Server: its configuration parses, its model answers."""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program

model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("triton") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return path


@pytest.fixture(scope="module")
def repository(engine, tmp_path_factory):
    out = tmp_path_factory.mktemp("repository") / "models"
    status = program.run(["export", str(engine), "--triton-repository", str(out), "--size", "16"])
    assert status == 0
    return out


def parsed(folder):
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config.ModelConfig())


@pytest.mark.parametrize("name", ["latino_engine", "latino_sampler"])
def test_the_configuration_is_the_published_message(repository, name):
    config = parsed(repository / name)
    assert config.name == name
    assert config.max_batch_size == 0
    assert config.instance_group[0].count == 1
    assert (config.backend, config.platform) in (("python", ""), ("", "onnxruntime_onnx"))


def test_the_configuration_has_the_inputs_of_the_graph(repository):
    config = parsed(repository / "latino_sampler")
    path = repository / "latino_sampler" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types_of = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
    for stated, found in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [one.name for one in stated] == [one.name for one in found]
        for one, other in zip(stated, found, strict=True):
            dims = [side if isinstance(side, int) else -1 for side in other.shape]
            assert list(one.dims) == dims
            assert model_config.DataType.Name(one.data_type) == types_of[other.type]


@dataclass
class Tensor:
    """The stand-in of the server's tensor."""

    tensor_name: str
    array: Any

    def name(self) -> str:
        return self.tensor_name

    def as_numpy(self) -> Any:
        return self.array


@dataclass
class Response:
    """The stand-in of the server's response."""

    output_tensors: list[Tensor]
    error: Any = None


@dataclass
class Failure:
    """The stand-in of the server's error."""

    message: str


@dataclass
class Request:
    """The stand-in of the server's request."""

    tensors: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def model(repository):
    utils = types.ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.InferenceResponse, utils.TritonError = Tensor, Response, Failure
    utils.get_input_tensor_by_name = lambda request, name: (
        Tensor(name, request.tensors[name]) if name in request.tensors else None
    )
    sys.modules["triton_python_backend_utils"] = utils
    file = repository / "latino_engine" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.TritonPythonModel()
    arguments = {"model_repository": str(repository / "latino_engine"), "model_version": "1"}
    found.initialize({**arguments, "model_instance_kind": "CPU"})
    yield found
    del sys.modules["triton_python_backend_utils"]


def test_the_model_answers_with_the_samples_of_the_engine(repository, engine, model):
    y = torch.rand(3, 16, 20)
    tensors = {
        "measurement": y.numpy(),
        "operator": np.array([b"blur:std=1,size=5"], dtype=object),
        "noise_std": np.array([0.05], dtype=np.float32),
        "num_samples": np.array([2], dtype=np.int32),
        "seed": np.array([2**64 - 1], dtype=np.uint64),
        "image_id": np.array([3], dtype=np.int32),
    }
    plain = {"measurement": y.numpy(), "operator": np.array([b"denoise"], dtype=object)}
    first, second = model.execute([Request(tensors), Request(plain)])
    op = le.BorderedBlur(le.Blur.gaussian(1.0, 0.0, size=5).kernel, float(np.float32(0.05)))
    expected = le.load(engine).sample(y[None], op, 2, 2**64 - 1, image_ids=[3])
    found = {tensor.name(): tensor.as_numpy() for tensor in first.output_tensors}
    np.testing.assert_array_equal(found["samples"], expected.samples[:, 0].numpy())
    np.testing.assert_array_equal(found["mean"], expected.mean[0].numpy())
    config = parsed(repository / "latino_engine")
    stated = {one.name: (one.data_type, len(one.dims)) for one in config.output}
    kinds = {"float32": model_config.TYPE_FP32, "float64": model_config.TYPE_FP64}
    assert stated == {name: (kinds[str(a.dtype)], a.ndim) for name, a in found.items()}
    assert second.error is None and second.output_tensors[0].as_numpy().shape[0] == 4


@pytest.mark.parametrize(
    ("text", "part"),
    [("blurr:std=1", "did you mean 'blur'"), ("inpaint:mask=/etc/passwd", "one without files")],
)
def test_a_mistake_is_the_error_of_its_response(model, text, part):
    tensors = {
        "measurement": np.zeros((3, 16, 16), dtype=np.float32),
        "operator": np.array([text.encode()], dtype=object),
    }
    good = {**tensors, "operator": np.array([b"denoise"], dtype=object)}
    bad, fine = model.execute([Request(tensors), Request(good)])
    assert part in bad.error.message and "\n" not in bad.error.message
    assert fine.error is None
