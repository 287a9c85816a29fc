"""Measure an engine: latency, stages, throughput, cold start, memory, and the machine's limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from latino_engine.bench import counting, timer
from latino_engine.bench.cold_start import cold_start
from latino_engine.bench.neighbour import busy_neighbour
from latino_engine.bench.options import BenchOptions
from latino_engine.bench.peak_memory import Peak, peak_memory
from latino_engine.bench.peaks import machine_peaks
from latino_engine.bench.problem import check_memory, check_plans, make_measurement
from latino_engine.bench.trace import Recorder, Span
from latino_engine.compilation.plans import rebuild_unfit_plans
from latino_engine.engine import Engine
from latino_engine.errors import EngineInvalid
from latino_engine.loading import load
from latino_engine.manifest import read_manifest
from latino_engine.operators.parts.cost import Count
from latino_engine.priors.folder import parse_spec
from latino_engine.priors.latent.prior import is_latent
from latino_engine.runtimes import installed
from latino_engine.sampling.clock import listening
from latino_engine.sampling.threads import torch_threads
from latino_engine.system.machine import machine, machine_facts, software_versions
from latino_engine.system.waiting import policy

STAGES = ("prox", "noise", "denoise", "other")
_PROX_CALLS = 10
_FEWEST_REPEATS = 3  # of the further batch sizes


@dataclass(frozen=True)
class _Told:
    stages_ms: dict[str, float]
    time_ms: float
    nfe: int


@dataclass
class _Calls:
    """Calls of `Engine.sample` with one batch and num_samples, and what they told."""

    engine: Engine
    options: BenchOptions
    batch: int
    num_samples: int
    recorder: Recorder = field(init=False)
    told: list[_Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.engine.device)
        self.y, self.op = make_measurement(self.engine.spec, self.options, self.batch)

    def __call__(self) -> None:
        whole = self.recorder("sample", batch=self.batch, num_samples=self.num_samples)
        with whole, listening(self.recorder):
            sampling = replace(self.options.sampling, num_samples=self.num_samples)
            post = self.engine.sample(self.y, self.op, **sampling.arguments())
        self.told.append(_Told(post.stages_ms, post.time_ms, post.nfe))  # not its samples

    def forget(self, warmup: int) -> None:
        """Drop what the untimed calls left."""
        samples = [i for i, span in enumerate(self.recorder.spans) if span.name == "sample"]
        if warmup:
            del self.recorder.spans[: samples[warmup - 1] + 1]
        del self.told[:warmup]


@dataclass(frozen=True)
class Measured:
    """What `bench_engine` found.

    Attributes:
        report: the figures as JSON types.
        latencies_ms: runtime -> every timed call.
        spans: runtime -> what these calls did when.
    """

    report: dict[str, Any]
    latencies_ms: dict[str, list[float]]
    spans: dict[str, list[Span]]


def bench_engine(
    path: str | Path,
    options: BenchOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Measure the engine in a folder.

    Args:
        path: folder of the engine.
        options: what to measure.
        progress: function (calls done, calls in all).

    Raises:
        ValueError, TypeError: what cannot be measured here, in one sentence, before any work.
    """
    folder = Path(path)
    if options.rebuild:
        for name in _backends(read_manifest(folder, plans=False), options):
            rebuild_unfit_plans(folder, name)
    manifest = read_manifest(folder)
    _check_machine(manifest, folder, options)
    names = _backends(manifest, options)
    for name in names:
        record = manifest["runtimes"].get(name, {})
        check_plans(record, parse_spec(manifest["prior"]), options.size)
    engines = {name: load(folder, name, **options.loading()) for name in names}
    first = next(iter(engines.values()))
    check_memory(first, options)
    count = _Counter(progress, len(engines) * _num_calls(options))
    latency = _calls(engines, options, options.batches[0], options.num_samples[0])
    peaks = machine_peaks(first.device, options.threads, first.precision)
    with peak_memory(first.device) as peak:
        timer.time_in_turn(latency, options.repeats, options.warmup, report=count)
    for calls in latency.values():
        calls.forget(options.warmup)
    beside = _beside(engines, options, count) if options.neighbour else {}
    further = _throughput(engines, options, latency, peak, count)
    runtimes = {}
    for name, calls in latency.items():
        found = {**_figures(calls), "throughput": further[name]}
        found["beside_neighbour"] = _beside_figures(found, beside.get(name))
        found["against_peak"] = _against_peak(folder, calls, found, peaks)
        found["cold_start_ms"], found["peak_bytes"] = None, peak.host_bytes
        found["peak_device_bytes"], found["peak_of"] = peak.device_bytes, "this process"
        if options.cold:
            found |= _cold(folder, name, options)
        runtimes[name] = found
    report = _report(folder, manifest, options, peaks, runtimes, first)
    latencies = {name: calls.recorder.lengths("sample") for name, calls in latency.items()}
    return Measured(report, latencies, {name: c.recorder.spans for name, c in latency.items()})


@dataclass
class _Counter:
    progress: Callable[[int, int], None]
    total: int
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)


def _check_machine(manifest: dict[str, Any], folder: Path, options: BenchOptions) -> None:
    """Raises `EngineInvalid` for an engine of another machine, where its runtime was chosen."""
    there, here = manifest["machine"].get("processor"), machine()["processor"]
    if there != here and not options.any_machine:
        raise EngineInvalid(
            f"engine: expected one that was compiled on this machine ({here}), got "
            f"{folder.name!r}, compiled on another ({there}); compile it here, or measure it as it "
            "is with --any-machine"
        )


def _backends(manifest: dict[str, Any], options: BenchOptions) -> list[str]:
    if not options.backends:
        return [manifest["backend"]]
    if "all" not in options.backends:
        return list(dict.fromkeys(options.backends))
    serves = [n for n, record in manifest["runtimes"].items() if "relative_error" in record]
    here = [name for name in serves if name in installed()]
    return sorted(here, key=lambda name: name != manifest["backend"]) or [manifest["backend"]]


def _further(options: BenchOptions) -> list[tuple[int, int]]:
    """The combinations of batch and num_samples beside the first."""
    every = [(b, s) for b in options.batches for s in options.num_samples]
    return list(dict.fromkeys(every))[1:]


def _further_repeats(options: BenchOptions) -> int:
    return min(options.repeats, max(_FEWEST_REPEATS, options.repeats // 2))


def _num_calls(options: BenchOptions) -> int:
    rest = len(_further(options)) * (1 + _further_repeats(options))
    first = options.warmup + options.repeats
    return first + (1 + options.repeats if options.neighbour else 0) + rest


def _calls(
    engines: dict[str, Engine], options: BenchOptions, batch: int, num_samples: int
) -> dict[str, _Calls]:
    return {name: _Calls(engine, options, batch, num_samples) for name, engine in engines.items()}


def _beside(
    engines: dict[str, Engine], options: BenchOptions, count: _Counter
) -> dict[str, dict[str, float]]:
    """Per runtime the latency of the first combination beside one busy neighbour."""
    calls = _calls(engines, options, options.batches[0], options.num_samples[0])
    with busy_neighbour():
        timer.time_in_turn(calls, options.repeats, warmup=1, report=count)
    for each in calls.values():
        each.forget(1)
    return {n: timer.summary(each.recorder.lengths("sample")) for n, each in calls.items()}


def _beside_figures(
    found: dict[str, Any], beside: dict[str, float] | None
) -> dict[str, Any] | None:
    if beside is None:
        return None
    return {"latency_ms": beside, "times_alone": beside["p50"] / found["latency_ms"]["p50"]}


def _throughput(
    engines: dict[str, Engine],
    options: BenchOptions,
    latency: dict[str, _Calls],
    first: Peak,
    count: _Counter,
) -> dict[str, list[dict[str, Any]]]:
    """Per runtime a row for each batch and num_samples: latency, samples per second, peak memory.

    `first` is the peak of the first combination, which all runtimes share.
    """
    rows = {name: [_row(calls, first)] for name, calls in latency.items()}
    for batch, num_samples in _further(options):
        for name, calls in _calls(engines, options, batch, num_samples).items():
            repeats = _further_repeats(options)
            with peak_memory(calls.engine.device) as peak:
                timer.time_in_turn({name: calls}, repeats, warmup=1, report=count)
            calls.forget(1)
            rows[name].append(_row(calls, peak))
    return rows


def _row(calls: _Calls, peak: Peak) -> dict[str, Any]:
    times = timer.summary(calls.recorder.lengths("sample"))
    images = calls.batch * calls.num_samples
    return {
        "batch": calls.batch,
        "num_samples": calls.num_samples,
        "latency_ms": times,
        "samples_per_s": 1e3 * images / times["p50"],
        "process_peak_bytes": peak.host_bytes,
        "peak_device_bytes": peak.device_bytes,
    }


def _figures(calls: _Calls) -> dict[str, Any]:
    stages = {
        stage: timer.quantile([call.stages_ms[stage] for call in calls.told], 0.5)
        for stage in STAGES
    }
    outside = [1.0 - call.stages_ms["denoise"] / call.time_ms for call in calls.told]
    return {
        "backend": calls.engine.backend,
        "latency_ms": timer.summary(calls.recorder.lengths("sample")),
        "stages_ms": stages,
        "outside_network_percent": 100.0 * timer.quantile(outside, 0.5),
        "denoise_call_ms": timer.summary(_network_calls(calls)),
        "nfe": calls.told[-1].nfe,
    }


def _network_calls(calls: _Calls) -> list[float]:
    """Milliseconds of network calls: of each, or of a call's mean where they are no spans of their
    own, in a CUDA graph and in a latent prior, whose evaluation is three networks.
    """
    spans = calls.recorder.lengths("denoise")
    if spans and not is_latent(calls.engine.spec):
        return spans
    chunks = -(
        -calls.batch * calls.num_samples // calls.engine.network.chunk_size(*calls.options.size)
    )
    return [told.stages_ms["denoise"] / (told.nfe * chunks) for told in calls.told]


def _against_peak(
    folder: Path, calls: _Calls, found: dict[str, Any], peaks: dict[str, float]
) -> dict[str, dict[str, float] | None]:
    """One denoiser call and one data step beside the machine's rates; None is not counted."""
    engine, pairs = calls.engine, calls.batch * calls.num_samples
    height, width = calls.options.size
    together = min(pairs, engine.network.chunk_size(height, width))
    multiple = engine.spec.size_multiple
    sides = (side + -side % multiple for side in (height, width))
    graph = None  # of a latent prior, three of them at two sizes
    if not is_latent(engine.spec):
        graph = counting.count_graph(folder / "denoiser.onnx", together, *sides)
    shape = (calls.batch, engine.spec.channels, height, width)
    step = calls.op.cost("data_step", shape)
    prox_ms = _prox_ms(calls, shape)
    return {
        "denoise": None if graph is None else _rates(graph, found["denoise_call_ms"]["p50"], peaks),
        "prox": None if step is None else _rates(step, prox_ms, peaks),
    }


def _prox_ms(calls: _Calls, shape: tuple[int, ...]) -> float:
    v = torch.rand(shape, device=calls.engine.device)
    with torch.no_grad(), torch_threads(calls.engine.threads):
        step = calls.op.data_step(calls.y.to(v.device))
        run = {"prox": lambda: step(v, 1.0)}
        return timer.quantile(
            timer.time_in_turn(run, _PROX_CALLS, device=v.device.type)["prox"], 0.5
        )


def _rates(count: Count, ms: float, peaks: dict[str, float]) -> dict[str, float]:
    gflops, gb_per_s = 1e-6 * count.flops / ms, 1e-6 * count.bytes / ms
    return {
        "ms": ms,
        "flops": count.flops,
        "bytes": count.bytes,
        "intensity": count.intensity,
        "gflops": gflops,
        "gb_per_s": gb_per_s,
        "percent_of_matrix_rate": 100.0 * gflops / peaks["matrix_gflops"],
        "percent_of_copy_bandwidth": 100.0 * gb_per_s / peaks["copy_gb_per_s"],
    }


def _cold(folder: Path, name: str, options: BenchOptions) -> dict[str, Any]:
    found = cold_start(folder, name, options)
    return {
        "peak_bytes": found.pop("peak_bytes"),
        "peak_device_bytes": found.pop("peak_device_bytes"),
        "peak_of": "a fresh process that draws one sample",
        "cold_start_ms": {key.removesuffix("_ms"): value for key, value in found.items()},
    }


def _report(
    folder: Path,
    manifest: dict[str, Any],
    options: BenchOptions,
    peaks: dict[str, float],
    runtimes: dict[str, dict[str, Any]],
    engine: Engine,
) -> dict[str, Any]:
    here = machine_facts(engine.device)
    return {
        "engine": str(folder),
        "prior": engine.spec.name,
        "precision": engine.precision,
        "device": engine.device,
        "threads": options.threads or torch.get_num_threads(),
        "operator": options.operator,
        "noise_std": options.noise_std,
        "size": list(options.size),
        "batch": options.batches[0],
        "num_samples": options.num_samples[0],
        "sampler": options.sampling.sampler,
        "repeats": options.repeats,
        "wait_policy": policy(),
        **next(iter(runtimes.values())),
        "runtimes": runtimes,
        "peaks": peaks,
        "timed_at": manifest["image_size"],
        "compiled_here": manifest["machine"].get("processor") == here.get("processor"),
        "machine": here,
        "versions": software_versions(),
    }
