"""Interleaved complex numbers as two tiles, real and imaginary parts."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_complex(pointer, at, exists):
    """The two parts of the numbers at `at`."""
    parts = at[:, None] * 2 + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(pointer + parts, mask=exists[:, None]))


@triton.jit
def store_complex(pointer, at, real, imaginary, exists):
    """Writes the numbers at `at`."""
    parts = at[:, None] * 2 + tl.arange(0, 2)[None, :]
    tl.store(pointer + parts, tl.join(real, imaginary), mask=exists[:, None])
