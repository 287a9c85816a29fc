"""The data step of a mask over pixels, alone and as a whole inner step of the sampler.

(gamma m y + v) / (gamma m + 1) per entry, m in {0, 1}: inpainting, and with m = 1 denoising.
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
from latino_engine.ops.checks import check_device, check_inner, check_planes, per_image
from latino_engine.ops.dispatch import Backend, Table, choose
from latino_engine.ops.pointwise import kept_by_torch
from latino_engine.ops.step_table import StepTable


def by_torch(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """The specification."""
    weight = gamma * mask
    return (weight * y + v) / (weight + 1.0)


def _observed_by_torch(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    return by_torch(v, mask, kept_by_torch(y, mask), gamma)


def _on_cpu(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """Takes mask and y (B|1, C|1, H, W); y is not read where m = 0."""
    out = cpu.empty(v)
    planes = (cpu.array(v), cpu.array(_four_axes(mask)), cpu.array(_four_axes(y)))
    rest = (cpu.scalars(gamma), cpu.array(out), torch.get_num_threads())
    cpu.extension().masked_prox(*planes, *rest)
    return out


def _step_on_cpu(call: InnerCall, mask: Tensor, y: Tensor) -> Tensor:
    out = cpu.empty(call.anchors.x) if call.out is None else call.out
    constants = (cpu.array(mask), cpu.array(y), cpu.scalars(call.gamma))
    rest = (*cpu.noise_arrays(call), cpu.array(out), torch.get_num_threads())
    cpu.extension().masked_prox_noise(*cpu.anchor_arrays(call), *constants, *rest)
    return out


def _step_by_triton(call: InnerCall, mask: Tensor, y: Tensor) -> Tensor:
    """One launch, its scalars a table of one row."""
    x, x_t, x_weight = call.anchors
    out = triton.memory(call.out, x, x, x_t, mask, y)
    steps, identity = cuda.row_of((x_weight, call.gamma, call.scale), x, call.identity)
    table = (steps.rows.view(torch.float32), steps.rows[:, 0, 3], steps.counter)
    triton.launch("masked_prox_noise", x, x_t, mask, y, *table, *identity, out=out)
    return out


def launch_masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    mask: Tensor,
    y: Tensor,
    steps: StepTable,
    noise: cuda.Stream,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The inner step on CUDA in one launch, with the next row of the table."""
    with cuda.next_row(x, steps, out) as (kernels, table, out, stream):
        kernels.masked_prox_noise(x, x_t, mask, y, table, noise, out, stream)
    return out


PROX: Table = {"torch": by_torch, "cpu": _on_cpu}
OBSERVED: Table = {"torch": _observed_by_torch, "cpu": _on_cpu}
STEP: Table = {
    "torch": noise.followed_by_noise(by_torch, noise.add_by_torch),
    "cpu": _step_on_cpu,
    "triton": _step_by_triton,
    "cuda": cuda.one_step(launch_masked_prox_noise),
}


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
    fits = all(cpu.broadcasts_to_planes(tensor, v) for tensor in (mask, y))
    obstacle = None if fits else "mask or y that is not (B|1, C|1, H, W)"
    z: Tensor = choose(PROX, backend, v, mask, y, gammas, obstacle=obstacle)(v, mask, y, gammas)
    return z


def observed_prox(
    v: Tensor, mask: Tensor, y: Tensor, gamma: float | Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """`masked_prox` of real images; y is not used where m = 0, it may be NaN there.

    Args:
        v: (B, C, H, W).
        mask, y: (B|1, C|1, H, W), m in {0, 1}.
        gamma: >= 0, a number or (B,).
        backend: "auto", "torch" or "cpu".
    """
    for name, tensor in (("mask", mask), ("y", y)):
        if tensor.ndim != 4 or not cpu.broadcasts_to_planes(tensor, v):
            expected = "(B|1, C|1, H, W) for v " + str(tuple(v.shape))
            raise invalid(name, expected, tuple(tensor.shape), "match the image v")
    tensors = (v, mask, y, per_image(gamma, v))
    z: Tensor = choose(OBSERVED, backend, *tensors)(*tensors)
    return z


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
    who = (seed, image_ids, sample_ids, step)
    call = check_inner(x, x_t, x_weight, gamma, scale, who, out)
    check_planes("mask", mask, "x", x, (x.shape[2], x.shape[3]))
    check_planes("y", y, "x", x, (x.shape[2], x.shape[3]))
    z: Tensor = choose(STEP, backend, *call.tensors(), mask, y)(call, mask, y)
    return z


def _four_axes(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 4 else tensor.reshape((1,) * (4 - tensor.ndim) + tensor.shape)
