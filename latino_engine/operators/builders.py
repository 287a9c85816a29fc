"""What each word of the grammar builds: name -> leading key -> the operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from torch import Tensor

from latino_engine import image_io
from latino_engine.errors import invalid
from latino_engine.image_io import arrays
from latino_engine.operators.blur import Blur
from latino_engine.operators.bordered_blur import BORDERS, Border, BorderedBlur
from latino_engine.operators.colorization import Colorization
from latino_engine.operators.compressed_sensing import CompressedSensing
from latino_engine.operators.demosaicing import PATTERNS, Demosaicing
from latino_engine.operators.grammar import Request, Way, unknown
from latino_engine.operators.inpainting import Denoising, Inpainting
from latino_engine.operators.jpeg import JPEG
from latino_engine.operators.mri import MRI
from latino_engine.operators.parts.jpeg_codec import SUBSAMPLINGS
from latino_engine.operators.parts.mask_patterns import centred_box, random_columns, random_pixels
from latino_engine.operators.parts.point_spread import growing_kernels
from latino_engine.operators.parts.sampling_grid import GRIDS, KERNELS
from latino_engine.operators.phase_retrieval import PhaseRetrieval
from latino_engine.operators.poisson import PoissonNoise
from latino_engine.operators.protocol import Operator
from latino_engine.operators.spatially_varying_blur import SpatiallyVaryingBlur
from latino_engine.operators.super_resolution import SuperResolution
from latino_engine.operators.tomography import CONVENTIONS, Tomography

_ALMOST_NOTHING = 0.02  # share observed, below which a mask is more likely upside down


def _gaussian_blur(request: Request) -> Operator:
    expected = f"a number of pixels above 0, at most {request.shorter_side}"
    std = request.number("std", expected, lambda v: 0 < v <= request.shorter_side)
    size = _size(request) if "size" in request.values else None
    return _with_border(Blur.gaussian(std, request.noise_std, size=size), request)


def _kernel_blur(request: Request) -> Operator:
    kernel = image_io.read_kernel(request.values["kernel"])
    return _with_border(Blur(kernel, request.noise_std), request)


def _with_border(blur: Blur, request: Request) -> Operator:
    """With the border that is stated, else with that of the call; "wrap" is periodic."""
    known = (*BORDERS, "wrap")
    border = request.choice("border", known) if "border" in request.values else request.border
    if border == "wrap":
        return blur
    return BorderedBlur(blur.kernel, blur.noise_std, cast(Border, border))


def _uniform_blur(request: Request) -> Operator:
    return _with_border(Blur.uniform(_size(request), request.noise_std), request)


def _motion_blur(request: Request) -> Operator:
    blur = Blur.motion(_size(request), request.noise_std, seed=request.seed)
    return _with_border(blur, request)


def _super_resolution(request: Request) -> Operator:
    factor = request.integer("factor", 1, request.shorter_side)
    kernel = request.values.get("kernel", "bicubic")
    grid = request.choice("grid", GRIDS) if "grid" in request.values else None
    if kernel in KERNELS:
        return SuperResolution(factor, request.noise_std, kernel, grid=grid or "centred")
    if not Path(kernel).suffix:
        expected = (
            "bicubic, gaussian, a library's such as pillow-bicubic, or a file (npy, an image)"
        )
        raise unknown("operator sr, kernel", expected, kernel, KERNELS, "name one of them")
    return SuperResolution(factor, request.noise_std, image_io.read_kernel(kernel), grid=grid)


def _inpainting(make_mask: Callable[[Request], Tensor]) -> Callable[[Request], Operator]:
    def build(request: Request) -> Operator:
        return Inpainting(make_mask(request), request.noise_std)

    return build


def _mri(make_mask: Callable[[Request], Tensor]) -> Callable[[Request], Operator]:
    def build(request: Request) -> Operator:
        return MRI(make_mask(request), request.noise_std)

    return build


def _denoising(request: Request) -> Operator:
    return Denoising(request.noise_std)


def _jpeg(request: Request) -> Operator:
    known = tuple(SUBSAMPLINGS)
    given = "subsampling" in request.values
    subsampling = request.choice("subsampling", known) if given else "4:4:4"
    return JPEG(request.integer("quality", 1, 100), subsampling=subsampling)


def _jpeg_file(request: Request) -> Operator:
    return JPEG.from_file(request.values["file"])


def _demosaicing(request: Request) -> Operator:
    pattern = request.choice("pattern", PATTERNS) if "pattern" in request.values else "RGGB"
    return Demosaicing(request.noise_std, pattern)


def _colorization(request: Request) -> Operator:
    return Colorization(request.noise_std)


def _tomography(request: Request) -> Operator:
    angles = request.integer("angles", 1, 4096)
    given = "convention" in request.values
    convention = request.choice("convention", CONVENTIONS) if given else "centred"
    shape, noise_std = request.image_shape, request.noise_std
    return Tomography(angles, shape, noise_std, convention=convention)


def _compressed_sensing(request: Request) -> Operator:
    ratio = request.number("ratio", "a share above 0, at most 1", lambda v: 0 < v <= 1)
    known = ("random", "sequency")
    ordering = request.choice("ordering", known) if "ordering" in request.values else "random"
    return CompressedSensing(
        ratio,
        request.drawn_shape,
        request.noise_std,
        cast(Literal["random", "sequency"], ordering),
        seed=request.seed,
    )


def _coded_diffraction(request: Request) -> Operator:
    masks, seed = request.integer("masks", 1, 64), request.seed
    return PhaseRetrieval.coded_diffraction(request.drawn_shape, request.noise_std, masks, seed)


def _oversampled_phase(request: Request) -> Operator:
    factor = request.integer("oversampling", 1, 8)
    return PhaseRetrieval.oversampled(request.drawn_shape, request.noise_std, factor)


def _poisson(request: Request) -> Operator:
    peak = request.number("peak", "a number of photons above 0", lambda v: v > 0)
    return PoissonNoise(Denoising(0.0), peak)


def _kernel_grid(request: Request) -> Operator:
    kernels = arrays.read_kernel_grid(request.values["kernels"])
    return SpatiallyVaryingBlur(kernels, request.noise_std)


def _growing_blur(request: Request) -> Operator:
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


def _size(request: Request) -> int:
    return request.integer("size", 1, request.shorter_side)


def _mask_from_file(request: Request) -> Tensor:
    mask = image_io.read_mask(request.values["mask"])
    if "observed" in request.values:
        black = request.choice("observed", ("white", "black")) == "black"
        mask = 1.0 - mask if black else mask
    elif float(mask.mean()) < _ALMOST_NOTHING:
        expected = f"at least {100 * _ALMOST_NOTHING:g} % white, which is what was observed"
        remedy = "add observed=black where white marks what is missing, else observed=white"
        got = f"{100 * float(mask.mean()):.2g} %"
        raise invalid(f"operator {request.name}, mask", expected, got, remedy)
    if request.size is not None and tuple(mask.shape) != request.size:
        expected = "{} x {} pixels as the image".format(*request.image_shape)
        got = "{} x {}".format(*mask.shape)
        raise invalid(f"operator {request.name}, mask", expected, got, "crop or resize the mask")
    return mask


def _random_mask(request: Request) -> Tensor:
    expected = "the missing fraction, above 0 and below 1"
    fraction = request.number("random", expected, lambda v: 0 < v < 1)
    return random_pixels(fraction, request.drawn_shape, request.seed)


def _box_mask(request: Request) -> Tensor:
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


def _random_columns(request: Request) -> Tensor:
    expected = "a number of 1 or more"
    acceleration = request.number("acceleration", expected, lambda v: v >= 1)
    return random_columns(acceleration, request.image_shape, request.seed)


def _saved(request: Request) -> Operator:
    from latino_engine.operators.serialisation import load_operator  # which knows all of them

    return load_operator(request.values["file"])


#: name -> leading key -> the way that it begins; "" where no key is needed.
OPERATORS: dict[str, dict[str, Way]] = {
    "blur": {
        "std": Way("blur:std=1.6,size=13", _gaussian_blur, ("size", "border")),
        "kernel": Way("blur:kernel=psf.npy", _kernel_blur, ("border",)),
    },
    "uniform": {"size": Way("uniform:size=9", _uniform_blur, ("border",))},
    "motion": {"size": Way("motion:size=31,seed=3", _motion_blur, ("seed", "border"))},
    "sr": {"factor": Way("sr:factor=4,kernel=bicubic", _super_resolution, ("kernel", "grid"))},
    "inpaint": {
        "mask": Way("inpaint:mask=mask.png", _inpainting(_mask_from_file), ("observed",)),
        "random": Way("inpaint:random=0.5,seed=0", _inpainting(_random_mask), ("seed",)),
        "box": Way("inpaint:box=64", _inpainting(_box_mask)),
    },
    "denoise": {"": Way("denoise", _denoising)},
    "jpeg": {
        "quality": Way("jpeg:quality=20", _jpeg, ("subsampling",)),
        "file": Way("jpeg:file=photo.jpg", _jpeg_file),
    },
    "mri": {
        "mask": Way("mri:mask=mask.npy", _mri(_mask_from_file), ("observed",)),
        "acceleration": Way("mri:acceleration=4,seed=0", _mri(_random_columns), ("seed",)),
    },
    "demosaic": {"": Way("demosaic:pattern=RGGB", _demosaicing, ("pattern",))},
    "colorize": {"": Way("colorize", _colorization)},
    "tomography": {"angles": Way("tomography:angles=60", _tomography, ("convention",))},
    "cs": {"ratio": Way("cs:ratio=0.25,seed=0", _compressed_sensing, ("ordering", "seed"))},
    "phase": {
        "masks": Way("phase:masks=4,seed=0", _coded_diffraction, ("seed",)),
        "oversampling": Way("phase:oversampling=2", _oversampled_phase),
    },
    "poisson": {"peak": Way("poisson:peak=50", _poisson)},
    "varying": {
        "kernels": Way("varying:kernels=psfs.npy", _kernel_grid),
        "std": Way("varying:std=0.8x2.5,grid=5", _growing_blur, ("grid",)),
    },
    "saved": {"file": Way("saved:file=operator.npz", _saved)},
}
#: Keys whose values are names of files.
FILE_KEYS = frozenset({"kernel", "kernels", "mask", "file"})
#: One example of every form, for help texts.
EXAMPLES = tuple(way.example for ways in OPERATORS.values() for way in ways.values())
