"""Priors from modules: a torch network of any kind, and the denoisers of deepinv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latino_engine.errors import PriorInvalid, invalid, invalid_type, whole_number
from latino_engine.priors.assembly import (
    MODULE,
    PREDICTIONS,
    TIMES,
    ModuleNetwork,
    build_denoiser,
)
from latino_engine.priors.importers.discrete import eps_prior
from latino_engine.priors.importers.guided_diffusion import ADM, as_convolutions, describe_adm
from latino_engine.priors.prior import Prior, PriorSpec
from latino_engine.priors.sigma_tables import named_sigmas

_PARAMETRIZATIONS = (*PREDICTIONS, "edm", "denoiser")
_ADM_DEEPINV = {"heads": None, "head_channels": 64, "attention_order": "legacy", "label": None}
_DEEPINV_BUFFERS = ("sqrt_1m_alphas_cumprod", "sqrt_alphas_cumprod")


def from_module(
    module: nn.Module,
    *,
    parametrization: str,
    channels: int,
    time: str | None = None,
    size_multiple: int = 1,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    sigma_table: Sequence[float] | str | None = None,
    sigma_data: float | None = None,
    scaling: str = "vp",
    input_range: tuple[float, float] = (-1.0, 1.0),
    data_range: tuple[float, float] = (0.0, 1.0),
    name: str | None = None,
) -> Prior:
    """A prior from a torch module with the signature `module(x, t) -> (B, C or 2 C, H, W)`.

    With alpha = 1 / sqrt(1 + sigma^2) and x = x_0 + sigma eps, images in [-1, 1]:
    "eps": x0_hat = x - sigma F;  "score": x0_hat = x + sigma F;  "v": x0_hat = alpha^2 x - sigma
    alpha F;  "x0": x0_hat = F, each with F = module(alpha x, t) under scaling "vp" and
    module(x, t) under "ve";  "edm": Karras' preconditioning, module(c_in x, ln(sigma) / 4);
    "denoiser": x0_hat = module(x, sigma), in the module's own `input_range`.

    Args:
        module: float32; it is put in evaluation mode. Another signature: wrap it.
        parametrization: what it returns, one of the above.
        channels: image channels.
        time: what t is, for eps, score, v and x0: "index" (fractional, of `sigma_table`), "sigma"
            or "log_sigma"; float32, (B,).
        size_multiple: sides that it takes are multiples of this.
        sigma_min, sigma_max: noise levels that it was trained for, in [-1, 1] units; the ends of
            the table where there is one.
        sigma_table: sigma of every training time, increasing, or "linear" or "cosine", T = 1000.
        sigma_data: of "edm".
        scaling: "vp" or "ve", see above.
        input_range: of the images of a "denoiser"; its sigma is in the same units.
        data_range: (low, high) of your images.
        name: of the prior; the module's class by default.

    Returns:
        A prior with the module inside. `save_prior` writes its weights, not its code: to load it,
        give a module of the same class to `load_prior(folder, module=...)`.

    Raises:
        ValueError, TypeError: a statement that is missing or contradicts another.
    """
    if not isinstance(module, nn.Module):
        got = type(module).__name__
        raise invalid_type("module", "a torch.nn.Module", got, "wrap your function in one")
    table = _table(sigma_table)
    preconditioning = _preconditioning(parametrization, time, sigma_data, scaling, input_range)
    if time == "index" and table is None:
        raise invalid(
            "sigma_table",
            "the noise level of every training time, for time='index'",
            None,
            "give the numbers, or 'linear' or 'cosine'",
        )
    low, high = _range(sigma_min, sigma_max, table)
    spec = PriorSpec(
        name=name or type(module).__name__,
        channels=_positive("channels", channels),
        size_multiple=_positive("size_multiple", size_multiple),
        data_range=data_range,
        sigma_min=low,
        sigma_max=high,
        architecture={"name": MODULE, "class": type(module).__name__, "call": "forward"},
        preconditioning=preconditioning,
        sigma_table=table,
    )
    return _module_prior(spec, module)


def from_deepinv(denoiser: nn.Module, *, name: str | None = None) -> Prior:
    """A prior from a denoiser of deepinv: `DiffUNet`, `DRUNet`, `ADMUNet`, `NCSNpp`.

    A `DiffUNet` is the guided-diffusion network and becomes this package's own one, exact in the
    noise level, where deepinv rounds to whole times and clamps. An `ADMUNet` or `NCSNpp` is called
    below its own preconditioning, which is done here. A `DRUNet` stays a denoiser of images in
    [0, 1]; it was trained for sigma up to about 0.2 there.

    Args:
        denoiser: with its weights loaded.
        name: of the prior; the denoiser's class by default.

    Raises:
        PriorInvalid: a denoiser of another class, or a class-conditional one.
    """
    kind = type(denoiser).__name__
    makers = {"DiffUNet": _diff_unet, "DRUNet": _drunet, "ADMUNet": _edm, "NCSNpp": _edm}
    if kind not in makers or not isinstance(denoiser, nn.Module):
        raise PriorInvalid(
            f"denoiser: expected one of {', '.join(makers)} of deepinv, got {kind}; "
            "use from_module and state its parametrization"
        )
    return makers[kind](denoiser, name or kind)


def _diff_unet(denoiser: Any, name: str) -> Prior:
    state = {k: v for k, v in denoiser.state_dict().items() if k not in _DEEPINV_BUFFERS}
    weights = as_convolutions({k: v.detach().float() for k, v in state.items()})
    found = describe_adm(weights)
    channels = int(found.pop("channels"))
    arguments = found | _ADM_DEEPINV
    return eps_prior(ADM, weights, channels, arguments, "linear", name, (0.0, 1.0))


def _drunet(denoiser: Any, name: str) -> Prior:
    return from_module(
        denoiser,
        parametrization="denoiser",
        channels=denoiser.m_tail.weight.shape[0],
        size_multiple=32,  # below 32 it pads in ways of its own
        sigma_min=0.002,
        sigma_max=0.4,
        input_range=(0.0, 1.0),
        name=name,
    )


def _edm(denoiser: Any, name: str) -> Prior:
    if getattr(denoiser, "map_label", None) is not None:
        raise PriorInvalid(
            f"denoiser: expected an unconditional {type(denoiser).__name__}, got one with class "
            "labels; wrap it with its label and use from_module"
        )
    whole = bool(denoiser._was_trained_on_minus_one_one)
    levels = 1 + sum(key.endswith("_down") for key in denoiser.enc)
    kind = getattr(denoiser, "precondition_type", "edm")
    if not whole or kind not in ("edm", "ve-baseline"):
        raise PriorInvalid(
            "denoiser: expected a network trained on images in [-1, 1] with the preconditioning "
            f"'edm' or 've-baseline', got {kind!r} on {'[-1, 1]' if whole else '[0, 1]'}; wrap it "
            "and use from_module with parametrization='denoiser' and its input_range"
        )
    ve = {"name": "prediction", "prediction": "score", "scaling": "ve", "time": "log_sigma"}
    edm = {"name": "edm", "sigma_data": float(denoiser.pixel_std)}
    spec = PriorSpec(
        name=name,
        channels=_in_channels(denoiser),
        size_multiple=2 ** (levels - 1),
        data_range=(0.0, 1.0),
        sigma_min=0.002,
        sigma_max=80.0 if kind == "edm" else 100.0,
        architecture={
            "name": MODULE,
            "class": type(denoiser).__name__,
            "call": "forward_unet",
        },
        preconditioning=edm if kind == "edm" else {**ve, "sigma_scale": 0.5},
    )
    return _module_prior(spec, denoiser)


def _in_channels(denoiser: Any) -> int:
    first = next(iter(denoiser.enc.values()))
    return int(first.in_channels)


def _module_prior(spec: PriorSpec, module: nn.Module) -> Prior:
    network = ModuleNetwork(module, str(spec.architecture["call"]))
    denoiser = build_denoiser(spec, network).float().eval().requires_grad_(False)
    _check_call(spec, denoiser)
    return Prior(spec, denoiser)


def _check_call(spec: PriorSpec, denoiser: nn.Module) -> None:
    """One small image through the module, so that a wrong signature is told here."""
    side = spec.size_multiple * max(1, -(-16 // spec.size_multiple))
    x = torch.zeros(2, spec.channels, side, side)
    try:
        with torch.no_grad():
            out = denoiser(x, torch.full((2,), spec.sigma_min))
    except Exception as error:  # the module is the user's: anything may come
        first = " ".join(str(error).split())[:160]
        raise invalid(
            "module",
            f"module(x, t) with x {tuple(x.shape)} and t (2,) to return a tensor",
            f"{type(error).__name__}: {first}",
            "wrap it in a module with this signature, or correct channels and size_multiple",
        ) from error
    if not isinstance(out, Tensor) or out.shape != x.shape:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        expected = f"an output of shape {tuple(x.shape)}, with twice the channels at most"
        raise invalid("module", expected, shape, "wrap it in a module that returns that")


def _preconditioning(
    parametrization: str,
    time: str | None,
    sigma_data: float | None,
    scaling: str,
    input_range: tuple[float, float],
) -> dict[str, Any]:
    if parametrization not in _PARAMETRIZATIONS:
        known = ", ".join(map(repr, _PARAMETRIZATIONS))
        got = repr(parametrization)
        raise invalid("parametrization", f"one of {known}", got, "state what the module returns")
    if parametrization in ("edm", "denoiser"):
        if time is not None:
            expected = f"None, as {parametrization!r} defines it"
            raise invalid("time", expected, repr(time), "leave it out")
        if parametrization == "denoiser":
            return {"name": "denoiser", "range": [float(v) for v in input_range]}
        if sigma_data is None or not sigma_data > 0:
            remedy = "state the standard deviation of the training images, such as 0.5"
            raise invalid("sigma_data", "a number above 0 for 'edm'", sigma_data, remedy)
        return {"name": "edm", "sigma_data": float(sigma_data)}
    if time not in TIMES:
        known = ", ".join(map(repr, TIMES))
        raise invalid("time", f"one of {known}", repr(time), "state what the module's t is")
    if scaling not in ("vp", "ve"):
        raise invalid("scaling", "'vp' or 've'", repr(scaling), "state how its input is scaled")
    return {"name": "prediction", "prediction": parametrization, "scaling": scaling, "time": time}


def _table(given: Sequence[float] | str | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    return named_sigmas(given) if isinstance(given, str) else tuple(float(s) for s in given)


def _range(
    low: float | None, high: float | None, table: Sequence[float] | None
) -> tuple[float, float]:
    low = table[0] if low is None and table else low
    high = table[-1] if high is None and table else high
    if low is None or high is None or not 0 < low < high:
        expected = "0 < sigma_min < sigma_max, the noise levels it was trained for"
        raise invalid("sigma_min, sigma_max", expected, f"{low}, {high}", "state them")
    return float(low), float(high)


def _positive(argument: str, value: int) -> int:
    if whole_number(argument, value) < 1:
        raise invalid(argument, "at least 1", value, "state what the module takes")
    return int(value)
