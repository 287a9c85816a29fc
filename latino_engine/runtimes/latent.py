"""The three networks of a latent prior, through onnxruntime, OpenVINO or PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, invalid
from latino_engine.priors.latent.prior import LatentModel, latent_in_precision
from latino_engine.runtimes import onnxruntime, openvino
from latino_engine.runtimes.failures import running
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.runtimes.torch import FULL_FLOAT32, check_device

if TYPE_CHECKING:
    import numpy as np

#: (inputs by name, name of the output) -> output, of one network.
_Network: TypeAlias = "Callable[[dict[str, np.ndarray[Any, Any]], str], np.ndarray[Any, Any]]"

#: File -> names of its inputs in the order of the functions of `LatentModel`, and of its output.
NETWORKS = {
    "encoder.onnx": (("x",), "z"),
    "decoder.onnx": (("z",), "x"),
    "denoiser.onnx": (("z", "sigma", "time", "prompt", "pooled", "time_ids"), "z0_hat"),
}


class LatentRuntime(DenoiserRuntime, Protocol):
    """Loaded networks: `LatentModel`'s functions, float32 in and out."""

    def encode(self, x: Tensor) -> Tensor:
        """The mean latent of an image."""

    def decode(self, z: Tensor) -> Tensor:
        """The image of a latent."""

    def denoise(self, *inputs: Tensor) -> Tensor:
        """z0_hat of (z, sigma, time, prompt[, pooled, time_ids])."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D(E(x)): what the autoencoder keeps of an image; sigma is not used."""
        return self.decode(self.encode(x))


class GraphLatentRuntime(LatentRuntime):
    """The three ONNX graphs in a runtime of such graphs; several threads may call them at once."""

    def __init__(self, networks: dict[str, _Network], device: str) -> None:
        self._networks = networks
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
        found = self._networks[name](dict(zip(names, arrays, strict=False)), output)
        return torch.from_numpy(found).to(inputs[0].device)


class TorchLatentRuntime(LatentRuntime):
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
) -> GraphLatentRuntime | TorchLatentRuntime:
    """Load the networks of an engine folder.

    Raises:
        BackendNotAvailable: a backend or a device that is not there.
        ValueError: a precision that the backend does not have.
    """
    if backend == "torch":
        return _open_torch(folder, precision, device)
    if backend not in _GRAPHS:
        raise BackendNotAvailable(
            f"backend: expected {NAMED} for a latent prior, got {backend!r}; choose one of these"
        )
    known, open_network = _GRAPHS[backend]
    if precision not in known:
        expected = f"one of {', '.join(known)} for the backend {backend!r}"
        raise invalid("precision", expected, precision, "choose another precision or backend")
    networks = {name: open_network(folder / name, precision, device, threads) for name in NETWORKS}
    return GraphLatentRuntime(networks, device or "cpu")


def _open_session(path: Path, precision: str, device: str | None, threads: int | None) -> _Network:
    session = onnxruntime.open_session(path, precision, device or "cpu", threads)

    def run(inputs: dict[str, np.ndarray[Any, Any]], output: str) -> np.ndarray[Any, Any]:
        with running("onnxruntime"):
            return cast("np.ndarray[Any, Any]", session.run([output], inputs)[0])

    return run


def _open_models(path: Path, precision: str, device: str | None, threads: int | None) -> _Network:
    models = openvino.open_models(path, precision, device, threads)
    return lambda inputs, output: models(inputs)


#: Backend -> its precisions, and what opens one of the graphs.
_GRAPHS: dict[str, tuple[tuple[str, ...], Callable[..., _Network]]] = {
    "onnxruntime": (onnxruntime.PRECISIONS, _open_session),
    "openvino": (openvino.PRECISIONS, _open_models),
}
#: Runtimes that serve latent priors, and their names in a sentence.
BACKENDS = (*_GRAPHS, "torch")
NAMED = f"{', '.join(map(repr, _GRAPHS))} or 'torch'"


def _open_torch(folder: Path, precision: str, device: str | None) -> TorchLatentRuntime:
    from latino_engine.priors.latent.prior import LatentPrior
    from latino_engine.priors.loading import load_prior

    wanted = check_device(device)
    prior = load_prior(folder)
    assert isinstance(prior, LatentPrior)
    return TorchLatentRuntime(latent_in_precision(prior.model, precision).to(wanted), wanted)
