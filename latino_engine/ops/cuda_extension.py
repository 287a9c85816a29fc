"""The CUDA backend: the extension, loaded when it is first needed, and how it is launched.

Importing never fails because something is missing; `missing` says what is, in one sentence.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from latino_engine.ops import cuda_nvrtc
from latino_engine.ops.arguments import Identity, InnerCall, plain
from latino_engine.ops.extensions import import_extension
from latino_engine.ops.step_table import StepTable

#: (seed, image_ids, sample_ids), ids int64 (P,) on the device; the seed a number, or int64 (1,)
#: there, which a captured graph reads at every replay
Stream: TypeAlias = tuple[int | Tensor, Tensor, Tensor]

_INTERFACE_VERSION = 4
_REMEDY = (
    "with the CUDA toolkit's nvcc on the path run "
    "`LATINO_CUDA=1 python -m pip install --force-reinstall --no-deps .` in the source folder"
)


@functools.cache
def _load() -> tuple[Any, str | None]:
    """(extension, None), or (None, what is missing)."""
    kernels, problem = import_extension("_cuda", _INTERFACE_VERSION)
    if problem is None and kernels.LAUNCHES_BY_NAME:  # built without nvcc: NVRTC compiles later
        problem = cuda_nvrtc.missing()
        if problem is not None:
            return None, problem
        kernels.set_function_loader(cuda_nvrtc.function_handle)
    return kernels, problem


def extension() -> Any:
    """The module latino_engine._cuda, or None."""
    return _load()[0]


def missing() -> str | None:
    """None where the extension can be used, else what is missing and which command installs it."""
    kernels, problem = _load()
    if problem is not None:
        return f"backend 'cuda' needs {problem}; {_REMEDY}"
    if kernels.DEVICE_TYPE == "cuda" and not torch.cuda.is_available():
        return (
            "backend 'cuda' needs an NVIDIA GPU, its driver and torch with CUDA, but torch finds "
            "none here; install torch from its CUDA index, or use backend='torch'"
        )
    # Kernels that are compiled at run time are compiled for the GPU that is there.
    oldest = getattr(kernels, "OLDEST_ARCHITECTURE", 0)
    if kernels.DEVICE_TYPE == "cuda" and _newest_capability() < oldest:
        return (
            f"backend 'cuda' needs a GPU of compute capability {oldest / 10} or newer, for which "
            f"its kernels were compiled here, but torch finds {_newest_capability() / 10}; run "
            f"`LATINO_CUDA_ARCHS={_newest_capability()} python -m pip install --force-reinstall "
            "--no-deps .` in the source folder, or use backend='torch'"
        )
    return None


@functools.cache
def _newest_capability() -> int:
    """The newest compute capability of the GPUs here, e.g. 90 for 9.0."""
    found = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    return max(10 * major + minor for major, minor in found)


def device_type() -> str:
    """The device type of the tensors that this backend takes."""
    kernels = extension()
    return "cuda" if kernels is None else str(kernels.DEVICE_TYPE)


def has_own_kernels(height: int, width: int, factor: int | None = None) -> bool:
    """Whether images of this size have transforms of our own; `factor` is that of alias_prox."""
    if factor is None:
        return bool(extension().has_fourier_kernels(height, width))
    return bool(extension().has_alias_kernels(height, width, factor))


def fourier_path(height: int, width: int, factor: int | None = None) -> str:
    """What transforms images of this size, "own kernels" or "torch.fft"; factor of alias_prox."""
    return "own kernels" if has_own_kernels(height, width, factor) else "torch.fft"


@contextlib.contextmanager
def next_row(
    x: Tensor, steps: StepTable, out: Tensor | None
) -> Iterator[tuple[Any, tuple[Tensor, Tensor, int], Tensor, int]]:
    """(extension, table, out, stream) for launches whose scalars are the next row of `steps`.

    This is what an engine captures in a CUDA graph: no tensor is read by the host, and one graph
    serves every step. `out` is allocated like x if None.
    """
    out = torch.empty_like(x) if out is None else out
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
        yield extension(), steps.arguments(), out, int(stream)
    steps.position += 1


def one_step(launch: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """launch(x, x_t, *constants, steps, noise, out=) as an inner step with scalars of its own."""

    def step(call: InnerCall, *constants: Any) -> Tensor:
        x, x_t, x_weight = call.anchors
        row = row_of((x_weight, call.gamma, call.scale), x, call.identity)
        return launch(plain(x), plain(x_t), *map(plain, constants), *row, out=call.out)

    return step


def row_of(
    scalars: Sequence[float | Tensor], x: Tensor, identity: Identity
) -> tuple[StepTable, Stream]:
    """A table of one row on the device of x, and whose noise it is."""
    seed, image_ids, sample_ids, step = identity.plain()
    return StepTable.single(x.device, scalars, step), (seed, image_ids, sample_ids)


def combined(
    x: Tensor, x_t: Tensor | None, table: tuple[Tensor, Tensor, int], stream: int
) -> Tensor:
    """x_weight x + (1 - x_weight) x_t by one kernel; without x_t, x itself."""
    if x_t is None:
        return x
    v = torch.empty_like(x)
    extension().combine_anchors(x, x_t, table, v, stream)
    return v


def spectrum_of(x: Tensor, channels: int, columns: int) -> Tensor:
    """Memory for a spectrum of x, (P, channels, H, columns)."""
    size = (x.shape[0], channels, x.shape[2], columns)
    return torch.empty(size, dtype=torch.complex64, device=x.device)


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: its name with template arguments, e.g. "fourier_columns<256>".
        grid, block: (x, y).
        shared_bytes: dynamic shared memory of a block.
        image_bytes: device memory read and written for images and spectra.
        constant_bytes: for the constants of the operator, which all samples of an image share.
    """

    kernel: str
    grid: tuple[int, int]
    block: tuple[int, int]
    shared_bytes: int
    image_bytes: int
    constant_bytes: int


@contextlib.contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Collects the launches of this thread; the list is filled when the block ends."""
    kernels, found = extension(), list[Launch]()
    kernels.record_launches(True)
    try:
        yield found
    finally:
        found.extend(Launch(*record) for record in kernels.launches())
        kernels.record_launches(False)
