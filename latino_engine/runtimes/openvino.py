"""The denoiser through OpenVINO on the processor: float32, or bfloat16 where it multiplies that."""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, invalid
from latino_engine.runtimes.failures import loading, running
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.system.machine import usable_cores
from latino_engine.system.waiting import waits_actively

if TYPE_CHECKING:
    import openvino

PRECISIONS = ("fp32", "bf16")

_TYPES = {"fp32": "f32", "bf16": "bf16"}
_MOST_SIZES = 8  # that have a compiled model of their own
_WEIGHT_BYTES = 1 << 30  # of all these models together: each holds the weights in its own layout
_WORTH_A_MODEL = 32  # calls of one size: compiling takes as long as some ten of them
_MOST_COUNTED = 256

#: Shape of every input, by name.
Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


def files(precision: str) -> tuple[str, ...]:
    """Names of the engine's files that this runtime reads."""
    return ("denoiser.onnx",)


class CompiledModel:
    """A model compiled for some sizes; every caller has an inference request of its own."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.compiled = compiled
        shape = compiled.output(0).partial_shape
        self._shape = tuple(shape.to_shape()) if shape.is_static else None
        self._free: list[openvino.InferRequest] = []

    @property
    def num_requests(self) -> int:
        """Inference requests that wait for a caller."""
        return len(self._free)

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """The first output for float32 arrays, in memory of the caller."""
        ov = package()
        try:
            request = self._free.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        if self._shape is None:
            request.infer()
            out = np.array(request.get_output_tensor(0).data)
        else:
            out = np.empty(self._shape, np.float32)
            request.set_output_tensor(0, ov.Tensor(out, shared_memory=True))
            request.infer()
        self._free.append(request)  # a request that failed is not used again
        return out


class SizedModels:
    """One network for every size: compiled models of the sizes that come, and one for the others.

    OpenVINO runs a model of fixed sizes faster than one of any size, and compiles it in the time of
    some ten calls. The first `most` sizes get a model each. A further one is run by the model of
    any size, until it has come `_WORTH_A_MODEL` times: then it takes the place of the size that was
    not asked for longest.

    Args:
        path: ONNX file.
        precision: "fp32" or "bf16".
        threads: of one call.
        most: models of fixed sizes that are kept.
    """

    def __init__(self, path: Path, precision: str, threads: int, most: int | None = None) -> None:
        self._path = path
        self._options = _options(precision, threads)
        weights = sum(p.stat().st_size for p in (path, Path(f"{path}.data")) if p.is_file())
        fitting = min(_MOST_SIZES, _WEIGHT_BYTES // max(1, weights))  # none of a very large network
        self._most = fitting if most is None else most
        self._models: OrderedDict[Shapes, CompiledModel] = OrderedDict()
        self._any_size: CompiledModel | None = None
        self._came: Counter[Shapes] = Counter()
        self._lock = threading.Lock()  # of the tables
        self._building = threading.Lock()  # one compilation at a time
        with loading("OpenVINO"):
            package().Core().read_model(path)  # a graph that it refuses is told of at once

    @property
    def sizes(self) -> list[Shapes]:
        """Those with a compiled model of their own, the one used last at the end."""
        with self._lock:
            return list(self._models)

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """The network's output for float32 arrays."""
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        with running("OpenVINO"):
            return self.model(shapes)(inputs)

    def model(self, shapes: Shapes) -> CompiledModel:
        """The compiled model that runs these sizes now."""
        found = self._kept(shapes)
        if found is not None:
            return found
        with self._building:
            found = self._kept(shapes)  # somebody else was faster
            return self._build(shapes) if found is None else found

    def _kept(self, shapes: Shapes) -> CompiledModel | None:
        with self._lock:
            if shapes in self._models:
                self._models.move_to_end(shapes)
                return self._models[shapes]
            if len(self._models) < self._most:
                return None
            if len(self._came) >= _MOST_COUNTED:
                self._came.clear()
            self._came[shapes] += 1
            wanted = self._most > 0 and self._came[shapes] >= _WORTH_A_MODEL
            return None if wanted else self._any_size

    def _build(self, shapes: Shapes) -> CompiledModel:
        with self._lock:
            full = len(self._models) >= self._most
            wanted = self._most > 0 and self._came[shapes] >= _WORTH_A_MODEL
        if full and not wanted:
            self._any_size = self._compile(None)
            return self._any_size
        built = self._compile(shapes)
        with self._lock:
            self._came.pop(shapes, None)
            self._models[shapes] = built
            if len(self._models) > self._most:
                self._models.popitem(last=False)
        return built

    def _compile(self, shapes: Shapes | None) -> CompiledModel:
        core = package().Core()
        model = core.read_model(self._path)
        if shapes is not None:
            model.reshape({name: list(shape) for name, shape in shapes})
        return CompiledModel(core.compile_model(model, "CPU", self._options))


class OpenVinoDenoiser(DenoiserRuntime):
    """The denoiser of an engine; several threads may call it at once."""

    device = "cpu"

    def __init__(self, models: SizedModels) -> None:
        self.models = models

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        arrays = {"x": plain_array(x), "sigma": plain_array(sigma)}
        return torch.from_numpy(self.models(arrays)).to(x.device)


def plain_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A float32 array on the tensor's memory where that is possible."""
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()


def open_runtime(
    folder: Path, precision: str, device: str | None, threads: int | None
) -> OpenVinoDenoiser:
    """Load `denoiser.onnx` on the processor.

    Raises:
        BackendNotAvailable: device "cuda", a graph that OpenVINO refuses.
        ValueError: a precision that this processor does not multiply.
    """
    return OpenVinoDenoiser(open_models(folder / "denoiser.onnx", precision, device, threads))


def open_models(
    path: Path, precision: str, device: str | None, threads: int | None, most: int | None = None
) -> SizedModels:
    """One ONNX file; see `open_runtime` and `SizedModels`."""
    if device not in (None, "cpu"):
        raise BackendNotAvailable(
            f"device: expected 'cpu' for the backend 'openvino', got {device!r}; use 'cpu', or "
            "backend='onnxruntime', 'torch' or 'tensorrt' for a GPU"
        )
    able = package().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in able:
        expected = "fp32 for the backend 'openvino' on this processor, which has no bfloat16"
        raise invalid("precision", expected, precision, "choose fp32 or backend='torch'")
    return SizedModels(path, precision, threads or usable_cores(), most)


def _options(precision: str, threads: int) -> dict[str, Any]:
    """Of compilation: one stream, which all threads share; no thread is bound to a core, since a
    neighbour may be busy on that one.
    """
    return {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": waits_actively(),
    }


@functools.cache
def package() -> Any:
    """The package openvino, imported without its telemetry.

    Importing it sends a message by the package openvino_telemetry; where that one cannot be
    imported it uses an empty stand-in of its own.
    """
    name = "openvino_telemetry"
    if "openvino" in sys.modules or name in sys.modules or not importlib.util.find_spec(name):
        import openvino

        return openvino
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules[name]
    return openvino
