"""An engine of a latent prior: LATINO as published, and LATINO-PRO."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.engine import Engine
from latino_engine.errors import InvalidArgument, invalid, whole_number
from latino_engine.operators.protocol import Operator
from latino_engine.posterior import Posterior, init_name
from latino_engine.priors.latent.latent_folder import read_conditioning
from latino_engine.priors.latent.latent_schedule import (
    PRO_DELTAS,
    DeltaRule,
    PromptSearch,
    latent_times,
    problem_name,
)
from latino_engine.priors.latent.prior import Conditioning
from latino_engine.runtimes.latent import LatentRuntime, open_latent
from latino_engine.sampling.call import Call
from latino_engine.sampling.checks import check_image_ids
from latino_engine.sampling.chunks import Run
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.cuda_graph import Worker
from latino_engine.sampling.latent_delta import (
    Delta,
    delta_rule,
    latent_builder,
    plain_delta,
    weighs_by_residual,
)
from latino_engine.sampling.latent_network import LatentNetwork
from latino_engine.sampling.latent_prompts import search_prompts
from latino_engine.sampling.latent_steps import LatentRun
from latino_engine.sampling.options import Sampling
from latino_engine.sampling.problem import Init, Measurement, make_problem
from latino_engine.sampling.reporting import Progress
from latino_engine.sampling.threads import torch_threads
from latino_engine.sampling.tiles import Tiles
from latino_engine.schedule import ScheduleBuilder

LATENT_SAMPLERS = ("auto", "latino", "latino-pro")


class LatentEngine(Engine):
    """A compiled latent prior: `sample(y, op)` draws from p(x | y, prompt).

    Attributes:
        conditioning: the embedded prompt, one for all images or one for each.
        delta: the step size; see `sample`.
    """

    network: LatentNetwork
    _NETWORK = LatentNetwork

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        backend: str,
        runtime: LatentRuntime,
        threads: int | None,
        conditioning: Conditioning,
    ) -> None:
        super().__init__(folder, manifest, backend, runtime, threads)
        self.conditioning = conditioning
        self.delta: Delta = None

    def __copy__(self) -> LatentEngine:
        """The same networks, and no reload of the folder, which is what a pickle is."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

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
        timeout: float | None = None,
        cancel: threading.Event | None = None,
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
            timeout, cancel: as in `Engine.sample`; the search of the prompt comes before.

        Returns:
            The posterior; for "latino-pro" with `prompt_embedding`.

        Raises:
            ValueError, TypeError: an argument that cannot be used, in one sentence.

        Source: LATINO (arXiv:2503.12615), Alg. 1 and 2, and the authors' public code.
        """
        options = Sampling(
            num_samples=num_samples,
            seed=seed,
            sampler=sampler,
            steps=steps,
            unfold=unfold,
            keep_samples=keep_samples,
            tile=tile,
            overlap=overlap,
        )
        self._check(options, prompt_updates)
        engine = self if delta is None else self.with_delta(delta)
        rest = replace(options, sampler="latino").arguments()
        rest |= {"image_ids": image_ids, "progress": progress}
        rest |= {"timeout": timeout, "cancel": cancel}
        own = {"sampler": sampler, "delta": plain_delta(engine.delta)}
        if sampler != "latino-pro":
            post = Engine.sample(engine, y, op, init=init, **rest)
            return replace(post, about=post.about | {"request": post.about["request"] | own})
        begin = time.perf_counter()
        search = PromptSearch()
        if prompt_updates is not None:
            search = replace(search, updates=prompt_updates)
        engine, x_last = engine._with_prompts(
            y, op, seed, init, image_ids, search, checkpoint_gradients
        )
        searched_ms = 1e3 * (time.perf_counter() - begin)
        post = Engine.sample(engine, y, op, init=x_last, **rest)
        nfe = search.updates * len(search.times)
        about = {"sampler": sampler, "prompt_updates": search.updates, "prompt_nfe": nfe}
        own |= {"prompt_updates": prompt_updates, "init": init_name(init)}
        about["request"] = post.about["request"] | own
        return replace(
            post,
            about=post.about | about,
            asked=None if post.asked is None else replace(post.asked, init=init),
            time_ms=post.time_ms + searched_ms,
            stages_ms=post.stages_ms | {"other": post.stages_ms["other"] + searched_ms},
            prompt_embedding=engine.conditioning.prompt,
        )

    def _with_prompts(
        self,
        y: Measurement,
        op: Operator | torch.nn.Module,
        seed: int,
        init: Init,
        image_ids: Sequence[int] | Tensor | None,
        search: PromptSearch,
        checkpoint_gradients: bool,
    ) -> tuple[LatentEngine, Tensor]:
        """The same networks with the prompts that the search finds, and where its chains ended."""
        seed = ops.check_seed(seed)
        with torch.no_grad(), torch_threads(self.threads):
            problem = make_problem(y, op, self.spec, init, self.device)
            searched, drawn = PRO_DELTAS[problem_name(problem.operator, pro=True)]
            rule = delta_rule(searched if self.delta is None else self.delta, problem.operator)
            build = self._builder(rule, search.times)
            call = Call(problem, build, check_image_ids(image_ids, problem.y.shape[0]), seed)
            weighs = weighs_by_residual(rule)
            found = search_prompts(
                self.network, call, self.conditioning, weighs, search, checkpoint_gradients
            )
        engine = self.with_conditioning(found.conditioning)
        return engine if self.delta is not None else engine.with_delta(drawn), found.x_last

    def _check(self, options: Sampling, prompt_updates: int | None) -> None:
        sampler = options.sampler
        if sampler not in LATENT_SAMPLERS:
            known = ", ".join(repr(name) for name in LATENT_SAMPLERS)
            remedy = "choose one of these"
            raise invalid("sampler", f"one of {known} for a latent prior", repr(sampler), remedy)
        for name in ("unfold", "tile", "overlap"):
            if (value := getattr(options, name)) is not None:
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
        self, op: Operator, options: Sampling, kind: str | None
    ) -> ScheduleBuilder:
        return self._builder(delta_rule(self.delta, op), latent_times(options.steps))

    def _hole_radius(self, build: ScheduleBuilder, kind: str | None) -> int | None:
        return None  # the prompt's image fills holes of any size

    def _doubts(self, call: Call, drawn: dict[str, Any]) -> list[str]:
        return []  # an autoencoder has an error of its own

    def _builder(
        self, rule: DeltaRule | tuple[float, ...], times: Sequence[int]
    ) -> ScheduleBuilder:
        assert self.spec.sigma_table is not None
        return latent_builder(rule, times, self.spec.sigma_table)

    def _run(
        self,
        call: Call,
        clock: StageClock,
        report: Callable[[int, int], None],
        tiles: Tiles | None,
        worker: Worker | None,
    ) -> Run:
        return LatentRun(
            self.network,
            call,
            clock,
            report,
            conditioning=self.conditioning,
            by_residual=weighs_by_residual(delta_rule(self.delta, call.problem.operator)),
        )


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
