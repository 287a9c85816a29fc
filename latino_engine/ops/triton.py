"""The Triton backend of `latino_engine.ops`: tensors made ready for the wrappers of `kernels`.

Transforms are torch.fft's; what stands around them is one kernel each.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from latino_engine.ops import checks, reference
from latino_engine.ops.step_table import StepTable

#: Where the kernels are, and the devices they run on.
_PACKAGE, _DEVICE_TYPE = "latino_engine.kernels", "cuda"


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def missing() -> str | None:
    """None where the kernels can run, else what is missing and which command installs it."""
    if not _is_installed():
        return (
            "backend 'triton' needs Triton, which is not installed here; "
            "run `python -m pip install triton`"
        )
    if _DEVICE_TYPE == "cuda" and not torch.cuda.is_available():
        return (
            "backend 'triton' needs an NVIDIA GPU, its driver and torch with CUDA, but torch finds "
            "none here; install torch from its CUDA index, or use backend='torch'"
        )
    return None


def device_type() -> str:
    """Of the tensors that are taken."""
    return _DEVICE_TYPE


def unfit(
    *tensors: Tensor | None, spectra: bool = False, images: Sequence[Tensor | None] = ()
) -> str | None:
    """None if the kernels can take these tensors, else what they were given instead."""
    return checks.unfit(device_type(), *tensors, spectra=spectra, images=images)


def _launch(op: str) -> Callable[..., Any]:
    """launch_<op>; the module is imported when it is first needed."""
    wrapper: Callable[..., Any] = getattr(
        importlib.import_module(f"{_PACKAGE}.{op}"), f"launch_{op}"
    )
    return wrapper


def gaussian_noise(
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    shape: tuple[int, int, int, int],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.gaussian_noise`, within 1e-6."""
    out = torch.empty(shape, dtype=torch.float32, device=image_ids.device) if out is None else out
    if out.numel():
        _launch("gaussian_noise")(*_identity(seed, image_ids, sample_ids, step), shape, out=out)
    return out


def langevin_noise(z: Tensor, scale: Tensor, *identity: Any, out: Tensor | None = None) -> Tensor:
    """As `reference.langevin_noise`, without an array of normals; identity: seed, image_ids,
    sample_ids, step.
    """
    out = _empty(z) if out is None else out
    if out.numel():
        _launch("langevin_noise")(_plain(z), _plain(scale), *_identity(*identity), out=out)
    return out


def reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    sigma_n: float,
    sigma_next: float,
    zeta: float,
    *identity: Any,
    clamp: tuple[float, float] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.reverse_step`, without an array of normals."""
    out = _empty(x_t) if out is None else out
    scalars = (sigma_next, math.sqrt(1.0 - zeta) / sigma_n, math.sqrt(zeta))
    if out.numel():
        images = (_plain(x0_hat), _plain(x_t))
        rest = _identity(*identity)
        _launch("reverse_step")(*images, *scalars, *rest, clamp=clamp, out=out)
    return out


def running_moments(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference.running_moments`."""
    out = (_empty(x), _empty(x))
    if x.numel():
        _launch("running_moments")(_plain(mean), _plain(m2), count, _plain(x), out=out)
    return out


def fourier_prox(v: Tensor, power: Tensor, back_projected: Tensor, gamma: Tensor) -> Tensor:
    """As `reference.fourier_prox`: rfft2, one kernel in place, irfft2."""
    V = torch.fft.rfft2(v)  # (B, C, H, W//2+1)
    constants = (_plain(power), _plain(back_projected), _plain(gamma))
    z: Tensor = torch.fft.irfft2(_launch("fourier_prox")(V, *constants, out=V), s=v.shape[-2:])
    return z


def alias_prox(
    v: Tensor, h: Tensor, folded_power: Tensor, back_projected: Tensor, gamma: Tensor, factor: int
) -> Tensor:
    """As `reference.alias_prox`: fft2, one kernel in place, ifft2."""
    V = torch.fft.fft2(v)
    constants = (_plain(h), _plain(folded_power), _plain(back_projected), _plain(gamma))
    z: Tensor = torch.fft.ifft2(_launch("alias_prox")(V, *constants, factor, out=V)).real
    return z


def fourier_mask_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """As `reference.fourier_mask_prox`: fft2, one kernel in place, ifft2."""
    return _fourier_mask_prox(v, mask, reference.keep_observed(y, mask), gamma)


def _fourier_mask_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """For y that is finite everywhere."""
    axes = (-2, -1)
    V = torch.fft.fft2(torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=axes))
    V = V.contiguous()
    constants = (_plain(mask), _plain(y), _plain(gamma), math.sqrt(V.shape[-2] * V.shape[-1]))
    image = torch.fft.ifft2(_launch("fourier_mask_prox")(V, *constants, out=V))
    image = torch.fft.fftshift(image, dim=axes)
    return torch.cat((image.real, image.imag), dim=1)


def fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    *identity: Any,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.fourier_prox_noise`; identity: seed, image_ids, sample_ids, step."""
    z = fourier_prox(_anchor(x, x_t, x_weight), power, back_projected, gamma)
    return _renewed(x, z, scale, identity, out)


def alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    factor: int,
    *identity: Any,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.alias_prox_noise`; identity: seed, image_ids, sample_ids, step."""
    v = _anchor(x, x_t, x_weight)
    z = alias_prox(v, h, folded_power, back_projected, gamma, factor)
    return _renewed(x, z, scale, identity, out)


def masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.masked_prox_noise` in one launch, for mask and y (P|1, C|1, H, W)."""
    out = _empty(x) if out is None else out
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    table = (steps.rows.view(torch.float32), steps.rows[:, 0, 3], steps.counter)
    images = (_plain(x), None if x_t is None else _plain(x_t), _plain(mask), _plain(y))
    identity = _identity(seed, image_ids, sample_ids, step)[:3]
    _launch("masked_prox_noise")(*images, *table, *identity, out=out)
    return out


def fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    *identity: Any,
    out: Tensor | None = None,
) -> Tensor:
    """As `reference.fourier_mask_prox_noise`; identity: seed, image_ids, sample_ids, step."""
    z = _fourier_mask_prox(_anchor(x, x_t, x_weight), mask, y, gamma)
    return _renewed(x, z, scale, identity, out)


def _renewed(
    x: Tensor, z: Tensor, scale: Tensor, identity: tuple[Any, ...], out: Tensor | None
) -> Tensor:
    """z + scale eps as an image of x's dtype."""
    return langevin_noise(z, scale, *identity, out=_empty(x) if out is None else out)


def _anchor(x: Tensor, x_t: Tensor | None, x_weight: Tensor) -> Tensor:
    """x_weight x + (1 - x_weight) x_t in float32."""
    return x.float() if x_t is None else torch.lerp(x_t.float(), x.float(), x_weight)


def _plain(tensor: Tensor) -> Tensor:
    """The tensor, contiguous and without lazy conjugation."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _empty(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


def _identity(
    seed: int, image_ids: Tensor, sample_ids: Tensor, step: int
) -> tuple[int, Tensor, Tensor, int]:
    images, samples = (_plain(ids.to(torch.int64)) for ids in (image_ids, sample_ids))
    return seed, images, samples, step
