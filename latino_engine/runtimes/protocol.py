"""What the engine asks of a runtime: run the denoiser, and say what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor


class DenoiserRuntime(Protocol):
    """A loaded denoiser: (x (B, C, H, W), sigma (B,)) -> x0_hat, float32, sides multiples of the
    prior's.
    """

    @property
    def device(self) -> str:
        """Where images are expected and returned, "cpu" or "cuda"."""

    #: A runtime may say `capturable = True`: on a GPU its calls only queue launches on the current
    #: stream, so that a CUDA graph can hold them. Where its calls leave a state behind that a graph
    #: reads, `for_graph()` gives a denoiser whose state is that graph's alone. `allows_capture()`
    #: tells, after a call, whether calls like it can be captured.

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised image."""


class RuntimeModule(Protocol):
    """A file of this folder: one runtime."""

    PRECISIONS: tuple[str, ...]

    def files(self, precision: str) -> tuple[str, ...]:
        """Names of the engine's files that this runtime reads."""

    def open_runtime(
        self, folder: Path, precision: str, device: str | None, threads: int | None
    ) -> DenoiserRuntime:
        """Load the denoiser of an engine folder."""
