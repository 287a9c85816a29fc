"""Floating-point operations and bytes of an operator's calls, counted from its formula.

A multiply-add is two operations. A real FFT of n points takes 2.5 n log2 n, a complex one twice
that. Bytes are what must be read and written once, in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

#: The calls of an operator that are counted; of "data_step" the part for one y is done before.
Call: TypeAlias = Literal["A", "A_adjoint", "prox", "data_step"]


@dataclass(frozen=True)
class Count:
    """Operations and bytes of one call."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes

    def __add__(self, other: Count) -> Count:
        return Count(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Sizes:
    """The numbers of which the counts consist, for images of one shape (B, C, H, W)."""

    shape: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """H W."""
        return self.shape[2] * self.shape[3]

    @property
    def planes(self) -> int:
        """B C."""
        return self.shape[0] * self.shape[1]

    @property
    def image(self) -> int:
        """Bytes of all images."""
        return 4 * self.planes * self.pixels

    @property
    def bins(self) -> int:
        """Frequencies of a half-spectrum."""
        return self.shape[2] * (self.shape[3] // 2 + 1)

    @property
    def transform(self) -> float:
        """Operations of the real FFT of one plane."""
        return real_fft(self.pixels)


def real_fft(points: int) -> float:
    """Operations of a real FFT."""
    return 2.5 * points * math.log2(max(2, points))


def one_of(call: Call, forward: Count, step: Count, extra: Count) -> Count:
    """The count of `call`; `extra` is what the prox of a new y takes beside its data step."""
    if call == "data_step":
        return step
    return step + extra if call == "prox" else forward
