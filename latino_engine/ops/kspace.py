"""Masks in k-space: single-coil MRI's A, its adjoint and its data step, alone and with noise.

F = fftshift fft2(ifftshift x), orthonormal: DC lies in the middle. Complex images and k-space
travel as two channels (re, im).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops import cpu_extension as cpu
from latino_engine.ops import cuda_extension as cuda
from latino_engine.ops import noise, triton
from latino_engine.ops.arguments import InnerCall
from latino_engine.ops.checks import check_inner, check_planes, per_image
from latino_engine.ops.dispatch import Backend, Table, choose
from latino_engine.ops.masked_prox import by_torch as masked_by_torch
from latino_engine.ops.pointwise import kept_by_torch, kept_on_cpu
from latino_engine.ops.step_table import StepTable

_AXES = (-2, -1)


# ---- m F x and F^-1 (m y) ----------------------------------------------------------------------


def _forward_by_torch(x: Tensor, mask: Tensor) -> Tensor:
    """The specification."""
    image = torch.complex(x[:, 0], x[:, 1] if x.shape[1] == 2 else torch.zeros_like(x[:, 0]))
    V = torch.fft.fft2(torch.fft.ifftshift(image, dim=_AXES), norm="ortho")
    V = torch.fft.fftshift(V, dim=_AXES)
    return kept_by_torch(torch.stack((V.real, V.imag), dim=1), mask)


def _forward_on_cpu(x: Tensor, mask: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    if not cpu.has_own_loops(height, width):
        if channels == 1:
            return _forward_by_torch(x, mask)
        V = torch.fft.fft2(_packed((cpu.array(x), None, cpu.ONE)), norm="ortho")
        return kept_on_cpu(_unpacked(V, (cpu.ZERO, *cpu.nobody(batch)), None), mask)
    out = torch.empty((batch, 2, height, width), dtype=torch.float32)
    rest = (cpu.array(mask), cpu.array(out), torch.get_num_threads())
    cpu.extension().kspace_forward(cpu.array(x), *rest)
    return out


def _adjoint_by_torch(y: Tensor, mask: Tensor, channels: int) -> Tensor:
    """The specification."""
    kept = kept_by_torch(y, mask)
    Y = torch.fft.ifftshift(torch.complex(kept[:, 0], kept[:, 1]), dim=_AXES)
    x = torch.fft.fftshift(torch.fft.ifft2(Y, norm="ortho"), dim=_AXES)
    return torch.stack((x.real, x.imag)[:channels], dim=1)


def _adjoint_on_cpu(y: Tensor, mask: Tensor, channels: int) -> Tensor:
    batch, _, height, width = y.shape
    if not cpu.has_own_loops(height, width):
        kept = kept_on_cpu(y, mask)
        x = torch.fft.ifft2(_packed((cpu.array(kept), None, cpu.ONE)), norm="ortho")
        image = _unpacked(x, (cpu.ZERO, *cpu.nobody(batch)), None)
        return image[:, :channels].contiguous()
    out = torch.empty((batch, channels, height, width), dtype=torch.float32)
    rest = (cpu.array(mask), cpu.array(out), torch.get_num_threads())
    cpu.extension().kspace_adjoint(cpu.array(y), *rest)
    return out


def _packed(anchors: tuple[Any, Any, Any]) -> Tensor:
    """ifftshift of images (B, 2, H, W), given as `cpu.anchor_arrays`, as complex (B, H, W)."""
    batch, _, height, width = anchors[0].shape
    image = torch.empty((batch, height, width), dtype=torch.complex64)
    cpu.extension().kspace_pack(*anchors, cpu.array(image), torch.get_num_threads())
    return image


def _unpacked(image: Tensor, noise: tuple[Any, ...], out: Tensor | None) -> Tensor:
    """fftshift of complex images (B, H, W) in their parts and noise, (B, 2, H, W)."""
    batch, height, width = image.shape
    out = torch.empty((batch, 2, height, width), dtype=torch.float32) if out is None else out
    rest = (*noise, cpu.array(out), torch.get_num_threads())
    cpu.extension().kspace_unpack(cpu.array(image), *rest)
    return out


# ---- the data step -----------------------------------------------------------------------------


def _prox_by_torch(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """The specification: F^-1 masked_prox(F v, mask, y), y not used where m = 0."""
    y = kept_by_torch(y, mask)
    corner = torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=_AXES)  # (P, 1, H, W)
    V = torch.fft.fftshift(torch.fft.fft2(corner, norm="ortho"), dim=_AXES)
    X = masked_by_torch(V, mask, torch.complex(y[:, :1], y[:, 1:]), gamma)
    image = torch.fft.ifft2(torch.fft.ifftshift(X, dim=_AXES), norm="ortho")
    image = torch.fft.fftshift(image, dim=_AXES)
    return torch.cat((image.real, image.imag), dim=1)  # (P, 2, H, W)


def _prox_on_cpu(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """The step without its noise."""
    noise, anchors = (cpu.ZERO, *cpu.nobody(len(v))), (cpu.array(v), None, cpu.ONE)
    if not cpu.has_own_loops(*v.shape[2:]):
        return _by_three_passes(anchors, mask, kept_on_cpu(y, mask), gamma, noise, None)
    out = cpu.empty(v)
    constants = (cpu.array(mask), cpu.array(y), cpu.scalars(gamma))
    rest = (*noise, cpu.array(out), torch.get_num_threads())
    cpu.extension().kspace_prox_noise(*anchors, *constants, *rest)
    return out


def _step_on_cpu(call: InnerCall, mask: Tensor, y: Tensor) -> Tensor:
    x, noise, anchors = call.anchors.x, cpu.noise_arrays(call), cpu.anchor_arrays(call)
    if not cpu.has_own_loops(*x.shape[2:]):
        return _by_three_passes(anchors, mask, y, call.gamma, noise, call.out)
    out = cpu.empty(x) if call.out is None else call.out
    constants = (cpu.array(mask), cpu.array(y), cpu.scalars(call.gamma))
    rest = (*noise, cpu.array(out), torch.get_num_threads())
    cpu.extension().kspace_prox_noise(*anchors, *constants, *rest)
    return out


def _by_three_passes(
    anchors: tuple[Any, Any, Any],
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    noise: tuple[Any, ...],
    out: Tensor | None,
) -> Tensor:
    """Runs torch.fft with a pass before, between and behind; y is finite everywhere."""
    V = torch.fft.fft2(_packed(anchors)).contiguous()
    constants = (cpu.array(mask), cpu.array(y), cpu.scalars(gamma))
    cpu.extension().kspace_combine(cpu.array(V), *constants, torch.get_num_threads())
    return _unpacked(torch.fft.ifft2(V), noise, out)


def _prox_by_triton(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    return _finite_prox_by_triton(v, mask, kept_by_torch(y, mask), gamma)


def _finite_prox_by_triton(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """fft2, one kernel in place, ifft2."""
    V = torch.fft.fft2(torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=_AXES))
    V = V.contiguous()
    side = math.sqrt(V.shape[-2] * V.shape[-1])
    image = torch.fft.ifft2(triton.launch("fourier_mask_prox", V, mask, y, gamma, side, out=V))
    image = torch.fft.fftshift(image, dim=_AXES)
    return torch.cat((image.real, image.imag), dim=1)


def launch_fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    mask: Tensor,
    y: Tensor,
    steps: StepTable,
    noise: cuda.Stream,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The inner step on CUDA with the next row of the table; see `cuda_extension.next_row`."""
    _, _, height, width = x.shape
    with cuda.next_row(x, steps, out) as (kernels, table, out, stream):
        if cuda.has_own_kernels(height, width):
            spectrum = cuda.spectrum_of(x, 1, width)
            kernels.fourier_mask_prox_noise(x, x_t, mask, y, table, noise, spectrum, out, stream)
        else:
            v = cuda.combined(x, x_t, table, stream)
            image = torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=_AXES)
            V = torch.fft.fftshift(torch.fft.fft2(image, norm="ortho"), dim=_AXES).contiguous()
            kernels.kspace_combine(x, V, mask, y, table, stream)
            image = torch.fft.ifft2(torch.fft.ifftshift(V, dim=_AXES), norm="ortho")
            image = torch.fft.fftshift(image, dim=_AXES)
            z = torch.cat((image.real, image.imag), dim=1)
            kernels.langevin_noise(z, table, noise, out, stream)
    return out


FORWARD: Table = {"torch": _forward_by_torch, "cpu": _forward_on_cpu}
ADJOINT: Table = {"torch": _adjoint_by_torch, "cpu": _adjoint_on_cpu}
PROX: Table = {"torch": _prox_by_torch, "cpu": _prox_on_cpu, "triton": _prox_by_triton}
STEP: Table = {
    "torch": noise.followed_by_noise(_prox_by_torch, noise.add_by_torch),
    "cpu": _step_on_cpu,
    "triton": noise.followed_by_noise(_finite_prox_by_triton, noise.add_by_triton),
    "cuda": cuda.one_step(launch_fourier_mask_prox_noise),
}


def kspace_forward(x: Tensor, mask: Tensor, *, backend: Backend = "auto") -> Tensor:
    """m F x, F = fftshift fft2(ifftshift x), orthonormal: (B, 2, H, W), DC in the middle.

    Args:
        x: images (B, 2, H, W) as (re, im), or real ones (B, 1, H, W).
        mask: (B|1, 1, H, W), m in {0, 1}.
        backend: "auto", "torch" or "cpu".
    """
    _check_kspace("x", x, mask, (1, 2))
    y: Tensor = choose(FORWARD, backend, x, mask)(x, mask)
    return y


def kspace_adjoint(
    y: Tensor, mask: Tensor, channels: int = 2, *, backend: Backend = "auto"
) -> Tensor:
    """F^-1 (m y): (B, 2, H, W), or with one channel its real part. y is not used where m = 0.

    Args:
        y: k-space (B, 2, H, W) as (re, im), DC in the middle.
        mask: (B|1, 1, H, W), m in {0, 1}.
        channels: 1 or 2.
        backend: "auto", "torch" or "cpu".
    """
    _check_kspace("y", y, mask, (2,))
    if channels not in (1, 2):
        raise invalid("channels", "1 or 2", channels, "give 2 for complex images")
    x: Tensor = choose(ADJOINT, backend, y, mask)(y, mask, channels)
    return x


def fourier_mask_prox(
    v: Tensor, mask: Tensor, y: Tensor, gamma: float | Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """argmin_x gamma/2 ||m (F x - y)||^2 + 1/2 ||x - v||^2 for complex images as (re, im).

    Args:
        v: (B, 2, H, W).
        mask: (B|1, 1, H, W) over k-space, DC in the middle, m in {0, 1}.
        y: (B|1, 2, H, W), k-space, DC in the middle; not used where m = 0.
        gamma: >= 0, a number or (B,).
        backend: "auto", "torch", "cpu" or "triton".
    """
    _check_kspace("v", v, mask, (2,))
    if y.ndim != 4 or y.shape[0] not in (1, v.shape[0]) or y.shape[1:] != v.shape[1:]:
        expected = f"({v.shape[0]}|1, 2, {v.shape[2]}, {v.shape[3]})"
        raise invalid("y", expected, tuple(y.shape), "match the image v")
    tensors = (v, mask, y, per_image(gamma, v))
    z: Tensor = choose(PROX, backend, *tensors)(*tensors)
    return z


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
    who = (seed, image_ids, sample_ids, step)
    call = check_inner(x, x_t, x_weight, gamma, scale, who, out)
    size = (x.shape[2], x.shape[3])
    check_planes("mask", mask, "x", x, size, channels=1)
    check_planes("y", y, "x", x, size)
    for name, tensor in (("x", x), ("y", y)):
        if tensor.shape[1] != 2:
            remedy = "store both parts"
            raise invalid(name, "2 channels (re, im)", tensor.shape[1], remedy)
    z: Tensor = choose(STEP, backend, *call.tensors(), mask, y)(call, mask, y)
    return z


def _check_kspace(name: str, x: Tensor, mask: Tensor, channels: tuple[int, ...]) -> None:
    if x.ndim != 4 or x.shape[1] not in channels:
        wanted = "|".join(map(str, channels))
        raise invalid(name, f"(B, {wanted}, H, W)", tuple(x.shape), "store (re, im) as channels")
    expected = ((1, *x.shape[2:]), (1, x.shape[0]))
    if mask.ndim != 4 or tuple(mask.shape[1:]) != expected[0] or mask.shape[0] not in expected[1]:
        wanted = f"({x.shape[0]}|1, 1, {x.shape[2]}, {x.shape[3]})"
        raise invalid("mask", wanted, tuple(mask.shape), f"match {name}")
