"""The denoiser through TensorRT or TensorRT for RTX: one Python interface, two packages."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, EngineInvalid, invalid
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


class TensorRTDenoiser:
    """One TensorRT engine, with one execution context for each (profile, CUDA stream).

    A call enqueues its work on the caller's current stream and returns at once. Several threads may
    call it: callers on one stream are served in order, callers on different streams each have a
    context of their own.

    Args:
        engine: TensorRT's ICudaEngine.
        profiles: the profiles of the plan, in its order.
        device: where its inputs and outputs live.
        current_stream: tells the handle of the caller's CUDA stream.
        new_context: makes an execution context; the engine's own by default.
    """

    capturable = True

    def __init__(
        self,
        engine: Any,
        profiles: Sequence[Profile],
        device: str = "cuda",
        current_stream: Callable[[], int] | None = None,
        new_context: Callable[[], Any] | None = None,
    ) -> None:
        self.device = device
        self.engine = engine
        self._profiles = tuple(profiles)
        self._current_stream = current_stream or (lambda: torch.cuda.current_stream().cuda_stream)
        self._new_context = new_context or engine.create_execution_context
        self._contexts: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        profile = self._profile_for(batch, height, width)
        x = x.to(self.device, torch.float32).contiguous()
        sigma = sigma.to(self.device, torch.float32).contiguous()
        out = torch.empty_like(x)
        stream = self._current_stream()
        with self._lock:  # a context's shapes and addresses belong to one call until it is enqueued
            context = self._context(profile, stream)
            for name, tensor in (("x", x), ("sigma", sigma), ("x0_hat", out)):
                if name != "x0_hat":
                    context.set_input_shape(name, tuple(tensor.shape))
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(stream):
                raise RuntimeError(
                    f"TensorRT could not run the denoiser at {batch} x {height} x {width}"
                )
        return out

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

    def _context(self, profile: int, stream: int) -> Any:
        key = (profile, stream)
        if key not in self._contexts:
            context = self._new_context()
            if context is None:
                raise RuntimeError("TensorRT could not allocate an execution context")
            context.set_optimization_profile_async(profile, stream)
            self._contexts[key] = context
        return self._contexts[key]


class MissingGpu:
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
            "compile the engine again (latino-engine compile)"
        )
    profiles = [_profile(sizes) for sizes in facts["profiles"]]
    return TensorRTDenoiser(engine, profiles, new_context=lambda: _context_of(trt, engine))


def _context_of(trt: Any, engine: Any) -> Any:
    """An execution context whose launches stay the same from call to call.

    TensorRT for RTX compiles kernels for a new shape in the background and changes to them later;
    a CUDA graph would keep the first ones. EAGER compiles them when the shape is set.
    """
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
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
    rebuild = f"build it by: latino-engine rebuild {folder} --gpu {gpu.architecture}"
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


def inspected_types(engine: Any, json_format: Any) -> dict[str, int]:
    """How many layers of a loaded engine write which type, as TensorRT's inspector tells."""
    text = engine.create_engine_inspector().get_engine_information(json_format)
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
