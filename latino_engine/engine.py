"""sample: from a compiled prior and a measurement to a posterior."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import UserError, invalid, warn
from latino_engine.learned_schedule import parse_schedule
from latino_engine.manifest import engine_sha256
from latino_engine.operators import Blur, Inpainting
from latino_engine.operators.protocol import Operator
from latino_engine.posterior import Asked, Posterior, init_name
from latino_engine.priors.folder import parse_spec
from latino_engine.priors.latent.prior import is_latent
from latino_engine.priors.prior import PriorSpec
from latino_engine.runtimes import DenoiserRuntime
from latino_engine.sampling.call import Call
from latino_engine.sampling.checks import check_image_ids, check_learned, checked
from latino_engine.sampling.chunks import Run
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.cuda_driver import Driver
from latino_engine.sampling.cuda_graph import Worker
from latino_engine.sampling.network import Network
from latino_engine.sampling.options import Sampling
from latino_engine.sampling.plausibility import HOLE_RADIUS, check_drawn, check_inputs
from latino_engine.sampling.problem import Init, Measurement, make_problem
from latino_engine.sampling.reporting import Progress, check_process, reporter
from latino_engine.sampling.step_sizes import learned_kind, outside_of, warn_outside
from latino_engine.sampling.threads import torch_threads
from latino_engine.sampling.tiles import Tiles, make_tiles
from latino_engine.sampling.torch_state import own_arithmetic
from latino_engine.schedule import (
    Scalar,
    ScheduleBuilder,
    few_step_sigmas,
    latino_schedule,
    schedule_rows,
    ud2m_schedule,
)
from latino_engine.system.machine import versions

SAMPLERS = ("auto", "latino", "ud2m")
_WARM_UP_SIDE = 256  # where the engine was compiled for no size


class Engine:
    """A compiled prior, loaded: `sample(y, op)` draws from p(x | y).

    Attributes:
        network: what runs the prior's network.
        schedule: the adapter's own, None without an adapter.
    """

    network: Network

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        backend: str,
        runtime: DenoiserRuntime,
        threads: int | None,
        driver: Driver | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.sha256 = engine_sha256(manifest)
        self.backend = backend
        self.threads = threads
        self._process = os.getpid()
        about = manifest.get("adapter")
        self.schedule = None if about is None else parse_schedule(about["schedule"])
        self._init: str = "regularised" if about is None else about["init"]
        trained = None if about is None else about.get("noise_std")
        self._trained_noise = None if trained is None else (trained[0], trained[1])
        self._told_range = False
        spec, most = parse_spec(manifest["prior"]), int(manifest["max_batch"])
        self.network = self._NETWORK(spec, runtime, most, manifest["memory"], driver)

    _NETWORK: type[Network] = Network

    @property
    def spec(self) -> PriorSpec:
        """What the prior is: its channels, range, noise levels and architecture."""
        return self.network.spec

    @property
    def precision(self) -> str:
        """The precision of the network's convolutions: "fp32", "fp16" or "bf16"."""
        return str(self.manifest["precision"])

    @property
    def device(self) -> str:
        """Where the denoiser runs."""
        return self.network.device

    @property
    def execution(self) -> str:
        """How `sample` runs where the operator allows for it: "eager" or "CUDA graph"."""
        return self.network.execution

    @property
    def identity(self) -> dict[str, Any]:
        """What reports name it by: the folder's name, its hash, its prior and its adapter."""
        adapter = self.manifest.get("adapter")
        return {
            "engine": self.folder.name,
            "engine_sha256": self.sha256,
            "prior": self.spec.name,
            "adapter": None if adapter is None else adapter["name"],
        }

    def __repr__(self) -> str:
        adapter = self.manifest.get("adapter")
        name = None if adapter is None else adapter["name"]
        return (
            f"Engine({self.spec.name!r}, adapter={name!r}, backend={self.backend!r}, "
            f"precision={self.precision!r}, device={self.device!r}, "
            f"ops={ops.backend_of(self.device)!r}, execution={self.execution!r})"
        )

    def denoise(self, x_noisy: Tensor, sigma: Scalar, tiles: Tiles | None = None) -> Tensor:
        """x0_hat of the compiled denoiser as `Prior.denoise` has it, of the image or by tiles.

        Raises:
            ValueError: a latent prior, whose denoiser is none of images.
        """
        if is_latent(self.spec):
            expected, got = "one that denoises images", f"the latent {self.spec.name!r}"
            remedy = "call sample, or the prior's encode, denoise_latent and decode"
            raise invalid("engine", expected, got, remedy)
        return self.network.denoise(x_noisy, sigma, tiles)

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
    ) -> Posterior:
        """Draw samples from p(x | y).

        Args:
            y: measurement, (B, ...) floating point, public units, torch or numpy; for a `Stack`
                also the list of its measurements.
            op: the forward model, with its noise level; it may differ at every call. A linear
                physics of deepinv is taken as it is, and y as it gives it.
            num_samples: S >= 1.
            seed: 0 <= seed < 2^64. A sample depends on (seed, image id, sample index) alone, not on
                the batch, the chunk or num_samples.
            sampler: "auto" (the adapter's own schedule where the engine has one and `steps` is not
                another number, else zero-shot LATINO), "latino" or "ud2m".
            steps: LATINO: network evaluations, 8 by default; UD2M: outer steps N, 3 by default.
            unfold: UD2M: inner iterations K, 3 by default.
            init: None for the operator's own estimate, "measurement", an image (B, C, H, W) in
                public units, or a restoration network (y, op) -> image, deepinv's included.
            image_ids: B integers in [0, 2^22), 0..B-1 by default.
            keep_samples: False keeps mean and std only, in the memory of two images.
            progress: True for a bar on stderr, or a function (evaluations done, evaluations in
                all).
            tile: side in pixels of the pieces that the network sees of a large image, a multiple of
                the prior's size_multiple; None: the whole image. The data step stays that of the
                whole image, and nfe counts whole images.
            overlap: pixels that neighbouring tiles share, a quarter of the tile by default: the
                outer quarters are dropped, the middle half is blended.
            timeout: seconds after which the call ends with SamplingStopped, between two
                evaluations of the network; None for no limit.
            cancel: an event that ends it in the same way once it is set, from another thread.

        On a GPU each chunk is the replay of one CUDA graph, captured when its size, batch and
        kind of operator first come, unless the data step is decided on the host (LinearOperator,
        MRI of several coils), tiles are asked for or the runtime is onnxruntime:
        `about["execution"]` of the result says which. The stages of a graph are its time by CUDA
        events, split as in the eager pass before its capture. The noise of an inner step counts
        with its data step. Several threads may call: they are served in order, two at a time, each
        on a stream of its own.

        Raises:
            ValueError, TypeError: an argument that cannot be used, in one sentence.
            SamplingStopped: the time was over, or the event was set.
        """
        check_process(self._process, os.getpid(), self.threads)
        start = time.perf_counter()
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
        options = checked(options)
        clock = StageClock(self.network.driver)
        tiles = make_tiles(
            options.tile, options.overlap, self.spec.size_multiple, self.network.max_batch
        )
        with (
            own_arithmetic(),
            torch_threads(self.threads),
            reporter(progress, timeout, cancel) as report,
            self.network.worker() as worker,
        ):
            problem = make_problem(y, op, self.spec, self._start(init, sampler), self.device)
            learned, operator = self.schedule if sampler == "auto" else None, problem.operator
            if learned is not None and options.steps not in (None, learned.outer):
                learned = None
            kind = None if learned is None else learned_kind(learned, operator, problem.x_init)
            build = self._schedule_builder(operator, options, kind)
            self._say_range(operator, kind)
            units, holes = check_inputs(problem, self._hole_radius(build, kind))
            for doubt in units + holes:
                warn(doubt)
            ids = check_image_ids(image_ids, problem.y.shape[0])
            call = Call(problem, build, ids, options.seed)
            run = self._run(call, clock, report, tiles, worker)
            drawn = run.collect(options)
            clock.finish()
            # The cause would be the units, or steps that nobody trained.
            late = [] if units or sampler == "ud2m" else self._doubts(call, drawn)
            for doubt in late:
                warn(doubt)
        total = 1e3 * (time.perf_counter() - start)
        request = options.arguments() | {"init": init_name(init), "image_ids": ids.tolist()}
        return Posterior(
            nfe=call.nfe,
            time_ms=total,
            stages_ms={**clock.spent, "other": total - sum(clock.spent.values())},
            num_samples=options.num_samples,
            about=self._about(run, sampler, kind)
            | {"warnings": [*units, *holes, *late], "request": request},
            asked=Asked(problem.y, problem.operator, init),
            **drawn,
        )

    def _run(
        self,
        call: Call,
        clock: StageClock,
        report: Callable[[int, int], None],
        tiles: Tiles | None,
        worker: Worker | None,
    ) -> Run:
        return Run(self.network, call, clock, report, tiles, worker)

    def _about(self, run: Run, sampler: str, kind: str | None) -> dict[str, Any]:
        """What was asked and what ran, as JSON types."""
        if sampler == "auto":
            sampler = "latino" if kind is None else "adapter"
        about: dict[str, Any] = {
            **self.identity,
            "data_range": list(self.spec.data_range),
            "operator": repr(run.call.problem.operator),
            "backend": self.backend,
            "precision": self.precision,
            "execution": run.execution,
            "sampler": sampler,
            "step_sizes": kind,
            "seed": run.call.seed,
            "schedule": schedule_rows(run.call.build(run.call.problem.sigma_y)),
            "versions": versions(),
        }
        if run.tiles is not None:
            about |= {"tile": run.tiles.side, "overlap": run.tiles.overlap}
        return about

    def _hole_radius(self, build: ScheduleBuilder, kind: str | None) -> int | None:
        """Pixels from the nearest seen one that the sampler fills; None where that is not known."""
        if kind is not None:
            return max(HOLE_RADIUS, self.manifest["adapter"].get("hole_radius") or 0)
        return HOLE_RADIUS if max(build(1.0).denoiser_sigmas()) < 1.0 else None

    def _doubts(self, call: Call, drawn: dict[str, Any]) -> list[str]:
        """Sentences about what was drawn."""
        return check_drawn(call.problem, drawn, call.build(call.problem.sigma_y))

    def _say_range(self, op: Operator, kind: str | None) -> None:
        """Warns, once of an engine, where the adapter meets noise that it was not trained for."""
        trained = self._trained_noise
        if kind is None or trained is None or self._told_range:
            return
        if outside_of(trained, op.noise_std):
            self._told_range = True
            warn_outside(trained, op.noise_std)

    def _start(self, init: Init, sampler: str) -> Init:
        """The start that the adapter was trained with, where it runs and the caller names none."""
        if init is not None or sampler != "auto" or self.schedule is None:
            return init
        if self._init == "network":
            expected = "the restoration network that was trained along with the adapter"
            remedy = "give it as init, a function (y, op) -> image"
            raise invalid("init", expected, None, remedy)
        return "measurement" if self._init == "measurement" else None

    def _schedule_builder(
        self, op: Operator, options: Sampling, kind: str | None
    ) -> ScheduleBuilder:
        sampler, steps, unfold = options.sampler, options.steps, options.unfold
        if sampler == "latino-pro":
            remedy = "compile a text-to-image pipeline of diffusers, or use sampler='latino'"
            raise invalid("sampler", "a latent prior for 'latino-pro'", self.spec.name, remedy)
        if sampler not in SAMPLERS:
            known = ", ".join(repr(name) for name in SAMPLERS)
            raise invalid("sampler", f"one of {known}", repr(sampler), "choose one of these")
        if kind is not None and self.schedule is not None:
            check_learned(self.schedule, unfold)
            return self.schedule.builder_of(kind)
        if sampler == "ud2m":
            sigmas = few_step_sigmas(3 if steps is None else steps, self.spec.sigma_table)
            num_inner = 3 if unfold is None else unfold
            return lambda sigma_y: ud2m_schedule(sigma_y, sigmas, num_inner, r=op.first_radius)
        if unfold is not None:
            remedy = "leave it out, or use sampler='ud2m'"
            raise invalid("unfold", "None for the sampler 'latino'", unfold, remedy)
        levels = self.spec.latino_sigmas(steps)
        return lambda sigma_y: latino_schedule(sigma_y, levels)

    def warm_up(self) -> None:
        """On a GPU: load the kernels and capture the engine's own sampler on every worker, for one
        image and for a full batch of the size that it was compiled for: the first calls find both.
        """
        pool = self.network.pool
        if pool is None or self.execution != "CUDA graph":
            return
        multiple = self.spec.size_multiple
        side = max(multiple, _WARM_UP_SIDE // multiple * multiple)
        size = self.manifest["image_size"] or (side, side)
        y = torch.full((1, self.spec.channels, *size), sum(self.spec.data_range) / 2.0)
        masks = self.schedule is None or "Inpainting" in self.schedule.steps
        op = Inpainting(torch.ones(*size), 0.05) if masks else Blur.uniform(1, 0.05)

        def first_calls() -> None:
            for count in sorted({1, self.network.chunk_size(*size)}):
                self.sample(y, op, count, init=y, keep_samples=False)

        with suppress(UserError):  # a size beyond the memory: the user's own size may fit
            pool.for_each(first_calls)
