"""The native CPU backend: the compiled extension, and tensors as the numpy arrays that it takes.

The extension is optional: without it every operation runs in torch, and `missing` says why in one
sentence.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latino_engine.ops.arguments import Identity, InnerCall
from latino_engine.ops.extensions import import_extension

_INTERFACE_VERSION = 6
_REMEDY = (
    "with a C++17 compiler on the path run "
    "`python -m pip install --force-reinstall --no-deps .` in the source folder"
)
OWN_SIDES = "sides of a power of two from 16 to 2048"
#: Scalars of a step without an anchor or without noise.
ONE: NDArray[np.float32] = np.ones(1, np.float32)
ZERO: NDArray[np.float32] = np.zeros(1, np.float32)


@functools.cache
def _load() -> tuple[Any, str | None]:
    """(extension, None), or (None, what is missing)."""
    return import_extension("_cpu", _INTERFACE_VERSION)


def extension() -> Any:
    """The module latino_engine._cpu, or None."""
    return _load()[0]


@functools.cache
def missing() -> str | None:
    """None where the extension can be used, else what is missing and which command installs it."""
    problem = _load()[1]
    return problem and f"backend 'cpu' needs {problem}; {_REMEDY}"


def device_type() -> str:
    """The device type of the tensors that this backend takes."""
    return "cpu"


def has_own_loops(height: int, width: int, factor: int | None = None) -> bool:
    """Whether images of this size are transformed by own loops; `factor` is that of alias_prox."""
    if factor is None:
        return bool(extension().has_fourier_loops(height, width))
    return bool(extension().has_alias_loops(height, width, factor))


def fourier_path(height: int, width: int, factor: int | None = None) -> str:
    """What transforms images of this size, "own loops" or "torch.fft"; factor of alias_prox."""
    return "own loops" if has_own_loops(height, width, factor) else "torch.fft"


def array(tensor: Tensor) -> Any:
    """A numpy array on the tensor's memory; a strided or lazy view is copied first."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    return (plain if plain.is_contiguous() else plain.contiguous()).numpy()


def scalars(per_image: Tensor) -> Any:
    """The numbers of the images, (P|1,)."""
    return array(per_image).reshape(-1)


def anchor_arrays(call: InnerCall) -> tuple[Any, Any, Any]:
    """(x, x_t or None, x_weight) of an inner step."""
    x, x_t, x_weight = call.anchors
    return array(x), None if x_t is None else array(x_t), scalars(x_weight)


def noise_arrays(call: InnerCall) -> tuple[Any, ...]:
    """(scale, seed, image ids, sample ids, step) of an inner step."""
    return scalars(call.scale), *identity_arrays(call.identity)


def identity_arrays(identity: Identity) -> tuple[Any, Any, Any, Any]:
    """(seed, image ids, sample ids, step), ids in int64."""
    seed, image_ids, sample_ids, step = identity
    return seed, _int64(image_ids), _int64(sample_ids), step


def _int64(ids: Tensor) -> Any:
    return array(ids if ids.dtype is torch.int64 else ids.to(torch.int64))


@functools.lru_cache(maxsize=64)
def nobody(pairs: int) -> tuple[Any, Any, Any, Any]:
    """The identity of noise that is not wanted, as `identity_arrays` gives it."""
    ids = np.zeros(pairs, np.int64)
    return 0, ids, ids, 0


def empty(like: Tensor) -> Tensor:
    """Memory for a result, contiguous."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def broadcasts_to_planes(tensor: Tensor, like: Tensor) -> bool:
    """True if `tensor` is (B|1, C|1, H, W), leading axes optional, for `like` (B, C, H, W)."""
    shape, full = tensor.shape, like.shape
    if len(full) != 4 or not 2 <= len(shape) <= 4 or shape[-2:] != full[-2:]:
        return False
    pairs, channels = (1, 1, *shape)[-4:-2]
    return pairs in (1, full[0]) and channels in (1, full[1])
