"""Compressed sensing with Hadamard patterns: the single-pixel camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    check_anchor,
    check_batch,
    check_dtype,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    common_batch,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.hadamard import (
    hadamard_2d,
    power_of_two,
    sequencies,
    sequency_order,
)
from latino_engine.operators.parts.image_size import as_image_size, check_image_size, check_memory
from latino_engine.operators.parts.regularised_start import mid_grey, smooth_estimate
from latino_engine.operators.parts.scalars import as_choice, as_number, as_switch
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.protocol import DataStep, Operator

Ordering: TypeAlias = Literal["sequency", "random"]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class CompressedSensing(Operator):
    """y = S H D x + noise: m of the Hadamard coefficients of an image with random signs.

    H is the orthonormal two-dimensional Walsh-Hadamard transform, D flips the sign of random pixels
    (or of none), S keeps m = round(ratio H W) coefficients, the same for all channels. In a single-
    pixel camera each coefficient is one exposure of a +1/-1 pattern. Sides that are not powers of
    two are padded by zeros.

    S H D has orthonormal rows where both sides are powers of two, and the prox is exact:
    v + gamma/(1 + gamma) A^T (y - A v). For other sides it is by conjugate gradients.

    x: (B, C, H, W); y: (B, C, m), float32 or float64, public range.

    Args:
        ratio: m / (H W), in (0, 1].
        image_size: H, W of the image (or one side of a square).
        noise_std: standard deviation of the noise of y, a number or (B,), >= 0.
        ordering: "random" keeps the mean (without signs) and others at random; "sequency" the m
            slowest patterns, a low-pass image, which is usual without random signs.
        random_signs: whether D flips signs; None = for "random" alone.
        seed: of the signs and the choice, 0 <= seed < 2^64.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.

    Source: Duarte et al., *Single-pixel imaging via compressive sampling*, IEEE Signal Process.
    Mag. 25(2), 2008; Do, Gan, Nguyen, Tran, *Fast and efficient compressive sensing using
    structurally random matrices*, IEEE Trans. Signal Process. 60(1), 2012.
    """

    ratio: float
    image_size: tuple[int, int]
    noise_std: float | Tensor
    ordering: str
    random_signs: bool
    seed: int
    batch_size: int | None
    _table: SizeTable
    kind = "CompressedSensing"
    family = "compressed-sensing"

    def __init__(
        self,
        ratio: float,
        image_size: int | tuple[int, int],
        noise_std: float | ArrayLike,
        ordering: Ordering = "random",
        random_signs: bool | None = None,
        seed: int = 0,
    ) -> None:
        sigma_y = as_noise_std(noise_std)
        remedy = "give the share of the coefficients that is measured"
        ratio = as_number("ratio", ratio, "a number in (0, 1]", lambda r: 0 < r <= 1, remedy)
        known = ("sequency", "random")
        as_choice("ordering", ordering, known, "'sequency' or 'random'", "choose one of them")
        object.__setattr__(self, "ratio", ratio)
        object.__setattr__(self, "image_size", as_image_size(image_size))
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "ordering", ordering)
        signs = (
            ordering == "random"
            if random_signs is None
            else as_switch("random_signs", random_signs)
        )
        object.__setattr__(self, "random_signs", signs)
        object.__setattr__(self, "seed", ops.check_seed(seed))
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        height, width = self.image_size
        signs = ", random signs" if self.random_signs else ""
        return (
            f"CompressedSensing({self.num_measurements} of {height * width}, {self.ordering}"
            f"{signs}, image {height} x {width}, {show_noise_std(self.noise_std)})"
        )

    @property
    def num_measurements(self) -> int:
        """m, per channel."""
        return max(1, round(self.ratio * math.prod(self.image_size)))

    def A(self, x: Tensor) -> Tensor:
        """The kept coefficients, (B, C, m)."""
        check_image("x", x, self.batch_size)
        check_image_size("x", x, self.image_size)
        signs, kept = self._patterns(x)
        padded = torch.nn.functional.pad(signs * x, self._padding)
        return hadamard_2d(padded).flatten(2)[..., kept]

    def A_adjoint(self, y: Tensor) -> Tensor:
        """D H S^T y: the coefficients in their places, transformed back."""
        self.check_measurement(y)
        signs, _ = self._patterns(y)
        height, width = self.image_size
        return signs * hadamard_2d(self.coefficients(y))[..., :height, :width]

    def coefficients(self, y: Tensor) -> Tensor:
        """y in the plane of all coefficients, (B, C, h, w), 0 where nothing was measured."""
        self.check_measurement(y)
        _, kept = self._patterns(y)
        height, width = self._padded_size
        plane = torch.zeros(*y.shape[:2], height * width, dtype=y.dtype, device=y.device)
        return plane.index_copy(-1, kept, y).reshape(*y.shape[:2], height, width)

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y: exact for sides that are powers of two, else by CG."""
        if self.image_size != self._padded_size:
            return super().data_step(y)
        self.check_measurement(y)
        check_finite(y)
        back_projected = self.A_adjoint(y)

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, tuple(back_projected.shape), back_projected.dtype)
            check_gamma(gamma)
            weight = ops.per_image(gamma, v)
            return v + weight / (1.0 + weight) * (back_projected - self._normal(v))

        return step

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The smooth image that explains y; see `regularised_start`."""
        back_projected = self.A_adjoint(y)
        grey = self._normal(mid_grey(back_projected))
        return smooth_estimate(self._normal, back_projected - grey, self.noise_std)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """The logarithm of the coefficients' magnitudes by sequency, (1, C, h, w) in [0, 1]."""
        plane = self.coefficients(y if y.ndim == 3 else y[None]).abs()
        height, width = self._padded_size
        rows = torch.argsort(sequencies(height)).to(y.device)
        columns = torch.argsort(sequencies(width)).to(y.device)
        logarithm = torch.log1p(100.0 * plane[..., rows, :][..., columns])
        return logarithm / logarithm.amax().clamp(min=1e-12)

    def take(self, index: Tensor) -> CompressedSensing:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        sigma_y = pick_noise_std(self.noise_std, check_index(index, self.batch_size))
        signs, size = self.random_signs, self.image_size
        ordering: Ordering = "sequency" if self.ordering == "sequency" else "random"
        return CompressedSensing(self.ratio, size, sigma_y, ordering, signs, self.seed)

    @property
    def _padded_size(self) -> tuple[int, int]:
        return (power_of_two(self.image_size[0]), power_of_two(self.image_size[1]))

    @property
    def _padding(self) -> tuple[int, int, int, int]:
        (height, width), (full_height, full_width) = self.image_size, self._padded_size
        return (0, full_width - width, 0, full_height - height)

    def _patterns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """D as (H, W) of +1 and -1, and the kept coefficients (m,), in ascending order."""

        def build() -> tuple[Tensor, ...]:
            check_memory("image_size", "patterns", 40.0 * math.prod(self._padded_size))
            random = np.random.Generator(np.random.Philox(key=self.seed))
            flips = random.integers(2, size=self.image_size)
            signs = torch.from_numpy(1.0 - 2.0 * flips * self.random_signs)
            height, width = self._padded_size
            if self.ordering == "sequency":
                order = sequency_order(height, width)
            else:
                others = 1 + random.permutation(height * width - 1)
                order = torch.from_numpy(np.concatenate(([0], others)))
            kept = order[: self.num_measurements].sort().values
            return signs.to(like), kept.to(like.device)

        signs, kept = self._table.get("patterns", self.image_size, like, build)
        return signs, kept

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y has the coefficients of every channel."""
        m = self.num_measurements
        if not isinstance(y, Tensor) or y.ndim != 3 or y.shape[2] != m:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise invalid("y", f"coefficients (B, C, {m})", got, "one row for each channel")
        check_dtype("y", y)
        check_batch("y", y.shape[0], self.batch_size)
