"""Noise by itself: normals, a Langevin step's and a reverse step's, and data steps that noise ends.

Each backend makes eps where it is added; only torch writes an array of normals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from latino_engine.ops import cpu_extension as cpu
from latino_engine.ops import cuda_extension as cuda
from latino_engine.ops import triton
from latino_engine.ops.arguments import Identity, InnerCall, placed, plain
from latino_engine.ops.checks import (
    check_identity,
    check_out,
    check_real,
    check_state,
    per_image,
)
from latino_engine.ops.dispatch import Backend, Table, choose
from latino_engine.ops.philox import philox_normals
from latino_engine.ops.step_table import StepTable

Size: TypeAlias = tuple[int, int, int, int]
#: (sigma_next, kept, renewed); to torch they may also be (P, 1, 1, 1)
Row: TypeAlias = Sequence[float | Tensor]


# ---- eps ---------------------------------------------------------------------------------------


def normals_by_torch(identity: Identity, shape: Size, out: Tensor | None) -> Tensor:
    """The specification: standard normals (P, C, H, W) as float32."""
    return placed(philox_normals(*identity, shape).to(torch.float32), out)


def _normals_on_cpu(identity: Identity, shape: Size, out: Tensor | None) -> Tensor:
    out = torch.empty(shape, dtype=torch.float32) if out is None else out
    rest = (*cpu.identity_arrays(identity), cpu.array(out), torch.get_num_threads())
    cpu.extension().gaussian_noise(*rest)
    return out


def _normals_by_triton(identity: Identity, shape: Size, out: Tensor | None) -> Tensor:
    out = torch.empty(shape, device=identity.image_ids.device) if out is None else out
    if out.numel():
        triton.launch("gaussian_noise", *identity.plain(), shape, out=out)
    return out


def launch_gaussian_noise(out: Tensor, steps: StepTable, noise: cuda.Stream) -> Tensor:
    """out = eps on CUDA in one launch, at the noise step of the table's next row."""
    with cuda.next_row(out, steps, out) as (kernels, table, out, stream):
        kernels.gaussian_noise(table, noise, out, stream)
    return out


def _normals_by_cuda(identity: Identity, shape: Size, out: Tensor | None) -> Tensor:
    out = torch.empty(shape, device=identity.image_ids.device) if out is None else out
    if out.numel():
        launch_gaussian_noise(out, *cuda.row_of((0.0, 0.0, 1.0), out, identity))
    return out


GAUSSIAN: Table = {
    "torch": normals_by_torch,
    "cpu": _normals_on_cpu,
    "triton": _normals_by_triton,
    "cuda": _normals_by_cuda,
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
        step: the position in the chain, 0 <= step < 2^32; `latino_engine.ops.philox` lists whose
            noise stands where.
        shape: (P, C, H, W), C <= 1024.
        backend: "auto", "torch", "cpu", "triton" or "cuda", see `latino_engine.ops.dispatch`.
        out: where the result is written, float32 and contiguous; allocated if None.

    Raises:
        ValueError, TypeError: an argument out of its range or a backend that cannot serve.
    """
    identity, size = check_identity(seed, image_ids, sample_ids, step, shape)
    like = torch.empty(0, device=identity.image_ids.device)
    check_out(out, like, size)
    eps: Tensor = choose(GAUSSIAN, backend, like, out)(identity, size, out)
    return eps


# ---- z + scale eps -----------------------------------------------------------------------------


def add_by_torch(z: Tensor, scale: Tensor, identity: Identity, out: Tensor | None) -> Tensor:
    """The specification: z + scale eps."""
    pairs, channels, height, width = z.shape
    eps = normals_by_torch(identity, (pairs, channels, height, width), None)
    return placed(torch.addcmul(z, scale, eps.to(z)), out)


def _add_on_cpu(z: Tensor, scale: Tensor, identity: Identity, out: Tensor | None) -> Tensor:
    out = cpu.empty(z) if out is None else out
    rest = (*cpu.identity_arrays(identity), cpu.array(out), torch.get_num_threads())
    cpu.extension().langevin_noise(cpu.array(z), cpu.scalars(scale), *rest)
    return out


def add_to_own(z: Tensor, scale: Tensor, identity: Identity, out: Tensor | None) -> Tensor:
    """z + scale eps on the CPU, in the memory of z, which nobody else has, where `out` is None."""
    z = z.contiguous()
    return _add_on_cpu(z, scale, identity, z if out is None else out)


def add_by_triton(z: Tensor, scale: Tensor, identity: Identity, out: Tensor | None) -> Tensor:
    """z + scale eps by one Triton kernel."""
    out = triton.memory(out, z, z)
    if out.numel():
        triton.launch("langevin_noise", z, scale, *identity.plain(), out=out)
    return out


def launch_langevin_noise(
    z: Tensor, steps: StepTable, noise: cuda.Stream, *, out: Tensor | None = None
) -> Tensor:
    """z + scale eps on CUDA in one launch, with the next row of the table."""
    with cuda.next_row(z, steps, out) as (kernels, table, out, stream):
        kernels.langevin_noise(z, table, noise, out, stream)
    return out


def _add_by_cuda(z: Tensor, scale: Tensor, identity: Identity, out: Tensor | None) -> Tensor:
    if z.numel() == 0:
        return z.clone() if out is None else out
    return launch_langevin_noise(plain(z), *cuda.row_of((0.0, 0.0, scale), z, identity), out=out)


LANGEVIN: Table = {
    "torch": add_by_torch,
    "cpu": _add_on_cpu,
    "triton": add_by_triton,
    "cuda": _add_by_cuda,
}


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
        z: (P, C, H, W), float32 or float64; differentiable, as is scale.
        scale: a number or (P,).
        seed, image_ids, sample_ids, step, backend: as in `gaussian_noise`.
        out: where the result is written, may be z itself; allocated if None.

    Raises:
        ValueError, TypeError: as `gaussian_noise`.
    """
    check_real("z", z)
    identity, _ = check_identity(seed, image_ids, sample_ids, step, z.shape, z.device)
    scales = per_image(scale, z, "scale")
    check_out(out, z, z.shape)
    moved: Tensor = choose(LANGEVIN, backend, z, scales, out)(z, scales, identity, out)
    return moved


def followed_by_noise(
    prox: Callable[..., Tensor], add_noise: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """The inner step prox(a x + (1 - a) x_t, *constants, gamma) + scale eps of two operations."""

    def step(call: InnerCall, *constants: Any) -> Tensor:
        z = prox(call.anchors.combined(), *constants, call.gamma)
        return add_noise(z, call.scale, call.identity, call.out)

    return step


# ---- x0 + sigma_next (kept (x_t - x0) + renewed eps) -------------------------------------------


def reverse_by_torch(
    x0_hat: Tensor, x_t: Tensor, row: Row, identity: Identity, out: Tensor | None
) -> Tensor:
    """The specification."""
    sigma_next, kept, renewed = row
    pairs, channels, height, width = x_t.shape
    eps = normals_by_torch(identity, (pairs, channels, height, width), None).to(x_t)
    return placed(x0_hat + sigma_next * (kept * (x_t - x0_hat) + renewed * eps), out)


def _reverse_on_cpu(
    x0_hat: Tensor, x_t: Tensor, row: Row, identity: Identity, out: Tensor | None
) -> Tensor:
    out = cpu.empty(x0_hat) if out is None else out
    rest = (*cpu.identity_arrays(identity), cpu.array(out), torch.get_num_threads())
    cpu.extension().reverse_step(cpu.array(x0_hat), cpu.array(x_t), *row, *rest)
    return out


def _reverse_by_triton(
    x0_hat: Tensor, x_t: Tensor, row: Row, identity: Identity, out: Tensor | None
) -> Tensor:
    out = triton.memory(out, x_t, x0_hat, x_t)
    if out.numel():
        triton.launch("reverse_step", x0_hat, x_t, *row, *identity.plain(), out=out)
    return out


def launch_reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    steps: StepTable,
    noise: cuda.Stream,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The reverse step on CUDA in one launch; rows are (sigma_next, kept, renewed)."""
    with cuda.next_row(x_t, steps, out) as (kernels, table, out, stream):
        kernels.reverse_step(x0_hat, x_t, table, noise, out, stream)
    return out


def _reverse_by_cuda(
    x0_hat: Tensor, x_t: Tensor, row: Row, identity: Identity, out: Tensor | None
) -> Tensor:
    if x_t.numel() == 0:
        return x_t.clone() if out is None else out
    return launch_reverse_step(plain(x0_hat), plain(x_t), *cuda.row_of(row, x_t, identity), out=out)


REVERSE: Table = {
    "torch": reverse_by_torch,
    "cpu": _reverse_on_cpu,
    "triton": _reverse_by_triton,
    "cuda": _reverse_by_cuda,
}


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
    out: Tensor | None = None,
) -> Tensor:
    """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps) [UD2M, Alg. 1].

    Args:
        x0_hat, x_t: (P, C, H, W), float32 or float64, of one dtype.
        sigma_n: noise level of x_t, > 0.
        sigma_next: noise level of the result.
        zeta: share of fresh noise, in [0, 1].
        seed, image_ids, sample_ids, step, backend: as in `gaussian_noise`.
        out: where the result is written, may be x0_hat or x_t itself; allocated if None.
    """
    check_real("x0_hat", x0_hat)
    check_state("x_t", x_t, "x0_hat", x0_hat)
    identity, _ = check_identity(seed, image_ids, sample_ids, step, x0_hat.shape, x0_hat.device)
    check_out(out, x0_hat, x0_hat.shape)
    run = choose(REVERSE, backend, x0_hat, x_t, out)
    row = (sigma_next, math.sqrt(1.0 - zeta) / sigma_n, math.sqrt(zeta))
    moved: Tensor = run(x0_hat, x_t, row, identity, out)
    return moved
