"""The fused operations: shape checks and one dict {backend: function} each.

`latino_engine.reference` is the specification; every other backend must agree with it.
`backend="auto"` takes the compiled CPU extension where it is built and can take the tensors, else
torch; a backend that is named is used or refused in one sentence. The operations without a
`backend` have torch alone: for combine_anchors the extension was no faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from latino_engine import native, reference
from latino_engine.errors import BackendNotAvailable, invalid, invalid_type
from latino_engine.noise import MAX_CHANNELS
from latino_engine.noise import MAX_IMAGE_ID as MAX_IMAGE_ID  # for callers of check_ids

Backend: TypeAlias = Literal["auto", "torch", "cpu"]
_Function = TypeVar("_Function", bound=Callable[..., Any])


_GAUSSIAN_NOISE = {"torch": reference.gaussian_noise, "cpu": native.gaussian_noise}
_LANGEVIN_NOISE = {"torch": reference.langevin_noise, "cpu": native.langevin_noise}
_FOURIER_PROX = {"torch": reference.fourier_prox}
_ALIAS_PROX = {"torch": reference.alias_prox}
_MASKED_PROX = {"torch": reference.masked_prox, "cpu": native.masked_prox}
_COMBINE_ANCHORS = {"torch": reference.combine_anchors}
_REVERSE_STEP = {"torch": reference.reverse_step, "cpu": native.reverse_step}
_RUNNING_MOMENTS = {"torch": reference.running_moments, "cpu": native.running_moments}


def backend_of(device: str | torch.device) -> str:
    """What `backend="auto"` takes for float32 tensors on this device: "cpu" or "torch"."""
    usable = torch.device(device).type == "cpu" and native.missing() is None
    return "cpu" if usable else "torch"


def _resolve(
    table: dict[str, _Function], backend: str, *tensors: Tensor, obstacle: str | None = None
) -> _Function:
    """The function to run; `obstacle` is a further reason why the extension cannot serve."""
    if backend != "auto" and backend not in table:
        choices = "one of " + ", ".join(repr(name) for name in ("auto", *table))
        raise invalid("backend", choices, repr(backend), "choose one of these")
    if backend == "torch":
        return table["torch"]
    obstacle = obstacle or native.unfit(*tensors)
    if backend == "auto":
        return table["torch" if obstacle or native.missing() else "cpu"]
    missing = native.missing()
    if missing is not None:
        raise BackendNotAvailable(missing)
    if obstacle is not None:
        expected = "float32 tensors on the CPU, without gradients, for 'cpu'"
        raise invalid("backend", expected, obstacle, "use backend='torch'")
    return table["cpu"]


def per_image(value: float | Tensor, like: Tensor, name: str = "gamma") -> Tensor:
    """A float or a (B,) tensor as (1|B, 1, ...), with the dtype and device of `like` (B, ...)."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if tensor.ndim > 1 or (tensor.ndim == 1 and tensor.shape[0] not in (1, like.shape[0])):
        raise invalid(
            name,
            f"a number or a tensor of shape ({like.shape[0]},)",
            f"shape {tuple(tensor.shape)}",
            "give one value for each image of the batch",
        )
    return tensor.reshape(-1, *([1] * (like.ndim - 1)))


def check_ids(name: str, value: Tensor | Sequence[int], pairs: int, limit: int) -> Tensor:
    """The ids as a tensor (pairs,) of integers in [0, limit); raises the sentence otherwise."""
    ids = torch.as_tensor(value)
    if ids.numel() == 0:
        ids = ids.to(torch.int64)  # an empty list has no type of its own
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise invalid_type(name, "integers", ids.dtype, "give whole numbers")
    if ids.shape != (pairs,):
        raise invalid(name, f"length {pairs}", f"shape {tuple(ids.shape)}", "give one id per image")
    if pairs and (int(ids.min()) < 0 or int(ids.max()) >= limit):
        found = f"{int(ids.min())}..{int(ids.max())}"
        raise invalid(name, f"values in [0, {limit})", found, "renumber the images")
    return ids


def check_seed(seed: int) -> int:
    """The seed as an int; raises `InvalidArgument` outside [0, 2^64)."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise invalid_type("seed", "an integer", type(seed).__name__, "give a whole number")
    if not 0 <= seed < 2**64:
        raise invalid("seed", "0 <= seed < 2^64", seed, "choose another seed")
    return seed


def _check_identity(
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    shape: Sequence[int],
) -> tuple[int, Tensor, Tensor, int, tuple[int, int, int, int]]:
    check_seed(seed)
    size = tuple(int(n) for n in shape)
    if len(size) != 4 or min(size, default=-1) < 0:
        raise invalid("shape", "(P, C, H, W)", size, "give four sizes")
    if size[1] > MAX_CHANNELS:
        raise invalid("shape", f"at most {MAX_CHANNELS} channels", size[1], "split the channels")
    if ((size[2] + 1) // 2) * ((size[3] + 1) // 2) >= 2**32:
        raise invalid("shape", "fewer than 2^32 quads per plane", size, "split the image")
    if isinstance(step, bool) or not isinstance(step, int):
        raise invalid_type("step", "an integer", type(step).__name__, "give a whole number")
    if not 0 <= step < 2**32:
        raise invalid("step", "0 <= step < 2^32", step, "count the steps from 0")
    images = check_ids("image_ids", image_ids, size[0], MAX_IMAGE_ID)
    samples = check_ids("sample_ids", sample_ids, size[0], 2**32).to(images.device)
    return seed, images, samples, step, (size[0], size[1], size[2], size[3])


def gaussian_noise(
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    shape: Sequence[int],
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Standard normals (P, C, H, W), float32, a function of (seed, image, sample, step, pixel).

    Philox4x32-10 with key = seed and counter = (quad, channel + 1024 image, sample, step), then
    Box-Muller; see `latino_engine.noise` for the layout of a quad. Backends agree to 1e-6.

    Args:
        seed: 0 <= seed < 2^64.
        image_ids: (P,) integers in [0, 2^22), paired with sample_ids; the noise is on their device.
        sample_ids: (P,) integers in [0, 2^32).
        step: the position in the chain, 0 <= step < 2^32.
        shape: (P, C, H, W), C <= 1024.
        backend: "auto", "torch" or "cpu" (the compiled extension).

    Raises:
        ValueError, TypeError: an argument out of its range or a backend that cannot serve.
    """
    seed, images, samples, step, size = _check_identity(seed, image_ids, sample_ids, step, shape)
    obstacle = None if images.device.type == "cpu" else f"image_ids on {images.device}"
    run = _resolve(_GAUSSIAN_NOISE, backend, obstacle=obstacle)
    return run(seed, images, samples, step, size)


def langevin_noise(
    z: Tensor,
    scale: float | Tensor,
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """z + scale * eps with eps = gaussian_noise(seed, image_ids, sample_ids, step, z.shape).

    The extension makes eps where it adds it; no array of normals is written.

    Args:
        z: (P, C, H, W), real; differentiable, as is scale.
        scale: a number or (P,).
        seed, image_ids, sample_ids, step, backend: as in `gaussian_noise`.

    Raises:
        ValueError, TypeError: as `gaussian_noise`.
    """
    _check_real("z", z)
    identity = _check_identity(seed, image_ids, sample_ids, step, z.shape)[:4]
    scales = per_image(scale, z, "scale")
    run = _resolve(_LANGEVIN_NOISE, backend, z, scales)
    return run(z, scales, *_on(z, identity))


def reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    sigma_n: float,
    sigma_next: float,
    zeta: float,
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps) [UD2M, Alg. 1].

    Args:
        x0_hat, x_t: (P, C, H, W), real.
        sigma_n: noise level of x_t, > 0.
        sigma_next: noise level of the result.
        zeta: share of fresh noise, in [0, 1].
        seed, image_ids, sample_ids, step, backend: as in `gaussian_noise`.
    """
    _check_real("x0_hat", x0_hat)
    _check_same("x_t", x_t, "x0_hat", x0_hat)
    identity = _check_identity(seed, image_ids, sample_ids, step, x0_hat.shape)[:4]
    run = _resolve(_REVERSE_STEP, backend, x0_hat, x_t)
    return run(x0_hat, x_t, sigma_n, sigma_next, zeta, *_on(x0_hat, identity))


def _on(z: Tensor, identity: tuple[int, Tensor, Tensor, int]) -> tuple[int, Tensor, Tensor, int]:
    seed, images, samples, step = identity
    return seed, images.to(z.device), samples.to(z.device), step


def _check_real(name: str, z: Tensor) -> None:
    if not z.is_floating_point():
        raise invalid_type(name, "a real floating-point tensor", z.dtype, "convert it first")


def _check_same(
    name: str,
    tensor: Tensor,
    other_name: str,
    other: Tensor,
    remedy: str = "both are states of the same images",
) -> None:
    if tensor.shape != other.shape:
        expected = f"the shape of {other_name} {tuple(other.shape)}"
        raise invalid(name, expected, tuple(tensor.shape), remedy)


def fourier_prox(v: Tensor, power: Tensor, back_projected: Tensor, gamma: float | Tensor) -> Tensor:
    """argmin_x gamma/2 ||h * x - y||^2 + 1/2 ||x - v||^2 for a circular convolution.

    Args:
        v: (B, C, H, W), float32 or float64.
        power: |h|^2, real half-spectrum (B|1, C|1, H, W//2+1).
        back_projected: conj(h) Y, complex half-spectrum (B|1, C|1, H, W//2+1).
        gamma: >= 0, a number or (B,).
    """
    _check_spectrum("power", power, v)
    _check_spectrum("back_projected", back_projected, v)
    return _FOURIER_PROX["torch"](v, power, back_projected, per_image(gamma, v))


def alias_prox(
    v: Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: float | Tensor,
    factor: int,
) -> Tensor:
    """argmin_x gamma/2 ||decimate(h * x) - y||^2 + 1/2 ||x - v||^2, keeping every factor-th pixel.

    Args:
        v: (B, C, H, W), H and W multiples of factor.
        h, back_projected: full spectra (B|1, C|1, H, W); back_projected = conj(h) tile(Y).
        folded_power: mean of |h|^2 over aliases, (B|1, C|1, H/factor, W/factor).
        gamma: >= 0, a number or (B,).
    """
    if v.ndim != 4 or v.shape[-2] % factor or v.shape[-1] % factor:
        remedy = "crop the image"
        raise invalid("v", f"sides divisible by {factor}", tuple(v.shape), remedy)
    return _ALIAS_PROX["torch"](v, h, folded_power, back_projected, per_image(gamma, v), factor)


def masked_prox(
    v: Tensor, mask: Tensor, y: Tensor, gamma: float | Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """argmin_x gamma/2 ||m (x - y)||^2 + 1/2 ||x - v||^2 per entry, m in {0, 1}.

    Args:
        v: (B, C, H, W), real or complex.
        mask, y: broadcast against v; the extension takes (B|1, C|1, H, W), real.
        gamma: >= 0, a number or (B,).
        backend: as in `gaussian_noise`.
    """
    gammas = per_image(gamma, v.real if v.is_complex() else v)
    fits = all(native.broadcasts_to_planes(tensor, v) for tensor in (mask, y))
    obstacle = None if fits else "mask or y that is not (B|1, C|1, H, W)"
    run = _resolve(_MASKED_PROX, backend, v, mask, y, gammas, obstacle=obstacle)
    return run(v, mask, y, gammas)


def combine_anchors(x: Tensor, x_t: Tensor, x_weight: float | Tensor) -> Tensor:
    """a x + (1 - a) x_t; x, x_t (B, C, H, W), a in [0, 1] a number or (B,)."""
    _check_same("x_t", x_t, "x", x)
    return _COMBINE_ANCHORS["torch"](x, x_t, per_image(x_weight, x, "x_weight"))


def running_moments(
    mean: Tensor, m2: Tensor, count: int, x: Tensor, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Welford's update of (mean, sum of squared deviations) with the count-th value x, from 1."""
    if count < 1:
        raise invalid("count", "a count from 1", count, "count the value being added")
    _check_same("mean", mean, "x", x, "start from zeros of x's shape")
    _check_same("m2", m2, "x", x, "start from zeros of x's shape")
    return _resolve(_RUNNING_MOMENTS, backend, mean, m2, x)(mean, m2, count, x)


def _check_spectrum(name: str, spectrum: Tensor, v: Tensor) -> None:
    expected = (v.shape[-2], v.shape[-1] // 2 + 1)
    if v.ndim != 4 or spectrum.ndim != 4 or tuple(spectrum.shape[-2:]) != expected:
        raise invalid(
            name,
            f"a half-spectrum (B|1, C|1, {expected[0]}, {expected[1]})",
            f"{tuple(spectrum.shape)} for v {tuple(v.shape)}",
            "use rfft2 of an image of v's size",
        )
