"""Deblurring where the point-spread function changes across the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    as_parameter,
    check_image,
    check_index,
    common_batch,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import complex_of, kernel_spectrum
from latino_engine.operators.protocol import Operator


@dataclass(frozen=True, eq=False, repr=False, init=False)
class SpatiallyVaryingBlur(Operator):
    """y = sum_t h_t * (w_t x) + noise: one kernel for each tile, blended smoothly.

    The image is divided into a grid of R x S equal tiles with one kernel each. The weights w_t are
    products of raised cosines that are 1 at the centre of their tile, 0 at the centres of its
    neighbours, and sum to 1 at every pixel. A point between two tiles is spread by a blend of
    their kernels (product-convolution). The convolutions are circular, with the centre of a kernel
    at (kh//2, kw//2), as in `Blur`. The prox is by conjugate gradients.

    x, y: (B, C, H, W), float32 or float64, public range [0, 1].

    Args:
        kernels: (R, S, kh, kw), torch or numpy, kh and kw up to the image's sides; [r, s] belongs
            to the tile in row r from the top and column s from the left.
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.

    Source: Escande, Weiss, *Approximation of integral operators using product-convolution
    expansions*, J. Math. Imaging Vis. 58, 2017.
    """

    kernels: Tensor
    noise_std: float | Tensor
    batch_size: int | None
    _table: SizeTable
    kind = "SpatiallyVaryingBlur"
    family = "deblurring"
    measures_image = True

    def __init__(self, kernels: ArrayLike, noise_std: float | ArrayLike) -> None:
        taps, sigma_y = as_parameter("kernels", kernels), as_noise_std(noise_std)
        if taps.ndim != 4 or taps.numel() == 0:
            expected = "(R, S, kh, kw), a grid of kernels"
            raise invalid("kernels", expected, tuple(taps.shape), "use Blur for a single kernel")
        object.__setattr__(self, "kernels", taps)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))
        object.__setattr__(self, "_table", SizeTable(capacity=4))

    def __repr__(self) -> str:
        rows, columns, kh, kw = self.kernels.shape
        sigma_y = show_noise_std(self.noise_std)
        return f"SpatiallyVaryingBlur({rows} x {columns} kernels {kh} x {kw}, {sigma_y})"

    def A(self, x: Tensor) -> Tensor:
        """sum_t h_t * (w_t x)."""
        h, weights = self._parts("x", x)
        spectrum = torch.fft.rfft2(weights * x[:, :, None])  # (B, C, T, H, W//2+1)
        y: Tensor = torch.fft.irfft2((h * spectrum).sum(dim=2), s=x.shape[-2:])
        return y

    def A_adjoint(self, y: Tensor) -> Tensor:
        """sum_t w_t (correlation of y with h_t)."""
        h, weights = self._parts("y", y)
        spectrum = h.conj() * torch.fft.rfft2(y)[:, :, None]
        x: Tensor = (weights * torch.fft.irfft2(spectrum, s=y.shape[-2:])).sum(dim=2)
        return x

    def initial_estimate(self, y: Tensor) -> Tensor:
        """One prox from y itself, gamma = (0.1 / sigma_y)^2."""
        return self._one_prox(y, y)

    def take(self, index: Tensor) -> SpatiallyVaryingBlur:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return SpatiallyVaryingBlur(self.kernels, pick_noise_std(self.noise_std, index))

    def weights(self, height: int, width: int) -> Tensor:
        """w_t of every tile for an image of this size, (R, S, H, W) float64, sum 1 over tiles."""
        rows, columns = (
            _raised_cosines(n, length)
            for n, length in zip(self.kernels.shape[:2], (height, width), strict=True)
        )
        return rows[:, None, :, None] * columns[None, :, None, :]

    def _parts(self, name: str, image: Tensor) -> tuple[Tensor, Tensor]:
        """Spectra (T, H, W//2+1) and weights (T, H, W) for this image."""
        check_image(name, image, self.batch_size)
        size = (image.shape[-2], image.shape[-1])

        def build() -> tuple[Tensor, ...]:
            h = kernel_spectrum(self.kernels, size).flatten(0, 1)
            weights = self.weights(*size).flatten(0, 1)
            return h.to(image.device, complex_of(image)), weights.to(image)

        h, weights = self._table.get("parts", size, image, build)
        return h, weights


def _raised_cosines(num_tiles: int, length: int) -> Tensor:
    """(num_tiles, length): cos^2 from each tile's centre to the next ones, flat beyond the last."""
    pixel = torch.arange(length, dtype=torch.float64, device="cpu")
    place = ((pixel + 0.5) * num_tiles / length - 0.5).clamp(0.0, num_tiles - 1.0)
    distance = (place - torch.arange(num_tiles, dtype=torch.float64, device="cpu")[:, None]).abs()
    return torch.cos(0.5 * torch.pi * distance.clamp(max=1.0)) ** 2
