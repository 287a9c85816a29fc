"""Entry by entry: what a mask keeps, two anchors as one, the running mean and deviation."""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops import cpu_extension as cpu
from latino_engine.ops.checks import check_same, check_state, per_image
from latino_engine.ops.dispatch import Backend, Table, choose


def kept_by_torch(x: Tensor, mask: Tensor) -> Tensor:
    """The specification: x with exact zeros where m = 0; a product would let NaN through."""
    return torch.where(mask > 0, x, torch.zeros((), dtype=x.dtype, device=x.device))


def kept_on_cpu(x: Tensor, mask: Tensor) -> Tensor:
    """mask x, for x and mask of four axes."""
    out = cpu.empty(x)
    rest = (cpu.array(mask), cpu.array(out), torch.get_num_threads())
    cpu.extension().keep_observed(cpu.array(x), *rest)
    return out


def _combined_by_torch(x: Tensor, x_t: Tensor, x_weight: Tensor) -> Tensor:
    """The specification; one kernel in torch already."""
    return torch.lerp(x_t, x, x_weight)


def _moments_by_torch(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The specification."""
    delta = x - mean
    mean = mean + delta / count
    return mean, m2 + delta * (x - mean)


def _moments_on_cpu(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    moved, deviations = torch.empty((2, *mean.shape), dtype=torch.float32).unbind(0)
    outputs = (cpu.array(moved), cpu.array(deviations), torch.get_num_threads())
    cpu.extension().running_moments(cpu.array(mean), cpu.array(m2), count, cpu.array(x), *outputs)
    return moved, deviations


KEPT: Table = {"torch": kept_by_torch, "cpu": kept_on_cpu}
COMBINED: Table = {"torch": _combined_by_torch}
MOMENTS: Table = {"torch": _moments_by_torch, "cpu": _moments_on_cpu}


def keep_observed(x: Tensor, mask: Tensor, *, backend: Backend = "auto") -> Tensor:
    """x where m > 0, else exactly 0, even for NaN.

    Args:
        x: (B, C, H, W), real.
        mask: broadcasts against x; "cpu" takes (B|1, C|1, H, W).
        backend: "auto", "torch" or "cpu".
    """
    fits = mask.ndim == 4 and cpu.broadcasts_to_planes(mask, x)
    obstacle = None if fits else "a mask that is not (B|1, C|1, H, W)"
    kept: Tensor = choose(KEPT, backend, x, mask, obstacle=obstacle)(x, mask)
    return kept


def combine_anchors(x: Tensor, x_t: Tensor, x_weight: float | Tensor) -> Tensor:
    """a x + (1 - a) x_t; x, x_t (B, C, H, W), a in [0, 1] a number or (B,)."""
    check_state("x_t", x_t, "x", x)
    return _combined_by_torch(x, x_t, per_image(x_weight, x, "x_weight"))


def running_moments(
    mean: Tensor, m2: Tensor, count: int, x: Tensor, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Welford's update of (mean, sum of squared deviations) with the count-th value x, from 1.

    Source: Welford, "Note on a method for calculating corrected sums of squares and products"
    (1962). `backend` is "auto", "torch" or "cpu".
    """
    if count < 1:
        raise invalid("count", "a count from 1", count, "count the value being added")
    check_same("mean", mean, "x", x, "start from zeros of x's shape")
    check_same("m2", m2, "x", x, "start from zeros of x's shape")
    run = choose(MOMENTS, backend, mean, m2, x)
    moments: tuple[Tensor, Tensor] = run(mean, m2, count, x)
    return moments
