"""The Triton backend: the launch wrappers of `kernels`, and tensors made ready for them.

Transforms are torch.fft's; what stands around them is one kernel each.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops.arguments import plain

#: Where the kernels are, and the devices they run on.
_PACKAGE, _DEVICE_TYPE = "latino_engine.kernels", "cuda"


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def missing() -> str | None:
    """None where the kernels can run, else what is missing and which command installs it."""
    if not _is_installed():
        return (
            "backend 'triton' needs Triton, which is not installed here; "
            "run `python -m pip install triton`"
        )
    if _DEVICE_TYPE == "cuda" and not torch.cuda.is_available():
        return (
            "backend 'triton' needs an NVIDIA GPU, its driver and torch with CUDA, but torch finds "
            "none here; install torch from its CUDA index, or use backend='torch'"
        )
    return None


def device_type() -> str:
    """The device type of the tensors that this backend takes."""
    return _DEVICE_TYPE


def _launch(op: str) -> Callable[..., Any]:
    """launch_<op>; the module is imported when it is first needed."""
    wrapper: Callable[..., Any] = getattr(
        importlib.import_module(f"{_PACKAGE}.{op}"), f"launch_{op}"
    )
    return wrapper


def launch(op: str, *arguments: Any, **options: Any) -> Any:
    """launch_<op>, its tensors made contiguous and free of lazy conjugation."""
    return _launch(op)(*map(plain, arguments), **options)


def memory(out: Tensor | None, like: Tensor, *inputs: Tensor | None) -> Tensor:
    """`out`, or new memory; raises if a result there would overwrite what is still to be read.

    `out` may be one of the inputs itself.
    """
    if out is None:
        return torch.empty(like.shape, dtype=like.dtype, device=like.device)
    for tensor in inputs:
        if tensor is None or tensor.numel() == 0:
            continue
        same = tensor.data_ptr() == out.data_ptr() and tensor.shape == out.shape
        if same and tensor.is_contiguous() and tensor.dtype == out.dtype:
            continue
        reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        end = tensor.data_ptr() + (reach + 1) * tensor.element_size()
        if out.data_ptr() < end and tensor.data_ptr() < out.data_ptr() + out.nbytes:
            got = "memory that an argument shares in part"
            raise invalid("out", "an argument itself or memory apart", got, "give another tensor")
    return out
