"""Distil a few-step posterior sampler: train an adapter inside the unfolded sampler."""

from __future__ import annotations

import copy
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from latino_engine.atomic import atomic_file
from latino_engine.distill.batches import draw_batch
from latino_engine.distill.checkpoint import read_facts, read_tensors, write_checkpoint
from latino_engine.distill.objectives import EnergyObjective, MeanObjective, Objective
from latino_engine.distill.operator_draws import parse_draws
from latino_engine.distill.option_checks import check_options
from latino_engine.distill.options import Distillation
from latino_engine.distill.paper_objective import PaperObjective
from latino_engine.distill.processes import Processes
from latino_engine.distill.runs import (
    Interruptible,
    Report,
    RunState,
    caught_up,
    check_finite,
    check_loss,
    check_unchanged,
    claim_folder,
    falling_back,
    follow,
    option_facts,
)
from latino_engine.distill.starting import start_from
from latino_engine.distill.unfolded import TrainingBatch, Unfolded
from latino_engine.errors import invalid
from latino_engine.image_io.datasets import CHECKPOINT, ImageSource, check_channels, open_images
from latino_engine.priors.adapters import Adapter, load_adapter, write_adapter
from latino_engine.priors.loading import pixel_prior
from latino_engine.priors.prior import Prior
from latino_engine.sampling.problem import make_problem
from latino_engine.schedule import few_step_sigmas

#: What may change when a run is resumed.
_FREE = (
    "name",
    "minutes",
    "training_steps",
    "checkpoint_minutes",
    "half",
    "autocast",
    "compiled",
    "checkpointing",
    "learning_rate",
    "step_size_rate",
    "discriminator_rate",
    "init_rate",
    "perceptual_network",  # the distance itself is compared
)


def distill(
    prior: Prior | str | Path,
    options: Distillation,
    out: str | Path,
    *,
    init_network: nn.Module | None = None,
    device: str | None = None,
    report: Report | None = None,
) -> Adapter:
    """Train an adapter, or go on with the run that stands in `out`.

    The sampler that is trained is `sampler.sample_posterior`, the one of inference. Several
    processes, started by `accelerate launch`, share each batch.

    Args:
        prior: a `Prior`, a shipped name or a prior's folder.
        options: of the run; a run that is resumed must have the same, but for its name, its
            length, its learning rates, and how it computes and stores.
        out: the run's folder. It always holds the adapter as far as it got (`adapter.json`,
            `adapter.safetensors`, the moving average), the checkpoint and `loss.csv`.
        init_network: with init="network": (y, op) -> public image, trained along and written to
            init.safetensors.
        device: "cpu" or "cuda"; a GPU is taken where there is one.
        report: called after every step.

    Returns:
        The adapter with the averaged weights.

    Raises:
        ValueError, TypeError: an option that cannot be used, in one sentence.
        TrainingStopped: loss, gradients or weights became NaN or infinite, or step sizes left
            the range of float32; the last good average is kept.
        OutputNotWritable: a folder that is something else, or cannot be written.
        KeyboardInterrupt: after the checkpoint was written.

    Source: [UD2M] arXiv:2507.02686, sections 3 and 4.
    """
    prior = pixel_prior(prior)
    check_options(options, init_network)
    run = _Run(prior, options, Path(out), init_network, device)
    run.resume()
    try:
        with run.interruptible.steps():
            run.train(report or (lambda *_: None))
    finally:
        if run.processes.is_main and (run.state.step > 0 or sys.exc_info()[0] is None):
            run.write()
    run.processes.wait()
    return load_adapter(out)


class _Run:
    def __init__(
        self,
        prior: Prior,
        options: Distillation,
        folder: Path,
        init_network: nn.Module | None,
        device: str | None,
    ) -> None:
        self.prior, self.options, self.folder = prior, options, folder
        self.processes = Processes(device, options.batch)
        self.resumed = claim_folder(folder, self.processes.is_main)
        self.draws = parse_draws(options.operators, options.noise_std)
        kinds = self.draws.kinds(options.size, prior.channels)
        self.source: ImageSource = open_images(options.source, options.size, options.pad)
        self._check_images()
        self.own = option_facts({**asdict(options), "prior": prior.content_hash()})
        self.state = RunState()
        self.interruptible = Interruptible()
        self.model = Unfolded(
            prior,
            few_step_sigmas(options.steps, prior.spec.sigma_table),
            options.unfold,
            kinds,
            targets=options.targets,
            rank=options.rank,
            alpha=options.alpha,
            seed=options.seed,
            c=options.c,
            zeta=options.zeta,
            checkpointing=options.checkpointing,
            autocast=options.autocast,
            init_network=init_network,
        )
        self.origin: dict[str, Any] | None = None
        if options.start is not None and not self.resumed:
            begun = load_adapter(options.start)
            start_from(self.model, prior, begun)
            self.origin = _origin(begun)
        elif options.start is not None:  # for a checkpoint that does not tell
            self.origin = {"name": Path(options.start).name}
        self.model.to(self.processes.device)
        self.processes.share_weights(self.model)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        if options.compiled:  # in place: the names of the weights stay
            cast(Any, self.model.network).to(memory_format=torch.channels_last)
            self.model.network.compile()
        rate = options.learning_rate
        groups = self.model.groups(rate, options.step_size_rate, options.init_rate * rate)
        self.optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
        self.objective = self._objective()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.written = time.monotonic()

    def _check_images(self) -> None:
        channels, multiple = self.prior.channels, self.prior.spec.size_multiple
        check_channels(self.source, channels, f"the prior {self.prior.name!r}", "prior")
        if self.options.size % multiple:
            raise invalid(
                "size", f"a multiple of {multiple}", self.options.size, "choose another crop"
            )

    def _objective(self) -> Objective:
        o = self.options
        if o.objective == "energy":
            return EnergyObjective(o.num_samples, o.patches, o.exponent, o.image_exponent)
        if o.objective == "mse":
            return MeanObjective()
        device, average = self.processes.device, self.processes.average_gradients
        return PaperObjective(o, self.prior.channels, device, average)

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average, **self.objective.modules()}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimizer": self.optimizer, **self.objective.optimizers()}

    def resume(self) -> None:
        """Go on where the checkpoint of the folder stands, if there is one."""
        if not self.resumed:
            return
        facts = read_facts(self.folder / CHECKPOINT)
        check_unchanged(self.folder, self.own, facts, _FREE, Distillation)
        was, now = facts.get("perceptual", self._perceptual()), self._perceptual()
        if was != now:
            remedy = f"give --perceptual-network {was}, or use another folder"
            raise invalid("perceptual_network", f"{was!r}, as the run began with", now, remedy)
        read_tensors(self.folder / CHECKPOINT, self._modules(), self._optimizers())
        self.state, self.origin = RunState.of(facts), facts.get("origin") or self.origin

    def _perceptual(self) -> str | None:
        """The distance that the objective uses."""
        objective = self.objective
        return objective.distance_name if isinstance(objective, PaperObjective) else None

    def fraction(self) -> float:
        """How much of the run is done, 0..1."""
        if self.options.training_steps is not None:
            return min(1.0, self.state.step / self.options.training_steps)
        assert self.options.minutes is not None
        return min(1.0, self.state.seconds / (60.0 * self.options.minutes))

    def train(self, report: Report) -> None:
        """Steps until the run's length is reached; the next batch is prepared meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._images, self.state.step)
            while self.fraction() < 1.0:
                start = time.perf_counter()
                x = coming.result()
                coming = pool.submit(self._images, self.state.step + 1)
                batch = self._batch(x)
                everything = self._optimizers().values()
                pair = (self.average, self.model)
                with falling_back(*pair, everything, self.state.step, self.objective.restart):
                    loss = self._step(batch)
                spent = self.processes.agree(time.perf_counter() - start)
                self.state.step += 1
                self.state.seconds += spent
                self.state.losses.append(loss)
                report(self.state.step, self.fraction(), loss, self.options.batch / spent)
                self.interruptible.check()
                due = time.monotonic() - self.written > 60.0 * self.options.checkpoint_minutes
                if due and self.processes.is_main:
                    self.write()

    def _images(self, step: int) -> Tensor:
        o = self.options
        return draw_batch(self.source, o.batch, o.size, o.flip, o.seed, step, o.smallest_scale)

    def _batch(self, x: Tensor) -> TrainingBatch:
        """The measurements of the whole batch, and of them the share of this process."""
        o, step, spec = self.options, self.state.step, self.prior.spec
        seed = (o.seed * 1_000_003 + step) % 2**63
        operator = self.draws.draw(o.batch, o.size, o.seed, step, spec.channels)
        x = x.to(self.processes.device)
        public = (x - spec.offset) / spec.scale
        y = operator.measure(public, seed=seed)
        mine = self.processes.share()
        part = operator if operator.batch_size is None else operator.take(mine)
        init = "measurement" if o.init == "measurement" else None
        problem = make_problem(y[mine], part, spec, init, str(self.processes.device))
        return TrainingBatch(x[mine], problem, mine, seed, step)

    def _step(self, batch: TrainingBatch) -> float:
        o, step = self.options, self.state.step
        self.model.check_step_sizes(batch.problem, step)
        loss = self.objective.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.processes.average_gradients(self.trained)
        value = self.processes.mean(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        check_loss(value, float(norm), step)
        self.objective.update(batch)  # may refuse too: before anything has changed
        follow(self.average, self.model, o.ema, step)
        warm = min(1.0, (step + 1) / o.warmup)
        share = warm * 0.5 * (1.0 + math.cos(math.pi * self.fraction()))
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak"]
        self.optimizer.step()
        check_finite(self.model, step + 1)
        self.model.check_step_sizes(batch.problem, step + 1)
        return value

    def adapter(self, average: Unfolded) -> Adapter:
        """The adapter with the averaged weights."""
        o = self.options
        for mean, new in zip(average.parameters(), self.model.parameters(), strict=True):
            mean.requires_grad_(new.requires_grad)  # marks what belongs to the adapter
        return Adapter(
            name=o.name,
            prior_name=self.prior.name,
            prior_sha256=self.prior.content_hash(),
            schedule=average.learned_schedule(),
            weights=average.adapter_weights(),
            scale=1.0 if o.targets == "full" else o.alpha / o.rank,
            init=o.init,
            training={
                **asdict(o),
                "source": Path(o.source).name,
                "start": self.origin,
                "perceptual_network": self._perceptual() or o.perceptual_network,
                "steps_done": self.state.step,
            },
        )

    def write(self) -> None:
        """Checkpoint, adapter and loss curve: each file whole or as it was."""
        facts = {
            **self.state.facts(),
            **self.own,
            "origin": self.origin,
            "perceptual": self._perceptual(),
        }
        write_checkpoint(self.folder / CHECKPOINT, self._modules(), self._optimizers(), facts)
        average = caught_up(self.average, self.model, self.options.ema, self.state.step)
        write_adapter(self.adapter(average), self.folder, half=self.options.half)
        if average.init_network is not None:
            write_module(self.folder / "init.safetensors", average.init_network)
        self.state.write_losses(self.folder)
        self.written = time.monotonic()


def _origin(adapter: Adapter) -> dict[str, Any]:
    """Where a run began: the adapter's name and hash, and how that one was trained."""
    return {
        "name": adapter.name,
        "sha256": adapter.content_hash(),
        "training": adapter.training,
    }


def write_module(path: Path, module: nn.Module) -> None:
    """The weights of a module as safetensors, whole or as it was."""
    from safetensors.torch import save

    weights = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    with atomic_file(path) as file:
        file.write(save(weights))
