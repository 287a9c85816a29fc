"""Inpainting and denoising: every pixel is either seen, with noise, or hidden."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_mask,
    as_noise_std,
    check_anchor,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    check_prox,
    check_size,
    common_batch,
    noise_word,
    pick,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.cost import Call, Count, Sizes, one_of
from latino_engine.operators.parts.fill import fill_from_neighbours
from latino_engine.operators.parts.fused_step import FusedStep
from latino_engine.operators.parts.noise_estimate import wavelet_noise_std
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.protocol import DataStep, Operator
from latino_engine.schedule import INPAINTING_R


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Inpainting(Operator):
    """y = m (x + noise), pixel by pixel; what stands in y where m = 0 is never used, even NaN.

    x, y: (B, C, H, W), float32 or float64, public range [0, 1].

    Args:
        mask: (H, W) or (B|1, C|1, H, W), 1 or True = observed, torch or numpy.
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    mask: Tensor
    noise_std: float | Tensor
    batch_size: int | None
    _table: SizeTable
    kind = "Inpainting"
    family = "inpainting"
    measures_image = True
    diagonal = ("pixels",)
    first_radius = INPAINTING_R

    def __init__(self, mask: ArrayLike, noise_std: float | ArrayLike) -> None:
        m, sigma_y = as_mask(mask, "C"), as_noise_std(noise_std)
        object.__setattr__(self, "mask", m)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "batch_size", common_batch("mask", m.shape[:1], sigma_y))
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        batch, channels, height, width = self.mask.shape
        many = f" ({batch} x {channels})" if batch * channels > 1 else ""
        seen = f"{100.0 * float(self.mask.mean()):.1f} % observed"
        return (
            f"Inpainting(mask {height} x {width}{many}, {seen}, {show_noise_std(self.noise_std)})"
        )

    def A(self, x: Tensor) -> Tensor:
        """m x, with 0 where m = 0."""
        return self._kept("x", x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """m y, with 0 where m = 0."""
        return self._kept("y", y)

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """(gamma m y + v) / (gamma m + 1) per pixel; gamma >= 0, a number or (B,)."""
        self._check("y", y)
        check_anchor(v, tuple(y.shape), y.dtype)
        check_gamma(gamma)
        mask = self._mask(y)
        z = ops.observed_prox(v, mask, y, gamma)
        check_prox(z, y, mask)
        return z

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y."""
        return masked_step(self._mask(y), self._kept("y", y))

    def initial_estimate(self, y: Tensor) -> Tensor:
        """y where it is observed, elsewhere filled from its neighbours; mid-grey if nothing is."""
        return fill_from_neighbours(self._kept("y", y), self._mask(y).expand_as(y))

    def observed(self, y: Tensor) -> Tensor:
        """y with 0 where m = 0, whatever stood there."""
        return self._kept("y", y)

    def num_observed(self, y: Tensor) -> Tensor:
        """Mask sum x channels of every image, (B,) float64."""
        check_image("y", y, self.batch_size, self.mask.shape[1])
        return self.mask.to(y.device).expand(y.shape).sum(dim=(1, 2, 3))

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        """By the finest wavelets that see no hidden pixel, (B,) float64."""
        return wavelet_noise_std(self._kept("y", y), self._mask(y))

    def take(self, index: Tensor) -> Inpainting:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Inpainting(pick(self.mask, index), pick_noise_std(self.noise_std, index))

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y has the channels and the size of the mask."""
        self._check("y", y)

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count:
        """One pass over image, measurement and mask."""
        n, mask = Sizes(shape), 4 * self.mask.numel()
        step = Count(5 * n.planes * n.pixels, 3 * n.image + mask)
        return one_of(call, Count(n.planes * n.pixels, 2 * n.image + mask), step, Count(0, 0))

    def _mask(self, like: Tensor) -> Tensor:
        size = (self.mask.shape[-2], self.mask.shape[-1])
        (mask,) = self._table.get("mask", size, like, lambda: (self.mask.to(like),))
        return mask

    def _kept(self, name: str, image: Tensor) -> Tensor:
        """The image with exact zeros where m = 0; a product would let NaN through."""
        self._check(name, image)
        return ops.keep_observed(image, self._mask(image))

    def _check(self, name: str, image: Tensor) -> None:
        check_image(name, image, self.batch_size, self.mask.shape[1])
        check_size(name, image, (self.mask.shape[-2], self.mask.shape[-1]), "mask")


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Denoising(Operator):
    """y = x + noise. x, y: (B, C, H, W), float32 or float64, public range [0, 1].

    Args:
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.
    """

    noise_std: float | Tensor
    batch_size: int | None
    kind = "Denoising"
    family = "denoising"
    measures_image = True
    diagonal = ("pixels", "frequencies")

    def __init__(self, noise_std: float | ArrayLike) -> None:
        sigma_y = as_noise_std(noise_std)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))

    def __repr__(self) -> str:
        return f"Denoising({show_noise_std(self.noise_std)})"

    def words(self) -> str | None:
        """What the command line reads as this operator; None for a level of each image."""
        noise = noise_word(self.noise_std)
        return None if noise is None else f"denoise:{noise}"

    def A(self, x: Tensor) -> Tensor:
        """x."""
        check_image("x", x, self.batch_size)
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        """y."""
        check_image("y", y, self.batch_size)
        return y

    def data_step(self, y: Tensor) -> DataStep:
        """(gamma y + v) / (gamma + 1) for one y."""
        check_image("y", y, self.batch_size)
        everything = torch.ones((1, 1, *y.shape[2:]), dtype=y.dtype, device=y.device)
        return masked_step(everything, y)

    def initial_estimate(self, y: Tensor) -> Tensor:
        """y itself."""
        check_image("y", y, self.batch_size)
        return y

    def take(self, index: Tensor) -> Denoising:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Denoising(pick_noise_std(self.noise_std, index))

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count:
        """One pass over image and measurement."""
        n = Sizes(shape)
        step = Count(3 * n.planes * n.pixels, 3 * n.image)
        return one_of(call, Count(0, 2 * n.image), step, Count(0, 0))


def masked_step(mask: Tensor, y: Tensor) -> FusedStep:
    """The data step of a mask (B|1, C|1, H, W) of 0 and 1; y (B, C, H, W), 0 where m = 0."""
    check_finite(y)
    return FusedStep(
        formula=("masked_prox",),
        shape=tuple(y.shape),
        dtype=y.dtype,
        constants=(mask, y),
        prox=ops.masked_prox,
        inner=ops.masked_prox_noise,
        launch=ops.launch_masked_prox_noise,
    )
