"""What threads cost beside neighbours that spin while they wait, and threads that sleep.

    python -m benchmarks.floors.waiting ENGINE -o benchmarks/results/waiting.json

Fresh processes in turn, LATINO_ENGINE_WAIT=passive and active, each drawing samples with two
threads: processor time and wall time of a call, and the wall time of its data step. The neighbours
are whoever is on the machine; the load average is in the row. For one neighbour on a quiet machine
there is `latino-engine bench --neighbour`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import latino_engine as le
from latino_engine.atomic import atomic_file
from latino_engine.bench import timer
from latino_engine.system.machine import commit, machine_facts, software_versions


def draw(engine: Path, backend: str, size: int, calls: int) -> dict[str, float]:
    """Medians of the calls of one process, after one that allocates."""
    import torch

    loaded = le.load(engine, backend, threads=2)
    op = le.Blur.gaussian(1.6, 0.02)
    y = op.measure(torch.rand(1, loaded.spec.channels, size, size))
    prox, times = [], []

    def call() -> None:
        post = loaded.sample(y, op, num_samples=1, sampler="latino", steps=8)
        prox.append(post.stages_ms["prox"])

    for _ in range(1 + calls):
        times.append(timer.wall_and_processor(call))
    return {
        "wall_ms": timer.quantile([wall for wall, _ in times[1:]], 0.5),
        "processor_ms": timer.quantile([cpu for _, cpu in times[1:]], 0.5),
        "data_step_ms": timer.quantile(prox[1:], 0.5),
    }


def child(given: argparse.Namespace, policy: str) -> dict[str, Any]:
    """`draw` in a process whose threads wait so."""
    command = [sys.executable, "-m", "benchmarks.floors.waiting", str(given.engine), "--child"]
    command += ["--backend", given.backend, "--size", str(given.size), "--calls", str(given.calls)]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment["LATINO_ENGINE_WAIT"] = policy
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {"policy": policy, "load": os.getloadavg()[0], **json.loads(done.stdout)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("engine", type=Path)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="JSON to write")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(draw(given.engine, given.backend, given.size, given.calls)))
        return
    rows = []
    for _ in range(given.rounds):
        for policy in ("passive", "active"):
            rows.append(child(given, policy))
            print(json.dumps(rows[-1]), flush=True)
    if given.output is not None:
        found = {"backend": given.backend, "rows": rows, "commit": commit(),
                 "machine": machine_facts(), "versions": software_versions()}  # fmt: skip
        with atomic_file(given.output) as file:
            file.write((json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
