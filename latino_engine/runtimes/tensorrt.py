"""The denoiser through TensorRT or TensorRT for RTX: one Python interface, two packages."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, EngineInvalid, invalid
from latino_engine.manifest import rebuild_remedy
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.runtimes.tensorrt_build import Profile
from latino_engine.runtimes.tensorrt_package import Gpu, load_package, local_gpu, package_version

PRECISIONS = ("fp32", "fp16", "bf16")

_MANIFEST = "engine.json"


def files(precision: str) -> tuple[str, ...]:
    """Pattern of the engine's files that this runtime reads: one plan for each architecture."""
    return (plan_name("*", precision),)


def plan_name(architecture: str, precision: str) -> str:
    """File name of a plan."""
    return f"denoiser.tensorrt.{architecture}.{precision}.plan"


class TensorRTDenoiser(DenoiserRuntime):
    """One TensorRT engine, with one execution context for each (profile, CUDA stream).

    A call enqueues its work on the caller's current stream and returns at once. Several threads may
    call it: callers on one stream are served in order, callers on different streams each have a
    context of their own. What lies between the layers is one buffer of torch's for each stream,
    shared by its contexts: their work is in order.

    Args:
        engine: TensorRT's ICudaEngine.
        profiles: the profiles of the plan, in its order.
        device: where its inputs and outputs live.
        current_stream: tells the handle of the caller's CUDA stream.
        new_context: makes an execution context whose memory is given to it; the engine's own by
            default.
        scratch: the buffers, where they are shared with another denoiser of this engine.
    """

    capturable = True

    def __init__(
        self,
        engine: Any,
        profiles: Sequence[Profile],
        device: str = "cuda",
        current_stream: Callable[[], int] | None = None,
        new_context: Callable[[], Any] | None = None,
        scratch: _Scratch | None = None,
    ) -> None:
        self.device = device
        self.engine = engine
        self._profiles = tuple(profiles)
        self._current_stream = current_stream or (lambda: torch.cuda.current_stream().cuda_stream)
        self._new_context = new_context or engine.create_execution_context
        self._scratch = _Scratch(device) if scratch is None else scratch
        self._contexts: dict[tuple[int, int], _Context] = {}
        self._lock = threading.Lock()

    def for_graph(self) -> TensorRTDenoiser:
        """The same network with contexts of its own, for one CUDA graph, which it must outlive.

        A context whose shapes change spoils the graphs that were captured from it.
        """
        return TensorRTDenoiser(
            self.engine,
            self._profiles,
            self.device,
            self._current_stream,
            self._new_context,
            self._scratch,
        )

    def allows_capture(self) -> bool:
        """Whether TensorRT lets the streams of the calls so far capture such calls."""
        found = ((c.context, stream) for (_, stream), c in self._contexts.items())
        return all(
            getattr(context, "is_stream_capturable", lambda stream: True)(stream)
            for context, stream in found
        )

    def last_context(self) -> Any:
        """TensorRT's context of the latest (profile, stream) that came, None before any call."""
        found = list(self._contexts.values())
        return found[-1].context if found else None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        profile = self._profile_for(batch, height, width)
        x = x.to(self.device, torch.float32).contiguous()
        sigma = sigma.to(self.device, torch.float32).contiguous()
        out = torch.empty_like(x)
        stream = self._current_stream()
        with self._lock:  # a context's shapes and addresses belong to one call until it is enqueued
            found = self._context(profile, stream)
            context = found.context
            if found.shape != tuple(x.shape):
                self._resize(found, x, sigma, stream)
            for name, tensor in (("x", x), ("sigma", sigma), ("x0_hat", out)):
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(stream):
                raise RuntimeError(
                    f"TensorRT could not run the denoiser at {batch} x {height} x {width}"
                )
        return out

    def _resize(self, found: _Context, x: Tensor, sigma: Tensor, stream: int) -> None:
        found.shape = None  # until all of this is done
        for name, tensor in (("x", x), ("sigma", sigma)):
            found.context.set_input_shape(name, tuple(tensor.shape))
        size = int(found.context.update_device_memory_size_for_shapes())
        found.memory = self._scratch.of(stream, size)
        found.context.set_device_memory(found.memory.tensor.data_ptr(), size)
        found.shape = tuple(x.shape)

    def _profile_for(self, batch: int, height: int, width: int) -> int:
        for index, profile in enumerate(self._profiles):
            if profile.serves(batch, height, width):
                return index
        largest = max(self._profiles, key=lambda p: p.height[2] * p.width[2])
        raise invalid(
            "y",
            f"at most {largest.batch[2]} images of {largest.height[0]} x {largest.width[0]} to "
            f"{largest.height[2]} x {largest.width[2]}, the sizes of the engine's TensorRT plan",
            f"{batch} of {height} x {width}",
            "compile the engine with this image_size",
        )

    def _context(self, profile: int, stream: int) -> _Context:
        key = (profile, stream)
        if key not in self._contexts:
            context = self._new_context()
            if context is None:
                raise RuntimeError("TensorRT could not allocate an execution context")
            context.set_optimization_profile_async(profile, stream)
            self._contexts[key] = _Context(context)
        return self._contexts[key]


@dataclass(eq=False)
class _Buffer:
    tensor: Tensor


@dataclass(eq=False)
class _Context:
    """An execution context, the shape of x that it is set to, and the memory that it works in."""

    context: Any
    shape: tuple[int, ...] | None = None
    memory: _Buffer | None = None


class _Scratch:
    """The memory between the layers: for each stream the largest buffer that a context holds."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._buffers: WeakValueDictionary[int, _Buffer] = WeakValueDictionary()

    def of(self, stream: int, size: int) -> _Buffer:
        """At least `size` bytes for work on this stream, which is the current one."""
        buffer = self._buffers.get(stream)
        if buffer is None or buffer.tensor.numel() < size:
            buffer = _Buffer(torch.empty(max(1, size), dtype=torch.uint8, device=self._device))
            self._buffers[stream] = buffer
        return buffer


class MissingGpu(DenoiserRuntime):
    """Stands for the runtime of an engine built for GPUs on a machine without one."""

    device = "cpu"  # images stay where they are; nothing runs here

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Raises BackendNotAvailable."""
        raise _no_gpu("backend", "'tensorrt'", self._folder)


def open_runtime(
    folder: Path, precision: str, device: str | None, threads: int | None
) -> DenoiserRuntime:
    """Load the plan for this machine's GPU; without a GPU, what says so when it is called.

    Raises:
        BackendNotAvailable: device "cuda" without a GPU, another TensorRT than the plan's.
        EngineInvalid: no plan for this GPU.
    """
    if device == "cpu":
        remedy = "leave it out, or load with backend='onnxruntime'"
        raise invalid("device", "None or 'cuda' for the backend 'tensorrt'", "'cpu'", remedy)
    gpu = local_gpu()
    if gpu is None and device == "cuda":
        raise _no_gpu("device", "'cuda'", folder)
    if gpu is None:
        return MissingGpu(folder)
    fields = json.loads((folder / _MANIFEST).read_text())
    record = fields["runtimes"]["tensorrt"]
    name = fitting_plan(record["plans"], precision, gpu, package_version, folder)
    return open_plan(folder / name, record["plans"][name])


def open_plan(path: Path, facts: dict[str, Any]) -> TensorRTDenoiser:
    """Load one plan on this machine's GPU.

    Raises:
        EngineInvalid: TensorRT refuses it.
    """
    trt = load_package(facts["package"])
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise EngineInvalid(
            f"{path.name}: expected a plan that {facts['package']} can load here, got its refusal; "
            f"{rebuild_remedy(path.parent, facts['architecture'])}"
        )
    profiles = [_profile(sizes) for sizes in facts["profiles"]]
    return TensorRTDenoiser(engine, profiles, new_context=lambda: _context_of(trt, engine))


def _context_of(trt: Any, engine: Any) -> Any:
    """An execution context whose memory is given to it, and whose launches stay the same.

    TensorRT for RTX compiles kernels for a new shape in the background and changes to them later;
    a CUDA graph would keep the first ones. EAGER compiles them when the shape is set.
    """
    memory = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context(memory)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(memory)
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)


def fitting_plan(
    plans: dict[str, dict[str, Any]],
    precision: str,
    gpu: Gpu,
    version_of: Callable[[str], str | None],
    folder: Path,
) -> str:
    """File name of the plan for this GPU and the TensorRT that is installed here.

    Raises:
        EngineInvalid: no plan for this architecture.
        BackendNotAvailable: its TensorRT package is missing or has another version.
    """
    name = plan_name(gpu.architecture, precision)
    rebuild = rebuild_remedy(folder, gpu.architecture)
    if name not in plans:
        built = ", ".join(sorted(facts["architecture"] for facts in plans.values())) or "none"
        raise EngineInvalid(
            f"backend: expected a TensorRT plan for this machine's GPU ({gpu.architecture}), got "
            f"plans for {built} in the engine {folder.name!r}; {rebuild}"
        )
    package, built_by = plans[name]["package"], plans[name]["version"]
    here = version_of(package)
    if here != built_by:
        got = "none" if here is None else f"version {here}"
        remedy = f"pip install {package.replace('_', '-')}=={built_by}, or {rebuild}"
        raise BackendNotAvailable(
            f"backend: expected the package {package} {built_by}, with which the plan {name} was "
            f"built, got {got}; {remedy}"
        )
    return name


def inspected_types(runtime: TensorRTDenoiser, json_format: Any) -> dict[str, int]:
    """How many layers of a loaded engine write which type, as TensorRT's inspector tells.

    Of dynamic shapes it knows none: it is asked about a context that has served a call.
    """
    inspector = runtime.engine.create_engine_inspector()
    inspector.execution_context = runtime.last_context()
    text = inspector.get_engine_information(json_format)
    counts: Counter[str] = Counter()
    for layer in json.loads(text).get("Layers", []):
        outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
        counts.update(str(output.get("Format/Datatype", "unknown")) for output in outputs)
    return dict(sorted(counts.items()))


def _profile(sizes: dict[str, list[int]]) -> Profile:
    batch, height, width = (tuple(sizes[name]) for name in ("batch", "height", "width"))
    return Profile(batch, height, width)  # type: ignore[arg-type]


def _no_gpu(argument: str, got: str, folder: Path) -> BackendNotAvailable:
    return BackendNotAvailable(
        f"{argument}: expected one that runs on this machine, got {got}, which needs an NVIDIA GPU "
        "with its driver and a CUDA build of torch; load the engine "
        f"{folder.name!r} on such a machine, or with backend='onnxruntime' or backend='torch'"
    )
