"""The denoiser of a prior beside this machine's matrix rate, step by step.

    python -m benchmarks.floors.denoiser --threads 2 -o benchmarks/results/denoiser_floor.json
    python -m benchmarks.floors.denoiser --quality -o benchmarks/results/denoiser_bf16.json

Counts the FLOPs of one call from its exported graph and measures each way of running the network
and products of two matrices (float32, bfloat16), all in turn in one loop. The error of a way is
that of the accuracy gate at every noise level of the schedules; what it does to a result
(--quality) is the distance of whole samples of the same seed, and PSNR and CRPS of both.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latino_engine as le
from latino_engine.atomic import atomic_file
from latino_engine.bench import timer
from latino_engine.bench.counting import count_graph
from latino_engine.compilation.accuracy import BOUNDS, probe_sides, probe_sigmas, relative_errors
from latino_engine.evaluation.metrics import psnr
from latino_engine.evaluation.scores import crps
from latino_engine.export.denoiser import export_denoiser
from latino_engine.image_io import read_image
from latino_engine.priors.precision import to_precision
from latino_engine.priors.prior import Prior
from latino_engine.system.machine import commit, machine_facts, software_versions

Way = Callable[[Tensor, Tensor], Tensor]
_MATRIX_SIDE = 1024
_SPINNING = "onnxruntime, threads spin on"


def session(path: Path, threads: int, level: str, options: dict[str, str], **sizes: int) -> Way:
    """onnxruntime at this level of graph optimisation, with the entries of its configuration."""
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 4
    chosen.intra_op_num_threads = threads
    chosen.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for name, value in options.items():
        chosen.add_session_config_entry(name, value)
    for name, size in sizes.items():
        chosen.add_free_dimension_override_by_name(name, size)
    run = onnxruntime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"]).run

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.from_numpy(run(None, {"x": x.numpy(), "sigma": sigma.numpy()})[0])

    return denoise


def module(prior: Prior, precision: str, layout: torch.memory_format, compiled: bool) -> Way:
    """The network in torch, in this precision and memory layout."""
    network: Any = copy.deepcopy(to_precision(prior.denoiser, precision)).to(memory_format=layout)
    run = torch.compile(network) if compiled else network

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return run(x.to(memory_format=layout), sigma).float()

    return denoise


def int8(path: Path, target: Path, threads: int) -> Way:
    """onnxruntime's dynamic quantisation of every product, weights and activations in 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(path), str(target), weight_type=QuantType.QUInt8)
    return session(target, threads, "ORT_ENABLE_ALL", {"session.force_spinning_stop": "1"})


def ways(prior: Prior, folder: Path, threads: int, compiled: bool) -> dict[str, tuple[str, Way]]:
    """Name -> (precision, the network run in this way); the first is the plainest."""
    path = folder / "denoiser.onnx"
    export_denoiser(prior, "fp32", path)
    nchw, last = torch.contiguous_format, torch.channels_last
    no_stop: dict[str, str] = {}
    stop = {"session.force_spinning_stop": "1"}
    calm = {"session.intra_op.allow_spinning": "0"}
    found = {
        "torch, NCHW": ("fp32", module(prior, "fp32", nchw, False)),
        "torch, channels last": ("fp32", module(prior, "fp32", last, False)),
        "onnxruntime, no fusion": ("fp32", session(path, threads, "ORT_DISABLE_ALL", stop)),
        "onnxruntime, fused nodes": ("fp32", session(path, threads, "ORT_ENABLE_EXTENDED", stop)),
        "onnxruntime, fused and NCHWc": ("fp32", session(path, threads, "ORT_ENABLE_ALL", stop)),
        _SPINNING: ("fp32", session(path, threads, "ORT_ENABLE_ALL", no_stop)),
        "onnxruntime, threads sleep": ("fp32", session(path, threads, "ORT_ENABLE_ALL", calm)),
        "onnxruntime, int8": ("int8", int8(path, folder / "int8.onnx", threads)),
        "torch, bf16, channels last": ("bf16", module(prior, "bf16", last, False)),
    }
    if compiled:
        found["torch.compile, channels last"] = ("fp32", module(prior, "fp32", last, True))
        found["torch.compile, bf16"] = ("bf16", module(prior, "bf16", last, True))
    return found


def timed(runs: dict[str, timer.Run], repeats: int) -> dict[str, list[float]]:
    """All in turn; what takes more than four times as long as the fastest, apart and twice.

    Threads that spin on after a call would take the processor from the next one: apart too, last.
    """
    once = {}
    for name, run in runs.items():
        timer.time_once(run)  # allocates, packs weights
        once[name] = timer.time_once(run)
    slow = {name for name in runs if once[name] > 4 * min(once[n] for n in runs if "mm " not in n)}
    fast = {name: run for name, run in runs.items() if name not in {*slow, _SPINNING}}
    times = timer.time_in_turn(fast, repeats, warmup=1)
    for name in slow - {_SPINNING}:
        times |= timer.time_in_turn({name: runs[name]}, 2, warmup=0)
    return times | timer.time_in_turn({_SPINNING: runs[_SPINNING]}, repeats, warmup=1)


def effect(prior: str, folder: Path, threads: int, size: int, num_samples: int) -> dict[str, Any]:
    """Samples of an engine in bf16 beside those of one in fp32: the same seeds, data, operator."""
    assets = resources.files("latino_engine") / "assets"
    with resources.as_file(assets / "chelsea.png") as path:
        x = read_image(path)[..., 64 : 64 + size, 64 : 64 + size]
    op = le.Blur.gaussian(1.6, 0.02, size=13)
    y, drawn, found = op.measure(x), {}, {}
    for precision in ("fp32", "bf16"):
        engine = le.compile(prior, folder / f"{precision}.engine", "torch", precision,
                            adapter="photo-small", threads=threads)  # fmt: skip
        post = engine.sample(y, op, num_samples=num_samples)
        drawn[precision] = post.samples
        found[precision] = {
            "psnr_of_a_sample_db": float(psnr(post.samples[0].clamp(0, 1), x).mean()),
            "psnr_of_the_mean_db": float(psnr(post.mean.clamp(0, 1), x).mean()),
            "crps": float(torch.as_tensor(crps(post.samples, x)).mean()),
        }
    apart = (drawn["bf16"] - drawn["fp32"]).square().mean().sqrt()
    found["rms_between_samples"] = float(apart)
    found["rms_of_a_sample_about_the_mean"] = float(drawn["fp32"].std(dim=0).square().mean().sqrt())
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures as JSON types."""
    torch.set_num_threads(args.threads)
    prior = le.load_prior(args.prior)
    x = torch.randn(1, prior.channels, args.size, args.size)
    sigma = torch.tensor([0.2])
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        folder = Path(scratch)
        found = ways(prior, folder, args.threads, args.compile)
        count = count_graph(folder / "denoiser.onnx", 1, args.size, args.size)
        runs: dict[str, timer.Run] = {
            name: (lambda way=way: way(x, sigma)) for name, (_, way) in found.items()
        }
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            a, b = torch.ones(2, _MATRIX_SIDE, _MATRIX_SIDE, dtype=dtype).unbind(0)
            runs[f"mm {precision}"] = lambda a=a, b=b: torch.mm(a, b)
        times = timed(runs, args.repeats)
        product = 2e-6 * _MATRIX_SIDE**3
        rates = {p: product / timer.quantile(times[f"mm {p}"], 0.5) for p in ("fp32", "bf16")}
        levels = probe_sigmas(prior)
        rows = []
        for name, (precision, way) in found.items():
            ms = timer.quantile(times[name], 0.5)
            errors = relative_errors(way, prior, levels, *probe_sides(prior.spec))
            rate = 1e-6 * count.flops / ms
            rows.append(
                {
                    "way": name,
                    "precision": precision,
                    "ms": ms,
                    "ms_p20": timer.quantile(times[name], 0.2),
                    "ms_p80": timer.quantile(times[name], 0.8),
                    "gflop_per_s": rate,
                    "percent_of_fp32_matrix_rate": 100.0 * rate / rates["fp32"],
                    "largest_relative_error": max(errors.values()),
                    "bound": BOUNDS.get(precision),
                }
            )
    return {
        "prior": prior.spec.name,
        "shape": list(x.shape),
        "threads": args.threads,
        "gflop_per_call": 1e-9 * count.flops,
        "gflop_of_products": 1e-9 * count.matrix_flops,
        "weight_mb": 1e-6 * count.weight_bytes,
        "matrix_gflop_per_s": rates,
        "floor_ms": {name: 1e-6 * count.flops / rate for name, rate in rates.items()},
        "rows": rows,
        "commit": commit(),
        "machine": machine_facts(),
        "versions": software_versions(),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--prior", default="photo-small", help="name or folder")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--quality-size", type=int, default=128)
    parser.add_argument("--compile", action="store_true", help="torch.compile too: a minute")
    parser.add_argument("-o", "--output", type=Path, help="JSON to write")
    parser.add_argument("--quality", action="store_true", help="bf16 in whole samples, no times")
    given = parser.parse_args()
    if given.quality:
        with tempfile.TemporaryDirectory() as scratch:
            size, count = given.quality_size, given.num_samples
            found = effect(given.prior, Path(scratch), given.threads, size, count)
        print(json.dumps(found, indent=1))
        return write(given.output, found)
    found = measure(given)
    print(
        f"{found['gflop_per_call']:.2f} GFLOP a call; matrix rate fp32 "
        f"{found['matrix_gflop_per_s']['fp32']:.0f}, bf16 "
        f"{found['matrix_gflop_per_s']['bf16']:.0f} GFLOP/s; floor fp32 "
        f"{found['floor_ms']['fp32']:.1f} ms"
    )
    for row in found["rows"]:
        print(
            f"{row['way']:32}{row['ms']:8.1f} ms {row['gflop_per_s']:7.0f} GFLOP/s "
            f"{row['percent_of_fp32_matrix_rate']:6.0f} %  "
            f"error {row['largest_relative_error']:.2g}"
        )
    write(given.output, found)


def write(path: Path | None, found: dict[str, Any]) -> None:
    """The figures as JSON."""
    if path is not None:
        with atomic_file(path) as file:
            file.write((json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
