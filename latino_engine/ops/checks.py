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

from latino_engine.errors import invalid, invalid_type, whole_number
from latino_engine.ops.philox import MAX_CHANNELS, MAX_IMAGE_ID

_PLAIN = (Tensor, Parameter)
_REAL, _SPECTRA = (torch.float32,), (torch.float32, torch.complex64)
#: Images in 16 bits are loaded and stored as such; all arithmetic is float32.
SIXTEEN_BITS = (torch.float16, torch.bfloat16)
_IMAGES = (torch.float32, *SIXTEEN_BITS)
_CONSTANTS = {
    False: {torch.float64: torch.float64, **dict.fromkeys(_IMAGES, torch.float32)},
    True: {torch.float64: torch.complex128, **dict.fromkeys(_IMAGES, torch.complex64)},
}


def per_image(value: float | Tensor, like: Tensor, name: str = "gamma") -> Tensor:
    """A float or a (B,) tensor as (1|B, 1, ...), with the dtype and device of `like` (B, ...).

    For images in 16 bits it is float32.
    """
    dtype = torch.float32 if like.dtype in SIXTEEN_BITS else like.dtype
    if isinstance(value, float):
        device = like.device
        if dtype is torch.float32 and device.type == "cpu" and not torch.compiler.is_compiling():
            return _kept_scalar(value, like.ndim)
        return torch.full((1,) * like.ndim, value, dtype=dtype, device=device)
    tensor = torch.as_tensor(value, dtype=dtype, device=like.device)
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
    ids = torch.as_tensor(value)
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
    seed = whole_number("seed", seed)
    if not 0 <= seed < 2**64:
        raise invalid("seed", "0 <= seed < 2^64", seed, "choose another seed")
    return seed


def check_identity(
    seed: int,
    image_ids: Tensor | Sequence[int],
    sample_ids: Tensor | Sequence[int],
    step: int,
    shape: Sequence[int],
) -> tuple[int, Tensor, Tensor, int, tuple[int, int, int, int]]:
    """(seed, image ids, sample ids, step, shape), each in its range."""
    seed = check_seed(seed)
    size = tuple(map(int, shape))
    if len(size) != 4 or min(size, default=-1) < 0:
        raise invalid("shape", "(P, C, H, W)", size, "give four sizes")
    if size[1] > MAX_CHANNELS:
        raise invalid("shape", f"at most {MAX_CHANNELS} channels", size[1], "split the channels")
    if ((size[2] + 1) // 2) * ((size[3] + 1) // 2) >= 2**32:
        raise invalid("shape", "fewer than 2^32 quads per plane", size, "split the image")
    if isinstance(step, bool) or not isinstance(step, int):
        raise invalid_type("step", "an integer", type(step).__name__, "give a whole number")
    if not 0 <= step < 2**32:
        raise invalid("step", "0 <= step < 2^32", step, "count the steps from 0")
    images = check_ids("image_ids", image_ids, size[0], MAX_IMAGE_ID)
    samples = _moved(check_ids("sample_ids", sample_ids, size[0], 2**32), images.device)
    return seed, images, samples, step, (size[0], size[1], size[2], size[3])


def _moved(ids: Tensor, device: torch.device) -> Tensor:
    return ids if ids.device == device else ids.to(device)


def on_device_of(
    z: Tensor, identity: tuple[int, Tensor, Tensor, int]
) -> tuple[int, Tensor, Tensor, int]:
    """The identity with its ids on the device of z."""
    seed, images, samples, step = identity
    device = z.device
    return seed, _moved(images, device), _moved(samples, device), step


def check_real(name: str, z: Tensor) -> None:
    """Raises unless z is a real tensor of floating point."""
    _check_tensor(name, z)
    if not z.is_floating_point():
        raise invalid_type(name, "a real floating-point tensor", z.dtype, "convert it first")


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
    name: str, tensor: Tensor, other_name: str, other: Tensor, *, is_complex: bool = False
) -> None:
    """Raises unless a constant is where the images are, in their precision.

    Of images in 16 bits the constants are float32 or complex64.
    """
    _check_tensor(name, tensor)
    dtype = _CONSTANTS[is_complex].get(other.dtype)
    if dtype is None:
        raise invalid_type(other_name, "a real floating-point tensor", other.dtype, "convert it")
    if tensor.dtype != dtype or tensor.device != other.device:
        expected = f"{dtype} on {other.device} for {other_name} of {other.dtype}"
        got = f"{tensor.dtype} on {tensor.device}"
        raise invalid_type(name, expected, got, "convert or move it with .to()")


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        remedy = "convert it with torch.as_tensor"
        raise invalid_type(name, "a torch tensor", type(value).__name__, remedy)


def check_state(name: str, state: Tensor, other_name: str, other: Tensor) -> None:
    """Raises unless shapes and dtypes are equal."""
    check_same(name, state, other_name, other)
    if state.dtype != other.dtype:
        raise invalid_type(name, f"{other.dtype} as {other_name}", state.dtype, "use one dtype")


def check_bounds(name: str, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """(lowest, highest) as floats; raises unless lowest <= highest."""
    if bounds is None:
        return None
    pair = tuple(float(bound) for bound in bounds)
    if len(pair) != 2 or not pair[0] <= pair[1]:
        expected = "(lowest, highest) with lowest <= highest"
        raise invalid(name, expected, pair, "swap the bounds, or leave them out")
    return pair[0], pair[1]


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


def unfit(
    device_type: str,
    *tensors: Tensor | None,
    spectra: bool = False,
    images: Sequence[Tensor | None] = (),
) -> str | None:
    """None if raw pointers to these tensors are all that a kernel needs, else what it was given.

    They must be plain, float32 (with `spectra` also complex64; `images` may have 16
    bits) and on one device of this type, and no derivative may be asked for.
    """
    if torch.compiler.is_compiling():
        return "a traced graph"
    if forward_ad._current_level >= 0:
        return "a forward derivative"  # the kernel would drop the tangents
    grad, strided = torch.is_grad_enabled(), torch.strided
    first: torch.device | None = None
    for group, allowed in ((images, _IMAGES), (tensors, _SPECTRA if spectra else _REAL)):
        for tensor in group:
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
