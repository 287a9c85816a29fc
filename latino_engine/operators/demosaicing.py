"""Demosaicing: the raw image of a camera with one colour filter before each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from latino_engine.errors import invalid
from latino_engine.operators.inpainting import masked_step
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    check_finite,
    check_image,
    check_index,
    common_batch,
    noise_word,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.fill import fill_from_neighbours
from latino_engine.operators.parts.noise_estimate import wavelet_noise_std
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.protocol import DataStep, Operator

#: Bayer patterns: the colours of the pixels (0, 0), (0, 1), (1, 0), (1, 1).
PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Demosaicing(Operator):
    """y[n] = x_{c(n)}[n] + noise: of every pixel the one colour c(n) of a Bayer pattern.

    x: (B, 3, H, W) in the order red, green, blue; y: (B, 1, H, W), the raw mosaic, any H and W;
    float32 or float64, public range [0, 1], linear in the light or not, as the prior's images are.

    Args:
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.
        pattern: "RGGB", "BGGR", "GRBG" or "GBRG", the colours of the first 2 x 2 pixels by rows.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.

    Source: Bayer, *Color imaging array*, US patent 3971065 (1976).
    """

    noise_std: float | Tensor
    pattern: str
    batch_size: int | None
    _table: SizeTable
    kind = "Demosaicing"
    measured_channels = 1
    family = "inpainting"
    measures_image = True
    diagonal = ("pixels",)

    def __init__(self, noise_std: float | ArrayLike, pattern: str = "RGGB") -> None:
        sigma_y = as_noise_std(noise_std)
        if not isinstance(pattern, str) or pattern.upper() not in PATTERNS:
            expected = "one of " + ", ".join(PATTERNS)
            raise invalid("pattern", expected, repr(pattern), "read it from the camera's metadata")
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "pattern", pattern.upper())
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        return f"Demosaicing({show_noise_std(self.noise_std)}, pattern={self.pattern!r})"

    def words(self) -> str | None:
        """What the command line reads as this operator; None for a level of each image."""
        noise = noise_word(self.noise_std)
        return None if noise is None else f"demosaic:pattern={self.pattern},{noise}"

    def A(self, x: Tensor) -> Tensor:
        """The mosaic, (B, 1, H, W)."""
        check_image("x", x, self.batch_size)
        if x.shape[1] != 3:
            raise invalid("x", "3 channels", x.shape[1], "a Bayer pattern samples red, green, blue")
        return (self._mask(x) * x).sum(dim=1, keepdim=True)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Every pixel of y in the channel of its colour, 0 in the others."""
        self.check_measurement(y)
        return self._mask(y) * y

    def data_step(self, y: Tensor) -> DataStep:
        """(gamma m y + v) / (gamma m + 1) per pixel and channel, m = 1 where c is the colour."""
        sparse = self.A_adjoint(y)
        check_finite(y)
        return masked_step(self._mask(y), sparse)

    def initial_estimate(self, y: Tensor) -> Tensor:
        """What was measured, and between it a smooth continuation, channel by channel."""
        sparse = self.A_adjoint(y)
        return fill_from_neighbours(sparse, self._mask(y).expand_as(sparse))

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        """By the finest wavelets of the four images of one colour that are interleaved in y."""
        self.check_measurement(y)
        even = y[..., : y.shape[-2] // 2 * 2, : y.shape[-1] // 2 * 2]
        return wavelet_noise_std(pixel_unshuffle(even, 2))

    def take(self, index: Tensor) -> Demosaicing:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Demosaicing(pick_noise_std(self.noise_std, index), self.pattern)

    def _mask(self, like: Tensor) -> Tensor:
        """(1, 3, H, W): 1 where the pixel has this colour."""
        size = (like.shape[-2], like.shape[-1])

        def build() -> tuple[Tensor, ...]:
            mask = torch.zeros(1, 3, *size, dtype=like.dtype, device=like.device)
            for place, colour in enumerate(self.pattern):
                mask[:, "RGB".index(colour), place // 2 :: 2, place % 2 :: 2] = 1.0
            return (mask,)

        (mask,) = self._table.get("mask", size, like, build)
        return mask

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is a mosaic of one channel."""
        check_image("y", y, self.batch_size)
        if y.shape[1] != 1:
            remedy = "give the raw mosaic; the sum over the channels of a sparse colour image is it"
            raise invalid("y", "(B, 1, H, W)", tuple(y.shape), remedy)
