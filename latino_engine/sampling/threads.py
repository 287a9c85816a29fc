"""How many threads torch uses during a call, and its own count afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.Lock()
_inside = 0
_before = 0


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """torch's thread count for the length of the block; None leaves it alone.

    torch has one count for the process: blocks that overlap in time share it, the last that began
    decides, and the last that ends puts back what stood before the first.
    """
    global _inside, _before
    if threads is None:
        yield
        return
    with _LOCK:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)
