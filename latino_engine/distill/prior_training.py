"""Train a prior by denoising: EDM weighting, EMA, cosine schedule, resumed where it was left."""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine.atomic import atomic_file
from latino_engine.distill.batches import check_scale, draw_batch
from latino_engine.distill.checkpoint import read_facts, read_tensors, write_checkpoint
from latino_engine.distill.options import PRECISIONS, PriorTraining
from latino_engine.distill.prior_step import Step
from latino_engine.distill.prior_validation import LEVELS, Validation
from latino_engine.distill.runs import (
    Interruptible,
    Report,
    RunState,
    caught_up,
    check_finite,
    check_length,
    check_loss,
    check_positive,
    check_unchanged,
    claim_folder,
    falling_back,
    follow,
    option_facts,
    training_device,
)
from latino_engine.errors import invalid
from latino_engine.image_io import write_image
from latino_engine.image_io.datasets import (
    CHECKPOINT,
    ImageSource,
    check_channels,
    open_images,
)
from latino_engine.ops.checks import check_seed
from latino_engine.priors.folder import write_prior
from latino_engine.priors.loading import load_prior
from latino_engine.priors.networks.resunet import ResUNet
from latino_engine.priors.networks.unet import UNet
from latino_engine.priors.preconditioning import EDMDenoiser
from latino_engine.priors.prior import Prior, PriorSpec

_GRID_SIDE = 4  # samples per side of a sample grid
_HEUN_STEPS = 18
#: What may change when a run is resumed.
_FREE = (
    "name",
    "minutes",
    "steps",
    "checkpoint_minutes",
    "licence",
    "half",
    "learning_rate",
    "cooldown",
    "precision",
    "compiled",
    "validation",
)
#: Network's name -> its class and the options that are its arguments.
_NETWORKS: dict[str, tuple[type[torch.nn.Module], tuple[str, ...]]] = {
    "unet": (UNet, ("widths", "blocks_per_level", "attention_heads", "embedding", "groups")),
    "resunet": (ResUNet, ("widths", "down_blocks", "up_blocks", "embedding")),
}


def train_prior(
    options: PriorTraining,
    out: str | Path,
    *,
    device: str | None = None,
    report: Report | None = None,
) -> Prior:
    """Train, or go on with the run that stands in `out`.

    The loss is E[w(sigma) ||D(x + sigma eps, sigma) - x||^2], w = (sigma^2 + s^2) / (sigma s)^2.

    Args:
        options: of the run; a run that is resumed must have the same, but for its name,
            length, learning rate, licence and how it is stored.
        out: the run's folder. It always holds the prior as far as it got (`prior.json`,
            `model.safetensors`, the moving average), the checkpoint, `training.json`, `loss.csv`
            and sample grids.
        device: "cpu" or "cuda"; a GPU is taken where there is one.
        report: called after every step.

    Returns:
        The prior with the averaged weights.

    Raises:
        ImageUnreadable: images that cannot be used.
        TrainingStopped: loss, gradients or weights became NaN or infinite; the last good average
            is kept.
        OutputNotWritable: a folder that is something else, or cannot be written.
        KeyboardInterrupt: after the checkpoint was written.

    Source: Karras et al. (2022), sections 3 and 5.
    """
    _check(options)
    folder = Path(out)
    run = _Run(options, folder, device)
    run.resume()
    try:
        with run.interruptible.steps():
            run.train(report or (lambda *_: None))
    finally:
        if run.state.step > 0 or sys.exc_info()[0] is None:
            run.write()
    return load_prior(folder)


def _check(options: PriorTraining) -> None:
    check_length(options.minutes, options.steps, "steps")
    positive = ("batch", "size", "warmup", "checkpoint_minutes", "learning_rate", "log_sigma_std")
    check_positive(options, (*positive, "blocks_per_level", "sigma_max", "sampler_sigma_max"))
    if not math.isfinite(options.log_sigma_mean):
        got, remedy = options.log_sigma_mean, "choose another"
        raise invalid("log_sigma_mean", "a finite number", got, remedy)
    if not 0.0 <= options.ema <= 1.0:
        raise invalid("ema", "a number from 0 to 1", options.ema, "choose another value")
    multiple = _size_multiple(options)
    if options.size % multiple:
        raise invalid("size", f"a multiple of {multiple}", options.size, "choose another crop")
    check_seed(options.seed)
    check_scale(options.smallest_scale)
    if options.pad < 0:
        raise invalid("pad", "0 or more", options.pad, "choose how many black pixels to add")
    if not 0.0 < options.cooldown <= 1.0:
        remedy = "1 lets the learning rate fall over the whole run"
        raise invalid("cooldown", "a number above 0, at most 1", options.cooldown, remedy)
    if options.precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise invalid("precision", f"one of {known}", repr(options.precision), "choose one")
    _check_network(options)


def _check_network(options: PriorTraining) -> None:
    if options.network not in _NETWORKS:
        known = ", ".join(_NETWORKS)
        raise invalid("network", f"one of {known}", repr(options.network), "choose one")
    for name in ("down_blocks", "up_blocks"):
        counts = getattr(options, name)
        if counts and (len(counts) != len(options.widths) or min(counts) < 0):
            expected = f"{len(options.widths)} numbers, one for each of widths"
            raise invalid(name, expected, counts, "give as many as widths")
    normalised = "groups" in _NETWORKS[options.network][1]
    if normalised and any(width % options.groups for width in options.widths):
        expected = f"multiples of groups = {options.groups}"
        raise invalid("widths", expected, options.widths, "choose other widths or groups")


def _size_multiple(options: PriorTraining) -> int:
    return int(2 * 2 ** (len(options.widths) - 1))


class _Run:
    def __init__(self, options: PriorTraining, folder: Path, device: str | None) -> None:
        self.options, self.folder = options, folder
        self.device = training_device(device)
        self.resumed = claim_folder(folder)
        self.source: ImageSource = open_images(options.source, options.size, options.pad)
        self.own = option_facts(asdict(options))
        self.state = RunState()
        self.interruptible = Interruptible()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            kind = _NETWORKS[options.network][0]
            network = kind(channels=self.source.channels, **self._architecture())
        self.model = EDMDenoiser(network, sigma_data=0.5).to(self.device)
        if options.start is not None and not self.resumed:
            self._begin_with(options.start)
        # Convolutions are faster where the channels of a pixel stand side by side.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, fused=True
        )
        self.validation: Validation | None = None
        if options.validation is not None:
            multiple = _size_multiple(options)
            self.validation = Validation(options.validation, multiple, self.device)
            owner = "the training set"
            check_channels(self.validation, self.source.channels, owner, "validation folder")
        self.written = time.monotonic()

    def _architecture(self) -> dict[str, Any]:
        o = self.options
        found = {name: getattr(o, name) for name in _NETWORKS[o.network][1]}
        usual = (o.blocks_per_level,) * len(o.widths)
        return {k: v or usual if k.endswith("_blocks") else v for k, v in found.items()}

    def _begin_with(self, start: str) -> None:
        """The weights of a prior of the same network, shipped or a folder."""
        found = load_prior(start)
        mine = {"name": self.options.network, **json.loads(json.dumps(self._architecture()))}
        theirs = {k: v for k, v in found.spec.architecture.items() if k in mine}
        if theirs != mine or found.channels != self.source.channels:
            got = f"{theirs} for {found.channels} channels"
            raise invalid("start", f"a prior of the network {mine}", got, "use its options")
        self.model.load_state_dict(found.denoiser.state_dict())

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model, "average": self.average}

    def resume(self) -> None:
        """Go on where the checkpoint of the folder stands, if there is one."""
        if not self.resumed:
            return
        path = self.folder / CHECKPOINT
        facts = read_facts(path)
        check_unchanged(self.folder, self.own, facts, _FREE, PriorTraining)
        read_tensors(path, self._modules(), {"optimizer": self.optimizer})
        self.state = RunState.of(facts)

    def fraction(self) -> float:
        """How much of the run is done, 0..1."""
        if self.options.steps is not None:
            return min(1.0, self.state.step / self.options.steps)
        assert self.options.minutes is not None
        return min(1.0, self.state.seconds / (60.0 * self.options.minutes))

    def train(self, report: Report) -> None:
        """Steps until the run's length is reached; the next batch is prepared meanwhile."""
        o = self.options
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._batch, self.state.step)
            step = Step(self.model, o.precision, o.compiled, coming.result()[0].to(self.device))
            while self.fraction() < 1.0:
                start = time.perf_counter()
                x, eps, sigma = (part.to(self.device) for part in coming.result())
                coming = pool.submit(self._batch, self.state.step + 1)
                with falling_back(self.average, self.model, [self.optimizer], self.state.step):
                    loss = self._step(step, x, eps, sigma)
                spent = time.perf_counter() - start
                self.state.step += 1
                self.state.seconds += spent
                self.state.losses.append(loss)
                report(self.state.step, self.fraction(), loss, len(x) / spent)
                self.interruptible.check()
                if time.monotonic() - self.written > 60.0 * self.options.checkpoint_minutes:
                    self.write()

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Squares, noise and noise levels of a step, a function of (seed, step) alone."""
        o = self.options
        x = draw_batch(self.source, o.batch, o.size, o.flip, o.seed, step, o.smallest_scale, o.turn)
        generator = torch.Generator().manual_seed(((o.seed << 32) + step) % 2**63)
        sigma = torch.randn(len(x), generator=generator)
        eps = torch.randn(x.shape, generator=generator)
        layout = torch.channels_last
        sigma = torch.exp(o.log_sigma_mean + o.log_sigma_std * sigma)
        return x.contiguous(memory_format=layout), eps.contiguous(memory_format=layout), sigma

    def _step(self, loss_of: Step, x: Tensor, eps: Tensor, sigma: Tensor) -> float:
        o, step = self.options, self.state.step
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, eps, sigma)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        value = float(loss)
        check_loss(value, float(norm), step)
        follow(self.average, self.model, o.ema, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.step()
        check_finite(self.model, step + 1)
        return value

    def _rate(self) -> float:
        """The learning rate of the next step: a rise, a level and a cosine to 0."""
        o = self.options
        warm = min(1.0, (self.state.step + 1) / o.warmup)
        late = max(0.0, 1.0 - (1.0 - self.fraction()) / o.cooldown)
        return o.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * late))

    def prior(self) -> Prior:
        """The prior with the averaged weights, on the CPU."""
        o = self.options
        spec = PriorSpec(
            name=o.name,
            channels=self.source.channels,
            size_multiple=_size_multiple(o),
            data_range=(0.0, 1.0),
            sigma_min=0.002,
            sigma_max=o.sigma_max,
            architecture={"name": o.network, **json.loads(json.dumps(self._architecture()))},
            preconditioning={"name": "edm", "sigma_data": 0.5},
            sampler={"sigma_max": o.sampler_sigma_max, "sigma_min": 0.02, "steps": 8},
            licence=o.licence,
        )
        average = caught_up(self.average, self.model, o.ema, self.state.step)
        return Prior(spec, average.cpu().eval())

    def write(self) -> None:
        """Checkpoint, prior, loss curve and a sample grid: each file whole or as it was."""
        facts = {**self.state.facts(), **self.own}
        optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": self.optimizer}
        write_checkpoint(self.folder / CHECKPOINT, self._modules(), optimizers, facts)
        prior = self.prior()
        write_prior(prior, self.folder, half=self.options.half)
        with atomic_file(self.folder / "training.json") as file:
            file.write((json.dumps(asdict(self.options), indent=1) + "\n").encode())
        self.state.write_losses(self.folder)
        if self.validation is not None:
            self._validate(self.validation, prior)
        if prior.channels in (1, 3):
            grid = sample_grid(prior, self.options.size, self.options.seed)
            if bool(grid.isfinite().all()):  # an early network may overflow at high noise
                write_image(self.folder / f"samples-{self.state.step:07d}.png", grid)
        self.written = time.monotonic()

    def _validate(self, validation: Validation, prior: Prior) -> None:
        """Add a row to validation.csv; that of a step that was written twice stands once."""
        path = self.folder / "validation.csv"
        title = ",".join(["squares", "seconds", *(f"psnr_{level}" for level in LEVELS)])
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        squares = self.state.step * self.options.batch
        values = [f"{value:.3f}" for value in validation.psnr(prior.denoiser)]
        row = ",".join([str(squares), f"{self.state.seconds:.0f}", *values])
        kept = [line for line in rows if int(line.split(",")[0]) < squares]
        with atomic_file(path) as file:
            file.write("\n".join([title, *kept, row, ""]).encode())


@torch.no_grad()
def sample_grid(prior: Prior, size: int, seed: int = 0) -> Tensor:
    """Unconditional samples by Heun's method, (C, 4 size, 4 size) in [0, 1], the same for a seed.

    Source: Karras et al. (2022), Algorithm 1, 18 noise levels with rho = 7.
    """
    from latino_engine import ops

    count, spec = _GRID_SIDE**2, prior.spec
    ends = [level ** (1 / 7) for level in (min(spec.sigma_max, 80.0), max(spec.sigma_min, 0.002))]
    ramp = torch.linspace(0.0, 1.0, _HEUN_STEPS)
    sigmas = [*((ends[0] + ramp * (ends[1] - ends[0])) ** 7).tolist(), 0.0]
    shape = (count, prior.channels, size, size)
    x = sigmas[0] * ops.gaussian_noise(seed, list(range(count)), [0] * count, 0, shape)
    for now, after in itertools.pairwise(sigmas):
        slope = (x - prior.denoise(x, now)) / now
        ahead = x + (after - now) * slope
        if after > 0.0:
            slope = 0.5 * (slope + (ahead - prior.denoise(ahead, after)) / after)
        x = x + (after - now) * slope
    grid = x.reshape(_GRID_SIDE, _GRID_SIDE, prior.channels, size, size).permute(2, 0, 3, 1, 4)
    picture: Tensor = grid.reshape(prior.channels, _GRID_SIDE * size, -1) / 2.0 + 0.5
    return picture.clamp(0.0, 1.0)
