"""One row of a table: a sampler on a problem, scored once and kept as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import latino_engine as le
from latino_engine.atomic import atomic_file
from latino_engine.evaluation.evaluator import Evaluation, evaluate
from latino_engine.operators.protocol import Operator
from latino_engine.priors import Prior
from latino_engine.priors.adapters import Adapter

RESULTS = Path(__file__).parent.parent / "results" / "quality"
#: How `coverage_active` counts and which pixels; rows of another rule are computed again.
COVERAGE_RULE = "rank of the truth; std of samples and truth together"
PEERS_PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"


@dataclass(frozen=True)
class Problem:
    """Images and how they are measured.

    Attributes:
        source: folder, idx or npy file of true images.
        operator: description such as "sr:factor=4".
        noise_std: public units.
        size, pad, limit: as in `Evaluation`.
    """

    source: str
    operator: str
    noise_std: float
    size: int
    pad: int = 0
    limit: int = 128


@dataclass(frozen=True)
class Sampler:
    """What is scored.

    Attributes:
        name: of the row.
        prior: shipped name or folder.
        adapter: shipped name, folder, an `Adapter`, or None.
        sampler, steps, unfold: as in `Engine.sample`.
        num_samples: draws per image.
        restoration: where the chain starts, as in `evaluate`; for an adapter that was trained so.
    """

    name: str
    prior: str
    adapter: str | Adapter | None = None
    sampler: str = "auto"
    steps: int | None = None
    unfold: int | None = None
    num_samples: int = 16
    restoration: Callable[[Tensor, Operator], Tensor] | None = None


def score_row(
    table: str, problem: Problem, sampler: Sampler, again: bool = False
) -> dict[str, Any]:
    """The row, from its file where it was scored before with the same prior and adapter."""
    path = row_path(table, problem, sampler)
    adapter = sampler.adapter
    adapter = le.load_adapter(adapter) if isinstance(adapter, str) else adapter
    prior = le.load_prior(sampler.prior)
    identity = {
        **row_identity(problem, sampler, prior),
        "adapter_sha256": None if adapter is None else adapter.content_hash(),
    }
    found = read_row(path)
    if found is not None and not again and identity.items() <= found.items():
        return found
    options = Evaluation(
        source=problem.source,
        operator=problem.operator,
        noise_std=problem.noise_std,
        size=problem.size,
        pad=problem.pad,
        limit=problem.limit,
        num_samples=sampler.num_samples,
        sampler=sampler.sampler,
        steps=sampler.steps,
        unfold=sampler.unfold,
    )
    with tempfile.TemporaryDirectory() as folder:
        engine = le.compile(
            prior, f"{folder}/e.engine", adapter=adapter, image_size=problem.size, max_batch=64
        )
        report = evaluate(engine, options, f"{folder}/out", restoration=sampler.restoration)
    return write_row(path, {"name": sampler.name, **identity, **report})


def peer_row(
    table: str,
    problem: Problem,
    prior: str,
    method: str,
    steps: int,
    num_samples: int,
    grid_source: str | None = None,
    grid_limit: int = 16,
    grid_samples: int = 4,
    grid_size: int | None = None,
    batch: int = 128,
) -> dict[str, Any] | None:
    """The row of a deepinv method, from its file, or computed where `make peers` was run.

    A row of another number of images on file still says which parameters are best.
    """
    name = f"{method}-{steps}"
    path = RESULTS / table / f"{_slug(problem)}--{name}.json"
    found = read_row(path)
    same = {
        "coverage_rule": COVERAGE_RULE,
        "num_samples": num_samples,
        "num_images": problem.limit,
        "prior_sha256": le.load_prior(prior).content_hash(),
    }
    if found is not None and same.items() <= found.items():
        return found
    if not PEERS_PYTHON.exists():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {
        "--operator": problem.operator,
        "--noise-std": problem.noise_std,
        "--size": problem.size,
        "--pad": problem.pad,
        "--limit": problem.limit,
        "--num-samples": num_samples,
        "--method": method,
        "--steps": steps,
        "--grid-limit": grid_limit,
        "--grid-samples": grid_samples,
        "--grid-size": grid_size or problem.size,
        "--batch": batch,
        "--output": path,
    }
    command = [PEERS_PYTHON, "-m", "benchmarks.peers.run", prior, problem.source]
    command += [item for pair in options.items() for item in pair]
    command += [] if grid_source is None else ["--grid-source", grid_source]
    command += [] if found is None else ["--known", path]
    print(f"{table}, {problem.operator}: {name}", file=sys.stderr)
    subprocess.run([str(item) for item in command], check=True, stdout=subprocess.DEVNULL)
    return write_row(path, {"coverage_rule": COVERAGE_RULE, **(read_row(path) or {})})


def row_path(table: str, problem: Problem, sampler: Sampler) -> Path:
    """Where the row is kept."""
    return RESULTS / table / f"{_slug(problem)}--{_slug(sampler)}.json"


def row_identity(problem: Problem, sampler: Sampler, prior: Prior) -> dict[str, Any]:
    """What a row on file must hold to be taken as it is, but for the adapter."""
    return {
        "coverage_rule": COVERAGE_RULE,
        "num_samples": sampler.num_samples,
        "limit": problem.limit,
        "prior_sha256": prior.content_hash(),
    }


def read_row(path: Path) -> dict[str, Any] | None:
    """The row of a file, None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def write_row(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Write a row, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(row, indent=1) + "\n").encode())
    return row


def _slug(part: Problem | Sampler) -> str:
    text = part.operator if isinstance(part, Problem) else part.name
    noise = f"_noise_{part.noise_std:g}" if isinstance(part, Problem) else ""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in text) + noise
