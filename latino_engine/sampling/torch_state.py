"""The arithmetic of a call is its own: what the caller has told torch does not reach it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """No autocast, no gradients and no inference mode for the length of the block, in this thread.

    The default dtype belongs to all threads and is left alone: no operation here asks for it.
    """
    with (
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        yield
