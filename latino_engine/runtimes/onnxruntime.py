"""The denoiser through onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable

if TYPE_CHECKING:
    import onnxruntime

PRECISIONS = ("fp32", "fp16")  # its CPU kernels know no bf16 convolution

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def files(precision: str) -> tuple[str, ...]:
    """Names of the engine's files that this runtime reads."""
    return ("denoiser.onnx",)


class OnnxRuntimeDenoiser:
    """One inference session; several threads may call it at once."""

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session = session
        self.device = device

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        feed = {"x": x.detach().cpu().numpy(), "sigma": sigma.detach().cpu().numpy()}
        return torch.from_numpy(self._session.run(["x0_hat"], feed)[0]).to(x.device)


def open_runtime(
    folder: Path, precision: str, device: str | None, threads: int | None
) -> OnnxRuntimeDenoiser:
    """Load `denoiser.onnx` on the CPU, or on a GPU where onnxruntime was built for one.

    Raises:
        BackendNotAvailable: device "cuda" without the CUDA build of onnxruntime.
    """
    import onnxruntime

    wanted = device or "cpu"
    if _PROVIDERS[wanted] not in onnxruntime.get_available_providers():
        raise BackendNotAvailable(
            f"device: expected one that onnxruntime was built for, got {wanted!r}; "
            "install the CUDA build (pip install onnxruntime-gpu) or use device='cpu'"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its threads spin after a run; between two runs torch's threads need those cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(folder / "denoiser.onnx"), options, providers=[_PROVIDERS[wanted]]
    )
    return OnnxRuntimeDenoiser(session, wanted)
