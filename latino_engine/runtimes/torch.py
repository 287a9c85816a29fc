"""The denoiser through PyTorch itself, channels last."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from latino_engine.errors import BackendNotAvailable
from latino_engine.priors.loading import load_prior
from latino_engine.priors.precision import to_precision
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.system.memory import is_out_of_memory

PRECISIONS = ("fp32", "fp16", "bf16")


def files(precision: str) -> tuple[str, ...]:
    """Names of the engine's files that this runtime reads."""
    return ("prior.json", "model.safetensors")


class _FullFloat32:
    """Around a call: cuDNN's float32 convolutions keep all digits of their factors.

    By default they round them to TF32, to a relative error of 1e-3. The setting is one for the
    whole process: it is changed when the first of several callers comes, and put back by the last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = _convolutions(False if _NAMED is None else "ieee")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _convolutions(self._before)


#: torch 2.9 named the precisions; before, TF32 was allowed or not.
_NAMED: Any = getattr(torch.backends.cudnn, "conv", None)


def _convolutions(wanted: Any) -> Any:
    """Set the precision of cuDNN's float32 convolutions; returns what it was."""
    place, name = (_NAMED, "fp32_precision") if _NAMED else (torch.backends.cudnn, "allow_tf32")
    before = getattr(place, name)
    setattr(place, name, wanted)
    return before


#: Around every call of a network.
FULL_FLOAT32 = _FullFloat32()


class TorchDenoiser(DenoiserRuntime):
    """The network in the stated precision, without gradients."""

    capturable = True

    def __init__(self, denoiser: nn.Module, device: str) -> None:
        self._denoiser = denoiser
        self.device = device

    def compiled(self) -> TorchDenoiser:
        """The same network through torch.compile, built when a shape first comes."""
        return TorchDenoiser(_Compiled(self._denoiser), self.device)

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        packed = x.to(self.device, memory_format=torch.channels_last)
        with FULL_FLOAT32:
            out = self._denoiser(packed, sigma.to(self.device))
        return cast(Tensor, out.contiguous())


class _Compiled(nn.Module):
    """A network through torch.compile; what its compilers lack is told in one sentence."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._run = torch.compile(network)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        try:
            return cast(Tensor, self._run(x, sigma))
        except torch._dynamo.exc.BackendCompilerFailed as error:
            if is_out_of_memory(error):
                raise
            needed = "Triton" if x.is_cuda else "a C++ compiler"
            reason = str(error).strip().splitlines()[0]
            raise BackendNotAvailable(
                f"torch_compile: expected a network that torch.compile can build here, got "
                f"({reason}); install {needed} and Python's headers, or leave it out"
            ) from error


def open_runtime(
    folder: Path, precision: str, device: str | None, threads: int | None
) -> TorchDenoiser:
    """Load the weights of an engine folder.

    Raises:
        BackendNotAvailable: device "cuda" where torch sees no GPU.
    """
    wanted = check_device(device)
    denoiser = to_precision(load_prior(folder).denoiser, precision)
    packed = denoiser.to(device=wanted).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchDenoiser(packed, wanted)


def check_device(device: str | None) -> str:
    """The device, "cpu" where none is named.

    Raises:
        BackendNotAvailable: "cuda" where torch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendNotAvailable(
            "device: expected one that torch can use, got 'cuda'; "
            "install a CUDA build of torch and a driver, or use device='cpu'"
        )
    return device or "cpu"
