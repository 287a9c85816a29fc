"""The methods of a task, timed draw by draw in turn, and scored."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

import latino_engine as le
from benchmarks.end_to_end import authors_style
from benchmarks.end_to_end.peers import PEERS, Peer, parameters_of
from latino_engine.bench import timer
from latino_engine.compilation.accuracy import BOUNDS
from latino_engine.evaluation.evaluator import central_squares, measure_each, score
from latino_engine.image_io.datasets import open_images
from latino_engine.operators.spec import parse_operator
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.schedule import latino_schedule

PRIOR, ADAPTER, SIDE, NOISE_STD = "photo-small", "photo-small", 256, 0.02
#: Precision -> ||method - engine|| / ||engine|| of one sample with the same noise, at most.
AGREEMENT = {"fp32": 1e-4, "bf16": BOUNDS["bf16"]}
OPERATORS = ("blur:std=1.6,size=13", "sr:factor=4", "inpaint:random=0.5")
#: Engine -> runtime and precision; the first is what the others' ratios are of.
ENGINES = {
    "onnxruntime": ("onnxruntime", "fp32"),
    "torch": ("torch", "fp32"),
    "torch bf16": ("torch", "bf16"),
}
BASE = "onnxruntime"
STEPS = 8  # of zero-shot LATINO
DISTILLED, ZERO_SHOT = "distilled 2 x 2", f"LATINO {STEPS}"

#: (image of the batch, number of the draw) -> one sample (1, C, H, W), [0, 1], not clamped.
Draw: TypeAlias = Callable[[int, int], Tensor]
#: (sampler, precision) -> folder of its engine.
Folders: TypeAlias = "dict[tuple[str, str], Path]"


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: of the row.
        draw: what is timed.
        nfe: network evaluations of a draw, asked for after it.
        reference: name of the row of this engine that it is held against, its own for itself.
        slow: no draw beforehand.
        error: its relative distance from the engine's sample with the same noise.
        precision: whose agreement is asked for.
        outside: percent of each call that this engine spent outside the network.
        about: parameters.
    """

    name: str
    draw: Draw
    nfe: Callable[[], int]
    reference: str
    slow: bool = False
    error: Callable[[Method], float] | None = None
    precision: str = "fp32"
    outside: Callable[[], float] | None = None
    about: dict[str, Any] | None = None


class Task:
    """Photographs, their measurements, and every method on them."""

    def __init__(
        self,
        source: Path,
        operator: str,
        images: int,
        prior: str = PRIOR,
        adapter: str = ADAPTER,
        side: int = SIDE,
    ) -> None:
        photographs = open_images(str(source), side, 0)
        ids = range(min(images, len(photographs)))
        self.operator = operator
        self.truth = central_squares(photographs, ids, side)
        self.op = parse_operator(operator, NOISE_STD, (side, side))
        self.y = measure_each(self.op, self.truth, ids, 0)
        self.prior = le.load_prior(prior)
        self.adapter = le.load_adapter(adapter)
        self.shape = (self.prior.channels, side, side)

    def engine_method(self, folders: Folders, engine_of: str, sampler: str) -> Method:
        """This engine: one of ENGINES, loaded from its folder."""
        runtime, precision = ENGINES[engine_of]
        engine, outside = le.load(folders[sampler, precision], runtime), []
        told = {"nfe": 0}

        def draw(image: int, number: int) -> Tensor:
            y = self.y[image : image + 1]
            post = engine.sample(y, self.op, 1, seed=1 + number, image_ids=[image])
            outside.append(100.0 * (1.0 - post.stages_ms["denoise"] / post.time_ms))
            told["nfe"] = post.nfe
            return post.samples[0]

        def error(base: Method) -> float:
            expected = base.draw(0, 0)
            return float((draw(0, 0) - expected).norm() / expected.norm())

        name, base = engine_name(engine_of, sampler), engine_name(BASE, sampler)
        share = lambda: timer.quantile(outside, 0.5)  # noqa: E731
        compared = None if name == base else error
        return Method(name, draw, lambda: told["nfe"], base, error=compared, precision=precision,
                      outside=share)  # fmt: skip

    def eager_method(self, sampler: str) -> Method:
        """The same sampler in eager PyTorch."""
        sigma_y = self.prior.spec.scale * NOISE_STD
        if sampler == DISTILLED:
            prior = authors_style.unmerged(self.prior, self.adapter)
            schedule = self.adapter.schedule.builder(self.op)(sigma_y)
        else:
            prior = self.prior
            schedule = latino_schedule(sigma_y, prior.spec.latino_sigmas(STEPS))

        def draw(image: int, number: int, *noise: authors_style.Noise) -> Tensor:
            y = self.y[image : image + 1]
            start = self.op.initial_estimate(y)
            return authors_style.sample(prior, self.op, y, start, schedule, *noise)

        def error(engine: Method) -> float:
            stream = NoiseStream(1, torch.tensor([0]), torch.tensor([0]))  # of the first draw
            mine = draw(0, 0, lambda like, step: stream.langevin(torch.zeros_like(like), 1.0, step))
            expected = engine.draw(0, 0)
            return float((mine - expected).norm() / expected.norm())

        name, reference = f"eager PyTorch, {sampler}", engine_name(BASE, sampler)
        return Method(name, draw, lambda: schedule.nfe, reference, error=error)

    def peer_method(self, peer: Peer, others: Path | None) -> Method:
        """A method of deepinv with this prior."""
        from benchmarks.peers.denoiser import PriorDenoiser
        from benchmarks.peers.samplers import sample

        parameters = parameters_of(peer, self.prior, self.operator, NOISE_STD, others)
        denoiser, told = PriorDenoiser(self.prior), {"nfe": 0}

        def draw(image: int, number: int) -> Tensor:
            y = self.y[image : image + 1]
            seed = 1000 * (1 + number) + image
            drawn, told["nfe"] = sample(
                peer.method, denoiser, self.op, y, self.shape, peer.steps, parameters, 1, seed
            )
            return drawn[0]

        slow = peer.method == "dps"  # it differentiates the network
        reference = engine_name(BASE, DISTILLED)
        return Method(peer.name, draw, lambda: told["nfe"], reference, slow, about=parameters)


def engine_name(engine: str, sampler: str) -> str:
    """The name of a row of this engine."""
    return f"latino-engine {engine}, {sampler}"


def method_names() -> list[str]:
    """All rows of a task that this environment can make, the engine's own first."""
    samplers = (DISTILLED, ZERO_SHOT)
    names = [engine_name(engine, sampler) for sampler in samplers for engine in ENGINES]
    names += [f"eager PyTorch, {sampler}" for sampler in samplers]
    return names + ([peer.name for peer in PEERS] if find_spec("deepinv") else [])


def make_method(task: Task, name: str, folders: Folders, others: Path | None) -> Method:
    """The method of a row by its name."""
    for sampler in (DISTILLED, ZERO_SHOT):
        for engine in ENGINES:
            if name == engine_name(engine, sampler):
                return task.engine_method(folders, engine, sampler)
        if name == f"eager PyTorch, {sampler}":
            return task.eager_method(sampler)
    (peer,) = [peer for peer in PEERS if peer.name == name]
    return task.peer_method(peer, others)


@dataclass(frozen=True)
class Group:
    """Methods that take turns, `drawn`, and those of them whose rows are wanted."""

    drawn: tuple[Method, ...]
    wanted: tuple[Method, ...]


def groups(task: Task, names: Sequence[str], folders: Folders, others: Path | None) -> list[Group]:
    """The quick methods together, then each slow one; with the engine's rows they refer to."""
    made = {name: make_method(task, name, folders, others) for name in names}
    for method in list(made.values()):
        if method.reference not in made:
            made[method.reference] = make_method(task, method.reference, folders, others)
    quick = tuple(method for method in made.values() if not method.slow)
    found = [Group(quick, tuple(method for method in quick if method.name in names))]
    slow = [method for method in made.values() if method.slow]
    return found + [Group((made[method.reference], method), (method,)) for method in slow]


@contextmanager
def compiled(kept: Path | None) -> Iterator[Folders]:
    """The engines in the folder `kept`, compiled now where they are missing."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if kept is None else kept
        folders = {}
        for sampler, stem in ((DISTILLED, "distilled"), (ZERO_SHOT, "zero-shot")):
            adapter = ADAPTER if sampler == DISTILLED else None
            for precision in dict.fromkeys(precision for _, precision in ENGINES.values()):
                name = f"{stem}.engine" if precision == "fp32" else f"{stem}-{precision}.engine"
                folders[sampler, precision] = folder = root / name
                if not folder.exists():
                    le.compile(PRIOR, folder, adapter=adapter, image_size=SIDE, precision=precision)
        yield folders


def measure(task: Task, methods: Sequence[Method], samples: int) -> list[dict[str, Any]]:
    """Draw in turn, time, score: rows for the table of measurements.

    For every draw of every image each method is called once, so that whatever else the machine does
    falls on all of them. A method that differs from the engine's sample with the same noise is a
    failed row without a time.

    Args:
        task: the images.
        methods: the engine's rows that the others refer to among them.
        samples: draws per image, at least 2.
    """
    named = {method.name: method for method in methods}
    failed = {}
    for method in methods:
        error = 0.0 if method.error is None else method.error(named[method.reference])
        if not error <= AGREEMENT[method.precision]:
            failed[method.name] = error
    agreeing = [method for method in methods if method.name not in failed]
    drawn: dict[str, list[Tensor]] = {method.name: [] for method in agreeing}
    times: dict[str, list[float]] = {method.name: [] for method in agreeing}
    for method in agreeing:
        if not method.slow:
            method.draw(0, samples)  # allocates, fills tables; not scored
    for number, image in itertools.product(range(samples), range(len(task.truth))):
        for method in agreeing:
            times[method.name].append(_time(method, image, number, drawn[method.name]))
    rows = []
    for method in methods:
        if method.name in failed:
            error = json.dumps({"error": failed[method.name]})
            rows.append({**_about(task, method), "status": "failed", "details": error})
            continue
        images = torch.stack(drawn[method.name]).unflatten(0, (samples, len(task.truth)))
        found = score(images.squeeze(2), task.truth)
        rows.append(_row(task, method, found, samples, times))
    return rows


def _time(method: Method, image: int, number: int, kept: list[Tensor]) -> float:
    return timer.time_once(lambda: kept.append(method.draw(image, number)))


def _row(
    task: Task,
    method: Method,
    scores: dict[str, Any],
    samples: int,
    times: dict[str, list[float]],
) -> dict[str, Any]:
    ms = timer.summary(times[method.name])
    details: dict[str, Any] = {
        "nfe": method.nfe(),
        **{key: round(scores[key], 5) for key in ("psnr_sample", "psnr_mean", "crps")},
        "images": len(task.truth),
        "samples": samples,
        "engine": method.reference,
        "engine_ms": round(timer.quantile(times[method.reference], 0.5), 2),
        "prior_sha256": task.prior.content_hash()[:12],
        "noise_std": NOISE_STD,
    }
    if method.outside is not None:
        details["outside_network_percent"] = round(method.outside(), 2)
    if method.about is not None:
        details["parameters"] = method.about
    return {
        **_about(task, method),
        "value": ms["p50"],
        "p20": ms["p20"],
        "p80": ms["p80"],
        "details": json.dumps(details),
    }


def _about(task: Task, method: Method) -> dict[str, Any]:
    return {
        "suite": "end_to_end",
        "name": task.operator,
        "provider": method.name,
        "shape": "x".join(map(str, (1, *task.shape))),
        "threads": torch.get_num_threads(),
        "metric": "time_per_sample",
        "unit": "ms",
    }
