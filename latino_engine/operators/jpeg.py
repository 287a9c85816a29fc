"""JPEG restoration: the image lies in the quantisation cell of its file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import InvalidArgument, invalid, invalid_type
from latino_engine.operators.parts.checks import check_finite, check_image
from latino_engine.operators.parts.cost import Call, Count, Sizes, one_of
from latino_engine.operators.parts.fused_step import FixedStep
from latino_engine.operators.parts.jpeg_codec import (
    colour_matrix,
    dct_matrix,
    from_coefficients,
    quantisation_tables,
    rounded_levels,
    to_coefficients,
)
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.protocol import DataStep, Operator

# The cell is taken this much smaller, relative to its width, so that rounding cannot leave it.
_MARGIN = {torch.float32: 1e-3, torch.float64: 1e-9}


@dataclass(frozen=True, eq=False, repr=False, init=False)
class JPEG(Operator):
    """y = decode(encode(x)) at 4:4:4, without the rounding to 8 bits and without clamping.

    x, y: (B, 3, H, W) colour or (B, 1, H, W) grey, float32 or float64, public range [0, 1]. Sides
    that are not multiples of 8 are padded by their last pixel; the levels of those last blocks are
    guessed from the padded y, and only the full blocks obey the projection laws exactly.

    Not linear: `prox` is that of gamma/2 dist(x, cell of y)^2, distances measured in YCbCr.

    Args:
        quality: 1 to 100, as libjpeg and Pillow count it.
        grey: the images have one channel. It only chooses the tables behind `noise_std`.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    quality: int
    grey: bool
    noise_std: float
    _table: SizeTable
    kind = "JPEG"
    family = "jpeg"
    measures_image = True
    is_linear = False

    def __init__(self, quality: int, *, grey: bool = False) -> None:
        if isinstance(quality, bool) or not isinstance(quality, int):
            remedy = "give a whole number from 1 to 100"
            raise invalid_type("quality", "an integer", type(quality).__name__, remedy)
        if not 1 <= quality <= 100:
            raise invalid("quality", "1 to 100", quality, "use the number given to the encoder")
        object.__setattr__(self, "quality", quality)
        object.__setattr__(self, "grey", grey)
        object.__setattr__(self, "noise_std", _rms_error(quality, grey))
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        return f"JPEG(quality={self.quality}{', grey=True' if self.grey else ''})"

    def A(self, x: Tensor) -> Tensor:
        """The decoded image: DCT coefficients of YCbCr rounded to multiples of q."""
        self._check("x", x)
        _, inverse, dct, tables = self._codec(x)
        coefficients = tables * self._levels(x)
        return from_coefficients(coefficients, inverse, dct, (x.shape[-2], x.shape[-1]), 128.0)

    def A_adjoint(self, y: Tensor) -> NoReturn:
        """Raises: JPEG is not linear."""
        raise invalid("A_adjoint", "a linear operator", "JPEG, which rounds", "use prox instead")

    def data_step(self, y: Tensor) -> DataStep:
        """(v + gamma P(v)) / (1 + gamma), P the projection on the cell of y, computed once."""
        self._check("y", y)
        check_finite(y)
        colour, inverse, dct, tables = self._codec(y)
        centre = tables * self._levels(y)
        half_width = tables * (0.5 * (1.0 - _MARGIN[y.dtype]))
        low, high = centre - half_width, centre + half_width
        return FixedStep(
            formula=("cell_prox",),
            shape=tuple(y.shape),
            dtype=y.dtype,
            constants=(low, high, colour, inverse, dct),
            prox=_cell_prox,
        )

    def initial_estimate(self, y: Tensor) -> Tensor:
        """y itself, the centre of its cell."""
        self._check("y", y)
        return y

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A(x): quantisation is all the noise there is, and the seed changes nothing."""
        ops.check_seed(seed)
        return self.A(x)

    def for_grey(self) -> JPEG:
        """The same quality for images of one channel."""
        return JPEG(self.quality, grey=True)

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is a grey or a colour image."""
        self._check("y", y)

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count:
        """The DCT and back, the colours, the cells."""
        n = Sizes(shape)
        pixels = n.planes * n.pixels
        step = Count((64 + 12 + 6) * pixels, 3 * n.image)
        return one_of(call, Count(82 * pixels, 2 * n.image), step, Count(38 * pixels, 0))

    def _levels(self, image: Tensor) -> Tensor:
        """The quantised DCT coefficients, integers in the image's dtype, (B, C, R, 8, S, 8)."""
        colour, _, dct, tables = self._codec(image)
        return rounded_levels(to_coefficients(image, colour, dct), tables)

    def _codec(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Colour matrix, its inverse, DCT and tables (C, 1, 8, 1, 8)."""
        channels = like.shape[1]

        def build() -> tuple[Tensor, ...]:
            colour = colour_matrix(channels)
            tables = quantisation_tables(self.quality, channels)[:, None, :, None, :]
            parts = (colour, torch.linalg.inv(colour), dct_matrix(), tables)
            return tuple(part.to(like.device, like.dtype) for part in parts)

        colour, inverse, dct, tables = self._table.get(f"{channels} channels", (8, 8), like, build)
        return colour, inverse, dct, tables

    @staticmethod
    def _check(name: str, image: Tensor) -> None:
        check_image(name, image)
        if image.shape[1] not in (1, 3):
            raise InvalidArgument(
                f"{name}: expected 1 or 3 channels, got {image.shape[1]}; "
                "JPEG stores grey or colour images"
            )


def _rms_error(quality: int, grey: bool) -> float:
    """RMS of q / sqrt(12) over the tables in use (Y; Cb and Cr share one), public units."""
    tables = quantisation_tables(quality, 1 if grey else 3)
    return math.sqrt(float((tables**2).mean()) / 12.0) / 255.0


def _cell_prox(
    v: Tensor,
    low: Tensor,
    high: Tensor,
    colour: Tensor,
    inverse: Tensor,
    dct: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """(v + gamma P(v)) / (1 + gamma), P the projection of v's coefficients on [low, high]."""
    coefficients = to_coefficients(v, colour, dct)
    outside = torch.clamp(coefficients, low, high) - coefficients  # 0 inside the cell
    way = from_coefficients(outside, inverse, dct, (v.shape[-2], v.shape[-1]), 0.0)  # P(v) - v
    weight = ops.per_image(gamma, v)
    return v + weight / (1.0 + weight) * way
