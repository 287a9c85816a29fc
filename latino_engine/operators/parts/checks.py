"""The checks that all operators share: parameters at construction, images and gamma on use.

One conversion for each kind of argument: `as_tensor` and `as_parameter` for arrays, those of
`scalars` for single values, `as_image_size` for sizes; `check_image` for images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from latino_engine.errors import axes_remedy, channels_last, convert_remedy, invalid, invalid_type
from latino_engine.operators.parts.scalars import as_count, as_number
from latino_engine.ops.philox import MAX_CHANNELS

#: What a user may give as a kernel, a mask, a coil map or several noise levels.
ArrayLike: TypeAlias = "Tensor | npt.NDArray[np.generic] | Sequence[object] | float"

#: noise_std = 0 is read as this fraction of the range [0, 1] where a division by it is needed.
SMALLEST_NOISE_STD = 1e-3

#: Noise levels between these are told from 0 and from infinity in float32 with their squares.
NOISE_STDS = (1e-12, 1e9)


class Unknown(float):
    """A noise level that is estimated from the measurement; a number only in name."""

    def __new__(cls) -> Unknown:
        return super().__new__(cls, math.nan)

    def __repr__(self) -> str:
        return "estimate"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "estimate"

    def __reduce__(self) -> tuple[type[Unknown], tuple[()]]:
        return Unknown, ()


#: What noise_std="estimate" becomes.
ESTIMATE = Unknown()

#: Torch's floats of 8 and 4 bits, as far as this torch has them.
_NO_ARITHMETIC = tuple(
    getattr(torch, n) for n in dir(torch) if n.startswith(("float8_", "float4_"))
)
_LARGEST_GAMMA = 1e30  # whose products with images float32 holds
_LARGEST_NUMBER = 1e15  # whose squares float32 holds
_GAMMA = "gamma = 0 leaves v as it is"
_START_STD = 0.1  # how far a first guess is from the image; 0.07 to 0.15 differ by less than 0.5 dB


def as_tensor(name: str, value: object) -> Tensor:
    """What a user gives as numbers, as a tensor: a tensor as it is, anything else as a copy.

    Arrays may have any byte order, any strides and any kind of number: 80 bits become 64, unsigned
    integers signed ones where torch has no arithmetic for them.

    Raises:
        TypeError: not numbers, or a tensor without values in memory.
        ValueError: an array with masked entries.
    """
    if isinstance(value, Tensor):
        check_plain(name, value)
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        got = f"{int(np.ma.getmaskarray(value).sum())} masked ones"
        remedy = "fill them, or give the data and tell the operator by a mask, as Inpainting"
        raise invalid(name, "an array with all its entries", got, remedy)
    try:
        if value is None or isinstance(value, str | bytes | dict | set | frozenset):
            raise TypeError
        array = np.array(value, order="C", subok=False)
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        elif array.dtype.kind == "c" and array.dtype.itemsize > 16:
            array = array.astype(np.complex128)
        elif array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64 if array.dtype.itemsize < 8 else np.float64)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError, OverflowError, RuntimeError, RecursionError):
        remedy = "give a numpy array or a torch tensor"
        raise invalid_type(name, "an array of numbers", type(value).__name__, remedy) from None


def check_plain(name: str, tensor: Tensor) -> None:
    """Raises for a tensor without values in memory, sparse, or of a type without arithmetic."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
        got = f"{tensor.layout} of {tensor.dtype} on {tensor.device}"
        raise invalid_type(name, "a plain tensor", got, "convert it by .to_dense() or .float()")
    if tensor.dtype in _NO_ARITHMETIC:
        raise invalid_type(name, "a plain tensor", tensor.dtype, "convert it by .float()")


def as_parameter(name: str, value: ArrayLike, dtype: torch.dtype = torch.float64) -> Tensor:
    """A copy of `value` as a finite CPU tensor of this dtype, outside any gradient.

    Raises:
        TypeError: not numbers, or complex numbers where real ones are expected.
        ValueError: NaN, Inf, or numbers whose squares float32 cannot hold.
    """
    given = as_tensor(name, value)
    if given.is_complex() and not dtype.is_complex:
        raise invalid_type(name, "real numbers", given.dtype, "give the real part")
    with torch.inference_mode(False):  # else a later backward pass could not save it
        parameter = given.detach().to("cpu", dtype, copy=True)
    if not bool(torch.isfinite(parameter).all()):
        raise invalid(name, "finite values", "NaN or Inf", "replace them before this call")
    if parameter.numel() and float(parameter.abs().max()) > _LARGEST_NUMBER:
        expected, got = f"numbers up to {_LARGEST_NUMBER:g}", f"{float(parameter.abs().max()):g}"
        raise invalid(name, expected, got, "scale them to the range of the image")
    return parameter


def as_noise_std(value: float | ArrayLike) -> float | Tensor:
    """noise_std as a float, or as a (B,) float64 CPU tensor, finite and >= 0; or `ESTIMATE`."""
    if isinstance(value, Unknown) or (isinstance(value, str) and value == "estimate"):
        return ESTIMATE
    if isinstance(value, str):
        remedy = "a number is written without quotes"
        raise invalid("noise_std", "a number or 'estimate'", repr(value), remedy)
    noise_std = as_parameter("noise_std", value)
    if noise_std.ndim > 1 or noise_std.numel() == 0:
        shape = f"shape {tuple(noise_std.shape)}"
        raise invalid("noise_std", "a number or shape (B,)", shape, "give one value per image")
    if float(noise_std.min()) < 0:
        smallest = f"{float(noise_std.min()):g}"
        raise invalid("noise_std", "a standard deviation >= 0", smallest, "give its absolute value")
    low, high = NOISE_STDS
    extreme = noise_std[(noise_std > 0) & ((noise_std < low) | (noise_std > high))]
    if extreme.numel():
        expected, got = f"0, or a number from {low:g} to {high:g}", f"{float(extreme.max()):g}"
        raise invalid("noise_std", expected, got, "images have the range of numbers about 1")
    return float(noise_std) if noise_std.numel() == 1 else noise_std


def as_tolerance(tol: float) -> float:
    """A relative residual at which conjugate gradients stop."""
    remedy = "1e-6 suits most uses"
    return as_number("tol", tol, "a number in (0, 1)", lambda t: 0 < t < 1, remedy)


def as_iterations(max_iter: int) -> int:
    """The most iterations of conjugate gradients."""
    return as_count("max_iter", max_iter, 1 << 31, "200 suits most uses")


def as_mask(value: ArrayLike, channels: str) -> Tensor:
    """A mask (H, W) or (B|1, channels, H, W) of zeros and ones as (B|1, C|1, H, W) float64."""
    mask = as_parameter("mask", value)
    one_channel = channels == "C" or mask.ndim != 4 or mask.shape[1] == 1
    if mask.ndim not in (2, 4) or mask.numel() == 0 or not one_channel:
        remedy = "give one mask for re and im, mask[:, :1]" if not one_channel else "reshape it"
        raise invalid("mask", f"(H, W) or (B, {channels}, H, W)", tuple(mask.shape), remedy)
    if not bool(((mask == 0) | (mask == 1)).all()):
        found = f"values in [{float(mask.min()):g}, {float(mask.max()):g}]"
        raise invalid("mask", "only 0 and 1", found, "threshold it, for instance mask > 0.5")
    return mask if mask.ndim == 4 else mask[None, None]


def common_batch(first: str, sizes: Sequence[int], noise_std: float | Tensor) -> int | None:
    """B of the per-sample parameters, None where all are shared; `first` names those in `sizes`."""
    batches = {size for size in sizes if size > 1}
    if len(batches) > 1:
        found = " and ".join(str(size) for size in sizes)
        raise invalid(first, "one batch size", found, "give one of each for every image")
    batch = next(iter(batches), None)
    if isinstance(noise_std, float):
        return batch
    if batch is not None and noise_std.numel() != batch:
        got = f"{noise_std.numel()} values"
        raise invalid("noise_std", f"a number or {batch} values", got, f"give one for each {first}")
    return noise_std.numel()


def check_batch(name: str, batch: int, expected: int | None) -> None:
    """`batch` images against the per-sample parameters of the operator."""
    if expected is not None and batch != expected:
        remedy = "the operator has parameters per image; give as many images, or use take(index)"
        raise invalid(name, f"a batch of {expected}", batch, remedy)


def check_image(name: str, x: object, batch: int | None = None, channels: int = 1) -> None:
    """x as (B, C, H, W) in float32 or float64; `channels` > 1 fixes C, `batch` fixes B."""
    wanted = f"(B, {channels if channels > 1 else 'C'}, H, W)"
    if not isinstance(x, Tensor):
        expected, got = f"a torch tensor {wanted}", type(x).__name__
        raise invalid_type(name, expected, got, convert_remedy(x))
    check_plain(name, x)
    if x.ndim != 4 or channels_last(x.shape, channels):
        raise invalid(name, wanted, tuple(x.shape), axes_remedy(x.shape))
    check_dtype(name, x)
    if x.shape[1] > MAX_CHANNELS:
        raise invalid(name, f"at most {MAX_CHANNELS} channels", x.shape[1], "split the channels")
    if 0 in x.shape:
        raise invalid(name, f"{wanted}, at least one pixel", tuple(x.shape), "give whole images")
    if channels > 1 and x.shape[1] != channels:
        remedy = f"the operator's parameters are for {channels} channels"
        raise invalid(name, wanted, tuple(x.shape), remedy)
    check_batch(name, x.shape[0], batch)


def check_measured(name: str, y: object, batch: int | None = None) -> None:
    """y as a tensor (B, ...) of any rank, real or complex."""
    if not isinstance(y, Tensor) or y.ndim < 1:
        raise invalid_type(name, "a tensor (B, ...)", type(y).__name__, convert_remedy(y))
    check_plain(name, y)
    check_dtype(name, y.real if y.is_complex() else y)
    check_batch(name, y.shape[0], batch)


def check_dtype(name: str, x: Tensor) -> None:
    """float32 or float64."""
    if x.dtype not in (torch.float32, torch.float64):
        whole = not (x.is_floating_point() or x.is_complex())
        remedy = "convert it to [0, 1] first" if whole else "convert it with .float()"
        raise invalid_type(name, "float32 or float64", x.dtype, remedy)


def check_finite(y: Tensor) -> None:
    """Every entry of a measurement is a number: one pass over y, where a data step is made.

    What torch.func or a tracer holds has no entries to look at, nor has a stream being captured.
    """
    if not _has_entries(y):
        return
    # The sum is one pass without a second array; it can be infinite for large numbers, too.
    if bool(torch.isfinite(y.detach().sum())):
        return
    bad = int((~torch.isfinite(y)).sum())
    if bad:
        remedy = "clean the measurement, or mark these entries as missing with Inpainting"
        raise invalid("y", "finite numbers", f"{bad} NaN or infinite entries", remedy)


def check_prox(z: Tensor, y: Tensor, mask: Tensor) -> None:
    """y, whose prox is z, is finite where m > 0: one pass over z, and over y where z is not finite.

    On an accelerator it waits for z, as making a data step waits for y.
    """
    if type(z) is not Tensor or not _has_entries(z):
        return
    if not bool(torch.isfinite(z.detach().sum())):
        check_finite(torch.where(mask > 0, y, 0.0))


def _has_entries(tensor: Tensor) -> bool:
    """Whether the host can read the tensor now."""
    if torch.compiler.is_compiling() or is_functorch_wrapped_tensor(tensor) or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def check_size(name: str, x: Tensor, size: tuple[int, int], of: str) -> None:
    """The (H, W) of x against the one of a mask or a map."""
    if tuple(x.shape[-2:]) != size:
        wanted, got = f"{size[0]} x {size[1]} as the {of}", f"{x.shape[-2]} x {x.shape[-1]}"
        raise invalid(name, wanted, got, f"crop or resize one of {name} and {of}")


def check_anchor(v: Tensor, expected: tuple[int, ...], dtype: torch.dtype) -> None:
    """v, the anchor of the prox, against what y implies."""
    check_image("v", v)
    if tuple(v.shape) != expected:
        raise invalid("v", f"{expected} for this y", tuple(v.shape), "v and y belong to one image")
    if v.dtype != dtype:
        raise invalid_type("v", f"{dtype} as y", v.dtype, "use one dtype")


def check_gamma(gamma: float | Tensor) -> None:
    """gamma >= 0 and finite. On an accelerator it is not read, which would stall the queue."""
    if isinstance(gamma, float) and 0.0 <= gamma <= _LARGEST_GAMMA:
        return
    if not isinstance(gamma, Tensor | np.ndarray | list):
        number = as_number("gamma", gamma, "a finite number >= 0", lambda g: g >= 0, _GAMMA)
        if number > _LARGEST_GAMMA:
            raise invalid("gamma", f"at most {_LARGEST_GAMMA:g}", f"{number:g}", _GAMMA)
        return
    gamma = as_tensor("gamma", gamma)
    if gamma.numel() == 0:
        raise invalid("gamma", "a number or shape (B,)", tuple(gamma.shape), _GAMMA)
    check_plain("gamma", gamma)
    if gamma.is_complex() or gamma.dtype == torch.bool:
        raise invalid_type("gamma", "real numbers", gamma.dtype, "give its real part")
    if gamma.device.type != "cpu" or bool(((gamma >= 0) & (gamma <= _LARGEST_GAMMA)).all()):
        return
    low, high = float(gamma.detach().min()), float(gamma.detach().max())
    if high > _LARGEST_GAMMA and math.isfinite(high):
        raise invalid("gamma", f"at most {_LARGEST_GAMMA:g}", f"{high:g}", _GAMMA)
    raise invalid("gamma", "a finite number >= 0", f"{low:g}", _GAMMA)


def check_index(index: Tensor, batch: int) -> Tensor:
    """The images that `take` picks, 1-D int64 with values in [0, batch)."""
    if not isinstance(index, Tensor):
        remedy = "use torch.arange or a LongTensor"
        raise invalid_type("index", "1-D int64", type(index).__name__, remedy)
    check_plain("index", index)
    if index.dtype != torch.int64 or index.ndim != 1:
        got = f"{index.dtype} of shape {tuple(index.shape)}"
        raise invalid_type("index", "1-D int64", got, "use torch.arange or a LongTensor")
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= batch):
        got = f"{int(index.min())}..{int(index.max())}"
        raise invalid("index", f"values in [0, {batch})", got, "count the images from 0")
    return index.cpu()


def pick(parameter: Tensor, index: Tensor) -> Tensor:
    """The rows `index` of a per-sample parameter; a shared one (leading axis 1) as it is."""
    return parameter if parameter.shape[0] == 1 else parameter[index]


def pick_noise_std(noise_std: float | Tensor, index: Tensor) -> float | Tensor:
    """noise_std of the images `index`."""
    return noise_std if isinstance(noise_std, float) else noise_std[index]


def starting_gamma(noise_std: float | Tensor) -> float | Tensor:
    """gamma = (0.1 / sigma_y)^2 in public units, sigma_y = 0 read as 1e-3: a regularised start."""
    known_noise_std(noise_std)
    if isinstance(noise_std, float):
        return (_START_STD / max(noise_std, SMALLEST_NOISE_STD)) ** 2
    return (_START_STD / noise_std.clamp(min=SMALLEST_NOISE_STD)) ** 2


def noise_word(noise_std: float | Tensor) -> str | None:
    """A noise level in the words of the command line, "noise=0.05"; None for one of each image."""
    if isinstance(noise_std, Tensor):
        return None
    return f"noise={'auto' if isinstance(noise_std, Unknown) else repr(noise_std)}"


def known_noise_std(noise_std: float | Tensor) -> None:
    """Raises for a noise level that only a call of `sample` will estimate."""
    if isinstance(noise_std, Unknown):
        remedy = "give a number, or call op.for_measurement(y), which estimates it"
        raise invalid("noise_std", "a noise level that is known here", "'estimate'", remedy)


def show_noise_std(noise_std: float | Tensor) -> str:
    """noise_std for a repr."""
    if isinstance(noise_std, float):
        return f"noise_std={noise_std:g}"
    low, high = float(noise_std.min()), float(noise_std.max())
    return f"noise_std={noise_std.numel()} values in [{low:g}, {high:g}]"
