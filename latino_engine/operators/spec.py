"""Operators as the command line writes them: `name:key=value,key=value`.

    blur:std=1.6,size=13       Gaussian blur, std and size in pixels (size may be left out)
    blur:kernel=psf.npy        the blur of a file, npy or an image, divided by its sum
    uniform:size=9             the mean over 9 x 9 pixels
    motion:size=31,seed=3      a random motion inside 31 x 31 pixels
    sr:factor=4,kernel=...     bicubic (the default), gaussian, a library's resizing such as
                               pillow-bicubic, torch-bicubic, matlab-bicubic or area, or a file as
                               above; grid=centred (the default, where libraries put the pixels)
                               or grid=corner (from pixel 0, the default of a file)
    inpaint:mask=mask.png      0 = missing, any other value = observed; observed=black turns it
                               round, observed=white takes one that is almost black
    inpaint:random=0.5,seed=0  this fraction of the pixels is missing, the same in all channels
    inpaint:box=64             a centred square is missing; box=64x48 is height x width
    denoise                    noise alone
    jpeg:quality=20            compression; the noise level follows from what was compressed;
                               subsampling=4:4:4 (the default), 4:2:2 or 4:2:0 (Pillow's)
    jpeg:file=photo.jpg        the tables and the subsampling of this file; `jpeg` alone, before a
                               measurement in a JPEG file: those of the measurement
    mri:mask=mask.npy          the k-space samples that are measured, DC at pixel (H//2, W//2)
    mri:acceleration=4,seed=0  1/4 of the columns: a full centre, the rest at random
    blur:std=2,border=reflect  what lies outside of the image, also for uniform and motion: reflect,
                               replicate, valid (nothing is assumed), or wrap (periodic)
    demosaic:pattern=RGGB      the raw image behind a Bayer pattern
    colorize                   a grey image of a colour one
    tomography:angles=60       parallel beams over 180 degrees; convention=centred (the default),
                               skimage or astra
    cs:ratio=0.25,seed=0       Hadamard coefficients: ordering=random (the default) or sequency
    phase:masks=4,seed=0       magnitudes of coded diffraction; phase:oversampling=2 has no mask
    poisson:peak=50            photon noise alone, 50 photons at white; takes the noise's place
    varying:kernels=psfs.npy   one kernel for each tile of a grid, (R, S, kh, kw)
    varying:std=0.8x2.5,grid=5 Gaussian blur, std 0.8 in the centre, 2.5 in the corners, 5 x 5 tiles

Several are joined by `then` and `and`; see `combined_spec`:

    blur:std=1 then poisson:peak=50
    blur:std=2 and sr:factor=4,noise=0.05

    saved:file=operator.npz    any operator, as `spec_of` wrote it, with its own noise level

A blur that states no border wraps around, as simulated data does; the command line takes `reflect`
where the measurement is a file, since photographs do not wrap around.

A seed that is left out is that of the call. `noise=0.05` at the end of a description is its noise
level, in place of the call's; `noise=auto` estimates it from the measurement. File names may hold
no comma.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid
from latino_engine.operators.bordered_blur import BORDERS
from latino_engine.operators.builders import FILE_KEYS, OPERATORS
from latino_engine.operators.combined_spec import (
    combine,
    image_size,
    is_combined,
    own_noise,
    pieces,
)
from latino_engine.operators.grammar import Request, check_text, choose, parse_values, unknown
from latino_engine.operators.luminance import Luminance, suits_grey
from latino_engine.operators.parts.image_size import as_image_size
from latino_engine.operators.parts.sampling_grid import KERNELS
from latino_engine.operators.protocol import Operator
from latino_engine.system.cache import file_sha256

#: The border of a measured photograph where none is stated: exact and fast for symmetric kernels.
REAL_BORDER = "reflect"


def parse_operator(
    text: str,
    noise_std: float | Tensor,
    image_shape: tuple[int, int] | None,
    seed: int = 0,
    channels: int = 3,
    border: str = "wrap",
) -> Operator:
    """The operator that `text` describes, in the grammar of this module.

    Args:
        text: `name:key=value,key=value`, e.g. `sr:factor=4`.
        noise_std: standard deviation of the noise, public units, a number or (B,); not used by
            `jpeg`.
        image_shape: (H, W) of the image that is restored, which masks must fit; None where no
            operator depends on it.
        seed: for what is random and names no seed of its own.
        channels: of the image, which several operators need.
        border: of blurs that state none: "wrap" (periodic), "reflect", "replicate" or "valid".

    Raises:
        InvalidArgument: an unknown name or key, a missing key, a value that cannot be used.
        ImageUnreadable: a mask or kernel file that cannot be used.
    """

    check_text(text)
    seed = ops.check_seed(seed)
    if image_shape is not None:
        image_shape = as_image_size(image_shape, "image_shape")

    def parse(one: str, level: float | Tensor, shape: tuple[int, int] | None) -> Operator:
        return _parse_one(one, level, shape, seed, border)

    if is_combined(text):
        if image_shape is None:
            expected = "(H, W) for several operators together"
            raise invalid("image_shape", expected, None, "give image_shape=(256, 256)")
        return combine(text, parse, noise_std, (channels, *image_shape))
    description, level = own_noise(text, noise_std)
    if description != text and text.strip().startswith(("jpeg", "poisson", "saved")):
        name = text.strip().partition(":")[0]
        remedy = "leave it out: the operator has a noise level of its own"
        raise invalid(f"operator {name}", "no noise", text, remedy)
    return parse(description, level, image_shape)


def image_size_behind(text: str, measured: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the image whose first measurement by `text` has the size `measured`.

    Raises:
        InvalidArgument, ImageUnreadable: a blur whose kernel cannot be told.
    """

    check_text(text)

    def parse(one: str, level: float | Tensor, shape: tuple[int, int]) -> Operator:
        return _parse_one(own_noise(one, level)[0], level, shape, 0, "wrap")

    return image_size(text, measured, parse)


def operator(
    text: str,
    noise_std: float | Tensor = 0.02,
    image_shape: tuple[int, int] | None = None,
    seed: int = 0,
    channels: int = 3,
    border: str = "wrap",
) -> Operator:
    """The operator of a description such as "blur:std=1.6,noise=0.05", as the command line has it.

    Args:
        text: in the grammar of `latino_engine.operators.spec`.
        noise_std: standard deviation of the noise, public units, a number or (B,); `noise=` in the
            description takes its place.
        image_shape: (H, W) of the image that is restored; random masks, boxes, tomography,
            compressed sensing, phase retrieval and several operators together need it.
        seed: for what is random and names no seed of its own.
        channels: of the image, which several operators together need.
        border: of blurs that state none: "wrap" (periodic, as simulated data), "reflect",
            "replicate" or "valid".

    Raises:
        ValueError: a description that cannot be read, or an image_shape that is missing.
    """
    if border not in ("wrap", *BORDERS):
        known = ", ".join(("wrap", *BORDERS))
        raise invalid("border", f"one of {known}", repr(border), "choose one of these")
    return parse_operator(text, noise_std, image_shape, seed, channels, border)


def operator_of_picture(
    text: str,
    noise_std: float | Tensor,
    image_shape: tuple[int, int],
    seed: int,
    channels: tuple[int, int],
    border: str,
) -> Operator:
    """The operator for a file: of grey images where the file is grey and the prior is not.

    Args:
        text, noise_std, image_shape, seed, border: as in `parse_operator`.
        channels: of the file and of the prior.
    """
    of_file, of_prior = channels
    op = parse_operator(text, noise_std, image_shape, seed, of_prior, border)
    if not (of_file == 1 < of_prior and suits_grey(op)):
        return op
    return Luminance(parse_operator(text, noise_std, image_shape, seed, 1, border))


def _parse_one(
    text: str,
    noise_std: float | Tensor,
    image_shape: tuple[int, int] | None,
    seed: int,
    border: str,
) -> Operator:
    name, _, rest = text.strip().partition(":")
    ways = OPERATORS.get(name)
    if ways is None:
        example = "write it as name:key=value, e.g. blur:std=1.6"
        raise unknown("operator", f"one of {', '.join(OPERATORS)}", name, OPERATORS, example)
    values = parse_values(name, rest)
    way = choose(name, ways, values)
    return way.build(Request(name, way.example, values, noise_std, image_shape, seed, border))


def file_hashes(text: str) -> dict[str, str]:
    """The files in a description, by their names, each with its SHA-256: for reports.

    Raises:
        InvalidArgument: a description that cannot be read.
    """
    return {name: file_sha256(Path(name)) for name in files_named(text)}


def files_named(text: str) -> list[str]:
    """The names of files in a description, such as those of kernels and masks.

    Raises:
        InvalidArgument: a description that cannot be read.
    """
    found = []
    for part in pieces(check_text(text))[::2]:
        name, _, rest = part.strip().partition(":")
        for key, value in parse_values(name, rest).items():
            if key in FILE_KEYS and not (key == "kernel" and value in KERNELS):
                found.append(value)
    return found
