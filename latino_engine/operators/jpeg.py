"""JPEG restoration: the image lies in the quantisation cell of its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import InvalidArgument, invalid, invalid_type
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_parameter,
    check_batch,
    check_finite,
    check_image,
    check_index,
)
from latino_engine.operators.parts.cost import Call, Count, Sizes, one_of
from latino_engine.operators.parts.fused_step import FixedStep
from latino_engine.operators.parts.jpeg_codec import (
    SUBSAMPLINGS,
    colour_matrix,
    dct_matrix,
    enlarging_matrix,
    from_blocks,
    from_planes,
    mean_matrix,
    quantisation_tables,
    rounded_levels,
    to_blocks,
    to_planes,
)
from latino_engine.operators.parts.jpeg_file import read_header
from latino_engine.operators.parts.jpeg_noise import fitted_scales, squared_errors, typical_scales
from latino_engine.operators.parts.scalars import as_choice, as_switch
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.protocol import DataStep, Operator

# The cell is taken this much smaller, relative to its width, so that rounding cannot leave it.
_MARGIN = {torch.float32: 1e-3, torch.float64: 1e-9}
_ROUNDING_VARIANCE = 1.0 / 12.0  # of the file's pixels, whole numbers of 0..255


@dataclass(frozen=True, eq=False, repr=False, init=False)
class JPEG(Operator):
    """y = decode(encode(x)), without the rounding to 8 bits and without clamping.

    x, y: (B, 3, H, W) colour or (B, 1, H, W) grey, float32 or float64, public range [0, 1]. Sides
    that are not multiples of a block are filled by their last pixel; the levels of those last
    blocks are guessed from the filled y, and only the full blocks obey the laws of a cell exactly.

    Not linear. A coefficient c of x lies in the cell of its level, around its middle c_y with the
    mean square error s^2 of its entry of the tables, by a Laplacian law that is fitted to the
    levels of y. The data step is exact:

        argmin_x gamma sigma^2 / 2 sum (c - c_y)^2 / s^2 + 1/2 |x - v|^2,  every c in its cell,

    sigma = noise_std, and |x - v|^2 in YCbCr, each channel divided by the variance that white noise
    of the image has there.

    Args:
        quality: 1 to 100, as libjpeg and Pillow count it; None where `tables` are given.
        grey: the images have one channel. It only chooses the tables behind `noise_std`.
        subsampling: of the chrominance, "4:4:4", "4:2:2" or "4:2:0" (what Pillow and cameras write
            unless they are told otherwise).
        tables: q of each component, (8, 8), (1, 8, 8) or (3, 8, 8), row by row.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    quality: int | None
    grey: bool
    subsampling: str
    tables: Tensor | None
    noise_std: float | Tensor
    batch_size: int | None
    _table: SizeTable
    kind = "JPEG"
    family = "jpeg"
    measures_image = True
    is_linear = False

    def __init__(
        self,
        quality: int | None = None,
        *,
        grey: bool = False,
        subsampling: str = "4:4:4",
        tables: ArrayLike | None = None,
    ) -> None:
        known, remedy = " or ".join(repr(name) for name in SUBSAMPLINGS), "Pillow writes '4:2:0'"
        as_choice("subsampling", subsampling, SUBSAMPLINGS, known, remedy)
        object.__setattr__(self, "quality", _as_quality(quality, tables is not None))
        object.__setattr__(self, "grey", as_switch("grey", grey))
        object.__setattr__(self, "subsampling", subsampling)
        object.__setattr__(self, "tables", None if tables is None else _as_tables(tables))
        object.__setattr__(self, "batch_size", None)
        object.__setattr__(self, "_table", SizeTable())
        object.__setattr__(self, "noise_std", self._level(None))

    @classmethod
    def from_file(cls, path: str | Path) -> JPEG:
        """The operator behind a JPEG file: its own tables and subsampling; y is its picture.

        Raises:
            ImageUnreadable: no JPEG file.
            ValueError: CMYK or RGB components, another subsampling, or a picture that is turned.
        """
        header = read_header(Path(path))
        grey = len(header.tables) == 1
        if header.quality is not None:
            return cls(header.quality, grey=grey, subsampling=header.subsampling)
        return cls(grey=grey, subsampling=header.subsampling, tables=header.tables)

    def __repr__(self) -> str:
        what = "tables of a file" if self.quality is None else f"quality={self.quality}"
        more = "" if self.subsampling == "4:4:4" else f", subsampling={self.subsampling!r}"
        return f"JPEG({what}{more}{', grey=True' if self.grey else ''})"

    def words(self) -> str | None:
        """What the command line reads as this operator; None for grey ones and tables of a file."""
        more = f",subsampling={self.subsampling}".removesuffix(",subsampling=4:4:4")
        return None if self.grey or self.quality is None else f"jpeg:quality={self.quality}{more}"

    def for_grey(self) -> JPEG:
        """The operator for images of one channel."""
        tables = None if self.tables is None else self.tables[:1]
        return JPEG(self.quality, grey=True, tables=tables)

    def for_measurement(self, y: Tensor) -> JPEG:
        """The operator with the noise level of these files: RMS of y - x by the fitted laws."""
        self._check("y", y)
        return self._copy(self._level(y))

    def A(self, x: Tensor) -> Tensor:
        """The decoded image: DCT coefficients of YCbCr rounded to multiples of q."""
        self._check("x", x)
        _, inverse, dct, *tables = self._codec(x)
        size = (x.shape[-2], x.shape[-1])
        decoded = [
            from_blocks(q * rounded_levels(c, q), dct, self._small(size, group))
            for group, (c, q) in enumerate(zip(self._encoded(x), tables, strict=True))
        ]
        if len(decoded) == 2:
            _, _, rows, columns, _, _ = self._resizing(x)
            decoded[1] = rows @ decoded[1] @ columns.mT
        return from_planes(torch.cat(decoded, dim=1), inverse, 128.0)

    def A_adjoint(self, y: Tensor) -> NoReturn:
        """Raises: JPEG is not linear."""
        raise invalid("A_adjoint", "a linear operator", "JPEG, which rounds", "use prox instead")

    def data_step(self, y: Tensor) -> DataStep:
        """The minimiser in the cell of y, see the class; gamma = 0 gives v."""
        self._check("y", y)
        check_finite(y)
        colour, inverse, dct, *tables = self._codec(y)
        sigma = torch.as_tensor(self.noise_std, dtype=y.dtype, device=y.device)
        variance = (255.0 * sigma.reshape(-1, 1, 1, 1, 1, 1)) ** 2
        gain = colour.square().sum(dim=1)[:, None, None, None, None]
        down, across = SUBSAMPLINGS[self.subsampling]
        parts: list[Tensor] = []
        for group, (levels, q) in enumerate(zip(self._levels(y), tables, strict=True)):
            first, count = (0, levels.shape[1]) if group == 0 else (1, 2)
            scales = fitted_scales(levels, *self._laws(y, first, count))
            own = squared_errors(scales, q[:, 0, :, 0].double()).to(y)[:, :, None, :, None]
            samples = 1.0 if group == 0 else float(down * across)  # of the image for one of these
            centre = q * levels
            half = q * (0.5 * (1.0 - _MARGIN[y.dtype]))
            strength = variance * gain[first : first + count] / (samples * own)
            parts += [strength, centre, centre - half, centre + half]
        resizing = self._resizing(y)[:2] if len(tables) == 2 else ()
        return FixedStep(
            formula=("cell_prox", self.subsampling, y.shape[1]),
            shape=tuple(y.shape),
            dtype=y.dtype,
            constants=(*parts, colour, inverse, dct, *resizing),
            prox=_cell_prox if len(tables) == 1 else self._subsampled_prox,
        )

    def initial_estimate(self, y: Tensor) -> Tensor:
        """y itself, the centre of its cell."""
        self._check("y", y)
        return y

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A(x): quantisation is all the noise there is, and the seed changes nothing."""
        ops.check_seed(seed)
        return self.A(x)

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is a grey or a colour image."""
        self._check("y", y)

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count:
        """The DCT and back, the colours, the cells."""
        n = Sizes(shape)
        pixels = n.planes * n.pixels
        step = Count((64 + 12 + 6) * pixels, 3 * n.image)
        return one_of(call, Count(82 * pixels, 2 * n.image), step, Count(38 * pixels, 0))

    def take(self, index: Tensor) -> JPEG:
        """The operator itself, or the noise levels of the images `index`, 1-D int64."""
        if self.batch_size is None or not isinstance(self.noise_std, Tensor):
            return self
        return self._copy(self.noise_std[check_index(index, self.batch_size)])

    def _copy(self, noise_std: float | Tensor) -> JPEG:
        """The same tables, another noise level."""
        copy = JPEG(self.quality, grey=self.grey, subsampling=self.subsampling, tables=self.tables)
        several = isinstance(noise_std, Tensor) and noise_std.numel() > 1
        object.__setattr__(copy, "noise_std", noise_std if several else float(noise_std))
        object.__setattr__(copy, "batch_size", len(noise_std) if several else None)  # type: ignore[arg-type]
        object.__setattr__(copy, "_table", self._table)
        return copy

    def _level(self, y: Tensor | None) -> float | Tensor:
        """RMS error of the decoded image, public units: for a typical photograph, or for each y."""
        channels = (1 if self.grey else 3) if y is None else y.shape[1]
        tables, typical = self._tables(channels), typical_scales(channels)
        if y is None:
            scales = typical[None]
        else:
            parts = self._levels(y)
            scales = torch.cat(
                [
                    fitted_scales(levels, *self._laws(y, 0 if group == 0 else 1, levels.shape[1]))
                    for group, levels in enumerate(parts)
                ],
                dim=1,
            ).cpu()
        energy = squared_errors(scales, tables).mean(dim=(-2, -1))
        weights = torch.linalg.inv(colour_matrix(channels)).square().mean(dim=0)  # of MSE in RGB
        level = ((energy @ weights + _ROUNDING_VARIANCE).sqrt() / 255.0).squeeze(-1)
        return float(level) if y is None else level

    def _tables(self, channels: int) -> Tensor:
        """q of every component, (channels, 8, 8) float64."""
        if self.tables is None:
            assert self.quality is not None
            return quantisation_tables(self.quality, channels)
        return (
            self.tables.expand(channels, 8, 8) if len(self.tables) == 1 else self.tables[:channels]
        )

    def _laws(self, like: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Tables and typical scales of these components, on the device of `like`."""
        channels = like.shape[1]
        pair = (self._tables(channels), typical_scales(channels))
        tables, scales = (part[first : first + count].to(like.device) for part in pair)
        return tables, scales

    def _encoded(self, image: Tensor) -> list[Tensor]:
        """The coefficients of an image: all components, or Y and the smaller Cb and Cr."""
        colour, _, dct, *tables = self._codec(image)
        planes = to_planes(image, colour)
        if len(tables) == 1:
            return [to_blocks(planes, dct)]
        rows, columns, *_ = self._resizing(image)
        chroma = rows @ planes[:, 1:] @ columns.mT
        return [to_blocks(planes[:, :1], dct), to_blocks(chroma, dct)]

    def _levels(self, y: Tensor) -> list[Tensor]:
        """The levels behind a decoded image, integers in its dtype; the decoder's enlarging of the
        chrominance is undone by its pseudo-inverse.
        """
        colour, _, dct, *tables = self._codec(y)
        planes = to_planes(y, colour)
        if len(tables) == 1:
            return [rounded_levels(to_blocks(planes, dct), tables[0])]
        *_, rows, columns = self._resizing(y)
        small = rows @ planes[:, 1:] @ columns.mT
        coefficients = (to_blocks(planes[:, :1], dct), to_blocks(small, dct))
        return [rounded_levels(c, q) for c, q in zip(coefficients, tables, strict=True)]

    def _small(self, size: tuple[int, int], group: int) -> tuple[int, int]:
        """(H, W) of the planes of a group."""
        down, across = SUBSAMPLINGS[self.subsampling] if group else (1, 1)
        return (-(-size[0] // down), -(-size[1] // across))

    def _codec(self, like: Tensor) -> tuple[Tensor, ...]:
        """Colour matrix, its inverse, DCT and the tables (C, 1, 8, 1, 8) of each group."""
        channels = like.shape[1]

        def build() -> tuple[Tensor, ...]:
            colour = colour_matrix(channels)
            tables = self._tables(channels)[:, None, :, None, :]
            whole = channels == 1 or self.subsampling == "4:4:4"
            groups = (tables,) if whole else (tables[:1], tables[1:])
            parts = (colour, torch.linalg.inv(colour), dct_matrix(), *groups)
            return tuple(part.to(like.device, like.dtype) for part in parts)

        return self._table.get(f"{channels} channels", (8, 8), like, build)

    def _resizing(self, like: Tensor) -> tuple[Tensor, ...]:
        """Matrices for rows and columns: of the encoder's mean, of the decoder's enlarging, and of
        its pseudo-inverse.
        """
        size = (like.shape[-2], like.shape[-1])

        def build() -> tuple[Tensor, ...]:
            pairs = tuple(zip(size, SUBSAMPLINGS[self.subsampling], strict=True))
            enlarging = [enlarging_matrix(*pair) for pair in pairs]
            matrices = [mean_matrix(*pair) for pair in pairs] + enlarging
            matrices += [torch.linalg.pinv(matrix) for matrix in enlarging]
            return tuple(matrix.to(like.device, like.dtype) for matrix in matrices)

        return self._table.get("resizing", size, like, build)

    def _subsampled_prox(self, v: Tensor, *rest: Any) -> Tensor:
        """`_cell_prox` of Y and of the means that Cb and Cr are; their change is laid on all the
        pixels of a mean alike.
        """
        *constants, gamma = rest
        luma, chroma = constants[:4], constants[4:8]
        colour, inverse, dct, rows, columns = constants[8:]
        size = (v.shape[-2], v.shape[-1])
        planes = to_planes(v, colour)
        bright = from_blocks(_way(to_blocks(planes[:, :1], dct), gamma, *luma), dct, size)
        means = to_blocks(rows @ planes[:, 1:] @ columns.mT, dct)
        small = from_blocks(_way(means, gamma, *chroma), dct, self._small(size, 1))
        for axis, step in zip((-2, -1), SUBSAMPLINGS[self.subsampling], strict=True):
            small = small.repeat_interleave(step, dim=axis)
        coloured = small[..., : size[0], : size[1]]
        return v + from_planes(torch.cat((bright, coloured), dim=1), inverse, 0.0)

    def _check(self, name: str, image: Tensor) -> None:
        check_image(name, image)
        check_batch(name, image.shape[0], self.batch_size)
        if image.shape[1] not in (1, 3):
            raise InvalidArgument(
                f"{name}: expected 1 or 3 channels, got {image.shape[1]}; "
                "JPEG stores grey or colour images"
            )


def _as_quality(quality: int | None, has_tables: bool) -> int | None:
    if has_tables:
        if quality is not None:
            raise invalid("quality", "None beside tables", quality, "give one of the two")
        return None
    if isinstance(quality, bool) or not isinstance(quality, int):
        remedy = "give a whole number from 1 to 100"
        raise invalid_type("quality", "an integer", type(quality).__name__, remedy)
    if not 1 <= quality <= 100:
        raise invalid("quality", "1 to 100", quality, "use the number given to the encoder")
    return quality


def _as_tables(value: ArrayLike) -> Tensor:
    """(1|3, 8, 8) float64."""
    tables = as_parameter("tables", value)
    tables = tables[None] if tables.ndim == 2 else tables
    if tables.ndim != 3 or tuple(tables.shape[1:]) != (8, 8) or len(tables) not in (1, 3):
        remedy = "give q row by row, for each component"
        raise invalid("tables", "(8, 8) or (3, 8, 8)", tuple(tables.shape), remedy)
    if float(tables.min()) <= 0:
        raise invalid("tables", "steps above 0", f"{float(tables.min()):g}", "check their order")
    return tables


def _cell_prox(
    v: Tensor,
    strength: Tensor,
    centre: Tensor,
    low: Tensor,
    high: Tensor,
    colour: Tensor,
    inverse: Tensor,
    dct: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """v moved by the way of its coefficients to the minimiser."""
    way = _way(to_blocks(to_planes(v, colour), dct), gamma, strength, centre, low, high)
    return v + from_planes(from_blocks(way, dct, (v.shape[-2], v.shape[-1])), inverse, 0.0)


def _way(
    coefficients: Tensor,
    gamma: float | Tensor,
    strength: Tensor,
    centre: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """clamp((c + w centre) / (1 + w), low, high) - c with w = gamma strength; 0 for gamma = 0."""
    weight = ops.per_image(gamma, coefficients)
    pull = weight * strength
    inside = coefficients + pull / (1.0 + pull) * (centre - coefficients)
    way = torch.clamp(inside, low, high) - coefficients
    return torch.where(weight > 0, way, 0.0)
