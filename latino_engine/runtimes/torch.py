"""The denoiser through PyTorch itself, channels last."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from latino_engine.errors import BackendNotAvailable
from latino_engine.priors.folder import load_prior
from latino_engine.priors.precision import to_precision

PRECISIONS = ("fp32", "fp16", "bf16")


def files(precision: str) -> tuple[str, ...]:
    """Names of the engine's files that this runtime reads."""
    return ("prior.json", "model.safetensors")


class TorchDenoiser:
    """The network in the stated precision, without gradients."""

    capturable = True

    def __init__(self, denoiser: nn.Module, device: str) -> None:
        self._denoiser = denoiser
        self.device = device

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        packed = x.to(self.device, memory_format=torch.channels_last)
        out = self._denoiser(packed, sigma.to(self.device))
        return cast(Tensor, out.contiguous())


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
