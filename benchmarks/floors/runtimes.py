"""Every runtime of the denoiser by the processor time of one thread, beside the matrix rate.

    python -m benchmarks.floors.runtimes -o benchmarks/results/runtimes.json
    python -m benchmarks.floors.runtimes --table benchmarks/results/runtimes.json

On a machine that others use, the wall time of a call says how many they are. The processor time of
one thread says what the call itself takes, up to what neighbours do to its caches. All ways take
turns, call by call; the products of two matrices whose rate is the limit are among them. The prior
"resunet" is the network of convolutions with random weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import latino_engine as le
from latino_engine.atomic import atomic_file
from latino_engine.bench import timer
from latino_engine.bench.counting import count_graph
from latino_engine.bench.report import plain_rows
from latino_engine.compilation.accuracy import probe_sides, probe_sigmas, relative_errors
from latino_engine.export.denoiser import export_denoiser
from latino_engine.priors.assembly import build_prior
from latino_engine.priors.folder import write_prior
from latino_engine.priors.networks.resunet import ResUNet
from latino_engine.priors.prior import Prior, PriorSpec
from latino_engine.runtimes import installed, runtime_module
from latino_engine.runtimes.openvino import OpenVinoDenoiser
from latino_engine.system.machine import commit, machine_facts, software_versions

Way = Callable[[Tensor, Tensor], Tensor]
BASELINE = "eager torch, fp32"
_MATRIX_SIDE = 1024
_RESUNET = {"widths": [64, 96, 128], "down_blocks": [1, 1, 2], "up_blocks": [1, 1, 2]}


def random_resunet() -> Prior:
    """The network of convolutions with weights that keep the size of what goes through them."""
    spec = PriorSpec(
        name="resunet",
        channels=3,
        size_multiple=8,
        data_range=(0.0, 1.0),
        sigma_min=0.01,
        sigma_max=30.0,
        architecture={"name": "resunet", "embedding": 128, "pixel_unshuffle": 2, **_RESUNET},
        preconditioning={"name": "edm", "sigma_data": 0.5},
    )
    torch.manual_seed(0)
    network = ResUNet(channels=3, **_RESUNET)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.5 * module.weight[0].numel() ** -0.5)
    return build_prior(spec, network.state_dict())


def ways(prior: Prior, folder: Path) -> dict[str, tuple[str, Way]]:
    """Name -> (precision, the network run so), the plainest first."""
    found: dict[str, tuple[str, Way]] = {BASELINE: ("fp32", prior.denoiser)}
    for precision in ("fp32", "bf16"):
        path = folder / precision
        path.mkdir()
        write_prior(prior, path)
        export_denoiser(prior, precision, path / "denoiser.onnx")
        for name in ("torch", "onnxruntime", "openvino"):
            module = runtime_module(name)
            if name in installed() and precision in module.PRECISIONS:
                way = module.open_runtime(path, precision, None, 1)
                found[f"{name}, {precision}"] = (precision, way)
    return found


def layer_counts(way: Way) -> dict[str, int] | None:
    """Layers of the last compiled model by kind; changes of an image's layout on their own."""
    if not isinstance(way, OpenVinoDenoiser):
        return None
    compiled = way.models.model(way.models.sizes[-1]).compiled
    found: dict[str, int] = {"image Reorder": 0}
    for node in compiled.get_runtime_model().get_ops():
        kind = node.get_rt_info()["layerType"].value
        found[kind] = found.get(kind, 0) + 1
        shape = node.get_output_partial_shape(0).to_shape() if kind == "Reorder" else ()
        found["image Reorder"] += len(shape) == 4 and max(shape[2:]) > 1
    return found


def processor_times(runs: dict[str, timer.Run], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each, all in turn: processor time p0, p50; wall time wall_p50."""
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            spent = timer.wall_and_processor(run)
            if number:  # the first allocates, packs weights, compiles
                told[name].append(spent)
    return {
        name: {
            "processor_p0": min(cpu for _, cpu in times),
            "processor_p50": timer.quantile([cpu for _, cpu in times], 0.5),
            "wall_p50": timer.quantile([wall for wall, _ in times], 0.5),
        }
        for name, times in told.items()
    }


def measure(name: str, size: int, batch: int, repeats: int) -> dict[str, Any]:
    """All ways of one prior's network at one size."""
    prior = random_resunet() if name == "resunet" else le.load_prior(name)
    x, sigma = torch.randn(batch, prior.channels, size, size), torch.full((batch,), 0.2)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        found = ways(prior, Path(scratch))
        flops = count_graph(Path(scratch) / "fp32" / "denoiser.onnx", batch, size, size).flops
        runs: dict[str, timer.Run] = {
            label: (lambda way=way: way(x, sigma)) for label, (_, way) in found.items()
        }
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            a, b = torch.ones(2, _MATRIX_SIDE, _MATRIX_SIDE, dtype=dtype).unbind(0)
            runs[f"product, {precision}"] = lambda a=a, b=b: torch.mm(a, b)
        times = processor_times(runs, repeats)
        levels = probe_sigmas(prior)[::3]
        rows = []
        for label, (precision, way) in found.items():
            counts = layer_counts(way)
            product = times[f"product, {precision}"]["processor_p0"]
            limit = flops / (2.0 * _MATRIX_SIDE**3) * product
            ms = times[label]
            rows.append(
                {
                    "way": label,
                    **ms,
                    "gflop_per_s": 1e-6 * flops / ms["processor_p0"],
                    "percent_of_matrix_rate": 100.0 * limit / ms["processor_p0"],
                    "times_eager": times[BASELINE]["processor_p50"] / ms["processor_p50"],
                    "relative_error": max(
                        relative_errors(way, prior, levels, *probe_sides(prior.spec)).values()
                    ),
                    "layers": counts,
                }
            )
    return {"prior": name, "shape": list(x.shape), "gflop": 1e-9 * flops, "rows": rows,
            "products": {k: v for k, v in times.items() if k.startswith("product")}}  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The figures as tables of Markdown, one for each prior and size."""
    text, machine = "", found["machine"]
    header = ["way", "processor ms, least", "median", "GFLOP/s", "share of the matrix rate, %",
              "eager torch / this", "relative error", "layout changes"]  # fmt: skip
    for run in found["runs"]:
        shape = " x ".join(str(n) for n in run["shape"])
        text += (
            f"{run['prior']}, {shape}, {run['gflop']:.1f} GFLOP a call; one thread, "
            f"{machine['processor']}, {machine['instructions']}; {found['repeats']} calls of "
            "each.\n\n"
        )
        rows = []
        for row in run["rows"]:
            layers = row["layers"] or {}
            rows.append(
                [
                    row["way"],
                    f"{row['processor_p0']:.1f}",
                    f"{row['processor_p50']:.1f}",
                    f"{row['gflop_per_s']:.0f}",
                    f"{row['percent_of_matrix_rate']:.0f}",
                    f"{row['times_eager']:.2f}",
                    f"{row['relative_error']:.1e}",
                    str(layers.get("image Reorder", "")),
                ]
            )
        text += plain_rows(rows, header) + "\n"
    return text


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--prior", nargs="+", default=["photo-small", "resunet"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--table", type=Path, help="print the table of this file, measure nothing")
    parser.add_argument("-o", "--output", type=Path, help="JSON to write")
    given = parser.parse_args()
    if given.table is not None:
        print(table(json.loads(given.table.read_text())), end="")
        return
    torch.set_num_threads(1)
    runs = [measure(name, given.size, given.batch, given.repeats) for name in given.prior]
    found = {"repeats": given.repeats, "runs": runs, "commit": commit(),
             "machine": machine_facts(), "versions": software_versions()}  # fmt: skip
    print(table(found), end="")
    if given.output is not None:
        with atomic_file(given.output) as file:
            file.write((json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
