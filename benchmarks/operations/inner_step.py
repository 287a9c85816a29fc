"""The sampler's inner step without the network on the CPU, beside what it replaces and its floors.

    python -m benchmarks.operations.inner_step [--sizes 1x256 8x512] [--threads 2] [--repeats 40]

Every case is one operation at one size. All its providers run in turn in one loop, so that whatever
else the machine does falls on all of them, and their outputs are compared before anything is timed:
a provider that does not agree is a failed row without a time. Rows are added to the table
benchmarks/results/inner_step.csv with commit, machine and versions; --table prints the last of each
as the tables of docs/kernels.md.

Providers: `latino-engine` is the operation of `latino_engine.ops` on the CPU; `torch` the
composition of torch calls it replaces, with FFT(y) computed beforehand and torch.randn for the
noise; `deepinv` is deepinv's BlurFFT.prox_l2 and torch.randn, where deepinv is installed (`make
peers`). Floors: `FFT` and `pocketfft` are the two transforms alone, by torch and by scipy, `memory`
reads both anchors and writes one image.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latino_engine as le
from benchmarks.operations.case import OURS, Case, Provider, measure, rows
from benchmarks.operations.command import batch_and_side, record
from latino_engine import ops
from latino_engine.bench import table
from latino_engine.operators.parts.spectra import kernel_full_spectrum, kernel_spectrum
from latino_engine.ops import cpu_extension, philox
from latino_engine.ops.alias_prox import alias_fold

RESULTS = Path(__file__).parents[1] / "results" / "inner_step.csv"
SIZES = ((1, 256), (8, 256), (1, 512), (8, 512))  # (batch, side), three channels
GAMMA, SCALE, X_WEIGHT, FACTOR, SEED, STEP = 3.0, 0.3, 0.4, 4, 1, 2
BOUND = 1e-5  # relative, in the norm
PEAKS: dict[str, float] = {}  # operations and bytes are not counted here
BASE = "torch"
PROVIDERS = (OURS, BASE, "deepinv", "FFT", "pocketfft", "memory")
OPERATIONS = (
    "gaussian_noise",
    "fourier_prox_noise",
    "alias_prox_noise",
    "masked_prox_noise",
    "fourier_mask_prox_noise",
)


def in_float64(arguments: Iterable[Any]) -> tuple[Any, ...]:
    """The same arguments, floating-point tensors in double precision."""

    def double(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype == torch.int64:
            return value
        return value.to(torch.complex128 if value.is_complex() else torch.float64)

    return tuple(double(value) for value in arguments)


def step_case(
    name: str,
    x: Tensor,
    x_t: Tensor,
    constants: tuple[Any, ...],
    prox: Callable[[Tensor], Tensor],
    behind: tuple[Any, ...] = (),
    others: Mapping[str, Provider] | None = None,
) -> Case:
    """An inner step; `prox` is its data step in plain torch with the same constants."""
    run = getattr(ops, name)
    ids = torch.arange(len(x))
    identity = (SEED, ids, ids, STEP)
    arguments = (x, x_t, X_WEIGHT, *constants, GAMMA, SCALE, *behind, *identity)
    eps = ops.gaussian_noise(*identity, x.shape)
    out = torch.empty_like(x)

    def ours() -> Tensor:
        return run(*arguments, backend="cpu", out=out)

    def composed(normals: Tensor | None = None) -> Tensor:
        z = prox(torch.lerp(x_t, x, X_WEIGHT))
        return z + SCALE * (torch.randn(x.shape) if normals is None else normals)

    return Case(
        name,
        shape_of(x),
        tuple,
        {OURS: ours, BASE: composed},
        lambda: run(*in_float64(arguments), backend="torch"),
        checked={BASE: lambda: composed(eps)},
        bound=BOUND,
        others=dict(others or {}),
    )


def shape_of(x: Tensor) -> tuple[int, int, int, int]:
    """(B, C, H, W)."""
    batch, channels, height, width = x.shape
    return batch, channels, height, width


def noise_case(shape: tuple[int, int, int, int]) -> Case:
    """Noise alone, beside torch.randn."""
    ids = torch.arange(shape[0])
    identity = (SEED, ids, ids, STEP)
    out = torch.empty(shape)

    def ours() -> Tensor:
        return ops.gaussian_noise(*identity, shape, backend="cpu", out=out)

    return Case(
        "gaussian_noise",
        shape,
        tuple,
        {OURS: ours},
        lambda: philox.philox_normals(*identity, shape),
        bound=BOUND,
        others={BASE: lambda: torch.randn(shape)},
    )


def cases(batch: int, side: int) -> Iterable[Case]:
    """All operations at one size."""
    shape, size = (batch, 3, side, side), (side, side)
    x, x_t = torch.rand(shape), torch.randn(shape)
    yield noise_case(shape)

    kernel = le.Blur.gaussian(1.6, 0.02, size=13).kernel
    h = kernel_spectrum(kernel, size)
    power = (h.abs() ** 2).float()
    y = torch.fft.irfft2(h.to(torch.complex64) * torch.fft.rfft2(x), s=size)
    back = h.conj().resolve_conj().to(torch.complex64) * torch.fft.rfft2(y)

    def fourier(v: Tensor) -> Tensor:
        V = (GAMMA * back + torch.fft.rfft2(v)) / (GAMMA * power + 1.0)
        return torch.fft.irfft2(V, s=size)

    others = {**floors(x, x_t), **deepinv_step(kernel, x, x_t, y, fourier)}
    yield step_case("fourier_prox_noise", x, x_t, (power, back), fourier, others=others)

    h = kernel_full_spectrum(kernel, size)
    folded = alias_fold(h.abs() ** 2, FACTOR).float()
    h = h.to(torch.complex64)
    low = torch.fft.fft2(y[..., ::FACTOR, ::FACTOR])
    tiled = h.conj().resolve_conj() * low.repeat(1, 1, FACTOR, FACTOR)

    def alias(v: Tensor) -> Tensor:
        return ops.alias_prox(v, h, folded, tiled, GAMMA, FACTOR)

    constants = (h, folded, tiled)
    yield step_case("alias_prox_noise", x, x_t, constants, alias, (FACTOR,), floors(x, x_t))

    mask = (torch.rand(1, 1, *size) < 0.5).float()

    def masked(v: Tensor) -> Tensor:
        return (GAMMA * mask * y + v) / (GAMMA * mask + 1.0)

    memory = {"memory": floors(x, x_t)["memory"]}
    yield step_case("masked_prox_noise", x, x_t, (mask, y), masked, others=memory)

    x, x_t = x[:, :2].contiguous(), x_t[:, :2].contiguous()
    kept = mask * torch.randn(x.shape)
    corner, complex_y = kspace_constants(mask, kept)

    def kspace(v: Tensor) -> Tensor:  # with DC at (0, 0) the shifts of a centred transform cancel
        V = torch.fft.fft2(torch.complex(v[:, 0], v[:, 1]), norm="ortho")
        z = torch.fft.ifft2((GAMMA * complex_y + V) / (GAMMA * corner + 1.0), norm="ortho")
        return torch.stack((z.real, z.imag), dim=1)

    yield step_case("fourier_mask_prox_noise", x, x_t, (mask, kept), kspace)


def kspace_constants(mask: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (1, H, W) and complex y (B, H, W) for a transform whose image is not shifted."""
    axes = (-2, -1)
    image = torch.fft.ifft2(
        torch.fft.ifftshift(torch.complex(kept[:, 0], kept[:, 1]), dim=axes), norm="ortho"
    )
    complex_y = torch.fft.fft2(torch.fft.fftshift(image, dim=axes), norm="ortho")
    return torch.fft.ifftshift(mask[:, 0], dim=axes), complex_y


def floors(x: Tensor, x_t: Tensor) -> dict[str, Provider]:
    """The transforms of the images alone, and their memory traffic alone."""
    size, out, array = tuple(x.shape[-2:]), torch.empty_like(x), x.numpy()
    found: dict[str, Provider] = {"FFT": lambda: torch.fft.irfft2(torch.fft.rfft2(x), s=size)}
    if importlib.util.find_spec("scipy") is not None:
        import scipy.fft

        workers = torch.get_num_threads()
        found["pocketfft"] = lambda: scipy.fft.irfft2(
            scipy.fft.rfft2(array, workers=workers), s=size, workers=workers, overwrite_x=True
        )
    return {**found, "memory": lambda: torch.add(x, x_t, out=out)}


def deepinv_step(
    kernel: Tensor, x: Tensor, x_t: Tensor, y: Tensor, prox: Callable[[Tensor], Tensor]
) -> dict[str, Provider]:
    """deepinv's own data step and torch.randn, where deepinv is installed and agrees."""
    if importlib.util.find_spec("deepinv") is None:
        return {}
    import deepinv

    physics = deepinv.physics.BlurFFT(img_size=tuple(x.shape[1:]), filter=kernel.float())
    expected = prox(x)
    if float((physics.prox_l2(x, y, GAMMA) - expected).abs().max()) > 1e-4 * float(expected.max()):
        raise SystemExit("deepinv's BlurFFT.prox_l2 differs from the formula: nothing is timed")

    def run() -> Tensor:
        z: Tensor = physics.prox_l2(torch.lerp(x_t, x, X_WEIGHT), y, GAMMA)
        return z + SCALE * torch.randn(x.shape)

    return {"deepinv": run}


def tables(found: Iterable[Mapping[str, Any]], threads: int = 2) -> list[str]:
    """The last row of each provider as the lines of a Markdown table, medians in ms."""
    last = {
        (row["name"], row["shape"], row["provider"]): row
        for row in found
        if int(row["threads"]) == threads
    }
    shapes = sorted(
        {(name, shape) for name, shape, _ in last},
        key=lambda key: (OPERATIONS.index(key[0]), [int(n) for n in key[1].split("x")][::-1]),
    )
    lines = [
        "| operation | images | " + " | ".join(PROVIDERS) + " | over torch | over deepinv |",
        "|---" * (len(PROVIDERS) + 4) + "|",
    ]
    for name, shape in shapes:
        ms = {
            provider: float(last[name, shape, provider]["value"])
            for provider in PROVIDERS
            if last.get((name, shape, provider), {}).get("status") == "ok"
        }
        cells = [f"{ms[p]:.2f}" if p in ms else "" for p in PROVIDERS]
        cells += [
            f"{ms[p] / ms[OURS]:.1f}x" if {p, OURS} <= set(ms) else "" for p in (BASE, "deepinv")
        ]
        lines.append(f"| `{name}` | {' x '.join(shape.split('x'))} | " + " | ".join(cells) + " |")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Measure and record, or print the tables of what is recorded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = [f"{batch}x{side}" for batch, side in SIZES]
    parser.add_argument(
        "--sizes", type=batch_and_side, nargs="+", default=list(map(batch_and_side, sizes))
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--rows", type=Path, default=RESULTS, help="table of measurements")
    parser.add_argument("--table", action="store_true", help="print the recorded times and stop")
    options = parser.parse_args(arguments)
    if options.table:
        print("\n".join(tables(table.read_rows(options.rows), options.threads)))
        return
    if cpu_extension.missing():
        raise SystemExit(cpu_extension.missing())
    table.appended(options.rows, ())  # a file of someone else is refused before the work
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    made: list[dict[str, Any]] = []
    with torch.no_grad():
        for batch, side in options.sizes:
            for case in cases(batch, side):
                found = measure(case, "cpu", 0.0, options.repeats)
                made += rows(case, found, PEAKS, "inner step", options.threads)
    print("\n".join(tables(made, options.threads)))
    record(made, options.rows, "cpu")


if __name__ == "__main__":
    main()
