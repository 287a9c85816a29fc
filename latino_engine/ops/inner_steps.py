"""A whole inner step without the network in one operation: anchors, data step and noise.

Part of `latino_engine.ops`: shape checks and one dict {backend: function} each.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops import cpu_extension, cuda, reference, triton
from latino_engine.ops.checks import (
    check_constant,
    check_identity,
    check_out,
    check_real,
    check_state,
    on_device_of,
    per_image,
)
from latino_engine.ops.dispatch import Backend, Table, choose, write

_FOURIER_PROX_NOISE: Table = {
    "torch": reference.fourier_prox_noise,
    "cpu": cpu_extension.fourier_prox_noise,
    "triton": triton.fourier_prox_noise,
    "cuda": cuda.fourier_prox_noise,
}
_ALIAS_PROX_NOISE: Table = {
    "torch": reference.alias_prox_noise,
    "cpu": cpu_extension.alias_prox_noise,
    "triton": triton.alias_prox_noise,
    "cuda": cuda.alias_prox_noise,
}
_MASKED_PROX_NOISE: Table = {
    "torch": reference.masked_prox_noise,
    "cpu": cpu_extension.masked_prox_noise,
    "triton": triton.masked_prox_noise,
    "cuda": cuda.masked_prox_noise,
}
_FOURIER_MASK_PROX_NOISE: Table = {
    "torch": reference.fourier_mask_prox_noise,
    "cpu": cpu_extension.fourier_mask_prox_noise,
    "triton": triton.fourier_mask_prox_noise,
    "cuda": cuda.fourier_mask_prox_noise,
}

#: operation -> its table, of this file.
TABLES: dict[str, Table] = {
    "fourier_prox_noise": _FOURIER_PROX_NOISE,
    "alias_prox_noise": _ALIAS_PROX_NOISE,
    "masked_prox_noise": _MASKED_PROX_NOISE,
    "fourier_mask_prox_noise": _FOURIER_MASK_PROX_NOISE,
}


def _check_state(x: Tensor, x_t: Tensor | None) -> None:
    check_real("x", x)
    if x.ndim != 4 or x.numel() == 0:
        raise invalid("x", "(P, C, H, W), not empty", tuple(x.shape), "add a batch axis")
    if x_t is not None:
        check_state("x_t", x_t, "x", x)


def _check_planes(
    name: str,
    tensor: Tensor,
    x: Tensor,
    channels: int,
    size: Sequence[int],
    is_complex: bool = False,
) -> None:
    """(P|1, C|1, *size), in x's precision, on its device."""
    check_constant(name, tensor, "x", x, is_complex=is_complex)
    shape, pairs = tensor.shape, x.shape[0]
    right = len(shape) == 4 and shape[0] in (1, pairs) and shape[1] in (1, channels)
    if not right or shape[2] != size[0] or shape[3] != size[1]:
        expected = f"({pairs}|1, {channels}|1, {size[0]}, {size[1]})"
        raise invalid(name, expected, tuple(tensor.shape), "match the image x")


def fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: float | Tensor,
    power: Tensor,
    back_projected: Tensor,
    gamma: float | Tensor,
    scale: float | Tensor,
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    *,
    backend: Backend = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """fourier_prox(a x + (1 - a) x_t) + scale * eps: the inner step of a circular convolution.

    Args:
        x: (P, C, H, W), real; float16 and bfloat16 are computed in float32, with the constants
            in float32, and rounded once.
        x_t: the state, of x's shape and dtype, or None where x alone is the anchor.
        x_weight: a in [0, 1], a number or (P,).
        power, back_projected: |h|^2 and conj(h) Y, (P|1, C|1, H, W//2+1), as in `fourier_prox`.
        gamma: >= 0, a number or (P,).
        scale: of the noise, a number or (P,).
        seed, image_ids, sample_ids, step: as in `gaussian_noise`.
        backend: "auto", "torch", "cpu", "triton" or "cuda". "cpu" has its own transforms for
            sides of a power of two from 16 to 2048, "cuda", in three launches, from 64 to 2048;
            other sizes and "triton" take torch.fft with pointwise kernels.
        out: where the result is written, may be x or x_t itself; allocated if None.

    Raises:
        ValueError, TypeError: an argument that cannot be used or a backend that cannot serve.
    """
    _check_state(x, x_t)
    half = (x.shape[2], x.shape[3] // 2 + 1)
    _check_planes("power", power, x, x.shape[1], half)
    _check_planes("back_projected", back_projected, x, x.shape[1], half, True)
    identity = check_identity(seed, image_ids, sample_ids, step, x.shape)[:4]
    scalars = (per_image(gamma, x), per_image(scale, x, "scale"))
    weight = per_image(x_weight, x, "x_weight")
    constants = (power, back_projected)
    check_out(out, x, x.shape)
    run = choose(
        _FOURIER_PROX_NOISE,
        backend,
        *constants,
        weight,
        *scalars,
        spectra=True,
        images=(x, x_t, out),
    )
    return write(run, out, x, x_t, weight, *constants, *scalars, *on_device_of(x, identity))


def alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: float | Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: float | Tensor,
    scale: float | Tensor,
    factor: int,
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    *,
    backend: Backend = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """alias_prox(a x + (1 - a) x_t) + scale * eps: the inner step of super-resolution.

    Args:
        x, x_t, x_weight, gamma, scale, seed, image_ids, sample_ids, step, backend, out: as in
            `fourier_prox_noise`; own kernels for factors 2, 4 and 8, on the
            CPU for any power of two up to W/16.
        h, folded_power, back_projected: as in `alias_prox`; h is the spectrum of a real kernel.
        factor: divides both sides.
    """
    _check_state(x, x_t)
    size = (x.shape[2], x.shape[3])
    if factor < 1 or size[0] % factor or size[1] % factor:
        raise invalid("x", f"sides divisible by {factor}", tuple(x.shape), "crop the image")
    _check_planes("h", h, x, x.shape[1], size, True)
    _check_planes("back_projected", back_projected, x, x.shape[1], size, True)
    kept = (size[0] // factor, size[1] // factor)
    _check_planes("folded_power", folded_power, x, x.shape[1], kept)
    identity = check_identity(seed, image_ids, sample_ids, step, x.shape)[:4]
    scalars = (per_image(gamma, x), per_image(scale, x, "scale"))
    weight = per_image(x_weight, x, "x_weight")
    constants = (h, folded_power, back_projected)
    check_out(out, x, x.shape)
    run = choose(
        _ALIAS_PROX_NOISE, backend, *constants, weight, *scalars, spectra=True, images=(x, x_t, out)
    )
    return write(run, out, x, x_t, weight, *constants, *scalars, factor, *on_device_of(x, identity))


def masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: float | Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: float | Tensor,
    scale: float | Tensor,
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    *,
    backend: Backend = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """masked_prox(a x + (1 - a) x_t) + scale * eps: the inner step of inpainting and denoising.

    Args:
        x, x_t, x_weight, gamma, scale, seed, image_ids, sample_ids, step, backend, out: as in
            `fourier_prox_noise`; one launch for any size.
        mask, y: (P|1, C|1, H, W), m in {0, 1}, y finite.
    """
    _check_state(x, x_t)
    _check_planes("mask", mask, x, x.shape[1], x.shape[2:])
    _check_planes("y", y, x, x.shape[1], x.shape[2:])
    identity = check_identity(seed, image_ids, sample_ids, step, x.shape)[:4]
    scalars = (per_image(gamma, x), per_image(scale, x, "scale"))
    weight = per_image(x_weight, x, "x_weight")
    check_out(out, x, x.shape)
    run = choose(_MASKED_PROX_NOISE, backend, mask, y, weight, *scalars, images=(x, x_t, out))
    return write(run, out, x, x_t, weight, mask, y, *scalars, *on_device_of(x, identity))


def fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: float | Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: float | Tensor,
    scale: float | Tensor,
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    *,
    backend: Backend = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """F^-1 masked_prox(F v, mask, y) + scale * eps, v = a x + (1 - a) x_t: single-coil MRI.

    Args:
        x, x_t: complex images as channels (re, im), (P, 2, H, W).
        mask: (P|1, 1, H, W) over k-space, DC in the middle, m in {0, 1}.
        y: (P|1, 2, H, W), k-space as (re, im), DC in the middle, orthonormal, finite.
        x_weight, gamma, scale, seed, image_ids, sample_ids, step, backend, out: as in
            `fourier_prox_noise`.
    """
    _check_state(x, x_t)
    if x.shape[1] != 2:
        raise invalid("x", "2 channels (re, im)", x.shape[1], "store both parts")
    _check_planes("mask", mask, x, 1, x.shape[2:])
    _check_planes("y", y, x, 2, x.shape[2:])
    if y.shape[1] != 2:
        raise invalid("y", "2 channels (re, im)", y.shape[1], "store both parts")
    identity = check_identity(seed, image_ids, sample_ids, step, x.shape)[:4]
    scalars = (per_image(gamma, x), per_image(scale, x, "scale"))
    weight = per_image(x_weight, x, "x_weight")
    check_out(out, x, x.shape)
    run = choose(_FOURIER_MASK_PROX_NOISE, backend, mask, y, weight, *scalars, images=(x, x_t, out))
    return write(run, out, x, x_t, weight, mask, y, *scalars, *on_device_of(x, identity))
