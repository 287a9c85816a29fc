"""The data step of super-resolution, alone and as a whole inner step of the sampler.

The prox of x -> decimate(h * x) by the Woodbury identity in the alias domain, fold = the mean over
the factor x factor aliases: b = V + gamma conj(h) tile(Y),
X = b - gamma conj(h) tile(fold(h b) / (1 + gamma fold(|h|^2))).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops import cpu_extension as cpu
from latino_engine.ops import cuda_extension as cuda
from latino_engine.ops import noise, triton
from latino_engine.ops.arguments import InnerCall
from latino_engine.ops.checks import check_images, check_inner, check_planes, per_image
from latino_engine.ops.dispatch import Backend, Table, choose
from latino_engine.ops.step_table import StepTable


def alias_fold(spectrum: Tensor, factor: int) -> Tensor:
    """Mean over the factor x factor aliases: (..., H, W) -> (..., H/factor, W/factor)."""
    *lead, height, width = spectrum.shape
    split = spectrum.reshape(*lead, factor, height // factor, factor, width // factor)
    return split.mean(dim=(-4, -2))


def _alias_fold_half(spectrum: Tensor, factor: int, width: int) -> Tensor:
    """`alias_fold` of a real image's half-spectrum (..., H, W//2+1): (..., H/factor, W/factor)."""
    *lead, height, _ = spectrum.shape
    rows = spectrum.reshape(*lead, factor, height // factor, -1).mean(dim=-3)
    mirrored = rows[..., 1 : (width + 1) // 2].flip(-2, -1).roll(1, dims=-2).conj()
    full = torch.cat((rows, mirrored), dim=-1)  # (..., H/factor, W)
    return full.reshape(*lead, height // factor, factor, width // factor).mean(dim=-2)


def by_torch(
    v: Tensor, h: Tensor, folded_power: Tensor, back_projected: Tensor, factor: int, gamma: Tensor
) -> Tensor:
    """The specification; h and back_projected = conj(h) tile(Y) are full spectra."""
    half = v.shape[-1] // 2 + 1  # the other columns are the conjugates of these
    b = torch.fft.rfft2(v) + gamma * back_projected[..., :half]
    inner = _alias_fold_half(h[..., :half] * b, factor, v.shape[-1])  # (B, C, H/s, W/s)
    inner = inner * (gamma / (1.0 + gamma * folded_power))
    tiled = inner.repeat(1, 1, factor, factor // 2 + 1)[..., :half]
    z: Tensor = torch.fft.irfft2(b - h[..., :half].conj() * tiled, s=v.shape[-2:])
    return z


def _on_cpu(
    v: Tensor, h: Tensor, folded_power: Tensor, back_projected: Tensor, factor: int, gamma: Tensor
) -> Tensor:
    """Runs the step of our own loops without its noise; torch solves other sizes."""
    if not cpu.has_own_loops(v.shape[2], v.shape[3], factor):
        return by_torch(v, h, folded_power, back_projected, factor, gamma)
    out = cpu.empty(v)
    spectra = (cpu.array(h), cpu.array(folded_power), cpu.array(back_projected))
    rest = (cpu.ZERO, factor, *cpu.nobody(len(v)), cpu.array(out), torch.get_num_threads())
    anchors = (cpu.array(v), None, cpu.ONE)
    cpu.extension().alias_prox_noise(*anchors, *spectra, cpu.scalars(gamma), *rest)
    return out


def _by_triton(
    v: Tensor, h: Tensor, folded_power: Tensor, back_projected: Tensor, factor: int, gamma: Tensor
) -> Tensor:
    """fft2, one kernel in place, ifft2."""
    V = torch.fft.fft2(v)
    triton.launch("alias_prox", V, h, folded_power, back_projected, gamma, factor, out=V)
    z: Tensor = torch.fft.ifft2(V).real
    return z


def _step_on_cpu(
    call: InnerCall, h: Tensor, folded_power: Tensor, back_projected: Tensor, factor: int
) -> Tensor:
    x = call.anchors.x
    if not cpu.has_own_loops(x.shape[2], x.shape[3], factor):
        constants = (h, folded_power, back_projected, factor)
        z = by_torch(call.anchors.combined(), *constants, call.gamma)
        return noise.add_to_own(z, call.scale, call.identity, call.out)
    out = cpu.empty(x) if call.out is None else call.out
    spectra = (cpu.array(h), cpu.array(folded_power), cpu.array(back_projected))
    scale, *who = cpu.noise_arrays(call)
    rest = (scale, factor, *who, cpu.array(out), torch.get_num_threads())
    cpu.extension().alias_prox_noise(
        *cpu.anchor_arrays(call), *spectra, cpu.scalars(call.gamma), *rest
    )
    return out


def launch_alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    factor: int,
    steps: StepTable,
    noise: cuda.Stream,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The inner step on CUDA with the next row of the table; see `cuda_extension.next_row`."""
    _, channels, height, width = x.shape
    constants = (h, folded_power, back_projected, factor)
    with cuda.next_row(x, steps, out) as (kernels, table, out, stream):
        if cuda.has_own_kernels(height, width, factor):
            spectrum = cuda.spectrum_of(x, channels, width // 2)
            kernels.alias_prox_noise(x, x_t, *constants, table, noise, spectrum, out, stream)
        else:
            V = torch.fft.fft2(cuda.combined(x, x_t, table, stream))
            kernels.alias_combine(x, V, *constants, table, stream)
            z = torch.fft.ifft2(V).real.contiguous()
            kernels.langevin_noise(z, table, noise, out, stream)
    return out


PROX: Table = {"torch": by_torch, "cpu": _on_cpu, "triton": _by_triton}
STEP: Table = {
    "torch": noise.followed_by_noise(by_torch, noise.add_by_torch),
    "cpu": _step_on_cpu,
    "triton": noise.followed_by_noise(_by_triton, noise.add_by_triton),
    "cuda": cuda.one_step(launch_alias_prox_noise),
}


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
    check_images("v", v)
    _check_spectra("v", v, h, folded_power, back_projected, factor)
    gammas = per_image(gamma, v)
    run = choose(PROX, backend, v, h, folded_power, back_projected, gammas, spectra=True)
    z: Tensor = run(v, h, folded_power, back_projected, factor, gammas)
    return z


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
    who = (seed, image_ids, sample_ids, step)
    call = check_inner(x, x_t, x_weight, gamma, scale, who, out)
    spectra = (h, folded_power, back_projected)
    _check_spectra("x", x, *spectra, factor)
    run = choose(STEP, backend, *call.tensors(), *spectra, spectra=True)
    z: Tensor = run(call, *spectra, factor)
    return z


def _check_spectra(
    name: str, x: Tensor, h: Tensor, folded_power: Tensor, back_projected: Tensor, factor: int
) -> None:
    size = (x.shape[2], x.shape[3])
    if factor < 1 or size[0] % factor or size[1] % factor:
        raise invalid(name, f"sides divisible by {factor}", tuple(x.shape), "crop the image")
    check_planes("h", h, name, x, size, is_complex=True)
    check_planes("back_projected", back_projected, name, x, size, is_complex=True)
    check_planes("folded_power", folded_power, name, x, (size[0] // factor, size[1] // factor))
