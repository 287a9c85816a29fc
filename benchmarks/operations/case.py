"""One operation at one size: its providers are compared first and timed afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from latino_engine.bench import timer
from latino_engine.bench.counting import Count

Arguments: TypeAlias = tuple[Any, ...]
Provider: TypeAlias = Callable[..., Any]

BOUND = 2e-5  # ||out - expected|| / ||expected||, expected in float64
OURS = "latino-engine"


@dataclass(frozen=True)
class Case:
    """An operation at one size.

    Attributes:
        name: of the operation, such as "fourier_prox_noise" or "Blur.prox".
        shape: (B, C, H, W) of the image.
        make: a fresh copy of the arguments, always of the same content.
        providers: name -> what is timed on these arguments.
        expected: the result in float64.
        checked: name -> what is compared in place of the provider, where the provider draws noise
            of its own.
        count: operations and bytes, or None where they depend on the data.
        bound: largest relative error.
        others: name -> what is timed along and does another job: floors, and peers with noise of
            their own. Nothing is compared.
    """

    name: str
    shape: tuple[int, int, int, int]
    make: Callable[[], Arguments]
    providers: Mapping[str, Provider]
    expected: Callable[[], Any]
    checked: Mapping[str, Provider] = field(default_factory=dict)
    count: Count | None = None
    bound: float = BOUND
    others: Mapping[str, Provider] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and size."""
        return f"{self.name}-{'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Timing:
    """What `measure` found of one provider: times in ms, or an error that forbids timing it.

    Attributes:
        error, bound: relative, found and allowed; infinite where it raised. The error is None where
            nothing was compared.
        times_ms: of every timed call.
        mode: "call", or "graph" for the replay of a CUDA graph.
        broken: what it raised.
    """

    error: float | None
    bound: float
    times_ms: tuple[float, ...] = ()
    mode: str = "call"
    broken: str = ""

    @property
    def agrees(self) -> bool:
        """The output is the expected one, or none was expected."""
        return self.error is None or self.error <= self.bound


def relative_error(found: Any, expected: Any) -> float:
    """||found - expected|| / ||expected||; the larger one of two results."""
    if isinstance(found, tuple):
        return max(relative_error(f, e) for f, e in zip(found, expected, strict=True))
    if found.shape != expected.shape:
        return float("inf")
    dtype = torch.complex128 if expected.is_complex() else torch.float64
    expected = expected.to(found.device, dtype)
    wrong = float((found.to(dtype) - expected).norm())
    return wrong / max(float(expected.norm()), 1e-300)


def measure(
    case: Case, device: str, budget_s: float, repeats: int | None = None
) -> dict[str, Timing]:
    """Compare every provider with the expected output, then time those that agree, in turn.

    On a GPU the arguments rotate through copies, so that the second-level cache is cold, and a call
    that can be captured is timed as the replay of its CUDA graph too.

    Args:
        case: the operation.
        device: "cpu" or "cuda".
        budget_s: seconds for all of its timed calls.
        repeats: timed calls of each, in place of the budget.
    """
    expected = case.expected()
    found: dict[str, Timing] = {}
    with torch.no_grad():
        for name, provider in case.providers.items():
            compared = case.checked.get(name, provider)
            try:
                error = relative_error(compared(*case.make()), expected)
                found[name] = Timing(error, case.bound)
            except Exception as broken:  # of a compiler too: a failed row, the others go on
                reason = f"{type(broken).__name__}: {str(broken).splitlines()[0][:200]}"
                found[name] = Timing(math.inf, case.bound, broken=reason)
        chosen = {n: case.providers[n] for n, timing in found.items() if timing.agrees}
        found |= {name: Timing(None, case.bound) for name in case.others}
        chosen |= case.others
        for name, times in _times(case, chosen, device, budget_s, repeats).items():
            mode = "graph" if name.endswith(_GRAPH) else "call"
            plain = name.removesuffix(_GRAPH)
            found[name] = Timing(found[plain].error, case.bound, tuple(times), mode)
    return found


_GRAPH = " (graph)"
_SLOW = 8.0  # a provider so many times slower than the fastest is timed apart, with fewer calls
_FEWEST, _MOST = 3, 200


def _times(
    case: Case,
    providers: Mapping[str, Provider],
    device: str,
    budget_s: float,
    repeats: int | None,
) -> dict[str, list[float]]:
    size = sum(a.numel() * a.element_size() for a in case.make() if isinstance(a, Tensor))
    copies = timer.cold_copies(case.make, size, device)
    runs: dict[str, timer.Run] = {
        name: timer.rotating(lambda a, run=provider: run(*a), copies)
        for name, provider in providers.items()
    }
    if device.startswith("cuda"):
        runs |= _graphs(providers, copies)
    for run in runs.values():
        run()  # compiles, allocates, fills tables
    if repeats is not None:
        return timer.time_in_turn(runs, repeats, 1, device)
    once = {name: timer.time_once(run, device) for name, run in runs.items()}
    fastest = min(once.values(), default=0.0)
    slow = {name for name, ms in once.items() if ms > _SLOW * fastest}
    times: dict[str, list[float]] = {}
    for group in (slow, set(runs) - slow):
        chosen = {name: run for name, run in runs.items() if name in group}
        if chosen:
            total_ms = sum(once[name] for name in chosen)
            share = 1e3 * budget_s * (0.3 if group is slow else 0.7)
            count = int(min(_MOST, max(_FEWEST, share / max(total_ms, 1e-3))))
            times |= timer.time_in_turn(chosen, count, 1, device)
    return times


def _graphs(providers: Mapping[str, Provider], copies: list[Arguments]) -> dict[str, timer.Run]:
    """A captured graph for each copy of the arguments; what cannot be captured is left out."""
    graphs: dict[str, timer.Run] = {}
    for name, provider in providers.items():
        try:
            replays = [timer.replayed(lambda a=a, run=provider: run(*a)) for a in copies]
        except RuntimeError:  # a synchronisation or an allocation inside
            torch.cuda.synchronize()
            continue
        graphs[name + _GRAPH] = timer.rotating(lambda replay: replay(), replays)
    return graphs


def rows(
    case: Case, found: Mapping[str, Timing], peaks: Mapping[str, float], suite: str, threads: int
) -> list[dict[str, Any]]:
    """The rows of the table of measurements; a mismatch is a failed row without a time."""
    made = []
    for name, timing in found.items():
        row: dict[str, Any] = {
            "suite": suite,
            "name": case.name,
            "provider": name,
            "shape": "x".join(map(str, case.shape)),
            "threads": threads,
            "metric": "time",
            "unit": "ms",
            "status": "ok" if timing.agrees else "failed",
            "details": json.dumps(_details(timing)),
        }  # fmt: skip
        if timing.times_ms:
            ms = timer.summary(timing.times_ms)
            row |= {"value": ms["p50"], "p20": ms["p20"], "p80": ms["p80"]}
            row |= _against_peak(case.count, ms["p50"], peaks)
        made.append(row)
    return made


def _details(timing: Timing) -> dict[str, Any]:
    if timing.broken:
        return {"broken": timing.broken}
    details: dict[str, Any] = {"mode": timing.mode, "calls": len(timing.times_ms)}
    if timing.error is None:
        return details
    finite = math.isfinite(timing.error)
    return {"error": float(f"{timing.error:.3g}") if finite else str(timing.error), **details}


def _against_peak(
    count: Count | None, ms: float, peaks: Mapping[str, float]
) -> dict[str, float | None]:
    """Least time that bytes and operations allow on this machine / time, in percent.

    The bandwidth is that of main memory: what fits into a cache can pass 100.
    """
    if count is None:
        return {}
    least_ms = max(
        1e-6 * count.flops / peaks["matrix_gflops"], 1e-6 * count.bytes / peaks["copy_gb_per_s"]
    )
    share = 100.0 * least_ms / ms
    return {"flops": count.flops, "bytes": count.bytes, "percent_of_peak": share}
