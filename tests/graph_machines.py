"""Where the tests of captured samplers run: on the stand-in for CUDA, or on a GPU."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import tensorrt_stand_in
import torch
from graph_stand_in import RecordingDriver
from tiny import tiny_prior

import latino_engine as le
from latino_engine.compilation import audit
from latino_engine.engine import Engine
from latino_engine.errors import BackendNotAvailable
from latino_engine.export.mixed_precision import rounded_twin, to_typed
from latino_engine.ops import cpu_extension, cuda_extension
from latino_engine.priors.precision import to_precision
from latino_engine.runtimes.tensorrt import TensorRTDenoiser
from latino_engine.runtimes.tensorrt_build import make_profiles
from latino_engine.runtimes.torch import TorchDenoiser
from latino_engine.sampling.cuda_driver import CudaDriver

MAX_BATCH = 4


def bare_engine(prior, runtime, driver, backend="torch", precision="fp32"):
    """An engine that was never written; without a driver it runs eagerly."""
    manifest = {
        "prior": {"format": 1, **prior.spec.to_json()},
        "adapter": None,
        "precision": precision,
        "image_size": None,
        "max_batch": MAX_BATCH,
        "memory": {"per_pixel": 100.0, "per_pixel_squared": 0.0},
    }
    return Engine(Path("tiny.engine"), manifest, backend, runtime, None, driver)


class _Machine:
    def engines(self, backend="torch", precision="fp32", channels=3):
        """The same runtime with graphs, and eager."""
        prior = tiny_prior(channels)
        runtime = getattr(self, backend)(prior, precision)
        return [
            bare_engine(prior, runtime, driver, backend, precision)
            for driver in (self.driver(), None)
        ]

    def torch_compiled(self, prior, precision):
        return self.torch(prior, precision).compiled()

    def torch(self, prior, precision):
        network = to_precision(prior.denoiser, precision).to(self.device)
        return TorchDenoiser(network.to(memory_format=torch.channels_last), self.device)


class StandIn(_Machine):
    """torch on the CPU under `RecordingDriver`; TensorRT by onnxruntime."""

    device = "cpu"
    replays = 200
    size = (16, 16)  # of the images for which memory runs out

    def driver(self):
        return RecordingDriver()

    def tensorrt(self, prior, precision):
        assert prior.channels == 3
        engine = tensorrt_stand_in.Engine(_rounded_graph(precision))
        profiles = make_profiles(None, MAX_BATCH, prior.spec.size_multiple)
        return TensorRTDenoiser(engine, profiles, "cpu", current_stream=lambda: 7)

    def torch_compiled(self, prior, precision):
        pytest.skip("the stand-in sees operations of torch, not what was compiled of them")

    def in_use(self):
        """Bytes of all tensors."""
        gc.collect()
        tensors = [
            t for t in gc.get_objects() if type(t) is torch.Tensor and t.device.type == "cpu"
        ]
        storages = [t.untyped_storage() for t in tensors if t.layout == torch.strided]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def cost(self, engine, call):
        """Bytes that a capture takes."""
        before = len(engine.network.driver.graphs)
        call()
        (graph,) = engine.network.driver.graphs[before:]
        return sum(t.numel() * t.element_size() for *_, outs in graph.operations for t in outs)

    @contextmanager
    def squeezed(self, engine, size):
        engine.network.driver.memory_bytes = size
        yield
        engine.network.driver.memory_bytes, engine.network.driver.free = (
            float("inf"),
            10 * engine.network.driver.free,
        )


class Gpu(_Machine):
    """The real thing."""

    device = "cuda"
    replays = 10_000
    size = (1024, 1024)

    def __init__(self, folder):
        self._folder = folder

    def driver(self):
        return CudaDriver()

    def tensorrt(self, prior, precision):
        path = self._folder / f"{precision}.engine"
        try:
            engine = le.compile(prior, path, backend="tensorrt", precision=precision,
                                max_batch=MAX_BATCH)  # fmt: skip
        except BackendNotAvailable as error:
            pytest.skip(str(error))
        return engine.network.runtime

    def in_use(self):
        """Bytes that torch has taken of the GPU."""
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_reserved()

    def cost(self, engine, call):
        """Bytes that a capture takes, with the eager passes before it."""
        torch.cuda.empty_cache()
        before = self.in_use()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_reserved() - before

    @contextmanager
    def squeezed(self, engine, size):
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, (self.in_use() + size) / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


@cache
def _rounded_graph(precision):
    exact = audit.exact_graph(tiny_prior())
    graph = exact if precision == "fp32" else rounded_twin(to_typed(exact, precision), precision)
    return graph.SerializeToString()


def make_machine(name, folder, monkeypatch):
    """The machine of a parametrised fixture."""
    if name == "gpu":
        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU and a CUDA build of torch")
        return Gpu(folder)
    # The compiled operations are no operations of torch: the stand-in could not see them.
    monkeypatch.setattr(cpu_extension, "missing", lambda: "hidden")
    monkeypatch.setattr(cuda_extension, "missing", lambda: "hidden")
    return StandIn()
