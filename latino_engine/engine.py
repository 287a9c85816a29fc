"""sample: from a compiled prior and a measurement to a posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import UserError, invalid, whole_number
from latino_engine.learned_schedule import parse_schedule
from latino_engine.manifest import engine_sha256
from latino_engine.operators import Denoising
from latino_engine.operators.protocol import Operator
from latino_engine.posterior import Asked, Posterior, init_name
from latino_engine.priors.folder import parse_spec
from latino_engine.priors.prior import PriorSpec, check_image, pad_to_multiple
from latino_engine.runtimes import DenoiserRuntime
from latino_engine.sampling.checks import (
    check_counts,
    check_image_ids,
    check_learned,
)
from latino_engine.sampling.chunks import Run
from latino_engine.sampling.clock import StageClock
from latino_engine.sampling.cuda_driver import Driver
from latino_engine.sampling.cuda_graph import Worker, WorkerPool
from latino_engine.sampling.problem import Init, Measurement, Problem, make_problem
from latino_engine.sampling.reporting import Progress, reporter
from latino_engine.sampling.threads import torch_threads
from latino_engine.sampling.tiles import Tiles, denoise_tiles, make_tiles
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
from latino_engine.system.memory import available_bytes, bytes_per_image

SAMPLERS = ("auto", "latino", "ud2m")
_MEMORY_SHARE = 0.5  # of what is free: the rest is for the caller's own images
_WARM_UP_SIDE = 256  # where the engine was compiled for no size
_WORKING_IMAGES = 12  # copies of a chunk outside the network: state, prox, spectra, noise


class Engine:
    """A compiled prior, loaded: `sample(y, op)` draws from p(x | y)."""

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
        self.spec: PriorSpec = parse_spec(manifest["prior"])
        about = manifest.get("adapter")
        self.schedule = None if about is None else parse_schedule(about["schedule"])
        self._init: str = "regularised" if about is None else about["init"]
        self.runtime = runtime
        self.driver = driver
        self.pool: WorkerPool | None = None
        if driver is not None:
            self.pool = WorkerPool(lambda: Worker(driver, runtime, self.spec), driver)

    @property
    def precision(self) -> str:
        """Of the network's convolutions: "fp32", "fp16" or "bf16"."""
        return str(self.manifest["precision"])

    @property
    def device(self) -> str:
        """Where the denoiser runs."""
        return self.runtime.device

    def __repr__(self) -> str:
        adapter = self.manifest.get("adapter")
        adapted = "" if adapter is None else f"adapter={adapter['name']!r}, "
        return (
            f"Engine({self.spec.name!r}, {adapted}backend={self.backend!r}, "
            f"precision={self.precision!r}, device={self.device!r}, "
            f"ops={ops.backend_of(self.device)!r}, execution={self.execution!r})"
        )

    @property
    def execution(self) -> str:
        """How `sample` runs where the operator allows for it: "eager" or "CUDA graph"."""
        captured = self.pool is not None and getattr(self.runtime, "capturable", False)
        return "CUDA graph" if captured else "eager"

    def denoise(self, x_noisy: Tensor, sigma: Scalar, tiles: Tiles | None = None) -> Tensor:
        """x0_hat of the compiled denoiser as `Prior.denoise` has it, of the image or by tiles."""
        check_image("x_noisy", x_noisy, self.spec)
        x_noisy = x_noisy.float()
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x_noisy.device)
        levels = levels.clamp(self.spec.sigma_min, self.spec.sigma_max)
        levels = levels.expand(x_noisy.shape[0]).contiguous()
        height, width = x_noisy.shape[-2:]
        padded = pad_to_multiple(x_noisy, self.spec.size_multiple)
        if tiles is None:
            out = self.runtime(padded, levels)
        else:
            out = denoise_tiles(self.runtime, padded, levels, tiles)
        return out[..., :height, :width]

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
            sampler: "auto" (the adapter's own schedule where the engine has one, else zero-shot
                LATINO), "latino" or "ud2m".
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

        On a GPU each chunk is the replay of one CUDA graph, captured when its size, batch and
        kind of operator first come, unless the data step is decided on the host (LinearOperator,
        MRI of several coils), tiles are asked for or the runtime is onnxruntime:
        `about["execution"]` of the result says which. The stages of a graph are its time by CUDA
        events, split as in the eager pass before its capture; the noise counts with the data step
        there. Several threads may call:
        they are served in order, two at a time, each on a stream of its own.

        Raises:
            ValueError, TypeError: an argument that cannot be used, in one sentence.
        """
        start, asked = time.perf_counter(), init
        num_samples = check_counts(num_samples, keep_samples)
        seed = ops.check_seed(seed)
        multiple, clock = self.spec.size_multiple, StageClock(self.driver)
        tiles = make_tiles(tile, overlap, multiple, int(self.manifest["max_batch"]))
        with (
            own_arithmetic(),
            torch_threads(self.threads),
            reporter(progress) as report,
            nullcontext() if self.pool is None else self.pool.worker() as worker,
        ):
            learned = self.schedule if sampler == "auto" else None
            init = self._start(init) if learned is not None else init
            problem = make_problem(y, op, self.spec, init, self.device)
            build = self._schedule_builder(problem.operator, sampler, steps, unfold)
            ids = check_image_ids(image_ids, problem.y.shape[0])
            run = self._run(problem, build, ids, seed, clock, report, tiles, worker)
            collected = run.collect(num_samples, keep_samples)
            clock.finish()
        total = 1e3 * (time.perf_counter() - start)
        spent = clock.spent
        about = {
            "prior": self.spec.name,
            "engine_sha256": self.sha256,
            "data_range": list(self.spec.data_range),
            "operator": repr(problem.operator),
            "backend": self.backend,
            "precision": self.precision,
            "execution": run.execution,
            "sampler": sampler if sampler != "auto" else "latino" if learned is None else "adapter",
            "seed": seed,
            "schedule": schedule_rows(build(problem.sigma_y)),
            "versions": versions(),
        }
        if tiles is not None:
            about |= {"tile": tiles.side, "overlap": tiles.overlap}
        about["request"] = {
            "num_samples": num_samples,
            "seed": seed,
            "sampler": sampler,
            "steps": None if steps is None else int(steps),
            "unfold": None if unfold is None else int(unfold),
            "init": init_name(asked),
            "image_ids": ids.tolist(),
            "keep_samples": keep_samples,
            "tile": None if tile is None else int(tile),
            "overlap": None if overlap is None else int(overlap),
        }
        stages = {**spent, "other": total - sum(spent.values())}
        return Posterior(
            nfe=run.nfe,
            time_ms=total,
            stages_ms=stages,
            num_samples=num_samples,
            about=about,
            asked=Asked(problem.y, problem.operator, asked),
            **collected,
        )

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
        return Run(self, problem, build, image_ids, seed, clock, report, tiles, worker)

    def _start(self, init: Init) -> Init:
        """The start that the adapter was trained with, where the caller names none."""
        if init is None and self._init == "network":
            expected = "the restoration network that was trained along with the adapter"
            remedy = "give it as init, a function (y, op) -> image"
            raise invalid("init", expected, None, remedy)
        return "measurement" if init is None and self._init == "measurement" else init

    def _schedule_builder(
        self, op: Operator, sampler: str, steps: int | None, unfold: int | None
    ) -> ScheduleBuilder:
        if sampler == "latino-pro":
            remedy = "compile a text-to-image pipeline of diffusers, or use sampler='latino'"
            raise invalid("sampler", "a latent prior for 'latino-pro'", self.spec.name, remedy)
        if sampler not in SAMPLERS:
            known = ", ".join(repr(name) for name in SAMPLERS)
            raise invalid("sampler", f"one of {known}", repr(sampler), "choose one of these")
        steps = None if steps is None else whole_number("steps", steps)
        unfold = None if unfold is None else whole_number("unfold", unfold)
        if sampler == "auto" and self.schedule is not None:
            check_learned(self.schedule, steps, unfold)
            return self.schedule.builder(op)
        if sampler == "ud2m":
            sigmas = few_step_sigmas(3 if steps is None else steps, self.spec.sigma_table)
            inner = 3 if unfold is None else unfold
            return lambda sigma_y: ud2m_schedule(sigma_y, sigmas, inner, r=op.first_radius)
        if unfold is not None:
            remedy = "leave it out, or use sampler='ud2m'"
            raise invalid("unfold", "None for the sampler 'latino'", unfold, remedy)
        levels = self.spec.latino_sigmas(steps)
        return lambda sigma_y: latino_schedule(sigma_y, levels)

    def warm_up(self) -> None:
        """On a GPU: load the kernels and capture the engine's own sampler on every worker, for one
        image and for a full batch of the size that it was compiled for: the first calls find both.
        """
        if self.pool is None or self.execution != "CUDA graph":
            return
        multiple = self.spec.size_multiple
        side = max(multiple, _WARM_UP_SIDE // multiple * multiple)
        size = self.manifest["image_size"] or (side, side)
        y = torch.full((1, self.spec.channels, *size), sum(self.spec.data_range) / 2.0)

        def first_calls() -> None:
            for count in sorted({1, self.chunk_size(*size)}):
                self.sample(y, Denoising(0.05), count, init=y, keep_samples=False)

        with suppress(UserError):  # a size beyond the memory: the user's own size may fit
            self.pool.for_each(first_calls)

    def chunk_size(self, height: int, width: int) -> int:
        """How many images travel through the network together: at most max_batch, and what memory
        allows.

        Raises:
            ValueError: not even one image of this size fits into the free memory.
        """
        return self._fit(height, width, None)[0]

    def tiled_chunk_size(self, height: int, width: int, tiles: Tiles) -> tuple[int, Tiles]:
        """How many images are sampled together, and the tiles with the batch that memory allows.

        Raises:
            ValueError: not even one image with one tile of it fits into the free memory.
        """
        images, batch = self._fit(height, width, tiles)
        return images, replace(tiles, batch=min(tiles.batch, batch))

    def _fit(self, height: int, width: int, tiles: Tiles | None) -> tuple[int, int]:
        """Images together, and inputs of the network together."""
        seen = tuple(side + -side % self.spec.size_multiple for side in (height, width))
        if tiles is not None:
            seen = tiles.shape(*seen)
        network = bytes_per_image(self.manifest["memory"], *seen)
        working = _WORKING_IMAGES * 4 * self.spec.channels * height * width
        free = available_bytes(self.device)
        budget, most = _MEMORY_SHARE * free, int(self.manifest["max_batch"])
        if network + working > 2.0 * budget:
            expected = f"an image that fits into the free memory ({2e-9 * budget:.1f} GB)"
            got = f"{height} x {width}, which takes about {1e-9 * (network + working):.1f} GB"
            if tiles is None:
                remedy = "let the network see tiles, for example tile=256, or free some memory"
            else:
                remedy = "choose a smaller tile, or free some memory"
            raise invalid("y", expected, got, remedy)
        images = max(1, min(most, int(budget // (network + working))))
        return images, max(1, min(most, int((budget - images * working) // network)))
