"""Short trainings of the digits sampler, one choice changed at a time."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import latino_engine as le
from benchmarks.quality.rows import (
    RESULTS,
    Problem,
    Sampler,
    read_row,
    row_identity,
    row_path,
    score_row,
    write_row,
)
from latino_engine.distill.distillation import distill
from latino_engine.distill.options import Distillation
from latino_engine.operators.protocol import Operator

DIGITS = "digits-32"
RUNS = Path(__file__).parent.parent / "results" / "runs"  # not kept in the repository
_OPERATOR = "sr:factor=4"
_NOISE = 0.05
_SAMPLES = 10


class Restoration(nn.Module):
    """x = r + h(r), r the operator's own estimate and h three small convolutions, 0 at first."""

    def __init__(self, seed: int, width: int = 32) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [
                nn.Conv2d(a, b, 5, padding=2) for a, b in ((1, width), (width, width), (width, 1))
            ]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(cast(Tensor, layers[-1].bias))
        self.body = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])

    def forward(self, y: Tensor, op: Operator) -> Tensor:
        """The image of the measurement, public units."""
        estimate = op.initial_estimate(y)
        restored: Tensor = estimate + self.body(estimate)
        return restored


def choices(mnist: Path, training_steps: int, limit: int) -> None:
    """Targets and rank; start; objective; N, K in {1, 2, 4} with and without training."""
    base = _base(mnist, training_steps)
    for rank in (1, 5, 20):
        trained = replace(base, targets="all-conv", rank=rank, alpha=float(rank))
        trained = replace(trained, learning_rate=1e-3)
        _train_and_score(f"2 x 2, rank {rank}", trained, mnist, limit)
    attention = replace(base, targets="attention", learning_rate=1e-3)
    _train_and_score("2 x 2, attention, rank 5", attention, mnist, limit)
    blur = replace(_problem(mnist, limit), operator="blur:std=2")
    for init in ("regularised", "measurement", "network"):
        started = replace(base, operators=(blur.operator,), init=init)
        _train_and_score(f"2 x 2, init {init}", started, mnist, limit, blur)
    _train_and_score("2 x 2, paper objective", replace(base, objective="paper"), mnist, limit)
    for steps in (1, 2, 4):
        for unfold in (1, 2, 4):
            name = f"N={steps}, K={unfold}"
            untrained = Sampler(
                f"{name}, untrained", DIGITS, None, "ud2m", steps, unfold, num_samples=_SAMPLES
            )
            score_row("ablation", _problem(mnist, limit), untrained)
            _train_and_score(name, replace(base, steps=steps, unfold=unfold), mnist, limit)


def change_of_operator(mnist: Path, training_steps: int, limit: int) -> None:
    """A sampler of many blurs and noises against one of a single blur, inside and outside."""
    base = replace(_base(mnist, training_steps), noise_std="0.02..0.08")
    many = replace(base, operators=("blur:std=1..2.5",))
    for std, noise in ((1.5, 0.05), (2.0, 0.05), (3.0, 0.05), (2.0, 0.12)):
        problem = replace(_problem(mnist, limit), operator=f"blur:std={std:g}", noise_std=noise)
        single = replace(base, operators=(problem.operator,), noise_std=str(noise))
        _train_and_score("trained on std 1..2.5", many, mnist, limit, problem, "change")
        _train_and_score("trained on this one", single, mnist, limit, problem, "change")
        latino = Sampler("LATINO 8", DIGITS, None, "latino", 8, num_samples=_SAMPLES)
        score_row("change", problem, latino)


def _base(mnist: Path, training_steps: int) -> Distillation:
    return Distillation(
        source=str(mnist / "train-images-idx3-ubyte.gz"),
        name="ablation",
        operators=(_OPERATOR,),
        noise_std=str(_NOISE),
        size=32,
        pad=2,
        steps=2,
        unfold=2,
        targets="full",
        learning_rate=2e-4,
        step_size_rate=3e-2,
        training_steps=training_steps,
    )


def _problem(mnist: Path, limit: int) -> Problem:
    return Problem(str(mnist / "t10k-images-idx3-ubyte.gz"), _OPERATOR, _NOISE, 32, 2, limit)


def _train_and_score(
    name: str,
    options: Distillation,
    mnist: Path,
    limit: int,
    problem: Problem | None = None,
    table: str = "ablation",
) -> None:
    problem = problem or _problem(mnist, limit)
    many = table == "change" and "trained on std" in name
    slug = name if many or table == "ablation" else f"{problem.operator}-{problem.noise_std:g}"
    folder = RUNS / "".join(c if c.isalnum() or c in ".-" else "_" for c in slug)
    print(f"{table}: {name} ({problem.operator}, noise {problem.noise_std:g})", file=sys.stderr)
    recorded = RESULTS / table / f"training-{folder.name}.json"
    network = Restoration(options.seed) if options.init == "network" else None
    sampler = Sampler(name, DIGITS, str(folder), num_samples=_SAMPLES, restoration=network)
    prior = le.load_prior(DIGITS)
    row = read_row(row_path(table, problem, sampler)) or {}
    same = row_identity(problem, sampler, prior).items() <= row.items()
    known = same and _is_training_of(read_row(recorded), options)
    if known and not (folder / "adapter.json").is_file():
        return  # the weights were not kept
    adapter = distill(prior, options, folder, init_network=network)
    if network is not None:
        network.load_state_dict(load_file(folder / "init.safetensors"))
        network.requires_grad_(False)
    score_row(table, problem, sampler)
    write_row(recorded, dict(adapter.training))  # last: it vouches for the row


def _is_training_of(facts: dict[str, Any] | None, options: Distillation) -> bool:
    """Whether a finished training had these options; one that it doesn't tell had its default."""
    if facts is None or facts.get("steps_done") != options.training_steps:
        return False
    wanted = json.loads(json.dumps({**asdict(options), "source": Path(options.source).name}))
    if options.perceptual_network == "auto":
        del wanted["perceptual_network"]  # the facts tell which it was
    defaults = {field.name: field.default for field in fields(Distillation)}
    return all(facts.get(key, defaults[key]) == value for key, value in wanted.items())
