"""The three networks of a latent prior, through onnxruntime or through PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, invalid
from latino_engine.priors.latent.prior import LatentModel, latent_in_precision
from latino_engine.runtimes.onnxruntime import PRECISIONS as ONNXRUNTIME_PRECISIONS
from latino_engine.runtimes.onnxruntime import open_session
from latino_engine.runtimes.torch import FULL_FLOAT32, check_device

if TYPE_CHECKING:
    import onnxruntime

#: File -> names of its inputs in the order of the functions of `LatentModel`, and of its output.
NETWORKS = {
    "encoder.onnx": (("x",), "z"),
    "decoder.onnx": (("z",), "x"),
    "denoiser.onnx": (("z", "sigma", "time", "prompt", "pooled", "time_ids"), "z0_hat"),
}


class LatentRuntime(Protocol):
    """Loaded networks: `LatentModel`'s functions, float32 in and out."""

    @property
    def device(self) -> str:
        """Where images are expected and returned, "cpu" or "cuda"."""

    def encode(self, x: Tensor) -> Tensor:
        """The mean latent of an image."""

    def decode(self, z: Tensor) -> Tensor:
        """The image of a latent."""

    def denoise(self, *inputs: Tensor) -> Tensor:
        """z0_hat of (z, sigma, time, prompt[, pooled, time_ids])."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D(E(x)): what the autoencoder keeps of an image; sigma is not used."""


class _RoundTrip:
    def encode(self, x: Tensor) -> Tensor:
        raise AssertionError

    def decode(self, z: Tensor) -> Tensor:
        raise AssertionError

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class OnnxLatentRuntime(_RoundTrip):
    """Three inference sessions; several threads may call them at once."""

    def __init__(self, sessions: dict[str, onnxruntime.InferenceSession], device: str) -> None:
        self._sessions = sessions
        self.device = device

    def encode(self, x: Tensor) -> Tensor:
        return self._run("encoder.onnx", (x,))

    def decode(self, z: Tensor) -> Tensor:
        return self._run("decoder.onnx", (z,))

    def denoise(self, *inputs: Tensor) -> Tensor:
        return self._run("denoiser.onnx", inputs)

    def _run(self, name: str, inputs: tuple[Tensor, ...]) -> Tensor:
        names, output = NETWORKS[name]
        arrays = (tensor.detach().float().cpu().contiguous().numpy() for tensor in inputs)
        found = self._sessions[name].run([output], dict(zip(names, arrays, strict=False)))[0]
        return torch.from_numpy(found).to(inputs[0].device)


class TorchLatentRuntime(_RoundTrip):
    """The networks themselves; `denoise` carries gradients where they are switched on."""

    def __init__(self, model: LatentModel, device: str) -> None:
        self.model = model
        self.device = device

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        with FULL_FLOAT32:
            return self.model.encode(x.to(self.device))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        with FULL_FLOAT32:
            return self.model.decode(z.to(self.device))

    def denoise(self, *inputs: Tensor) -> Tensor:
        with FULL_FLOAT32:
            return self.model.denoise(*(tensor.to(self.device) for tensor in inputs))


def open_latent(
    backend: str, folder: Path, precision: str, device: str | None, threads: int | None
) -> OnnxLatentRuntime | TorchLatentRuntime:
    """Load the networks of an engine folder.

    Raises:
        BackendNotAvailable: a backend or a device that is not there.
        ValueError: a precision that the backend does not have.
    """
    if backend == "torch":
        return _open_torch(folder, precision, device)
    if backend != "onnxruntime":
        raise BackendNotAvailable(
            f"backend: expected 'onnxruntime' or 'torch' for a latent prior, got {backend!r}; "
            "choose one of these"
        )
    if precision not in ONNXRUNTIME_PRECISIONS:
        expected = f"one of {', '.join(ONNXRUNTIME_PRECISIONS)} for the backend 'onnxruntime'"
        raise invalid("precision", expected, precision, "choose another precision or backend")
    wanted = device or "cpu"
    sessions = {name: open_session(folder / name, precision, wanted, threads) for name in NETWORKS}
    return OnnxLatentRuntime(sessions, wanted)


def _open_torch(folder: Path, precision: str, device: str | None) -> TorchLatentRuntime:
    from latino_engine.priors.latent.prior import LatentPrior
    from latino_engine.priors.loading import load_prior

    wanted = check_device(device)
    prior = load_prior(folder)
    assert isinstance(prior, LatentPrior)
    return TorchLatentRuntime(latent_in_precision(prior.model, precision).to(wanted), wanted)
