"""What the engine asks of a runtime: run the denoiser, and say what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor


class DenoiserRuntime(Protocol):
    """A loaded denoiser: (x (B, C, H, W), sigma (B,)) -> x0_hat, float32.

    The sides of x are multiples of the prior's `size_multiple`. A runtime inherits from this class,
    and with it what is said here of one whose calls leave no state behind.

    Attributes:
        device: where images are expected and returned, "cpu" or "cuda".
        capturable: True where, on a GPU, a call only queues launches on the current stream, so that
            a CUDA graph can hold it.
    """

    device: str
    capturable: bool = False

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised image."""

    def for_graph(self) -> DenoiserRuntime:
        """The denoiser for one CUDA graph, which it must outlive.

        Where a call leaves a state behind that a graph reads, this is another one with a state of
        its own.
        """
        return self

    def allows_capture(self) -> bool:
        """Whether calls like those so far can be captured; asked after one of them."""
        return True


class RuntimeModule(Protocol):
    """A file of this folder: one runtime."""

    PRECISIONS: tuple[str, ...]

    def files(self, precision: str) -> tuple[str, ...]:
        """Names of the engine's files that this runtime reads."""

    def open_runtime(
        self, folder: Path, precision: str, device: str | None, threads: int | None
    ) -> DenoiserRuntime:
        """Load the denoiser of an engine folder."""
