"""The denoiser through onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable
from latino_engine.runtimes.failures import loading, running
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.system.cache import cache_folder
from latino_engine.system.machine import usable_cores
from latino_engine.system.waiting import waits_actively

if TYPE_CHECKING:
    import onnxruntime

PRECISIONS = ("fp32", "fp16")  # its CPU kernels know no bf16 convolution

#: Each with its options, the preferred first; the last one is what the device needs.
_PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "cpu": [
        ("OpenVINOExecutionProvider", {"device_type": "CPU", "precision": "ACCURACY"}),
        ("CPUExecutionProvider", {}),
    ],
    "cuda": [
        ("TensorrtExecutionProvider", {"trt_engine_cache_enable": "1"}),
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
    ],
}
_ROUNDS_FACTORS = "TensorrtExecutionProvider"  # to TF32, with no option against it


def choose_providers(
    available: Sequence[str], device: str, precision: str
) -> list[tuple[str, dict[str, str]]]:
    """The execution providers for a device, preferred first, each with its options; none: [].

    A node that one cannot run goes to the next, the last of them is onnxruntime's own CPU.
    """
    needed = _PROVIDERS[device][-1]
    if needed[0] not in available:
        return []
    chosen = [
        (name, dict(options))
        for name, options in _PROVIDERS[device]
        if name in available and not (name == _ROUNDS_FACTORS and precision == "fp32")
    ]
    cpu = _PROVIDERS["cpu"][-1]
    return chosen if cpu in chosen else [*chosen, cpu]


def files(precision: str) -> tuple[str, ...]:
    """Names of the engine's files that this runtime reads."""
    return ("denoiser.onnx",)


class OnnxRuntimeDenoiser(DenoiserRuntime):
    """One inference session; several threads may call it at once."""

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session = session
        self.device = device

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        feed = {"x": x.detach().cpu().numpy(), "sigma": sigma.detach().cpu().numpy()}
        with running("onnxruntime"):
            found = self._session.run(["x0_hat"], feed)[0]
        return torch.from_numpy(found).to(x.device)


class BoundDenoiser(DenoiserRuntime):
    """One inference session whose inputs and outputs stay where they are, by their addresses.

    Args:
        session: with a provider for the device.
        device: "cuda", or "cpu".
        synchronize: waits until the inputs are written; the run itself returns when it is done.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        device: str,
        synchronize: Callable[[], None],
    ) -> None:
        self._session = session
        self._synchronize = synchronize
        self.device = device

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        x = x.detach().to(self.device, torch.float32).contiguous()
        sigma = sigma.detach().to(self.device, torch.float32).contiguous()
        out = torch.empty_like(x)
        binding = self._session.io_binding()
        for name, tensor in (("x", x), ("sigma", sigma)):
            binding.bind_input(name, *_place(tensor))
        binding.bind_output("x0_hat", *_place(out))
        self._synchronize()
        with running("onnxruntime"):
            self._session.run_with_iobinding(binding)
        return out


def _place(tensor: Tensor) -> tuple[str, int, type, list[int], int]:
    """Device, its number, element type, shape and address, in the order of bind_input."""
    number = tensor.device.index or 0
    return tensor.device.type, number, np.float32, list(tensor.shape), tensor.data_ptr()


def open_runtime(
    folder: Path, precision: str, device: str | None, threads: int | None
) -> OnnxRuntimeDenoiser | BoundDenoiser:
    """Load `denoiser.onnx` on the CPU, or on a GPU where onnxruntime was built for one.

    On the CPU OpenVINO is preferred where onnxruntime has it; on a GPU images stay there, and
    TensorRT is preferred for fp16 where onnxruntime has it.

    Raises:
        BackendNotAvailable: device "cuda" without the CUDA build of onnxruntime.
    """
    wanted = device or "cpu"
    session = open_session(folder / "denoiser.onnx", precision, wanted, threads)
    if wanted == "cuda":
        return BoundDenoiser(session, wanted, lambda: torch.cuda.current_stream().synchronize())
    return OnnxRuntimeDenoiser(session, wanted)


def open_session(
    path: Path, precision: str, device: str, threads: int | None
) -> onnxruntime.InferenceSession:
    """An inference session of one ONNX file with the providers of the device.

    Raises:
        BackendNotAvailable: device "cuda" without the CUDA build of onnxruntime, a graph that it
            refuses.
    """
    import onnxruntime

    providers = choose_providers(onnxruntime.get_available_providers(), device, precision)
    if not providers:
        raise BackendNotAvailable(
            f"device: expected one that onnxruntime was built for, got {device!r}; "
            "install the CUDA build (pip install onnxruntime-gpu) or use device='cpu'"
        )
    kept = str(cache_folder() / "onnxruntime")  # by default in the folder where the program runs
    for name, chosen in providers:
        if name == _ROUNDS_FACTORS:
            chosen["trt_engine_cache_path"] = kept
    with loading("onnxruntime"):
        return onnxruntime.InferenceSession(str(path), _options(threads), providers=providers)


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    """The options of a session. A named thread count also keeps threads off fixed cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin between two nodes take the core of whoever is busy beside this process;
    # after a run they would take it from torch's threads.
    spinning = "1" if waits_actively() else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = threads or usable_cores()
    return options
