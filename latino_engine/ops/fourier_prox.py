"""The data step of a circular convolution, alone and as a whole inner step of the sampler.

(gamma conj(h) Y + V) / (gamma |h|^2 + 1) on half-spectra: the normal equations of
argmin_x gamma/2 ||h * x - y||^2 + 1/2 ||x - v||^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latino_engine.ops import cpu_extension as cpu
from latino_engine.ops import cuda_extension as cuda
from latino_engine.ops import noise, triton
from latino_engine.ops.arguments import InnerCall, half_size
from latino_engine.ops.checks import check_images, check_inner, check_planes, per_image
from latino_engine.ops.dispatch import Backend, Table, choose
from latino_engine.ops.step_table import StepTable


def by_torch(v: Tensor, power: Tensor, back_projected: Tensor, gamma: Tensor) -> Tensor:
    """The specification: power and back_projected are half-spectra (B|1, C|1, H, W//2+1)."""
    V = torch.fft.rfft2(v)  # (B, C, H, W//2+1)
    X = (gamma * back_projected + V) / (gamma * power + 1.0)
    z: Tensor = torch.fft.irfft2(X, s=v.shape[-2:])
    return z


def _on_cpu(v: Tensor, power: Tensor, back_projected: Tensor, gamma: Tensor) -> Tensor:
    """Runs the step of our own loops without its noise; other sizes take torch.fft, one kernel."""
    constants = (cpu.array(power), cpu.array(back_projected), cpu.scalars(gamma))
    threads = torch.get_num_threads()
    if not cpu.has_own_loops(*v.shape[2:]):
        V = torch.fft.rfft2(v)
        cpu.extension().fourier_combine(cpu.array(V), *constants, threads)
        z: Tensor = torch.fft.irfft2(V, s=v.shape[-2:])
        return z
    out = cpu.empty(v)
    rest = (cpu.ZERO, *cpu.nobody(v.shape[0]), cpu.array(out), threads)
    cpu.extension().fourier_prox_noise(cpu.array(v), None, cpu.ONE, *constants, *rest)
    return out


def _by_triton(v: Tensor, power: Tensor, back_projected: Tensor, gamma: Tensor) -> Tensor:
    """rfft2, one kernel in place, irfft2."""
    V = torch.fft.rfft2(v)
    triton.launch("fourier_prox", V, power, back_projected, gamma, out=V)
    z: Tensor = torch.fft.irfft2(V, s=v.shape[-2:])
    return z


def _step_on_cpu(call: InnerCall, power: Tensor, back_projected: Tensor) -> Tensor:
    x = call.anchors.x
    if not cpu.has_own_loops(*x.shape[2:]):
        z = _on_cpu(call.anchors.combined(), power, back_projected, call.gamma)
        return noise.add_to_own(z, call.scale, call.identity, call.out)
    out = cpu.empty(x) if call.out is None else call.out
    constants = (cpu.array(power), cpu.array(back_projected), cpu.scalars(call.gamma))
    rest = (*cpu.noise_arrays(call), cpu.array(out), torch.get_num_threads())
    cpu.extension().fourier_prox_noise(*cpu.anchor_arrays(call), *constants, *rest)
    return out


def launch_fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    power: Tensor,
    back_projected: Tensor,
    steps: StepTable,
    noise: cuda.Stream,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The inner step on CUDA with the next row of the table; see `cuda.next_row`."""
    _, channels, height, width = x.shape
    with cuda.next_row(x, steps, out) as (kernels, table, out, stream):
        if cuda.has_own_kernels(height, width):
            spectrum = cuda.spectrum_of(x, channels, width // 2)
            rest = (table, noise, spectrum, out, stream)
            kernels.fourier_prox_noise(x, x_t, power, back_projected, *rest)
        else:
            V = torch.fft.rfft2(cuda.combined(x, x_t, table, stream))
            kernels.fourier_combine(x, V, power, back_projected, table, stream)
            z = torch.fft.irfft2(V, s=(height, width)).contiguous()
            kernels.langevin_noise(z, table, noise, out, stream)
    return out


PROX: Table = {"torch": by_torch, "cpu": _on_cpu, "triton": _by_triton}
STEP: Table = {
    "torch": noise.followed_by_noise(by_torch, noise.add_by_torch),
    "cpu": _step_on_cpu,
    "triton": noise.followed_by_noise(_by_triton, noise.add_by_triton),
    "cuda": cuda.one_step(launch_fourier_prox_noise),
}


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
    check_images("v", v)
    check_planes("power", power, "v", v, half_size(v))
    check_planes("back_projected", back_projected, "v", v, half_size(v), is_complex=True)
    tensors = (v, power, back_projected, per_image(gamma, v))
    z: Tensor = choose(PROX, backend, *tensors, spectra=True)(*tensors)
    return z


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
        x: (P, C, H, W), float32 or float64.
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
    who = (seed, image_ids, sample_ids, step)
    call = check_inner(x, x_t, x_weight, gamma, scale, who, out)
    check_planes("power", power, "x", x, half_size(x))
    check_planes("back_projected", back_projected, "x", x, half_size(x), is_complex=True)
    constants = (power, back_projected)
    z: Tensor = choose(STEP, backend, *call.tensors(), *constants, spectra=True)(call, *constants)
    return z
