"""The sampler as a network to train: a denoiser inside N x K unfolded steps of learned sizes."""

from __future__ import annotations

import copy
from collections.abc import ItemsView, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latino_engine import ops
from latino_engine.distill.lora import adapt, trained_weights
from latino_engine.distill.runs import counted, stopped
from latino_engine.learned_schedule import LearnedSchedule, Table
from latino_engine.ops.philox import START_STEP
from latino_engine.priors.prior import Prior
from latino_engine.sampler import estimate, sample_posterior
from latino_engine.sampling.eager_steps import PlainSteps
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.sampling.problem import Problem
from latino_engine.schedule import (
    INPAINTING_R,
    OuterStep,
    Scalar,
    Schedule,
    ud2m_schedule,
)

#: Where the training of (r, d) starts, by operator class: 2 and 3 reach further than the 1 and 1 of
#: the untrained schedule, so that the first denoiser call sees noise above the start's errors.
_FIRST_STEPS = {"Inpainting": (INPAINTING_R, 1.0)}
_OTHER_FIRST_STEPS = (2.0, 3.0)


@dataclass(frozen=True, eq=False)
class TrainingStream(NoiseStream):
    """The same noise as `NoiseStream`, made outside the graph that gradients need."""

    def langevin(self, z: Tensor, scale: Scalar, step: int) -> Tensor:
        """z + scale * eps_step; z (P, C, H, W), scale a number or (P,)."""
        moved: Tensor = z + ops.per_image(scale, z, "scale") * self._normals(z, step)
        return moved

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        """x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps)."""
        assert outer.sigma_n is not None and outer.sigma_next is not None
        kept = (1.0 - outer.zeta) ** 0.5 * (x_t - x0_hat) / outer.sigma_n
        fresh = outer.zeta**0.5 * self._normals(x0_hat, outer.noise_step)
        moved: Tensor = x0_hat + outer.sigma_next * (kept + fresh)
        return moved

    def _normals(self, like: Tensor, step: int) -> Tensor:
        images, samples = self.image_ids.to(like.device), self.sample_ids.to(like.device)
        return ops.gaussian_noise(self.seed, images, samples, step, tuple(like.shape))


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """True images and their measurements.

    Attributes:
        x: (B, C, H, W), internal units.
        problem: y, the forward model and the start.
        image_ids: (B,) names of the images in the random stream.
        seed: of the sampler's noise.
        step: of the run, from 0.
    """

    x: Tensor
    problem: Problem
    image_ids: Tensor
    seed: int
    step: int

    def steps(self, index: Tensor, sample_ids: Tensor) -> PlainSteps:
        """The sampler's steps for the pairs (image, sample id), with gradients."""
        stream = TrainingStream(self.seed, self.image_ids[index], sample_ids)
        return PlainSteps(self.problem.data_step(index), stream)


class StepSizes(nn.Module):
    """r, d and lambda of every (n, k) as exp of a free number: positive whatever happens."""

    def __init__(self, num_outer: int, unfold: int, r: float, d: float) -> None:
        super().__init__()
        start = torch.ones(num_outer, unfold, dtype=torch.float64)
        self.log_r = nn.Parameter((r * start).log())
        self.log_d = nn.Parameter((d * start).log())
        self.log_lam = nn.Parameter(0.0 * start)

    def tables(self) -> dict[str, Tensor]:
        """r, d, lam: (N, K) float64."""
        return {"r": self.log_r.exp(), "d": self.log_d.exp(), "lam": self.log_lam.exp()}


class Unfolded(nn.Module):
    """N x K unfolded steps around an adapted denoiser, run by `sampler.sample_posterior`.

    Args:
        prior: its denoiser is copied; the chosen weights of the copy are trained.
        sigmas: noise level of each outer step, the largest first, internal units.
        unfold: K.
        kinds: operator classes that get step sizes of their own.
        targets, rank, alpha, seed: as in `lora.adapt`.
        c, zeta: of the schedule.
        checkpointing: keep no activations of the network and compute them again for the gradient.
        autocast: run the network's convolutions and linear layers in bfloat16.
        init_network: (y, op) -> public image, trained along.
    """

    def __init__(
        self,
        prior: Prior,
        sigmas: Sequence[float],
        unfold: int,
        kinds: Sequence[str],
        *,
        targets: str,
        rank: int,
        alpha: float,
        seed: int,
        c: float,
        zeta: float,
        checkpointing: bool,
        autocast: bool = False,
        init_network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spec = prior.spec
        self.sigmas, self.unfold, self.c, self.zeta = tuple(sigmas), unfold, c, zeta
        self.checkpointing, self.autocast = checkpointing, autocast
        self.denoiser = copy.deepcopy(prior.denoiser)
        self.init_network = init_network
        adapt(self.network, targets, rank, alpha, seed)
        self.steps = nn.ModuleDict(
            {k: StepSizes(len(sigmas), unfold, *first_steps(k)) for k in kinds}
        )

    @property
    def network(self) -> nn.Module:
        """The network inside the preconditioned denoiser."""
        return cast(nn.Module, self.denoiser.network)

    def forward(self, batch: TrainingBatch, index: Tensor, sample_ids: Tensor) -> Tensor:
        """One sample for each pair (image, sample id): (P, C, H, W), internal units."""
        schedule = self.schedule(batch.problem, index)
        x_init = self.start(batch.problem)[index]
        return sample_posterior(batch.steps(index, sample_ids), self.denoise, schedule, x_init)

    def schedule(self, problem: Problem, index: Tensor) -> Schedule:
        """The schedule of the images `index`, with gradients to the step sizes."""
        tables = {name: [list(row.unbind()) for row in t] for name, t in self._tables(problem)}
        sigma_y = problem.sigma_of(index)
        return ud2m_schedule(
            sigma_y,
            self.sigmas,
            self.unfold,
            r=tables["r"],
            d=tables["d"],
            lam=tables["lam"],
            c=self.c,
            zeta=self.zeta,
        )

    @torch.no_grad()
    def check_step_sizes(self, problem: Problem, step: int) -> None:
        """Raises unless float32 holds the schedule: finite data steps, noise levels above 0.

        Args:
            problem: the images that the schedule is for.
            step: optimizer steps done.

        Raises:
            TrainingStopped: step sizes that left that range.
        """
        schedule = self.schedule(problem, torch.arange(len(problem.y)))
        inner = [one for outer in schedule.outer for one in outer.inner]
        moves = torch.stack([torch.as_tensor(one.gamma) for one in inner]).float()
        levels = torch.stack([torch.as_tensor(one.sigma_delta) for one in inner]).float()
        if not bool((moves.isfinite() & levels.isfinite() & (levels > 0.0)).all()):
            expected = f"data steps and noise levels that float32 can hold after {counted(step)}"
            raise stopped("step sizes", expected, "others", "lower step_size_rate")

    def _tables(self, problem: Problem) -> ItemsView[str, Tensor]:
        """r, d, lam on the CPU, where the noise levels are; gradients pass through."""
        sizes = cast(StepSizes, self.steps[type(problem.operator).__name__])
        return {name: table.cpu() for name, table in sizes.tables().items()}.items()

    def start(self, problem: Problem) -> Tensor:
        """The problem's start, or the restoration network's, with gradients to it."""
        if self.init_network is None:
            return problem.x_init
        public = cast(Tensor, self.init_network(problem.y, problem.operator))
        return self.spec.scale * public + self.spec.offset

    def starts(self, batch: TrainingBatch) -> Tensor:
        """Where sample 0 stands before each outer time: (N, B, C, H, W), internal units."""
        index = torch.arange(len(batch.problem.y))
        outers, steps = self.schedule(batch.problem, index).outer, batch.steps(index, 0 * index)
        x = self.start(batch.problem)
        x_t = steps.start(x, self.sigmas[0])
        found = [x]
        for outer in outers[:-1]:
            x = estimate(steps, self.denoise, outer, x, x_t)
            x_t = steps.reverse(x, x_t, outer)
            found.append(x)
        return torch.stack(found)

    def estimate_at(self, levels: Tensor, x: Tensor, batch: TrainingBatch) -> Tensor:
        """x0_hat of the outer times `levels` (B,), one per image, from x_t = truth + noise."""
        index = torch.arange(len(levels))
        # Another sample id than that of `starts`, whose noise brought x here.
        steps = batch.steps(index, torch.ones_like(index))
        sigma_n = torch.tensor(self.sigmas, dtype=torch.float64)[levels]
        tables = {
            name: [list(table[levels].unbind(dim=1))] for name, table in self._tables(batch.problem)
        }
        schedule = ud2m_schedule(
            batch.problem.sigma_of(index),
            cast(Sequence[float], [sigma_n]),
            self.unfold,
            r=tables["r"],
            d=tables["d"],
            lam=tables["lam"],
            c=self.c,
        )
        x_t = steps.noise.langevin(batch.x, sigma_n, START_STEP)
        return estimate(steps, self.denoise, schedule.outer[0], x, x_t)

    def denoise(self, x_noisy: Tensor, sigma: Scalar) -> Tensor:
        """x0_hat of the adapted denoiser."""
        prior, kind = Prior(self.spec, self.denoiser), x_noisy.device.type

        def run(x: Tensor, level: Scalar) -> Tensor:
            with torch.autocast(kind, torch.bfloat16, enabled=self.autocast):
                return prior.denoise(x, level)

        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(run, x_noisy, sigma, use_reentrant=False))
        return run(x_noisy, sigma)

    def groups(self, weights: float, steps: float, init: float) -> list[dict[str, object]]:
        """Optimizer groups: the network's weights, the step sizes, the restoration network."""
        found: list[dict[str, object]] = [
            {"params": [p for p in self.network.parameters() if p.requires_grad], "peak": weights},
            {"params": list(self.steps.parameters()), "peak": steps},
        ]
        if self.init_network is not None:
            found.append({"params": list(self.init_network.parameters()), "peak": init})
        return found

    def learned_schedule(self) -> LearnedSchedule:
        """The schedule as it stands, in plain numbers."""
        steps: dict[str, Mapping[str, Table]] = {}
        for kind, sizes in self.steps.items():
            tables = cast(StepSizes, sizes).tables()
            steps[kind] = {name: _numbers(table) for name, table in tables.items()}
        return LearnedSchedule(self.sigmas, self.unfold, steps, self.c, self.zeta)

    def adapter_weights(self) -> dict[str, Tensor]:
        """What the adapter's file holds."""
        return trained_weights(self.network)


def first_steps(kind: str) -> tuple[float, float]:
    """(r, d) where the training of an operator class starts."""
    return _FIRST_STEPS.get(kind, _OTHER_FIRST_STEPS)


def _numbers(table: Tensor) -> Table:
    return tuple(tuple(float(number) for number in row) for row in table.detach().tolist())
