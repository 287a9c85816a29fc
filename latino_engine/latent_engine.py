"""An engine of a latent prior: LATINO as published, and LATINO-PRO."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latino_engine.engine import Engine
from latino_engine.errors import InvalidArgument, invalid, invalid_type, whole_number
from latino_engine.operators.protocol import Operator
from latino_engine.posterior import Posterior, init_name
from latino_engine.priors.latent.latent_folder import read_conditioning
from latino_engine.priors.latent.latent_schedule import (
    DELTAS,
    PRO_DELTAS,
    DeltaRule,
    PromptSearch,
    latent_schedule,
    latent_times,
    problem_name,
)
from latino_engine.priors.latent.prior import Conditioning
from latino_engine.runtimes.latent import LatentRuntime, open_latent
from latino_engine.sampling.chunks import Run
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.cuda_graph import Worker
from latino_engine.sampling.latent_chunks import LatentRun
from latino_engine.sampling.problem import Init, Measurement, Problem
from latino_engine.sampling.reporting import Progress
from latino_engine.sampling.tiles import Tiles
from latino_engine.schedule import Scalar, Schedule, ScheduleBuilder

LATENT_SAMPLERS = ("auto", "latino", "latino-pro")

#: None for the published row of the operator, the name of a row, a rule, a number, or one for each
#: step.
Delta: TypeAlias = "str | float | Sequence[float] | DeltaRule | None"


class LatentEngine(Engine):
    """A compiled latent prior: `sample(y, op)` draws from p(x | y, prompt)."""

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        backend: str,
        networks: LatentRuntime,
        threads: int | None,
        conditioning: Conditioning,
    ) -> None:
        super().__init__(folder, manifest, backend, networks, threads)
        self.networks = networks
        self.conditioning = conditioning
        self.delta: Delta = None

    def denoise(self, x_noisy: Tensor, sigma: Scalar, tiles: Tiles | None = None) -> Tensor:
        """A latent prior has no denoiser of images.

        Raises:
            ValueError: always: noise lives in the latent space here.
        """
        remedy = "call sample, or the prior's encode, denoise_latent and decode"
        raise invalid(
            "engine", "one that denoises images", f"the latent {self.spec.name!r}", remedy
        )

    def with_conditioning(self, conditioning: Conditioning) -> LatentEngine:
        """The same networks with another embedded prompt, one for all images or one for each."""
        other = copy.copy(self)
        other.conditioning = conditioning
        return other

    def with_delta(self, delta: Delta) -> LatentEngine:
        """The same networks with another step size delta; see `sample`."""
        other = copy.copy(self)
        other.delta = delta
        return other

    def sample(
        self,
        y: Measurement,
        op: Operator | torch.nn.Module,
        num_samples: int = 4,
        seed: int = 0,
        sampler: str = "auto",
        steps: int | None = None,
        unfold: int | None = None,
        init: Init = None,
        image_ids: Sequence[int] | Tensor | None = None,
        keep_samples: bool = True,
        progress: Progress = None,
        tile: int | None = None,
        overlap: int | None = None,
        delta: Delta = None,
        prompt_updates: int | None = None,
        checkpoint_gradients: bool = False,
    ) -> Posterior:
        """Draw samples from p(x | y, prompt) by LATINO in the latent space.

        For k = 1 .. steps: z = E(x) + sigma_k eps; x = D(f(z, sigma_k, prompt)); x = prox(x, y,
        gamma_k), gamma_k = delta_k (1 - abar_k) / sigma_y^2. The noise has the shape of the latent.

        Args:
            y, op, num_samples, seed, init, image_ids, keep_samples, progress: as in
                `Engine.sample`.
            sampler: "auto" or "latino"; "latino-pro" first searches the prompt embedding of each
                image under which y is most likely, by stochastic approximation.
            steps: 8 by default, at the published times 999, 874, .. 124.
            unfold, tile, overlap: None.
            delta: None for the published values of the operator's problem, the name of a row
                of `DELTAS`, a `DeltaRule`, a number >= 0, or one for each step.
            prompt_updates: "latino-pro": updates of the prompt, 15 by default.
            checkpoint_gradients: "latino-pro": recompute the U-Net's activations on the way back
                instead of keeping them.

        Returns:
            The posterior; for "latino-pro" with `prompt_embedding`.

        Raises:
            ValueError, TypeError: an argument that cannot be used, in one sentence.

        Source: LATINO (arXiv:2503.12615), Alg. 1 and 2, and the authors' public code.
        """
        self._check(sampler, unfold, tile, overlap, prompt_updates)
        engine = self if delta is None else self.with_delta(delta)
        rest = (num_samples, seed, "latino", steps, None)
        own = {"sampler": sampler, "delta": _plain_delta(engine.delta)}
        if sampler != "latino-pro":
            post = Engine.sample(engine, y, op, *rest, init, image_ids, keep_samples, progress)
            return replace(post, about=post.about | {"request": post.about["request"] | own})
        from latino_engine.sampling.latent_prompts import search_prompts

        search = PromptSearch()
        if prompt_updates is not None:
            search = replace(search, updates=prompt_updates)
        found = search_prompts(engine, y, op, seed, init, image_ids, search, checkpoint_gradients)
        tuned = engine.with_conditioning(found.conditioning)
        if engine.delta is None:
            tuned = tuned.with_delta(PRO_DELTAS[problem_name(found.operator, pro=True)][1])
        post = Engine.sample(tuned, y, op, *rest, found.start, image_ids, keep_samples, progress)
        nfe = search.updates * len(search.times)
        about = {"sampler": sampler, "prompt_updates": search.updates, "prompt_nfe": nfe}
        own |= {"prompt_updates": prompt_updates, "init": init_name(init)}
        about["request"] = post.about["request"] | own
        total = post.time_ms + found.time_ms
        return replace(
            post,
            about=post.about | about,
            asked=None if post.asked is None else replace(post.asked, init=init),
            time_ms=total,
            stages_ms=post.stages_ms | {"other": post.stages_ms["other"] + found.time_ms},
            prompt_embedding=found.conditioning.prompt,
        )

    def _check(
        self,
        sampler: str,
        unfold: int | None,
        tile: int | None,
        overlap: int | None,
        prompt_updates: int | None,
    ) -> None:
        if sampler not in LATENT_SAMPLERS:
            known = ", ".join(repr(name) for name in LATENT_SAMPLERS)
            remedy = "choose one of these"
            raise invalid("sampler", f"one of {known} for a latent prior", repr(sampler), remedy)
        for name, value in (("unfold", unfold), ("tile", tile), ("overlap", overlap)):
            if value is not None:
                raise invalid(name, "None for a latent prior", value, "leave it out")
        if sampler == "latino-pro" and self.backend != "torch":
            raise InvalidArgument(
                "sampler: expected an engine that has gradients for 'latino-pro', got the backend "
                f"{self.backend!r}; load it with backend='torch'"
            )
        if prompt_updates is not None:
            if sampler != "latino-pro":
                remedy = "leave it out, or use sampler='latino-pro'"
                raise invalid("prompt_updates", "None", prompt_updates, remedy)
            if whole_number("prompt_updates", prompt_updates) < 1:
                remedy = "use sampler='latino' for none"
                raise invalid("prompt_updates", "at least 1", prompt_updates, remedy)

    def _schedule_builder(
        self, op: Operator, sampler: str, steps: int | None, unfold: int | None
    ) -> ScheduleBuilder:
        steps = None if steps is None else whole_number("steps", steps)
        return self.builder(op, latent_times(steps))

    def builder(self, op: Operator, times: Sequence[int]) -> ScheduleBuilder:
        """sigma_y -> the schedule at these times with this engine's delta for the operator."""
        rule, table = self.rule(op), self.spec.sigma_table
        assert table is not None
        if isinstance(rule, tuple) and len(rule) != len(times):
            expected = f"a number, or one for each of the {len(times)} steps"
            raise invalid("delta", expected, f"{len(rule)} numbers", "give as many as steps")

        def build(sigma_y: Scalar) -> Schedule:
            if isinstance(rule, tuple):
                return latent_schedule(sigma_y, times, table, rule)
            factors = [rule.factor(time) for time in times]
            scaled = [factor / sigma_y if rule.over_sigma else factor for factor in factors]
            return latent_schedule(sigma_y, times, table, scaled)

        return build

    def rule(self, op: Operator) -> DeltaRule | tuple[float, ...]:
        """The step sizes for an operator: a rule, or one number for each step."""
        delta = self.delta
        if delta is None:
            return DELTAS[problem_name(op)]
        if isinstance(delta, DeltaRule):
            return delta
        if isinstance(delta, str):
            if delta not in DELTAS:
                known = ", ".join(DELTAS)
                raise invalid("delta", f"one of {known}", repr(delta), "choose one of these")
            return DELTAS[delta]
        try:
            numbers = np.asarray(delta, dtype=np.float64)
        except (TypeError, ValueError):
            got = type(delta).__name__
            raise invalid_type(
                "delta", "a number, or one for each step", got, "give numbers"
            ) from None
        if numbers.ndim > 1 or not bool((np.isfinite(numbers) & (numbers >= 0)).all()):
            raise invalid("delta", "finite numbers >= 0", delta, "0 leaves the data out")
        if numbers.ndim == 0:
            return DeltaRule(0, float(numbers), float(numbers))
        return tuple(float(number) for number in numbers)

    def _run(
        self,
        problem: Problem,
        build: ScheduleBuilder,
        image_ids: Tensor,
        seed: int,
        clock: StageClock,
        report: Callable[[int, int], None],
        tiles: Tiles | None,
        worker: Worker | None,
    ) -> Run:
        rule = self.rule(problem.operator)
        return LatentRun(
            self,
            problem,
            build,
            image_ids,
            seed,
            clock,
            report,
            latent_engine=self,
            by_residual=isinstance(rule, DeltaRule) and rule.by_residual,
        )


def _plain_delta(delta: Delta) -> Any:
    """delta as JSON has it; a rule by the name of its row."""
    if isinstance(delta, DeltaRule):
        return next((name for name, rule in DELTAS.items() if rule == delta), repr(delta))
    return delta if delta is None or isinstance(delta, str | float) else np.array(delta).tolist()


def open_latent_engine(
    folder: Path,
    manifest: dict[str, Any],
    backend: str,
    device: str | None,
    threads: int | None,
) -> LatentEngine:
    """Load the networks and the prompt of a latent engine, whose files have been checked."""
    networks = open_latent(backend, folder, manifest["precision"], device, threads)
    return LatentEngine(folder, manifest, backend, networks, threads, read_conditioning(folder))
