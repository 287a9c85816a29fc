"""Cold start: from the start of a process to its first sample, in a child of its own.

    python -m latino_engine.bench.cold_start '{"engine": "a.engine", ...}'

is that child: it prints one JSON line when the sample is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latino_engine.errors import BackendNotAvailable

if TYPE_CHECKING:
    from latino_engine.bench.options import BenchOptions

_LONGEST_S = 600


def cold_start(folder: Path, backend: str, options: BenchOptions) -> dict[str, Any]:
    """Start a process that loads the engine and draws one sample.

    Returns:
        total_ms is the time from the start of the process to its sample, as seen from here.
        import_ms, load_ms and first_sample_ms are its parts, as the child saw them. peak_bytes and
        peak_device_bytes are the child's.

    Raises:
        BackendNotAvailable: the child ended without a sample.
    """
    fields = {"engine": str(folder), "backend": backend, "options": asdict(options)}
    command = [sys.executable, "-m", "latino_engine.bench.cold_start", json.dumps(fields)]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S)
        found = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        raise BackendNotAvailable(
            f"cold start: expected a fresh process that draws one sample with {backend!r}, got "
            "none; run `latino-engine sample` to see why, or leave it out by --no-cold"
        ) from None
    return {"total_ms": 1e3 * (found.pop("wall") - _to_wall(start)), **found}


def _to_wall(moment: float) -> float:
    """A moment of this process's `perf_counter` on the clock that two processes share."""
    return time.time() - (time.perf_counter() - moment)


def first_sample(fields: dict[str, Any]) -> dict[str, Any]:
    """What the child does: import, load, draw; milliseconds of each."""
    begin = time.perf_counter()
    from latino_engine.bench.options import BenchOptions
    from latino_engine.bench.problem import make_measurement
    from latino_engine.loading import load
    from latino_engine.sampling.options import Sampling

    given = fields["options"]
    own = {"size": tuple(given["size"]), "sampling": Sampling(**given["sampling"])}
    options = BenchOptions(**{**given, **own})
    imported = time.perf_counter()
    from latino_engine.bench.peak_memory import peak_memory

    with peak_memory() as peak:
        engine = load(fields["engine"], fields["backend"], **options.loading())
        loaded = time.perf_counter()
        y, op = make_measurement(engine.spec, options, 1)
        engine.sample(y, op, **replace(options.sampling, num_samples=1).arguments())
        sampled, wall = time.perf_counter(), time.time()
    return {
        "import_ms": 1e3 * (imported - begin),
        "load_ms": 1e3 * (loaded - imported),
        "first_sample_ms": 1e3 * (sampled - loaded),
        "peak_bytes": peak.host_bytes,
        "peak_device_bytes": peak.device_bytes,
        "wall": wall,
    }


if __name__ == "__main__":
    print(json.dumps(first_sample(json.loads(sys.argv[1]))))
