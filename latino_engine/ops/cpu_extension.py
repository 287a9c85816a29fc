"""The native CPU backend: loads the compiled extension when it is first needed, and launches it.

The extension is optional: without it every operation runs in torch, and `missing` says why in one
sentence.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from latino_engine.ops import checks, reference

_INTERFACE_VERSION = 5
_REMEDY = (
    "with a C++17 compiler on the path run "
    "`python -m pip install --force-reinstall --no-deps .` in the source folder"
)


@functools.cache
def _load() -> tuple[Any, str | None]:
    """(extension, None), or (None, what is missing)."""
    try:  # after torch: both then share one OpenMP runtime and its threads
        _cpu = importlib.import_module("latino_engine._cpu")
    except ModuleNotFoundError:
        return None, "the compiled extension latino_engine._cpu, which is not built here"
    except ImportError as error:
        return None, f"the compiled extension latino_engine._cpu, which cannot be loaded ({error})"
    found = getattr(_cpu, "INTERFACE_VERSION", None)
    if found != _INTERFACE_VERSION:
        return None, (
            f"the compiled extension latino_engine._cpu with interface {_INTERFACE_VERSION}, "
            f"but the one built here has {found}"
        )
    return _cpu, None


@functools.cache
def missing() -> str | None:
    """None where the extension can be used, else what is missing and which command installs it."""
    problem = _load()[1]
    return problem and f"backend 'cpu' needs {problem}; {_REMEDY}"


def device_type() -> str:
    """Of the tensors that are taken."""
    return "cpu"


def unfit(
    *tensors: Tensor | None, spectra: bool = False, images: Sequence[Tensor | None] = ()
) -> str | None:
    """None if the extension can take these tensors, else what it was given instead.

    `spectra` allows complex64 beside float32; `images` in 16 bits are widened before it.
    """
    obstacle = checks.unfit("cpu", *tensors, spectra=spectra, images=images)
    if obstacle is None:
        for tensor in (*tensors, *images):
            if tensor is not None and tensor.is_neg():
                return "a lazily negated view"
    return obstacle


def broadcasts_to_planes(tensor: Tensor, like: Tensor) -> bool:
    """True if `tensor` is (B|1, C|1, H, W), leading axes optional, for `like` (B, C, H, W)."""
    shape, full = tensor.shape, like.shape
    if len(full) != 4 or not 2 <= len(shape) <= 4 or shape[-2:] != full[-2:]:
        return False
    pairs, channels = (1, 1, *shape)[-4:-2]
    return pairs in (1, full[0]) and channels in (1, full[1])


def _extension() -> Any:
    return _load()[0]


def _four_axes(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 4 else tensor.reshape((1,) * (4 - tensor.ndim) + tensor.shape)


def _ids(ids: Tensor) -> Any:
    return _array(ids if ids.dtype is torch.int64 else ids.to(torch.int64))


def _complex_array(spectrum: Tensor) -> Any:
    return _array(spectrum if spectrum.dtype is torch.complex64 else spectrum.to(torch.complex64))


def _array(tensor: Tensor) -> Any:
    """A numpy array on the tensor's memory; a strided view is copied first."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    if plain.is_conj():
        plain = plain.resolve_conj()
    return (plain if plain.is_contiguous() else plain.contiguous()).numpy()


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
    out = torch.empty(shape, dtype=torch.float32) if out is None else out
    identity = (seed, _ids(image_ids), _ids(sample_ids), step)
    _extension().gaussian_noise(*identity, _array(out), torch.get_num_threads())
    return out


def langevin_noise(z: Tensor, scale: Tensor, *identity: Any, out: Tensor | None = None) -> Tensor:
    """As `reference.langevin_noise`, without an array of normals; identity: seed, image_ids,
    sample_ids, step.
    """
    out = _empty(z) if out is None else out
    rest = (*_identity(*identity), _array(out), torch.get_num_threads())
    _extension().langevin_noise(_array(z), _scalars(scale), *rest)
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
    out = _empty(x0_hat) if out is None else out
    scalars = (sigma_next, math.sqrt(1.0 - zeta) / sigma_n, math.sqrt(zeta))
    bounds = clamp or (-math.inf, math.inf)
    rest = (*_identity(*identity), _array(out), torch.get_num_threads())
    _extension().reverse_step(_array(x0_hat), _array(x_t), *scalars, *bounds, *rest)
    return out


def masked_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """As `reference.masked_prox`, for mask and y (B|1, C|1, H, W)."""
    out = _empty(v)
    planes = (_array(v), _array(_four_axes(mask)), _array(_four_axes(y)))
    gammas = _array(gamma.reshape(-1))
    _extension().masked_prox(*planes, gammas, _array(out), torch.get_num_threads())
    return out


def running_moments(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference.running_moments`."""
    outputs = torch.empty((2, *mean.shape), dtype=torch.float32).unbind(0)
    arrays = (_array(mean), _array(m2), count, _array(x))
    results = (_array(outputs[0]), _array(outputs[1]))
    _extension().running_moments(*arrays, *results, torch.get_num_threads())
    return outputs[0], outputs[1]


def fourier_path(height: int, width: int, factor: int | None = None) -> str:
    """What transforms images of this size, "own loops" or "torch.fft"; factor of alias_prox."""
    if factor is None:
        own = _extension().has_fourier_loops(height, width)
    else:
        own = _extension().has_alias_loops(height, width, factor)
    return "own loops" if own else "torch.fft"


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
    run = _FOURIER_PATHS[fourier_path(x.shape[2], x.shape[3])]
    return run(x, x_t, x_weight, power, back_projected, gamma, scale, *identity, out=out)


def _fourier_by_own_loops(
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
    out = _empty(x) if out is None else out
    constants = (_array(power), _complex_array(back_projected), _scalars(gamma))
    rest = (_scalars(scale), *_identity(*identity), _array(out), torch.get_num_threads())
    _extension().fourier_prox_noise(*_anchors(x, x_t, x_weight), *constants, *rest)
    return out


def _fourier_by_torch(
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
    v = x if x_t is None else torch.lerp(x_t, x, x_weight)
    V = torch.fft.rfft2(v)  # (P, C, H, W//2+1)
    constants = (_array(power), _complex_array(back_projected), _scalars(gamma))
    _extension().fourier_combine(_array(V), *constants, torch.get_num_threads())
    return _add_noise(torch.fft.irfft2(V, s=x.shape[-2:]), scale, *identity, out=out)


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
    run = _ALIAS_PATHS[fourier_path(x.shape[2], x.shape[3], factor)]
    spectra = (h, folded_power, back_projected)
    return run(x, x_t, x_weight, *spectra, gamma, scale, factor, *identity, out=out)


def _alias_by_own_loops(
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
    out = _empty(x) if out is None else out
    spectra = (_complex_array(h), _array(folded_power), _complex_array(back_projected))
    constants = (*spectra, _scalars(gamma))
    rest = (_scalars(scale), factor, *_identity(*identity), _array(out), torch.get_num_threads())
    _extension().alias_prox_noise(*_anchors(x, x_t, x_weight), *constants, *rest)
    return out


def _alias_by_torch(
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
    v = x if x_t is None else torch.lerp(x_t, x, x_weight)
    z = reference.alias_prox(v, h, folded_power, back_projected, gamma, factor)
    return _add_noise(z, scale, *identity, out=out)


_FOURIER_PATHS: dict[str, Callable[..., Tensor]] = {
    "own loops": _fourier_by_own_loops,
    "torch.fft": _fourier_by_torch,
}
_ALIAS_PATHS: dict[str, Callable[..., Tensor]] = {
    "own loops": _alias_by_own_loops,
    "torch.fft": _alias_by_torch,
}


def masked_prox_noise(
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
    """As `reference.masked_prox_noise`, for mask and y (P|1, C|1, H, W)."""
    out = _empty(x) if out is None else out
    arrays = (_array(mask), _array(y), _scalars(gamma), _scalars(scale))
    rest = (*_identity(*identity), _array(out), torch.get_num_threads())
    _extension().masked_prox_noise(*_anchors(x, x_t, x_weight), *arrays, *rest)
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
    """As `reference.fourier_mask_prox_noise`; by torch.fft with a pass before, between, behind."""
    out, threads = _empty(x) if out is None else out, torch.get_num_threads()
    pairs, _, height, width = x.shape
    if fourier_path(height, width) == "own loops":
        constants = (_array(mask), _array(y), _scalars(gamma), _scalars(scale))
        rest = (*_identity(*identity), _array(out), threads)
        _extension().kspace_prox_noise(*_anchors(x, x_t, x_weight), *constants, *rest)
        return out
    image = torch.empty((pairs, height, width), dtype=torch.complex64)
    _extension().kspace_pack(*_anchors(x, x_t, x_weight), _array(image), threads)
    V = torch.fft.fft2(image).contiguous()
    _extension().kspace_combine(_array(V), _array(mask), _array(y), _scalars(gamma), threads)
    image = torch.fft.ifft2(V)
    rest = (*_identity(*identity), _array(out), threads)
    _extension().kspace_unpack(_array(image), _scalars(scale), *rest)
    return out


def _anchors(x: Tensor, x_t: Tensor | None, x_weight: Tensor) -> tuple[Any, Any, Any]:
    return _array(x), None if x_t is None else _array(x_t), _scalars(x_weight)


def _scalars(per_image: Tensor) -> Any:
    return _array(per_image).reshape(-1)


def _identity(seed: int, image_ids: Tensor, sample_ids: Tensor, step: int) -> tuple[Any, ...]:
    return seed, _ids(image_ids), _ids(sample_ids), step


def _add_noise(z: Tensor, scale: Tensor, *identity: Any, out: Tensor | None) -> Tensor:
    """z + scale eps, in the memory of z, which nobody else has, unless there is an `out`."""
    z = z.contiguous()
    return langevin_noise(z, scale, *identity, out=z if out is None else out)


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)
