"""Operators as the command line writes them: `name:key=value,key=value`.

    blur:std=1.6,size=13       Gaussian blur, std and size in pixels (size may be left out)
    blur:kernel=psf.npy        the blur of a file, npy or an image, divided by its sum
    uniform:size=9             the mean over 9 x 9 pixels
    motion:size=31,seed=3      a random motion inside 31 x 31 pixels
    sr:factor=4,kernel=...     bicubic (the default), gaussian, or a file as above
    inpaint:mask=mask.png      0 = missing, any other value = observed
    inpaint:random=0.5,seed=0  this fraction of the pixels is missing, the same in all channels
    inpaint:box=64             a centred square is missing; box=64x48 is height x width
    denoise                    noise alone
    jpeg:quality=20            compression; the noise level follows from the quality
    mri:mask=mask.npy          the k-space samples that are measured, DC at pixel (H//2, W//2)
    mri:acceleration=4,seed=0  1/4 of the columns: a full centre, the rest at random
    blur:std=2,border=reflect  real borders: reflect, replicate or valid
    demosaic:pattern=RGGB      the raw image behind a Bayer pattern
    colorize                   a grey image of a colour one
    tomography:angles=60       parallel beams over 180 degrees
    cs:ratio=0.25,seed=0       Hadamard coefficients: ordering=random (the default) or sequency
    phase:masks=4,seed=0       magnitudes of coded diffraction; phase:oversampling=2 has no mask
    poisson:peak=50            photon noise alone, 50 photons at white; takes the noise's place
    varying:kernels=psfs.npy   one kernel for each tile of a grid, (R, S, kh, kw)
    varying:std=0.8x2.5,grid=5 Gaussian blur, std 0.8 in the centre, 2.5 in the corners, 5 x 5 tiles

Several are joined by `then` and `and`; see `combined_spec`:

    blur:std=1 then poisson:peak=50
    blur:std=2 and sr:factor=4,noise=0.05

A seed that is left out is that of the call. File names may hold no comma.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from torch import Tensor

from latino_engine import image_io, npy_io
from latino_engine.errors import invalid
from latino_engine.operators.blur import Blur
from latino_engine.operators.bordered_blur import BORDERS, Border, BorderedBlur
from latino_engine.operators.colorization import Colorization
from latino_engine.operators.combined_spec import combine, image_size, is_combined
from latino_engine.operators.compressed_sensing import CompressedSensing
from latino_engine.operators.demosaicing import PATTERNS, Demosaicing
from latino_engine.operators.inpainting import Denoising, Inpainting
from latino_engine.operators.jpeg import JPEG
from latino_engine.operators.mask_patterns import centred_box, random_columns, random_pixels
from latino_engine.operators.mri import MRI
from latino_engine.operators.phase_retrieval import PhaseRetrieval
from latino_engine.operators.point_spread import growing_kernels
from latino_engine.operators.poisson import PoissonNoise
from latino_engine.operators.protocol import Operator
from latino_engine.operators.spatially_varying_blur import SpatiallyVaryingBlur
from latino_engine.operators.super_resolution import SuperResolution
from latino_engine.operators.tomography import Tomography


def parse_operator(
    text: str,
    noise_std: float | Tensor,
    image_shape: tuple[int, int],
    seed: int = 0,
    channels: int = 3,
) -> Operator:
    """The operator that `text` describes, in the grammar of this module.

    Args:
        text: `name:key=value,key=value`, e.g. `sr:factor=4`.
        noise_std: standard deviation of the noise, public units, a number or (B,); not used by
            `jpeg`.
        image_shape: (H, W) of the image that is restored, which masks must fit.
        seed: for what is random and names no seed of its own.
        channels: of the image, which several operators need.

    Raises:
        InvalidArgument: an unknown name or key, a missing key, a value that cannot be used.
        ImageUnreadable: a mask or kernel file that cannot be used.
    """

    def parse(one: str, level: float | Tensor, shape: tuple[int, int]) -> Operator:
        return _parse_one(one, level, shape, seed)

    if is_combined(text):
        return combine(text, parse, noise_std, (channels, *image_shape))
    return parse(text, noise_std, image_shape)


def image_size_behind(text: str, measured: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the image whose first measurement by `text` has the size `measured`.

    Raises:
        InvalidArgument, ImageUnreadable: a blur whose kernel cannot be told.
    """
    return image_size(text, measured, lambda one, level, shape: _parse_one(one, level, shape, 0))


def _parse_one(
    text: str, noise_std: float | Tensor, image_shape: tuple[int, int], seed: int
) -> Operator:
    name, _, rest = text.strip().partition(":")
    ways = _OPERATORS.get(name)
    if ways is None:
        example = "write it as name:key=value, e.g. blur:std=1.6"
        raise _unknown("operator", f"one of {', '.join(_OPERATORS)}", name, _OPERATORS, example)
    values = _parse_values(name, rest)
    way = _choose(name, ways, values)
    return way.build(_Request(name, way.example, values, noise_std, image_shape, seed))


@dataclass(frozen=True)
class _Request:
    name: str
    example: str
    values: dict[str, str]
    noise_std: float | Tensor
    image_shape: tuple[int, int]
    default_seed: int

    def number(self, key: str, expected: str, accept: Callable[[float], bool]) -> float:
        text = self.values[key]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and accept(value)):
            raise self.refuse(key, expected, repr(text))
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        text = self.values[key]
        value = int(text) if text.isdecimal() else -1
        if not low <= value <= high:
            raise self.refuse(key, f"a whole number from {low} to {high}", repr(text))
        return value

    @property
    def shorter_side(self) -> int:
        """No kernel may be larger; a slip of the pen shall not ask for terabytes."""
        return min(self.image_shape)

    @property
    def seed(self) -> int:
        if "seed" not in self.values:
            return self.default_seed
        return self.integer("seed", 0, 2**64 - 1)

    def choice(self, key: str, known: Sequence[str]) -> str:
        text = self.values[key]
        if text not in known:
            expected, example = f"one of {', '.join(known)}", f"write e.g. {self.example}"
            raise _unknown(f"operator {self.name}, {key}", expected, text, known, example)
        return text

    def refuse(self, key: str, expected: str, got: object) -> Exception:
        return invalid(f"operator {self.name}, {key}", expected, got, f"write e.g. {self.example}")


@dataclass(frozen=True)
class _Way:
    """One way to describe an operator: its example, the optional keys, and what it builds."""

    example: str
    build: Callable[[_Request], Operator]
    optional: tuple[str, ...] = ()


def _parse_values(name: str, rest: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            remedy = f"write it as {name}:key=value,key=value"
            raise invalid(f"operator {name}", "key=value", repr(item), remedy)
        if key in values:
            raise invalid(f"operator {name}", "each key once", f"{key} twice", "remove one of them")
        values[key] = value
    return values


def _choose(name: str, ways: dict[str, _Way], values: dict[str, str]) -> _Way:
    """The way whose leading key is given, once all keys are known to belong to it."""
    examples = " or ".join(way.example for way in ways.values())
    known = sorted(
        {key for key in ways if key} | {k for way in ways.values() for k in way.optional}
    )
    for key in values:
        if key not in known:
            expected = f"the keys {', '.join(known)}" if known else "no keys"
            raise _unknown(f"operator {name}", expected, key, known, f"write {examples}")
    if "" in ways:
        return ways[""]
    leading = [key for key in ways if key in values]
    if len(leading) != 1:
        expected = f"{'one of the keys' if len(ways) > 1 else 'the key'} {', '.join(ways)}"
        found = " and ".join(leading or values) or "none"
        raise invalid(f"operator {name}", expected, found, f"write {examples}")
    way = ways[leading[0]]
    for key in values:
        if key not in (leading[0], *way.optional):
            expected = f"{leading[0]} without {key}"
            raise invalid(f"operator {name}", expected, "both", f"write {examples}")
    return way


def _unknown(
    argument: str, expected: str, got: str, known: Iterable[str], otherwise: str
) -> Exception:
    nearest = difflib.get_close_matches(got, list(known), n=1)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else otherwise
    return invalid(argument, expected, repr(got), remedy)


def _gaussian_blur(request: _Request) -> Operator:
    expected = f"a number of pixels above 0, at most {request.shorter_side}"
    std = request.number("std", expected, lambda v: 0 < v <= request.shorter_side)
    size = _size(request) if "size" in request.values else None
    return _with_border(Blur.gaussian(std, request.noise_std, size=size), request)


def _kernel_blur(request: _Request) -> Operator:
    kernel = image_io.read_kernel(request.values["kernel"])
    return _with_border(Blur(kernel, request.noise_std), request)


def _with_border(blur: Blur, request: _Request) -> Operator:
    if "border" not in request.values:
        return blur
    border = cast(Border, request.choice("border", BORDERS))
    return BorderedBlur(blur.kernel, blur.noise_std, border)


def _uniform_blur(request: _Request) -> Operator:
    return Blur.uniform(_size(request), request.noise_std)


def _motion_blur(request: _Request) -> Operator:
    return Blur.motion(_size(request), request.noise_std, seed=request.seed)


def _super_resolution(request: _Request) -> Operator:
    factor = request.integer("factor", 1, request.shorter_side)
    kernel = request.values.get("kernel", "bicubic")
    if kernel in ("bicubic", "gaussian"):
        return SuperResolution(factor, request.noise_std, kernel=kernel)
    if not Path(kernel).suffix:
        names = ("bicubic", "gaussian")
        expected = "bicubic, gaussian or a file (npy or an image)"
        raise _unknown("operator sr, kernel", expected, kernel, names, "name one of them")
    return SuperResolution(factor, request.noise_std, kernel=image_io.read_kernel(kernel))


def _inpainting(make_mask: Callable[[_Request], Tensor]) -> Callable[[_Request], Operator]:
    def build(request: _Request) -> Operator:
        return Inpainting(make_mask(request), request.noise_std)

    return build


def _mri(make_mask: Callable[[_Request], Tensor]) -> Callable[[_Request], Operator]:
    def build(request: _Request) -> Operator:
        return MRI(make_mask(request), request.noise_std)

    return build


def _denoising(request: _Request) -> Operator:
    return Denoising(request.noise_std)


def _jpeg(request: _Request) -> Operator:
    return JPEG(request.integer("quality", 1, 100))


def _demosaicing(request: _Request) -> Operator:
    pattern = request.choice("pattern", PATTERNS) if "pattern" in request.values else "RGGB"
    return Demosaicing(request.noise_std, pattern)


def _colorization(request: _Request) -> Operator:
    return Colorization(request.noise_std)


def _tomography(request: _Request) -> Operator:
    angles = request.integer("angles", 1, 4096)
    return Tomography(angles, request.image_shape, request.noise_std)


def _compressed_sensing(request: _Request) -> Operator:
    ratio = request.number("ratio", "a share above 0, at most 1", lambda v: 0 < v <= 1)
    known = ("random", "sequency")
    ordering = request.choice("ordering", known) if "ordering" in request.values else "random"
    return CompressedSensing(
        ratio,
        request.image_shape,
        request.noise_std,
        cast(Literal["random", "sequency"], ordering),
        seed=request.seed,
    )


def _coded_diffraction(request: _Request) -> Operator:
    masks, seed = request.integer("masks", 1, 64), request.seed
    return PhaseRetrieval.coded_diffraction(request.image_shape, request.noise_std, masks, seed)


def _oversampled_phase(request: _Request) -> Operator:
    factor = request.integer("oversampling", 1, 8)
    return PhaseRetrieval.oversampled(request.image_shape, request.noise_std, factor)


def _poisson(request: _Request) -> Operator:
    peak = request.number("peak", "a number of photons above 0", lambda v: v > 0)
    return PoissonNoise(Denoising(0.0), peak)


def _kernel_grid(request: _Request) -> Operator:
    kernels = npy_io.read_kernel_grid(request.values["kernels"])
    return SpatiallyVaryingBlur(kernels, request.noise_std)


def _growing_blur(request: _Request) -> Operator:
    text, largest = request.values["std"], request.shorter_side / 4
    try:
        centre, corner = (float(std) for std in text.lower().split("x"))
    except ValueError:
        centre = corner = math.nan
    if not (0 < centre <= largest and 0 < corner <= largest):
        expected = f"CENTRExCORNER in pixels, above 0, at most {largest:g}"
        raise request.refuse("std", expected, repr(text))
    side = request.integer("grid", 2, 64) if "grid" in request.values else 5
    size = min(2 * math.ceil(3 * max(centre, corner)) + 1, request.shorter_side)
    return SpatiallyVaryingBlur(growing_kernels(centre, corner, side, size), request.noise_std)


def _size(request: _Request) -> int:
    return request.integer("size", 1, request.shorter_side)


def _mask_from_file(request: _Request) -> Tensor:
    mask = image_io.read_mask(request.values["mask"])
    if tuple(mask.shape) != request.image_shape:
        expected = "{} x {} pixels as the image".format(*request.image_shape)
        got = "{} x {}".format(*mask.shape)
        raise invalid(f"operator {request.name}, mask", expected, got, "crop or resize the mask")
    return mask


def _random_mask(request: _Request) -> Tensor:
    expected = "the missing fraction, above 0 and below 1"
    fraction = request.number("random", expected, lambda v: 0 < v < 1)
    return random_pixels(fraction, request.image_shape, request.seed)


def _box_mask(request: _Request) -> Tensor:
    height, width = request.image_shape
    sides = request.values["box"].lower().split("x")
    box = [int(side) for side in sides if side.isdecimal()]
    if len(box) != len(sides) or len(box) > 2 or 0 in box:
        expected = "a side in pixels or HEIGHTxWIDTH"
        raise request.refuse("box", expected, repr(request.values["box"]))
    box_height, box_width = box[0], box[-1]
    if box_height > height or box_width > width or (box_height, box_width) == (height, width):
        expected = f"a box smaller than the image, {height} x {width}"
        raise request.refuse("box", expected, f"{box_height} x {box_width}")
    return centred_box((box_height, box_width), request.image_shape)


def _random_columns(request: _Request) -> Tensor:
    expected = "a number of 1 or more"
    acceleration = request.number("acceleration", expected, lambda v: v >= 1)
    return random_columns(acceleration, request.image_shape, request.seed)


#: name -> leading key -> the way that it begins; "" where no key is needed.
_OPERATORS: dict[str, dict[str, _Way]] = {
    "blur": {
        "std": _Way("blur:std=1.6,size=13", _gaussian_blur, ("size", "border")),
        "kernel": _Way("blur:kernel=psf.npy", _kernel_blur, ("border",)),
    },
    "uniform": {"size": _Way("uniform:size=9", _uniform_blur)},
    "motion": {"size": _Way("motion:size=31,seed=3", _motion_blur, ("seed",))},
    "sr": {"factor": _Way("sr:factor=4,kernel=bicubic", _super_resolution, ("kernel",))},
    "inpaint": {
        "mask": _Way("inpaint:mask=mask.png", _inpainting(_mask_from_file)),
        "random": _Way("inpaint:random=0.5,seed=0", _inpainting(_random_mask), ("seed",)),
        "box": _Way("inpaint:box=64", _inpainting(_box_mask)),
    },
    "denoise": {"": _Way("denoise", _denoising)},
    "jpeg": {"quality": _Way("jpeg:quality=20", _jpeg)},
    "mri": {
        "mask": _Way("mri:mask=mask.npy", _mri(_mask_from_file)),
        "acceleration": _Way("mri:acceleration=4,seed=0", _mri(_random_columns), ("seed",)),
    },
    "demosaic": {"": _Way("demosaic:pattern=RGGB", _demosaicing, ("pattern",))},
    "colorize": {"": _Way("colorize", _colorization)},
    "tomography": {"angles": _Way("tomography:angles=60", _tomography)},
    "cs": {"ratio": _Way("cs:ratio=0.25,seed=0", _compressed_sensing, ("ordering", "seed"))},
    "phase": {
        "masks": _Way("phase:masks=4,seed=0", _coded_diffraction, ("seed",)),
        "oversampling": _Way("phase:oversampling=2", _oversampled_phase),
    },
    "poisson": {"peak": _Way("poisson:peak=50", _poisson)},
    "varying": {
        "kernels": _Way("varying:kernels=psfs.npy", _kernel_grid),
        "std": _Way("varying:std=0.8x2.5,grid=5", _growing_blur, ("grid",)),
    },
}

#: One example of every form, for help texts.
EXAMPLES = tuple(way.example for ways in _OPERATORS.values() for way in ways.values())
