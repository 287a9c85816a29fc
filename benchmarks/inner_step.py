"""The sampler's inner step without the network on the CPU, as a Markdown table of ratios.

    python benchmarks/inner_step.py [--threads 1 2] [--repeats 60]

Every row is one operation at one size: medians in ms with their 20 and 80 % quantiles, and the
ratio of the torch composition's median to it. All providers of a row run in turn in one loop, so
that whatever else the machine does falls on all of them. Outputs are compared before anything is
timed: a provider that does not agree is a failed row.

Providers: `torch` is the composition of torch calls with FFT(y) computed beforehand and torch.randn
for the noise; `ops torch` and `ops cpu` are this package's operation with its two backends; `FFT`
is rfft2 and irfft2 alone, the floor of everything that is built on torch's FFT; `deepinv` is
BlurFFT.prox_l2 and torch.randn.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import latino_engine as le
from latino_engine import native, noise, ops
from latino_engine.operators.spectra import kernel_full_spectrum, kernel_spectrum
from latino_engine.reference import alias_fold

SIZES = ((1, 256), (8, 256), (1, 512), (8, 512))
GAMMA, SCALE, X_WEIGHT, FACTOR, SEED, STEP = 3.0, 0.3, 0.4, 4, 1, 2
BOUND = 1e-5  # largest difference over largest entry

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        providers: name -> what is timed.
        checks: name -> the same with the noise of this package, to be compared with `expected`.
        expected: float64.
    """

    title: str
    providers: dict[str, Run]
    checks: dict[str, Run]
    expected: Tensor


def both_backends(run: Callable[..., Tensor], arguments: tuple[object, ...]) -> dict[str, Run]:
    """The operation in torch and in the extension."""
    return {
        "ops torch": lambda: run(*arguments, backend="torch"),
        "ops cpu": lambda: run(*arguments, backend="cpu"),
    }


def in_float64(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The same arguments, floating-point tensors in double precision."""

    def double(value: object) -> object:
        if not isinstance(value, Tensor) or value.dtype == torch.int64:
            return value
        return value.to(torch.complex128 if value.is_complex() else torch.float64)

    return tuple(double(value) for value in arguments)


def step_case(
    title: str,
    run: Callable[..., Tensor],
    arguments: tuple[object, ...],
    prox: Callable[[Tensor], Tensor],
    others: dict[str, Run],
) -> Case:
    """An inner step; `prox` is its data step in plain torch, `arguments` starts with x, x_t."""
    x, x_t = arguments[0], arguments[1]
    assert isinstance(x, Tensor) and isinstance(x_t, Tensor)
    identity = arguments[-4:]
    eps = ops.gaussian_noise(*identity, x.shape)  # type: ignore[arg-type]
    backends = both_backends(run, arguments)
    composition = {
        "torch": lambda: prox(torch.lerp(x_t, x, X_WEIGHT)) + SCALE * torch.randn(x.shape)
    }
    checks = {**backends, "torch": lambda: prox(torch.lerp(x_t, x, X_WEIGHT)) + SCALE * eps}
    expected = run(*in_float64(arguments), backend="torch")
    return Case(title, {**composition, **backends, **others}, checks, expected)


def cases(batch: int, side: int) -> list[Case]:
    """All rows of one size."""
    shape = (batch, 3, side, side)
    x, x_t = torch.rand(shape), torch.randn(shape)
    kernel = le.Blur.gaussian(1.6, 0.02, size=13).kernel
    ids = torch.arange(batch)
    identity = (SEED, ids, ids, STEP)
    size = (side, side)
    floor = {"FFT": lambda: torch.fft.irfft2(torch.fft.rfft2(x), s=size)}

    h = kernel_spectrum(kernel, size)
    power = (h.abs() ** 2).float()
    y = torch.fft.irfft2(h.to(torch.complex64) * torch.fft.rfft2(x), s=size)
    back = h.conj().resolve_conj().to(torch.complex64) * torch.fft.rfft2(y)

    def fourier(v: Tensor) -> Tensor:
        V = (GAMMA * back + torch.fft.rfft2(v)) / (GAMMA * power + 1.0)
        return torch.fft.irfft2(V, s=size)

    full = kernel_full_spectrum(kernel, size)
    folded = alias_fold(full.abs() ** 2, FACTOR).float()
    full = full.to(torch.complex64)
    low = torch.fft.fft2(y[..., ::FACTOR, ::FACTOR])
    tiled = full.conj().resolve_conj() * low.repeat(1, 1, FACTOR, FACTOR)

    def alias(v: Tensor) -> Tensor:
        return ops.alias_prox(v, full, folded, tiled, GAMMA, FACTOR)

    mask = (torch.rand(1, 1, *size) < 0.5).float()

    def masked(v: Tensor) -> Tensor:
        return (GAMMA * mask * y + v) / (GAMMA * mask + 1.0)

    head, scalars = (x, x_t, X_WEIGHT), (GAMMA, SCALE)
    fourier_arguments = (*head, power, back, *scalars, *identity)
    alias_arguments = (*head, full, folded, tiled, *scalars, FACTOR, *identity)
    masked_arguments = (*head, mask, y, *scalars, *identity)
    at = f"{batch} x 3 x {side} x {side}"
    deepinv = deepinv_step(kernel, x, x_t, y)
    return [
        noise_case(f"gaussian_noise, {at}", shape, identity),
        step_case(
            f"fourier_prox_noise, {at}",
            ops.fourier_prox_noise,
            fourier_arguments,
            fourier,
            {**floor, **deepinv},
        ),
        step_case(
            f"alias_prox_noise {FACTOR}x, {at}",
            ops.alias_prox_noise,
            alias_arguments,
            alias,
            floor,
        ),
        step_case(f"masked_prox_noise, {at}", ops.masked_prox_noise, masked_arguments, masked, {}),
    ]


def noise_case(
    title: str, shape: tuple[int, ...], identity: tuple[int, Tensor, Tensor, int]
) -> Case:
    """Noise alone, beside torch.randn."""
    backends = both_backends(ops.gaussian_noise, (*identity, shape))
    expected = noise.philox_normals(*identity, shape)  # type: ignore[arg-type]
    return Case(title, {"torch": lambda: torch.randn(shape), **backends}, backends, expected)


def deepinv_step(kernel: Tensor, x: Tensor, x_t: Tensor, y: Tensor) -> dict[str, Run]:
    """deepinv's own data step and torch.randn, where deepinv is installed."""
    if importlib.util.find_spec("deepinv") is None:
        return {}
    import deepinv

    physics = deepinv.physics.BlurFFT(img_size=tuple(x.shape[1:]), filter=kernel.float())

    def run() -> Tensor:
        v = torch.lerp(x_t, x, X_WEIGHT)
        z: Tensor = physics.prox_l2(v, y, GAMMA)
        return z + SCALE * torch.randn(x.shape)

    return {"deepinv": run}


def failures(case: Case) -> list[str]:
    """The providers whose output is not the expected one."""
    largest = float(case.expected.abs().max())

    def differs(run: Run) -> bool:
        return not float((run() - case.expected).abs().max()) <= BOUND * largest

    return [name for name, run in case.checks.items() if differs(run)]


def measure(providers: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Times in ms, the providers in turn."""
    times: dict[str, list[float]] = {name: [] for name in providers}
    for i in range(repeats + 3):
        for name, run in providers.items():
            start = time.perf_counter()
            run()
            if i >= 3:  # the first rounds warm up
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def row(case: Case, names: list[str], threads: int, repeats: int) -> str:
    """One line of the table."""
    wrong = failures(case)
    if wrong:
        return f"| {case.title} | {threads} | FAILED: {', '.join(wrong)} differ |"
    # In torch alone, Philox takes long: it is the specification, not a competitor.
    slow = {"ops torch": case.providers["ops torch"]}
    fast = {name: run for name, run in case.providers.items() if name not in slow}
    times = {**measure(slow, max(3, repeats // 10)), **measure(fast, repeats)}
    base = statistics.median(times["torch"])
    cells = []
    for name in names:
        if name not in times:
            cells.append("-")
            continue
        middle = statistics.median(times[name])
        low, *_, high = statistics.quantiles(times[name], n=5)
        cells.append(f"{middle:.2f} ({low:.2f}..{high:.2f}), {base / middle:.2f}x")
    return f"| {case.title} | {threads} | " + " | ".join(cells) + " |"


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def header() -> str:
    """Machine and versions."""
    if native.missing():
        raise SystemExit(native.missing())
    from latino_engine import _cpu

    targets = ", ".join(_cpu.targets())
    found = importlib.util.find_spec("deepinv") is not None
    deepinv = "installed" if found else "not installed"
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}; torch {torch.__version__}, "
        f"latino-engine {le.__version__}; instruction sets {targets}; deepinv {deepinv}.\n\n"
        "Medians in ms (20..80 % quantiles), ratio of the torch composition's median to it.\n"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    print(header())
    names = ["torch", "ops torch", "ops cpu", "FFT"]
    if importlib.util.find_spec("deepinv") is not None:
        names.append("deepinv")
    print("| operation | threads | " + " | ".join(names) + " |")
    print("|---" * (2 + len(names)) + "|")
    torch.manual_seed(0)
    with torch.no_grad():
        for threads in options.threads:
            torch.set_num_threads(threads)
            for batch, side in SIZES:
                for case in cases(batch, side):
                    print(row(case, names, threads, options.repeats), flush=True)


if __name__ == "__main__":
    main()
