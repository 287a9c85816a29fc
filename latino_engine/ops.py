"""The fused operations: shape checks and one dict {backend: function} each.

`latino_engine.reference` is the specification; every other backend must agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latino_engine import reference
from latino_engine.errors import InvalidArgument, invalid, invalid_type
from latino_engine.noise import MAX_CHANNELS, MAX_IMAGE_ID

_GAUSSIAN_NOISE = {"torch": reference.gaussian_noise}
_FOURIER_PROX = {"torch": reference.fourier_prox}
_ALIAS_PROX = {"torch": reference.alias_prox}
_MASKED_PROX = {"torch": reference.masked_prox}
_COMBINE_ANCHORS = {"torch": reference.combine_anchors}
_ADD_NOISE = {"torch": reference.add_noise}
_REVERSE_STEP = {"torch": reference.reverse_step}
_RUNNING_MOMENTS = {"torch": reference.running_moments}


def per_image(value: float | Tensor, like: Tensor, name: str = "gamma") -> Tensor:
    """A float or a (B,) tensor as (1|B, 1, ...) in the dtype and on the device of `like` (B, ...)."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if tensor.ndim > 1 or (tensor.ndim == 1 and tensor.shape[0] not in (1, like.shape[0])):
        raise invalid(
            name,
            f"a number or a tensor of shape ({like.shape[0]},)",
            f"shape {tuple(tensor.shape)}",
            "give one value for each image of the batch",
        )
    return tensor.reshape(-1, *([1] * (like.ndim - 1)))


def _ids(name: str, value: Tensor | Sequence[int], pairs: int, limit: int) -> Tensor:
    ids = torch.as_tensor(value)
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


def gaussian_noise(
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    shape: Sequence[int],
) -> Tensor:
    """Standard normals (P, C, H, W), float32, a pure function of (seed, image, sample, step, pixel).

    Philox4x32-10 with key = seed and counter = (quad, channel + 1024 image, sample, step), then
    Box-Muller; see `latino_engine.noise` for the layout of a quad.

    Args:
        seed: 0 <= seed < 2^64.
        image_ids: (P,) integers in [0, 2^22), paired with sample_ids.
        sample_ids: (P,) integers in [0, 2^32).
        step: the position in the chain, 0 <= step < 2^32.
        shape: (P, C, H, W), C <= 1024.

    Raises:
        ValueError, TypeError: an argument out of its range, in one sentence.
    """
    check_seed(seed)
    size = tuple(int(n) for n in shape)
    if len(size) != 4 or min(size, default=-1) < 0:
        raise invalid("shape", "(P, C, H, W)", size, "give four sizes")
    if size[1] > MAX_CHANNELS:
        raise invalid("shape", f"at most {MAX_CHANNELS} channels", size[1], "split the channels")
    if ((size[2] + 1) // 2) * ((size[3] + 1) // 2) >= 2**32:
        raise invalid("shape", "fewer than 2^32 quads per plane", size, "split the image")
    if not 0 <= step < 2**32:
        raise invalid("step", "0 <= step < 2^32", step, "count the steps from 0")
    images = _ids("image_ids", image_ids, size[0], MAX_IMAGE_ID)
    samples = _ids("sample_ids", sample_ids, size[0], 2**32).to(images.device)
    return _GAUSSIAN_NOISE["torch"](seed, images, samples, step, size)


def fourier_prox(
    v: Tensor, power: Tensor, back_projected: Tensor, gamma: float | Tensor
) -> Tensor:
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


def masked_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
    """argmin_x gamma/2 ||m (x - y)||^2 + 1/2 ||x - v||^2 per entry, real or complex, m in {0, 1}."""
    return _MASKED_PROX["torch"](v, mask, y, per_image(gamma, v.real if v.is_complex() else v))


def combine_anchors(x: Tensor, x_t: Tensor, x_weight: float | Tensor) -> Tensor:
    """a x + (1 - a) x_t; x, x_t (B, C, H, W), a in [0, 1] a number or (B,)."""
    if x.shape != x_t.shape:
        raise InvalidArgument(
            f"x_t: expected the shape of x {tuple(x.shape)}, got {tuple(x_t.shape)}; "
            "both are states of the same images"
        )
    return _COMBINE_ANCHORS["torch"](x, x_t, per_image(x_weight, x, "x_weight"))


def add_noise(z: Tensor, scale: float | Tensor, eps: Tensor) -> Tensor:
    """z + scale * eps; scale a number or (B,)."""
    return _ADD_NOISE["torch"](z, per_image(scale, z, "scale"), eps)


def reverse_step(
    x0_hat: Tensor, x_t: Tensor, sigma_n: float, sigma_next: float, zeta: float, eps: Tensor
) -> Tensor:
    """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0)/sigma_n + sqrt(zeta) eps) [UD2M, Alg. 1]."""
    return _REVERSE_STEP["torch"](x0_hat, x_t, sigma_n, sigma_next, zeta, eps)


def running_moments(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Welford's update of (mean, sum of squared deviations) with the count-th value x, count >= 1."""
    if count < 1:
        raise invalid("count", "a count from 1", count, "count the value being added")
    return _RUNNING_MOMENTS["torch"](mean, m2, count, x)


def _check_spectrum(name: str, spectrum: Tensor, v: Tensor) -> None:
    expected = (v.shape[-2], v.shape[-1] // 2 + 1)
    if v.ndim != 4 or spectrum.ndim != 4 or tuple(spectrum.shape[-2:]) != expected:
        raise invalid(
            name,
            f"a half-spectrum (B|1, C|1, {expected[0]}, {expected[1]})",
            f"{tuple(spectrum.shape)} for v {tuple(v.shape)}",
            "use rfft2 of an image of v's size",
        )
