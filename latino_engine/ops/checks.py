"""What the fused operations demand of their arguments, shared by their tables of backends."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from latino_engine.errors import (
    convert_remedy,
    invalid,
    invalid_type,
    whole_number_of_any_size,
)
from latino_engine.ops.arguments import Anchors, Identity, InnerCall
from latino_engine.ops.philox import MAX_CHANNELS, MAX_IMAGE_ID

_PLAIN = (Tensor, Parameter)
_REAL, _SPECTRA = (torch.float32,), (torch.float32, torch.complex64)
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def per_image(value: float | Tensor, like: Tensor, name: str = "gamma") -> Tensor:
    """A float or a (B,) tensor as (1|B, 1, ...), with the dtype and device of `like` (B, ...)."""
    dtype = like.dtype
    if isinstance(value, float):
        device = like.device
        if dtype is torch.float32 and device.type == "cpu" and not torch.compiler.is_compiling():
            return _kept_scalar(value, like.ndim)
        return torch.full((1,) * like.ndim, value, dtype=dtype, device=device)
    try:
        if not isinstance(value, Tensor | np.ndarray | np.generic | int | list | tuple):
            raise TypeError
        tensor = torch.as_tensor(value, dtype=dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        got, remedy = type(value).__name__, "give one value for each image of the batch"
        raise invalid_type(name, "a number or a tensor (B,)", got, remedy) from None
    if tensor.ndim > 1 or (tensor.ndim == 1 and tensor.shape[0] not in (1, like.shape[0])):
        raise invalid(
            name,
            f"a number or a tensor of shape ({like.shape[0]},)",
            f"shape {tuple(tensor.shape)}",
            "give one value for each image of the batch",
        )
    return tensor.reshape(-1, *([1] * (like.ndim - 1)))


@functools.lru_cache(maxsize=256)
def _kept_scalar(value: float, ndim: int) -> Tensor:
    """Never written to; a chain gives the same few numbers again and again."""
    with torch.inference_mode(False):  # from numpy: no mode or tracer may own what is kept
        return torch.from_numpy(np.full((1,) * ndim, value, np.float32))


def check_ids(name: str, value: Tensor | Sequence[int], pairs: int, limit: int) -> Tensor:
    """The ids as a tensor (pairs,) of integers in [0, limit); raises the sentence otherwise."""
    try:
        ids = torch.as_tensor(value)
        if ids.layout is not torch.strided or ids.is_meta:
            raise TypeError
    except (TypeError, ValueError, RuntimeError, OverflowError):
        got, remedy = type(value).__name__, "give one id per image"
        raise invalid_type(name, "integers", got, remedy) from None
    if ids.numel() == 0:
        ids = ids.to(torch.int64)  # an empty list has no type of its own
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise invalid_type(name, "integers", ids.dtype, "give whole numbers")
    if ids.shape != (pairs,):
        raise invalid(name, f"length {pairs}", f"shape {tuple(ids.shape)}", "give one id per image")
    if pairs:
        low, high = _range_of(ids)
        if low < 0 or high >= limit:
            raise invalid(name, f"values in [0, {limit})", f"{low}..{high}", "renumber the images")
    return ids


def _range_of(ids: Tensor) -> tuple[int, int]:
    if ids.numel() <= 16 and ids.device.type == "cpu":  # a list of so few is read faster
        values = ids.tolist()
        return min(values), max(values)
    low, high = map(int, ids.aminmax())
    return low, high


def check_seed(seed: int) -> int:
    """The seed as an int; raises `InvalidArgument` outside [0, 2^64)."""
    seed = whole_number_of_any_size("seed", seed)
    if not 0 <= seed < 2**64:
        raise invalid("seed", "0 <= seed < 2^64", seed, "choose another seed")
    return seed


def check_identity(
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    shape: Sequence[int],
    device: torch.device | None = None,
) -> tuple[Identity, tuple[int, int, int, int]]:
    """(identity, shape), each in its range; the ids on this device, or that of image_ids."""
    seed = check_seed(seed)
    size = tuple(map(int, shape))
    if len(size) != 4 or min(size, default=-1) < 0:
        raise invalid("shape", "(P, C, H, W)", size, "give four sizes")
    pairs, channels, height, width = size
    if channels > MAX_CHANNELS:
        raise invalid("shape", f"at most {MAX_CHANNELS} channels", channels, "split the channels")
    if ((height + 1) // 2) * ((width + 1) // 2) >= 2**32:
        raise invalid("shape", "fewer than 2^32 quads per plane", size, "split the image")
    if isinstance(step, bool) or not isinstance(step, int):
        raise invalid_type("step", "an integer", type(step).__name__, "give a whole number")
    if not 0 <= step < 2**32:
        raise invalid("step", "0 <= step < 2^32", step, "count the steps from 0")
    images = check_ids("image_ids", image_ids, pairs, MAX_IMAGE_ID)
    samples = check_ids("sample_ids", sample_ids, pairs, 2**32)
    device = device or images.device
    identity = Identity(seed, _moved(images, device), _moved(samples, device), step)
    return identity, (pairs, channels, height, width)


def _moved(ids: Tensor, device: torch.device) -> Tensor:
    return ids if ids.device == device else ids.to(device)  # a call that moves nothing costs too


def check_inner(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: float | Tensor,
    gamma: float | Tensor,
    scale: float | Tensor,
    identity: tuple[int, Tensor | Sequence[int], Tensor | Sequence[int], int],
    out: Tensor | None,
) -> InnerCall:
    """What an inner step is given beside its constants, each fit for the images x."""
    check_images("x", x)
    if x.numel() == 0:
        raise invalid("x", "(P, C, H, W), not empty", tuple(x.shape), "add a batch axis")
    if x_t is not None:
        check_state("x_t", x_t, "x", x)
    check_out(out, x, x.shape)
    who, _ = check_identity(*identity, x.shape, x.device)
    anchors = Anchors(x, x_t, per_image(x_weight, x, "x_weight"))
    return InnerCall(anchors, per_image(gamma, x), per_image(scale, x, "scale"), who, out)


def check_real(name: str, z: Tensor) -> None:
    """Raises unless z is a tensor in float32 or float64."""
    _check_tensor(name, z)
    if z.dtype not in _COMPLEX:
        raise invalid_type(name, "float32 or float64", z.dtype, "convert it with .float()")


def check_images(name: str, x: Tensor) -> None:
    """Raises unless x is real images (B, C, H, W)."""
    check_real(name, x)
    if x.ndim != 4:
        raise invalid(name, "(B, C, H, W)", tuple(x.shape), "add a batch axis")


def check_same(
    name: str,
    tensor: Tensor,
    other_name: str,
    other: Tensor,
    remedy: str = "both are states of the same images",
) -> None:
    """Raises unless the two shapes are equal, on one device."""
    _check_tensor(name, tensor)
    if tensor.shape != other.shape:
        expected = f"the shape of {other_name} {tuple(other.shape)}"
        raise invalid(name, expected, tuple(tensor.shape), remedy)
    check_device(name, tensor, other_name, other)


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raises unless both are on one device."""
    if tensor.device != other.device:
        expected = f"a tensor on {other.device} as {other_name}"
        raise invalid_type(name, expected, tensor.device, "move one of them")


def check_constant(
    name: str, tensor: Tensor, of: str, x: Tensor, *, is_complex: bool = False
) -> None:
    """Raises unless a constant is where the images x are, in their precision."""
    _check_tensor(name, tensor)
    dtype = _COMPLEX[x.dtype] if is_complex else x.dtype
    if tensor.dtype != dtype or tensor.device != x.device:
        expected = f"{dtype} on {x.device} for {of} of {x.dtype}"
        got = f"{tensor.dtype} on {tensor.device}"
        raise invalid_type(name, expected, got, "convert or move it with .to()")


def check_planes(
    name: str,
    tensor: Tensor,
    of: str,
    x: Tensor,
    size: tuple[int, int],
    *,
    is_complex: bool = False,
    channels: int | None = None,
) -> None:
    """Raises unless a constant is (B|1, C|1, *size) for the images x (B, C, H, W)."""
    check_constant(name, tensor, of, x, is_complex=is_complex)
    pairs, channels = x.shape[0], x.shape[1] if channels is None else channels
    shape = tensor.shape
    right = len(shape) == 4 and shape[0] in (1, pairs) and shape[1] in (1, channels)
    if not right or shape[2] != size[0] or shape[3] != size[1]:
        expected = f"({pairs}|1, {channels}|1, {size[0]}, {size[1]})"
        raise invalid(name, expected, tuple(shape), f"match the image {of}")


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise invalid_type(name, "a torch tensor", type(value).__name__, convert_remedy(value))


def check_state(name: str, state: Tensor, other_name: str, other: Tensor) -> None:
    """Raises unless shapes and dtypes are equal."""
    check_same(name, state, other_name, other)
    if state.dtype != other.dtype:
        raise invalid_type(name, f"{other.dtype} as {other_name}", state.dtype, "use one dtype")


def check_out(out: Tensor | None, like: Tensor, shape: Sequence[int]) -> None:
    """Raises unless `out` can take a float result of this shape, of the dtype of `like`."""
    if out is None:
        return
    if not isinstance(out, Tensor):
        got = type(out).__name__
        raise invalid_type("out", "a torch tensor", got, "give torch.empty_like of the image")
    if tuple(out.shape) != tuple(shape):
        raise invalid("out", f"shape {tuple(shape)}", tuple(out.shape), "match the image")
    if out.dtype != like.dtype or out.device != like.device:
        expected, got = f"{like.dtype} on {like.device}", f"{out.dtype} on {out.device}"
        raise invalid_type("out", expected, got, "give torch.empty_like of the image")
    if not out.is_contiguous():
        raise invalid("out", "a contiguous tensor", "strides", "give a tensor of its own")
    if torch.is_grad_enabled() and out.requires_grad:
        raise invalid("out", "a tensor without gradients", "one that requires a gradient", "detach")


def unfit(device_type: str, tensors: Sequence[Tensor | None], spectra: bool) -> str | None:
    """None if raw pointers to these tensors are all that a kernel needs, else what it was given.

    They must be plain, float32 (with `spectra` also complex64) and on one device of this type, and
    no derivative may be asked for.
    """
    if torch.compiler.is_compiling():
        return "a traced graph"
    if forward_ad._current_level >= 0:
        return "a forward derivative"  # the kernel would drop the tangents
    grad, strided = torch.is_grad_enabled(), torch.strided
    allowed = _SPECTRA if spectra else _REAL
    first: torch.device | None = None
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN or is_functorch_wrapped_tensor(tensor):
            return f"a {type(tensor).__name__} of torch.func or of a subclass"
        device = tensor.device
        if device.type != device_type or tensor.layout is not strided:
            return f"a {tensor.layout} tensor on {device}"
        if tensor.dtype not in allowed:
            return f"{tensor.dtype}"
        if grad and tensor.requires_grad:
            return "a tensor that requires a gradient"
        first = first or device
        if device != first:
            return f"tensors on {first} and {device}"
    return None
