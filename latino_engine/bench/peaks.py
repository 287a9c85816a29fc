"""What the machine can do: matrix rate and copy bandwidth, measured where they are used."""

from __future__ import annotations

import torch

from latino_engine.bench.timer import time_once
from latino_engine.sampling.threads import torch_threads

_MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
_COPY_BYTES = {"cpu": 128 * 2**20, "cuda": 1024 * 2**20}  # beyond every cache
_REPEATS = 20
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def machine_peaks(
    device: str = "cpu", threads: int | None = None, precision: str = "fp32"
) -> dict[str, float]:
    """The best of a few runs, with as many threads as the engine may use.

    Returns:
        matrix_gflops: 2 n^3 / time of torch's product of two n x n matrices, GFLOP/s; in the
            engine's precision on a GPU, in float32 on the processor.
        copy_gb_per_s: bytes read and written by a copy / time, GB/s.
    """
    kind = device.split(":")[0]
    dtype = _DTYPES[precision] if kind == "cuda" else torch.float32
    with torch.no_grad(), torch_threads(threads):
        side = _MATRIX_SIDE[kind]
        a, b, out = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(3))
        matrix_ms = _best(lambda: torch.mm(a, b, out=out), device)
        source = torch.zeros(_COPY_BYTES[kind] // 4, dtype=torch.float32, device=device)
        target = torch.zeros_like(source)
        copy_ms = _best(lambda: target.copy_(source), device)
    return {
        "matrix_gflops": 2e-6 * side**3 / matrix_ms,
        "copy_gb_per_s": 2e-6 * _COPY_BYTES[kind] / copy_ms,
    }


def _best(run: object, device: str) -> float:
    assert callable(run)
    return min(time_once(run, device) for _ in range(_REPEATS + 1))
