"""A schedule as one table of numbers in static memory, and the sampler's steps that read it there.

What a call changes (noise levels, step sizes, seed, ids) is then a matter of writing the table, and
one captured graph serves every call whose schedule has the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.fused_step import FixedStep, FusedStep
from latino_engine.ops.arguments import Identity
from latino_engine.ops.dispatch import serves
from latino_engine.ops.noise import add_by_torch, reverse_by_torch
from latino_engine.ops.philox import START_STEP
from latino_engine.ops.step_table import StepTable
from latino_engine.sampler import Denoiser, sample_posterior
from latino_engine.schedule import InnerStep, OuterStep, Scalar, Schedule


def is_skipped(gamma: Scalar) -> bool:
    """Whether a step of this gamma has no prox, as `latino_engine.sampler` decides it."""
    return isinstance(gamma, float) and gamma == 0.0


def structure(schedule: Schedule) -> tuple[Hashable, ...]:
    """What of a schedule is no number in the table: two calls that agree here can share a graph."""
    outer = tuple(
        (
            outer.sigma_n is not None,
            outer.sigma_next is not None,
            outer.noise_step,
            tuple((is_skipped(step.gamma), step.noise_step) for step in outer.steps),
        )
        for outer in schedule.outer
    )
    return (outer, schedule.final_gamma is not None)


def table_rows(schedule: Schedule, pairs: int) -> tuple[Tensor, list[int]]:
    """Rows of three floats in the order of the launches, (R, P, 3) float32, and their noise steps.

    A start is (0, 0, sigma_start), an inner step (x_weight, gamma, c sigma_delta), a reverse step
    (sigma_next, sqrt(1 - zeta) / sigma_n, sqrt(zeta)).
    """
    rows: list[tuple[Scalar, Scalar, Scalar]] = []
    noise_steps: list[int] = []
    if schedule.sigma_start is not None:
        rows.append((0.0, 0.0, schedule.sigma_start))
        noise_steps.append(START_STEP)
    for outer in schedule.outer:
        for step in outer.steps:
            rows.append((step.x_weight, step.gamma, step.noise_scale))
            noise_steps.append(step.noise_step)
        if outer.sigma_n is not None and outer.sigma_next is not None:
            kept = math.sqrt(1.0 - outer.zeta) / outer.sigma_n
            rows.append((outer.sigma_next, kept, math.sqrt(outer.zeta)))
            noise_steps.append(outer.noise_step)
    columns = [torch.stack([_row(value, pairs) for value in row], dim=-1) for row in rows]
    return torch.stack(columns), noise_steps


def denoiser_levels(schedule: Schedule, pairs: int, low: float, high: float) -> Tensor:
    """sigma_delta of every evaluation within the prior's range: (nfe, P) float32."""
    levels = [_row(step.sigma_delta, pairs) for outer in schedule.outer for step in outer.steps]
    return torch.stack(levels).clamp(low, high)


def final_gammas(schedule: Schedule, pairs: int) -> Tensor:
    """gamma of the last prox, (P,) float32; zeros where there is none."""
    return _row(0.0 if schedule.final_gamma is None else schedule.final_gamma, pairs)


@dataclass(frozen=True, eq=False)
class CallBuffers:
    """The static memory of a graph that a call writes before it is replayed.

    Attributes:
        x_init: the start, (P, C, H, W), internal units.
        constants: of the data step, as `FixedStep.constants`.
        steps: `table_rows` with their noise steps.
        levels: `denoiser_levels`.
        final_gamma: `final_gammas`.
        seed: int64 (1,), the seed's 64 bits.
        image_ids, sample_ids: int64 (P,).
    """

    x_init: Tensor
    constants: tuple[Tensor, ...]
    steps: StepTable
    levels: Tensor
    final_gamma: Tensor
    seed: Tensor
    image_ids: Tensor
    sample_ids: Tensor

    @classmethod
    def like(cls, x_init: Tensor, schedule: Schedule, step: FixedStep) -> CallBuffers:
        """Buffers for calls of this structure, on the device of x_init; contents undefined."""
        pairs, device = x_init.shape[0], x_init.device
        rows, noise_steps = table_rows(schedule, pairs)
        ids = torch.zeros(2, pairs, dtype=torch.int64, device=device)
        return cls(
            torch.empty(x_init.shape, dtype=torch.float32, device=device),
            tuple(torch.empty(c.shape, dtype=c.dtype, device=device) for c in step.constants),
            StepTable.of(list(rows.to(device).unbind(-1)), noise_steps),
            torch.empty(schedule.nfe, pairs, device=device),
            torch.empty(pairs, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
            ids[0],
            ids[1],
        )

    def write(
        self,
        x_init: Tensor,
        schedule: Schedule,
        step: FixedStep,
        sigma_range: tuple[float, float],
        identity: tuple[int, Tensor, Tensor],
    ) -> None:
        """All that this call brings along."""
        pairs = x_init.shape[0]
        rows, _ = table_rows(schedule, pairs)
        seed, image_ids, sample_ids = identity
        signed = seed - 2**64 if seed >= 2**63 else seed
        self.x_init.copy_(x_init)
        for buffer, constant in zip(self.constants, step.constants, strict=True):
            buffer.copy_(constant)
        self.steps.rows[..., :3].view(torch.float32).copy_(rows)
        self.levels.copy_(denoiser_levels(schedule, pairs, *sigma_range))
        self.final_gamma.copy_(final_gammas(schedule, pairs))
        self.seed.fill_(signed)
        self.image_ids.copy_(image_ids)
        self.sample_ids.copy_(sample_ids)


def sample_tabled(
    buffers: CallBuffers, schedule: Schedule, step: FixedStep, denoise: Denoiser
) -> Tensor:
    """`sample_posterior` on the contents of the buffers: (P, C, H, W), internal units.

    No number is read by the host, and none of `schedule` but its structure is used. Where
    the CUDA backend can serve, a fused data step is its launches alone.
    """
    buffers.steps.rewind()
    fused = serves("cuda", buffers.x_init)
    fixed = _TabledStep(step, buffers, fused)
    noise = _TabledNoise(buffers, fused)
    tabled = _tabled_schedule(buffers, schedule)
    return sample_posterior(buffers.x_init, tabled, fixed, denoise, noise)


def _row(value: Scalar, pairs: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).cpu().to(torch.float32).expand(pairs)


def _tabled_schedule(buffers: CallBuffers, schedule: Schedule) -> Schedule:
    """The schedule with views of the table in place of its numbers."""
    floats = buffers.steps.rows.view(torch.float32)
    row, evaluation = int(schedule.sigma_start is not None), 0
    outers = []
    for outer in schedule.outer:
        steps = []
        for step in outer.steps:
            gamma = step.gamma if is_skipped(step.gamma) else floats[row, :, 1]
            level = buffers.levels[evaluation]
            weight = floats[row, :, 0]
            steps.append(
                _TabledInner(gamma, level, 1.0, weight, step.noise_step, floats[row, :, 2])
            )
            row, evaluation = row + 1, evaluation + 1
        row += outer.sigma_n is not None and outer.sigma_next is not None
        outers.append(
            OuterStep(tuple(steps), outer.sigma_n, outer.sigma_next, outer.zeta, outer.noise_step)
        )
    final = None if schedule.final_gamma is None else buffers.final_gamma
    return Schedule(tuple(outers), final)


@dataclass(frozen=True)
class _TabledInner(InnerStep):
    """An inner step whose scale of the noise stands in the table as one number."""

    scale: Scalar

    @property
    def noise_scale(self) -> Scalar:
        return self.scale


@dataclass(frozen=True, eq=False)
class _TabledStep:
    """The data step on the static constants."""

    step: FixedStep
    buffers: CallBuffers
    fused: bool

    def __call__(self, v: Tensor, gamma: Scalar) -> Tensor:
        return self.step.prox(v, *self.buffers.constants, gamma)

    @property
    def with_noise(self) -> Callable[..., Tensor] | None:
        return self._launch if self.fused and isinstance(self.step, FusedStep) else None

    def _launch(self, x: Tensor, x_t: Tensor | None) -> Tensor:
        assert isinstance(self.step, FusedStep)
        b = self.buffers
        noise = (b.seed, b.image_ids, b.sample_ids)
        return self.step.launch(x, x_t, *b.constants, steps=b.steps, noise=noise)


class _TabledNoise:
    """The random stream of the buffers; every operation takes the next row of the table."""

    def __init__(self, buffers: CallBuffers, fused: bool) -> None:
        self._buffers = buffers
        self._fused = fused
        self._identity = (buffers.seed, buffers.image_ids, buffers.sample_ids)

    def langevin(self, z: Tensor, scale: Scalar, step: int) -> Tensor:
        if self._fused:
            steps = self._buffers.steps
            return ops.launch_langevin_noise(z.contiguous(), steps, self._identity)
        row = self._next_row(z)
        return add_by_torch(z, row[2], self._plain_identity(step), None)

    def inner(
        self, fused: Callable[..., Tensor], x: Tensor, x_t: Tensor | None, step: InnerStep
    ) -> Tensor:
        return fused(x, x_t)

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        if self._fused:
            steps = self._buffers.steps
            return ops.launch_reverse_step(x0_hat, x_t, steps, self._identity)
        identity = self._plain_identity(outer.noise_step)
        return reverse_by_torch(x0_hat, x_t, self._next_row(x_t), identity, None)

    def _next_row(self, like: Tensor) -> Sequence[Tensor]:
        """The three numbers of the next row, each (P, 1, 1, 1)."""
        steps = self._buffers.steps
        row = steps.rows.view(torch.float32)[steps.position, :, :3]
        steps.position += 1
        return row.reshape(-1, *([1] * (like.ndim - 1)), 3).unbind(-1)

    def _plain_identity(self, step: int) -> Identity:
        seed, image_ids, sample_ids = self._identity
        return Identity(seed.reshape(()), image_ids, sample_ids, step)
