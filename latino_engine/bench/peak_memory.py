"""The most memory that this process has held, and the device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Filled when the block of `peak_memory` ends.

    Attributes:
        host_bytes: the largest resident set: of the block where Linux allows the mark to be
            reset, else of the process so far.
        start_bytes: the resident set when the block began.
        device_bytes: the most that torch has allocated on the GPU; None without one.
    """

    host_bytes: int = 0
    start_bytes: int = 0
    device_bytes: int | None = None


def process_peak_bytes() -> int:
    """The largest resident set of this process so far (or since the mark was reset)."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    memory: Any = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def peak_memory(device: str = "cpu") -> Iterator[Peak]:
    """The peak of a block; see `Peak`."""
    import torch

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # 5 resets the mark (Linux)
        _CLEAR.write_text("5")
    peak = Peak(start_bytes=int(psutil.Process().memory_info().rss))
    yield peak
    peak.host_bytes = process_peak_bytes()
    if on_gpu:
        peak.device_bytes = int(torch.cuda.max_memory_allocated())
