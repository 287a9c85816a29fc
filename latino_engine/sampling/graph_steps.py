"""A schedule as one table of numbers in static memory, and the sampler's steps that read it there.

What a call changes (noise levels, step sizes, seed, ids) is then a matter of writing the table, and
one captured graph serves every call whose schedule has the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
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


def structure(schedule: Schedule) -> tuple[Hashable, ...]:
    """What of a schedule is no number in the table: two calls that agree here can share a graph."""
    outer = tuple(
        (
            outer.sigma_n is not None,
            outer.sigma_next is not None,
            outer.noise_step,
            tuple((inner.skips_prox, inner.noise_step) for inner in outer.inner),
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
        for inner in outer.inner:
            rows.append((inner.x_weight, inner.gamma, inner.noise_scale))
            noise_steps.append(inner.noise_step)
        if outer.sigma_n is not None and outer.sigma_next is not None:
            kept = math.sqrt(1.0 - outer.zeta) / outer.sigma_n
            rows.append((outer.sigma_next, kept, math.sqrt(outer.zeta)))
            noise_steps.append(outer.noise_step)
    columns = [torch.stack([_row(value, pairs) for value in row], dim=-1) for row in rows]
    return torch.stack(columns), noise_steps


def denoiser_levels(schedule: Schedule, pairs: int, low: float, high: float) -> Tensor:
    """sigma_delta of every evaluation within the prior's range: (nfe, P) float32."""
    levels = [_row(inner.sigma_delta, pairs) for outer in schedule.outer for inner in outer.inner]
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

    No number is read by the host, and none of `schedule` but its structure is used.
    """
    buffers.steps.rewind()
    levels = (buffers.levels[evaluation] for evaluation in range(schedule.nfe))
    return sample_posterior(
        GraphSteps(buffers, step), lambda x, _: denoise(x, next(levels)), schedule, buffers.x_init
    )


def _row(value: Scalar, pairs: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).cpu().to(torch.float32).expand(pairs)


class GraphSteps:
    """The steps whose numbers are the next row of the buffers' table, whatever the schedule says.

    Where the CUDA backend serves, each is its launches alone, but for a data step that has no fused
    form; elsewhere it is the reference.
    """

    def __init__(self, buffers: CallBuffers, data_step: FixedStep) -> None:
        self._buffers = buffers
        self._data_step = data_step
        self._launches = serves("cuda", buffers.x_init)
        self._identity = (buffers.seed, buffers.image_ids, buffers.sample_ids)

    def start(self, x: Tensor, sigma: float) -> Tensor:
        """x_t = sigma eps."""
        return self._langevin(torch.zeros_like(x), START_STEP)

    def propose(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """z + c sigma_delta eps, z = prox(v, y, gamma), v = both anchors as one."""
        buffers, step = self._buffers, self._data_step
        if self._launches and isinstance(step, FusedStep) and not inner.skips_prox:
            return step.launch(
                x, x_t, *buffers.constants, steps=buffers.steps, noise=self._identity
            )
        weight, gamma, _ = self._row()
        v = x if x_t is None else ops.combine_anchors(x, x_t, weight)
        z = v if inner.skips_prox else step.prox(v, *buffers.constants, gamma)
        return self._langevin(z, inner.noise_step)

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps)."""
        steps = self._buffers.steps
        if self._launches:
            return ops.launch_reverse_step(x0_hat, x_t, steps, self._identity)
        identity = self._plain_identity(outer.noise_step)
        moved = reverse_by_torch(x0_hat, x_t, self._planes(), identity, None)
        steps.position += 1
        return moved

    def finish(self, x: Tensor, gamma: Scalar) -> Tensor:
        """prox(x, y, gamma) with the gamma of the buffers."""
        return self._data_step.prox(x, *self._buffers.constants, self._buffers.final_gamma)

    def _langevin(self, z: Tensor, noise_step: int) -> Tensor:
        """z + scale * eps with the scale of the next row, which is then the last one."""
        steps = self._buffers.steps
        if self._launches:
            return ops.launch_langevin_noise(z.contiguous(), steps, self._identity)
        moved = add_by_torch(z, self._planes()[2], self._plain_identity(noise_step), None)
        steps.position += 1
        return moved

    def _row(self) -> Sequence[Tensor]:
        """The three numbers of the next row, each (P,)."""
        steps = self._buffers.steps
        return steps.rows.view(torch.float32)[steps.position, :, :3].unbind(-1)

    def _planes(self) -> Sequence[Tensor]:
        """The three numbers of the next row, each (P, 1, 1, 1)."""
        return [number.reshape(-1, 1, 1, 1) for number in self._row()]

    def _plain_identity(self, step: int) -> Identity:
        seed, image_ids, sample_ids = self._identity
        return Identity(seed.reshape(()), image_ids, sample_ids, step)
