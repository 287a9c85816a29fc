"""The CUDA extension: loaded when it is first needed, and what it says of itself.

Importing never fails because something is missing; `missing` says what is, in one sentence.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latino_engine.ops import checks, cuda_nvrtc

_INTERFACE_VERSION = 3
_REMEDY = (
    "with the CUDA toolkit's nvcc on the path run "
    "`LATINO_CUDA=1 python -m pip install --force-reinstall --no-deps .` in the source folder"
)


@functools.cache
def _load() -> tuple[Any, str | None]:
    """(extension, None), or (None, what is missing)."""
    name = "the compiled extension latino_engine._cuda"
    try:
        kernels = importlib.import_module("latino_engine._cuda")
    except ModuleNotFoundError:
        return None, f"{name}, which is not built here"
    except ImportError as error:
        return None, f"{name}, which cannot be loaded ({error})"
    found = getattr(kernels, "INTERFACE_VERSION", None)
    if found != _INTERFACE_VERSION:
        return None, f"{name} with interface {_INTERFACE_VERSION}, but the one here has {found}"
    if kernels.LAUNCHES_BY_NAME:  # built without nvcc: NVRTC compiles the kernels at run time
        problem = cuda_nvrtc.missing()
        if problem is not None:
            return None, problem
        kernels.set_function_loader(cuda_nvrtc.function_handle)
    return kernels, None


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
    """Of the GPUs here, e.g. 90 for 9.0."""
    found = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    return max(10 * major + minor for major, minor in found)


def device_type() -> str:
    """Of the tensors that are taken."""
    kernels = extension()
    return "cuda" if kernels is None else str(kernels.DEVICE_TYPE)


def unfit(
    *tensors: Tensor | None, spectra: bool = False, images: Sequence[Tensor | None] = ()
) -> str | None:
    """None if the extension can take these tensors, else what it was given instead."""
    return checks.unfit(device_type(), *tensors, spectra=spectra, images=images)


def fourier_path(height: int, width: int, factor: int | None = None) -> str:
    """What transforms images of this size, "own kernels" or "torch.fft"; factor of alias_prox."""
    kernels = extension()
    if factor is None:
        own = kernels.has_fourier_kernels(height, width)
    else:
        own = kernels.has_alias_kernels(height, width, factor)
    return "own kernels" if own else "torch.fft"


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
