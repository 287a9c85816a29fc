"""A small table of what an operator computes once per image size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Key: TypeAlias = tuple[str, int, int, torch.dtype, torch.device]
Entry: TypeAlias = tuple[Tensor, ...]


class SizeTable:
    """A bounded, thread-safe, least-recently-used table keyed by (what, H, W, dtype, device).

    Nothing in it depends on the values of an image. A pickled or copied table is empty: its content
    can be computed again and does not travel.
    """

    def __init__(self, capacity: int = 8) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, Entry] = OrderedDict()

    def get(
        self, what: str, size: tuple[int, int], like: Tensor, build: Callable[[], Entry]
    ) -> Entry:
        """The entry for images of this (H, W) in the dtype and on the device of `like`."""
        key = (what, size[0], size[1], like.dtype, like.device)
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return _kept_for_this_stream(self._entries[key])
        # An entry made under inference_mode could not be saved for a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            entry = build()
        if like.is_cuda:  # a caller on another stream may be the next to use it
            torch.cuda.current_stream(like.device).synchronize()
        with self._lock:
            self._entries[key] = entry
            while len(self._entries) > self.capacity:
                self._entries.popitem(last=False)
        return entry

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return (SizeTable, (self.capacity,))


def _kept_for_this_stream(entry: Entry) -> Entry:
    """The entry, whose memory is not given to others before the caller's stream has read it.

    It belongs to the stream of the thread that built it; once it has left the table that stream
    could write over it while another one still reads.
    """
    for tensor in entry:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return entry
