"""The fused operations: shape checks and one dict {backend: function} each.

`latino_engine.ops.reference` is the specification; every other backend must agree with it. A table
holds the backends that pay: `latino_engine.ops.dispatch` says which one runs. combine_anchors is
one kernel in torch already, and masked_prox, running once at the end of a chain, pays on the CPU
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops import (
    cpu,
    cpu_extension,
    cuda,
    inner_steps,
    operator_calls,
    reference,
    triton,
)
from latino_engine.ops.checks import (
    check_bounds,
    check_constant,
    check_device,
    check_identity,
    check_ids,
    check_out,
    check_real,
    check_same,
    check_seed,
    check_state,
    on_device_of,
    per_image,
)
from latino_engine.ops.dispatch import Backend, Table, backend_of, choose, transforms_of, write
from latino_engine.ops.inner_steps import (
    alias_prox_noise,
    fourier_mask_prox_noise,
    fourier_prox_noise,
    masked_prox_noise,
)
from latino_engine.ops.operator_calls import (
    convolve,
    convolved_spectrum,
    fourier_mask_prox,
    keep_observed,
    kspace_adjoint,
    kspace_forward,
    observed_prox,
)
from latino_engine.ops.philox import MAX_IMAGE_ID

__all__ = [
    "MAX_IMAGE_ID",
    "Backend",
    "alias_prox",
    "alias_prox_noise",
    "backend_of",
    "check_ids",
    "check_seed",
    "combine_anchors",
    "convolve",
    "convolved_spectrum",
    "fourier_mask_prox",
    "fourier_mask_prox_noise",
    "fourier_prox",
    "fourier_prox_noise",
    "gaussian_noise",
    "keep_observed",
    "kspace_adjoint",
    "kspace_forward",
    "langevin_noise",
    "masked_prox",
    "masked_prox_noise",
    "observed_prox",
    "per_image",
    "reverse_step",
    "running_moments",
    "transforms_of",
]

_GAUSSIAN_NOISE: Table = {
    "torch": reference.gaussian_noise,
    "cpu": cpu_extension.gaussian_noise,
    "triton": triton.gaussian_noise,
    "cuda": cuda.gaussian_noise,
}
_LANGEVIN_NOISE: Table = {
    "torch": reference.langevin_noise,
    "cpu": cpu_extension.langevin_noise,
    "triton": triton.langevin_noise,
    "cuda": cuda.langevin_noise,
}
_REVERSE_STEP: Table = {
    "torch": reference.reverse_step,
    "cpu": cpu_extension.reverse_step,
    "triton": triton.reverse_step,
    "cuda": cuda.reverse_step,
}
_RUNNING_MOMENTS: Table = {
    "torch": reference.running_moments,
    "cpu": cpu_extension.running_moments,
    "triton": triton.running_moments,
    "cuda": cuda.running_moments,
}
_FOURIER_PROX: Table = {
    "torch": reference.fourier_prox,
    "cpu": cpu.fourier_prox,
    "triton": triton.fourier_prox,
}
_ALIAS_PROX: Table = {
    "torch": reference.alias_prox,
    "cpu": cpu.alias_prox,
    "triton": triton.alias_prox,
}
_MASKED_PROX: Table = {"torch": reference.masked_prox, "cpu": cpu_extension.masked_prox}
_COMBINE_ANCHORS: Table = {"torch": reference.combine_anchors}

#: operation -> its table, of all operations.
TABLES: dict[str, Table] = {
    "gaussian_noise": _GAUSSIAN_NOISE,
    "langevin_noise": _LANGEVIN_NOISE,
    "reverse_step": _REVERSE_STEP,
    "running_moments": _RUNNING_MOMENTS,
    "fourier_prox": _FOURIER_PROX,
    "alias_prox": _ALIAS_PROX,
    "masked_prox": _MASKED_PROX,
    "combine_anchors": _COMBINE_ANCHORS,
    **inner_steps.TABLES,
    **operator_calls.TABLES,
}


def gaussian_noise(
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    shape: Sequence[int],
    *,
    backend: Backend = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Standard normals (P, C, H, W), float32, a function of (seed, image, sample, step, pixel).

    Philox4x32-10 with key = seed and counter = (quad, channel + 1024 image, sample, step), then
    Box-Muller; see `latino_engine.ops.philox` for the layout of a quad. Backends agree to 1e-6.

    Args:
        seed: 0 <= seed < 2^64.
        image_ids: (P,) integers in [0, 2^22), paired with sample_ids; the noise is on their device.
        sample_ids: (P,) integers in [0, 2^32).
        step: the position in the chain, 0 <= step < 2^32.
        shape: (P, C, H, W), C <= 1024.
        backend: "auto", "torch", "cpu", "triton" or "cuda", see `latino_engine.ops.dispatch`.
        out: where the result is written, float32 and contiguous; allocated if None.

    Raises:
        ValueError, TypeError: an argument out of its range or a backend that cannot serve.
    """
    seed, images, samples, step, size = check_identity(seed, image_ids, sample_ids, step, shape)
    like = torch.empty(0, device=images.device) if out is None else out
    check_out(out, torch.empty(0, device=images.device), size)
    run = choose(_GAUSSIAN_NOISE, backend, like)
    return write(run, out, seed, images, samples, step, size)


def langevin_noise(
    z: Tensor,
    scale: float | Tensor,
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    *,
    backend: Backend = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """z + scale * eps with eps = gaussian_noise(seed, image_ids, sample_ids, step, z.shape).

    All backends but torch make eps where they add it; no array of normals is written.

    Args:
        z: (P, C, H, W), real; differentiable, as is scale. float16 and bfloat16 are computed in
            float32 and rounded once.
        scale: a number or (P,).
        seed, image_ids, sample_ids, step, backend: as in `gaussian_noise`.
        out: where the result is written, may be z itself; allocated if None.

    Raises:
        ValueError, TypeError: as `gaussian_noise`.
    """
    check_real("z", z)
    identity = check_identity(seed, image_ids, sample_ids, step, z.shape)[:4]
    scales = per_image(scale, z, "scale")
    check_out(out, z, z.shape)
    run = choose(_LANGEVIN_NOISE, backend, scales, images=(z, out))
    return write(run, out, z, scales, *on_device_of(z, identity))


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
    clamp: tuple[float, float] | None = None,
    backend: Backend = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps) [UD2M, Alg. 1].

    Args:
        x0_hat, x_t: (P, C, H, W), real, of one dtype; 16 bits as in `langevin_noise`.
        sigma_n: noise level of x_t, > 0.
        sigma_next: noise level of the result.
        zeta: share of fresh noise, in [0, 1].
        seed, image_ids, sample_ids, step, backend: as in `gaussian_noise`.
        clamp: (lowest, highest) of x0_hat, which is clamped first; None leaves it as it is.
        out: where the result is written, may be x0_hat or x_t itself; allocated if None.
    """
    check_real("x0_hat", x0_hat)
    check_state("x_t", x_t, "x0_hat", x0_hat)
    identity = check_identity(seed, image_ids, sample_ids, step, x0_hat.shape)[:4]
    check_out(out, x0_hat, x0_hat.shape)
    bounds = check_bounds("clamp", clamp)
    run = choose(_REVERSE_STEP, backend, images=(x0_hat, x_t, out))
    who = on_device_of(x0_hat, identity)
    return write(run, out, x0_hat, x_t, sigma_n, sigma_next, zeta, *who, clamp=bounds)


def fourier_prox(
    v: Tensor,
    power: Tensor,
    back_projected: Tensor,
    gamma: float | Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """argmin_x gamma/2 ||h * x - y||^2 + 1/2 ||x - v||^2 for a circular convolution.

    Args:
        v: (B, C, H, W), float32 or float64.
        power: |h|^2, real half-spectrum (B|1, C|1, H, W//2+1).
        back_projected: conj(h) Y, complex half-spectrum (B|1, C|1, H, W//2+1).
        gamma: >= 0, a number or (B,).
        backend: "auto", "torch", "cpu" or "triton".
    """
    check_real("v", v)
    _check_spectrum("power", power, v)
    _check_spectrum("back_projected", back_projected, v, True)
    tensors = (v, power, back_projected, per_image(gamma, v))
    return write(choose(_FOURIER_PROX, backend, *tensors, spectra=True), None, *tensors)


def alias_prox(
    v: Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: float | Tensor,
    factor: int,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """argmin_x gamma/2 ||decimate(h * x) - y||^2 + 1/2 ||x - v||^2, keeping every factor-th pixel.

    Args:
        v: (B, C, H, W), H and W multiples of factor.
        h, back_projected: full spectra (B|1, C|1, H, W); back_projected = conj(h) tile(Y).
        folded_power: mean of |h|^2 over aliases, (B|1, C|1, H/factor, W/factor).
        gamma: >= 0, a number or (B,).
        backend: "auto", "torch", "cpu" or "triton".
    """
    check_real("v", v)
    for name, spectrum in (("h", h), ("back_projected", back_projected)):
        check_constant(name, spectrum, "v", v, is_complex=True)
    check_constant("folded_power", folded_power, "v", v)
    if v.ndim != 4 or v.shape[-2] % factor or v.shape[-1] % factor:
        remedy = "crop the image"
        raise invalid("v", f"sides divisible by {factor}", tuple(v.shape), remedy)
    tensors = (v, h, folded_power, back_projected, per_image(gamma, v))
    return write(choose(_ALIAS_PROX, backend, *tensors, spectra=True), None, *tensors, factor)


def masked_prox(
    v: Tensor, mask: Tensor, y: Tensor, gamma: float | Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """argmin_x gamma/2 ||m (x - y)||^2 + 1/2 ||x - v||^2 per entry, m in {0, 1}.

    Args:
        v: (B, C, H, W), real or complex.
        mask, y: broadcast against v; "cpu" takes (B|1, C|1, H, W), real.
        gamma: >= 0, a number or (B,).
        backend: "auto", "torch" or "cpu".
    """
    for name, tensor in (("mask", mask), ("y", y)):
        check_device(name, tensor, "v", v)
    gammas = per_image(gamma, v.real if v.is_complex() else v)
    fits = all(cpu_extension.broadcasts_to_planes(tensor, v) for tensor in (mask, y))
    obstacle = None if fits else "mask or y that is not (B|1, C|1, H, W)"
    run = choose(_MASKED_PROX, backend, v, mask, y, gammas, obstacle=obstacle)
    return write(run, None, v, mask, y, gammas)


def combine_anchors(x: Tensor, x_t: Tensor, x_weight: float | Tensor) -> Tensor:
    """a x + (1 - a) x_t; x, x_t (B, C, H, W), a in [0, 1] a number or (B,)."""
    check_state("x_t", x_t, "x", x)
    weight = per_image(x_weight, x, "x_weight")
    return write(_COMBINE_ANCHORS["torch"], None, x, x_t, weight)


def running_moments(
    mean: Tensor, m2: Tensor, count: int, x: Tensor, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Welford's update of (mean, sum of squared deviations) with the count-th value x, from 1."""
    if count < 1:
        raise invalid("count", "a count from 1", count, "count the value being added")
    check_same("mean", mean, "x", x, "start from zeros of x's shape")
    check_same("m2", m2, "x", x, "start from zeros of x's shape")
    run = choose(_RUNNING_MOMENTS, backend, mean, m2, x)
    moments: tuple[Tensor, Tensor] = run(mean, m2, count, x)
    return moments


def _check_spectrum(name: str, spectrum: Tensor, v: Tensor, is_complex: bool = False) -> None:
    check_constant(name, spectrum, "v", v, is_complex=is_complex)
    expected = (v.shape[-2], v.shape[-1] // 2 + 1)
    if v.ndim != 4 or spectrum.ndim != 4 or tuple(spectrum.shape[-2:]) != expected:
        raise invalid(
            name,
            f"a half-spectrum (B|1, C|1, {expected[0]}, {expected[1]})",
            f"{tuple(spectrum.shape)} for v {tuple(v.shape)}",
            "use rfft2 of an image of v's size",
        )
