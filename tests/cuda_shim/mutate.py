"""Removes each barrier of the kernels in turn: every mutant must fail.

`python tests/cuda_shim/mutate.py [name ...]` prints a line for each and ends with 1 if one
survives. A barrier whose removal nothing notices is either redundant or badly tested.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cuda_shim import build, cases

from latino_engine import ops
from latino_engine.ops import cuda_extension
from latino_engine.ops.step_table import StepTable

BOUND = 1e-5
ORDERS = ((2, 1), (2, 2), (2, 3))  # random, by seed
_BARRIER = re.compile(r"^( *)(?:if [^;\n]*\) )?__syncthreads\(\);  // SYNC ([\w-]+):.*$", re.M)
_FRESH = (
    "wrong-fresh",
    "cuda/fourier_columns.cuh",
    "fft<kHeight, 1, false>",
    "fft<kHeight, 1, true>",
)


def mutants() -> dict[str, dict[str, str]]:
    """{name: {header: text}}: each barrier removed, and a barrier left out on a false claim."""
    found = {}
    for path in sorted((build.CSRC / "cuda").glob("*.cuh")):
        text, header = path.read_text(), f"cuda/{path.name}"
        assert text.count("__syncthreads()") == len(_BARRIER.findall(text)), f"untagged: {header}"
        for match in _BARRIER.finditer(text):
            found[match[2]] = {header: text[: match.start()] + text[match.end() :]}
    name, header, before, after = _FRESH
    text = (build.CSRC / header).read_text()
    assert before in text
    found[name] = {header: text.replace(before, after)}
    return found


def table_error() -> float:
    """Two steps with one table: the counter must not move on before every thread has read it."""
    shape = (1, 1, 16, 16)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    columns = [torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([[0.5], [2.0]])]
    steps = StepTable.of(columns, [cases.IDENTITY[1], 8])
    who = (cases.IDENTITY[0], *cases.ids(1))
    worst = 0.0
    for scale, step in ((0.5, cases.IDENTITY[1]), (2.0, 8)):
        found = ops.launch_langevin_noise(z, steps, who)
        expected = z.double().numpy() + scale * cases.normals(shape, step)
        worst = max(worst, cases.relative_error(found, expected))
    return worst


def checks() -> list[Callable[[], float]]:
    """Errors of a few sizes of every operation; each is small if the kernels are right."""
    sizes = ((64, 64), (256, 128), (1024, 64), (64, 512))
    return [
        *(cases.fourier_case((1, 1, *size)).error for size in sizes),
        *(cases.alias_case((1, 1, *size), s).error for *size, s in ((64, 64, 2), (128, 64, 8))),
        cases.kspace_case((1, 2, 128, 64)).error,
        table_error,
    ]


def num_failures(library: Path) -> int:
    """How many checks fail in how many orders, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--library", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0:  # a crash is noticed, too
        return 1
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout)


def _count_failures(library: Path) -> int:
    module, failures = build.load(library), 0
    cuda_extension._load = lambda: (module, None)  # type: ignore[assignment]
    for order in ORDERS:
        module.set_order(*order)
        for check in checks():
            try:
                failures += not check() <= BOUND  # a NaN fails too
            except RuntimeError:  # what the shim itself finds, such as a deadlock
                failures += 1
    return failures


def main(names: list[str]) -> int:
    """The number of mutants that survive."""
    with tempfile.TemporaryDirectory() as folder:
        survivors = intact = num_failures(build.build_library(Path(folder)))
        print(f"intact: {intact} failures", flush=True)
        for name, changed in mutants().items():
            if names and name not in names:
                continue
            failures = num_failures(build.build_library(Path(folder), changed))
            survivors += failures == 0
            print(f"{name}: {failures} failures{'' if failures else ', SURVIVES'}", flush=True)
    return survivors


if __name__ == "__main__":
    if sys.argv[1:2] == ["--library"]:
        print(_count_failures(Path(sys.argv[2])))
    else:
        sys.exit(min(1, main(sys.argv[1:])))
