"""From the fields of prior.json to a network and the denoiser around it: one dict for each."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from latino_engine.errors import PriorInvalid
from latino_engine.priors.networks.ddpm_network import DDPMUNet
from latino_engine.priors.networks.guided_diffusion_network import ADMUNet
from latino_engine.priors.networks.resunet import ResUNet
from latino_engine.priors.networks.unet import UNet
from latino_engine.priors.preconditioning import (
    EDMDenoiser,
    LogSigmaTime,
    PredictionDenoiser,
    RangeDenoiser,
    SigmaTime,
    TimeIndex,
)
from latino_engine.priors.prior import Prior, PriorSpec

MODULE = "module"  # the architecture of a prior whose network is a module of the user's own
PREDICTIONS = ("eps", "v", "x0", "score")
TIMES = ("index", "sigma", "log_sigma")
_CALLS = ("forward", "forward_unet")


class ModuleNetwork(nn.Module):
    """Somebody's module as F(x, time): `call` names the method."""

    def __init__(self, module: nn.Module, call: str = "forward") -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        method = self.module if self.call == "forward" else getattr(self.module, self.call)
        with _FourAxes():
            return cast(Tensor, method(x, time))


class _FourAxes(TorchFunctionMode):
    """Attention of (B, N, d) as of (B, 1, N, d): the ONNX exporter knows four axes only."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        plain = len(args) == 3 and named.get("attn_mask") is None
        if func is F.scaled_dot_product_attention and plain and args[0].ndim == 3:
            return func(*(part[:, None] for part in args), **named)[:, 0]
        return func(*args, **named)


def _diffusers_unet(channels: int, **arguments: Any) -> nn.Module:
    from latino_engine.priors.networks.diffusers_network import DiffusersUNet

    return DiffusersUNet(channels=channels, **arguments)


#: architecture's name -> network from (channels=, its arguments)
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "resunet": ResUNet,
    "adm-unet": ADMUNet,
    "ddpm-unet": DDPMUNet,
    "diffusers-unet2d": _diffusers_unet,
}


def build_network(
    spec: PriorSpec,
    module: nn.Module | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The network that `spec` names, with weights still to be filled in.

    Args:
        spec: what prior.json says.
        module: the user's own module, for a prior that was made from one.
        weights: those that are to fill it: a network of far more is not built to its end.

    Raises:
        PriorInvalid: an architecture that is not known, or arguments that are not its own.
    """
    arguments = dict(spec.architecture)
    name = arguments.pop("name", None)
    if name == MODULE:
        return _module_network(arguments, module)
    if module is not None:
        raise PriorInvalid(
            f"module: expected None, as prior.json names the architecture {name!r}, got "
            f"{type(module).__name__}; leave it out"
        )
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise PriorInvalid(
            f"prior.json: expected an architecture of {sorted(ARCHITECTURES)}, got {name!r}; "
            "check the file, or update latino-engine"
        )
    try:
        with nullcontext() if weights is None else _about_as_large_as(weights):
            return ARCHITECTURES[name](channels=spec.channels, **arguments)
    except PriorInvalid:
        raise
    except Exception as error:  # sizes that no network can have fail in torch in many ways
        raise PriorInvalid(
            f"prior.json: expected the arguments of the architecture {name!r}, got {error}; "
            "correct the file"
        ) from error


@contextmanager
def _about_as_large_as(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """A network of many more parameters than there are weights is refused while it is built.

    A parameter is registered before it is filled: up to then its memory is not touched.
    """
    most = 2 * sum(weight.numel() for weight in weights.values()) + (1 << 16)
    thread, found = threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal found
        if threading.get_ident() == thread and parameter is not None:
            found += parameter.numel() + 1
            if found > most:
                raise ValueError(f"more than {most} parameters for weights of half as many")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _module_network(arguments: dict[str, Any], module: nn.Module | None) -> nn.Module:
    wanted, call = arguments.get("class"), arguments.get("call", "forward")
    if module is None or type(module).__name__ != wanted:
        got = None if module is None else type(module).__name__
        raise PriorInvalid(
            f"module: expected an instance of {wanted}, the network that this prior was made "
            f"from, got {got}; its code isn't in the folder: load_prior(folder, module=...) "
            "fills its weights"
        )
    if call not in _CALLS:
        raise PriorInvalid(
            f"prior.json: expected call to be one of {', '.join(_CALLS)}, got {call!r}; "
            "restore the file"
        )
    return ModuleNetwork(module, call)


def build_denoiser(spec: PriorSpec, network: nn.Module) -> nn.Module:
    """The denoiser around the network, by the preconditioning in `spec`.

    Raises:
        PriorInvalid: a preconditioning that is not known or lacks a field.
    """
    fields = dict(spec.preconditioning)
    name = fields.pop("name", None)
    if not isinstance(name, str) or name not in _PRECONDITIONINGS:
        raise PriorInvalid(
            f"prior.json: expected a preconditioning of {sorted(_PRECONDITIONINGS)}, got {name!r}; "
            "check the file, or update latino-engine"
        )
    try:
        return _PRECONDITIONINGS[name](network, spec, fields)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, PriorInvalid):
            raise
        raise PriorInvalid(
            f"prior.json: expected the fields of the preconditioning {name!r}, got {error!r}; "
            "correct the file"
        ) from error


def _edm(network: nn.Module, spec: PriorSpec, fields: dict[str, Any]) -> nn.Module:
    return EDMDenoiser(network, float(fields["sigma_data"]), float(fields.get("sign", 1.0)))


def _prediction(network: nn.Module, spec: PriorSpec, fields: dict[str, Any]) -> nn.Module:
    prediction, scaling = fields["prediction"], fields["scaling"]
    if prediction not in PREDICTIONS or scaling not in ("vp", "ve"):
        raise ValueError(f"prediction {prediction!r}, scaling {scaling!r}")
    return PredictionDenoiser(network, prediction, _time(spec, fields), scaling)


def _time(spec: PriorSpec, fields: dict[str, Any]) -> nn.Module:
    time = fields["time"]
    if time not in TIMES:
        raise ValueError(f"time {time!r}")
    if time == "sigma":
        return SigmaTime()
    if time == "log_sigma":
        return LogSigmaTime(float(fields.get("sigma_scale", 1.0)))
    table = spec.sigma_table or ()
    rising = all(a < b for a, b in pairwise(table))
    if len(table) < 3 or not rising or table[0] <= 0:
        raise PriorInvalid(
            "sigma_table: expected three or more increasing noise levels, one for each time, got "
            f"{len(table)} that are not; restore prior.json"
        )
    return TimeIndex(table)


def _range(network: nn.Module, spec: PriorSpec, fields: dict[str, Any]) -> nn.Module:
    low, high = (float(v) for v in fields["range"])
    if not low < high:
        raise ValueError(f"range {low}, {high}")
    return RangeDenoiser(network, low, high)


_PRECONDITIONINGS: dict[str, Callable[[nn.Module, PriorSpec, dict[str, Any]], nn.Module]] = {
    "edm": _edm,
    "prediction": _prediction,
    "denoiser": _range,
}


def build_prior(
    spec: PriorSpec, weights: Mapping[str, Tensor], module: nn.Module | None = None
) -> Prior:
    """The network of `spec`, or `module`, filled with `weights`.

    Raises:
        PriorInvalid: an architecture that is not known, or weights of other names or shapes.
    """
    network = build_network(spec, module, weights)
    check_weights(network.state_dict(), weights)
    network.load_state_dict(dict(weights), strict=True)
    denoiser = build_denoiser(spec, network)
    return Prior(spec, denoiser.float().eval().requires_grad_(False))


def check_weights(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    source: str = "model.safetensors: expected the weights of the architecture in prior.json",
    remedy: str = "use the prior.json that belongs to these weights",
) -> None:
    """Raises `PriorInvalid` if a weight is missing, unexpected or misshapen.

    The sentence names the first few of each, with the nearest names.
    """
    missing = [k for k in expected if k not in found]
    unexpected = [k for k in found if k not in expected]
    misshapen = [
        f"{k} {tuple(found[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in found and found[k].shape != expected[k].shape
    ]
    bad = [k for k, v in found.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    problems = []
    if missing:
        problems.append(f"missing {_listed(_with_nearest(missing, unexpected))}")
    if unexpected:
        problems.append(f"unexpected {_listed(unexpected)}")
    if misshapen:
        problems.append(f"of another shape {_listed(misshapen)}")
    if bad:
        problems.append(f"not finite {_listed(bad)}")
    if problems:
        raise PriorInvalid(f"{source}, got " + "; ".join(problems) + f"; {remedy}")


def _with_nearest(names: Iterable[str], candidates: list[str]) -> list[str]:
    out = []
    for name in names:
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.8)
        out.append(f"{name} (nearest: {close[0]})" if close else name)
    return out


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
