"""The fused kernels on a GPU, in one command: right first, then timed, beside what they replace.

    python -m benchmarks.operations.gpu_kernels [--sizes 1x256 8x256 8x512] [--seconds 0.5]

For every operation and size: the output of each provider is compared with float64 (a mismatch is a
failed row without a time, and exit status 1), then all are timed in turn by CUDA events, as calls
and as replays of a CUDA graph, with arguments that rotate through more than the second-level cache.
Providers: `latino-engine cuda` and `latino-engine triton`, `eager` (the composition of torch calls,
whose transforms are cuFFT's), `torch.compile` of it, and the floors `cuFFT` (both transforms alone)
and `copy` (an image read and written). Bandwidth is the bytes that the operation must move over the
time, beside the copy bandwidth measured in the same run. Rows are added to
benchmarks/results/gpu_kernels.csv with commit, machine and versions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.operations.case import Case, Timing, measure, rows
from benchmarks.operations.command import batch_and_side, record
from benchmarks.operations.fused import fused_cases
from latino_engine.bench import table
from latino_engine.bench.peaks import machine_peaks
from latino_engine.ops import cuda_extension, triton

RESULTS = Path(__file__).parents[1] / "results" / "gpu_kernels.csv"
SIZES = ((1, 256), (8, 256), (1, 512), (8, 512), (1, 1024))  # (batch, side)
WITH_TRANSFORMS = ("fourier_prox", "fourier_prox_noise", "alias_prox", "alias_prox_noise")
NO_CONTEST = ("combine_anchors",)  # torch's own kernel

Measure = Callable[[Case, str, float], dict[str, Timing]]


def obstacle() -> str | None:
    """None where there is a GPU to measure, else what is missing, in one sentence."""
    if not torch.cuda.is_available():
        return (
            "gpu_kernels: expected an NVIDIA GPU, its driver and torch with CUDA, got none here; "
            "install torch from its CUDA index, or run benchmarks.operations.inner_step for the CPU"
        )
    return None


def cases(batch: int, side: int, device: str, compiled: bool) -> Iterable[Case]:
    """The operations at one size, with the transforms and a copy of the same images beside them."""
    for case in fused_cases(batch, side, side, device):
        if case.name in NO_CONTEST:
            continue
        providers = dict(case.providers)
        if compiled:
            providers["torch.compile"] = torch.compile(providers["eager"], dynamic=False)
        checked = dict(case.checked)
        if compiled and "eager" in checked:
            checked["torch.compile"] = torch.compile(checked["eager"], dynamic=False)
        yield replace(case, providers=providers, checked=checked)


def floors(case: Case) -> Case:
    """What no kernel can be faster than: cuFFT alone, and moving the image alone."""
    size = case.shape[-2:]

    def copy(x: torch.Tensor, *_: Any) -> torch.Tensor:
        return x.clone()

    def transforms(x: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x), s=size)

    found: dict[str, Callable[..., Any]] = {"copy": copy}
    if case.name in WITH_TRANSFORMS:
        found["cuFFT"] = transforms
    return replace(
        case,
        providers=found,
        checked={},
        expected=lambda: case.make()[0].double(),
        count=None,
    )


def lines(
    case: Case, found: Mapping[str, Timing], peaks: Mapping[str, float]
) -> list[tuple[str, ...]]:
    """(provider, mode, ms, over eager, GB/s, % of copy) of what was measured."""
    times = {name: timing for name, timing in found.items() if timing.times_ms}
    base = median(times["eager"]) if "eager" in times else None
    made = []
    for name, timing in found.items():
        if not timing.agrees:
            made.append(
                (name, "", timing.broken or f"FAILED: error {timing.error or 0.0:.1e}", "", "", "")
            )
            continue
        ms = median(timing)
        rate = None if case.count is None else 1e-6 * case.count.bytes / ms
        made.append(
            (
                name,
                timing.mode,
                f"{ms:.4f}",
                "" if base is None else f"{base / ms:.2f}x",
                "" if rate is None else f"{rate:.0f}",
                "" if rate is None else f"{100 * rate / peaks['copy_gb_per_s']:.0f} %",
            )
        )
    return made


def median(timing: Timing) -> float:
    """The median of the times, ms."""
    return float(torch.tensor(timing.times_ms, dtype=torch.float64).median())


def run(
    sizes: Iterable[tuple[int, int]],
    device: str,
    seconds: float,
    compiled: bool,
    threads: int,
    measured: Measure = measure,
) -> tuple[list[dict[str, Any]], bool]:
    """(rows for the table, whether every provider agreed), with a Markdown table on the way."""
    peaks = machine_peaks(device, threads)
    print(
        f"copy {peaks['copy_gb_per_s']:.0f} GB/s, matrices {peaks['matrix_gflops']:.0f} GFLOP/s\n"
    )
    print("| operation | images | provider | mode | ms | over eager | GB/s | of copy |")
    print("|---" * 8 + "|", flush=True)
    made: list[dict[str, Any]] = []
    right = True
    for batch, side in sizes:
        for case in cases(batch, side, device, compiled):
            found = measured(case, device, seconds)
            right &= all(timing.agrees for timing in found.values())
            found |= measured(floors(case), device, seconds / 4)
            made += rows(case, found, peaks, "gpu kernels", threads)
            for cells in lines(case, found, peaks):
                head = (case.name, " x ".join(map(str, case.shape)))
                print("| " + " | ".join((*head, *cells)) + " |", flush=True)
        torch.compiler.reset()
    return made, right


def backends() -> list[str]:
    """What runs and what does not, one line each."""
    found = {"cuda": cuda_extension.missing(), "triton": triton.missing()}
    return [f"{name}: {'there' if lacks is None else lacks}" for name, lacks in found.items()]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and record; exit status 1 where a provider was wrong, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sizes", type=partial(batch_and_side, multiple=4), nargs="+", default=list(SIZES)
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="of timed calls for a case")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rows", type=Path, default=RESULTS, help="table of measurements")
    options = parser.parse_args(arguments)
    lacks = obstacle()
    if lacks is not None:
        print(lacks, file=sys.stderr)
        raise SystemExit(2)
    table.appended(options.rows, ())  # a file of someone else is refused before the work
    print("\n".join(backends()))
    threads = torch.get_num_threads()
    made, right = run(options.sizes, "cuda", options.seconds, not options.no_compile, threads)
    record(made, options.rows, "cuda")
    if not right:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
