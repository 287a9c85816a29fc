"""How much memory there is, how much one image takes, and whether it ran out."""

from __future__ import annotations

import math
from pathlib import Path

import psutil

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP_USE = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or in what the error came from.

    The end of a capture that failed reports the failure of the capture, not its reason.
    """
    text = str(error).lower()
    # alloc_failed: cuBLAS, cuDNN and cuFFT; the last two: C++, as OpenVINO and onnxruntime tell it.
    signs = ("allocate", "out of memory", "alloc_failed", "bad_alloc", "bad allocation")
    if isinstance(error, MemoryError) or any(sign in text for sign in signs):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)


def available_bytes(device: str = "cpu") -> int:
    """Bytes that this process may still take: of the machine and of its control group, or of the
    GPU, what torch holds of it unused among them, within the share that torch may have.
    """
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        reserved, used = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
        share = torch.cuda.get_per_process_memory_fraction()
        return max(0, min(int(free) + reserved - used, int(share * total) - used))
    free = psutil.virtual_memory().available
    for limit_file, use_file in zip(_CGROUP_LIMITS, _CGROUP_USE, strict=True):
        try:
            limit = int(Path(limit_file).read_text())
            free = min(free, max(0, limit - int(Path(use_file).read_text())))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return int(free)


def bytes_per_image(memory: dict[str, float], height: int, width: int) -> int:
    """What `memory_model` says for one image of height x width."""
    pixels = float(height * width)
    return math.ceil(memory["per_pixel"] * pixels + memory["per_pixel_squared"] * pixels**2)
