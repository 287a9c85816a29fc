"""Computed tomography with parallel beams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine.errors import invalid, invalid_type
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    as_parameter,
    check_batch,
    check_dtype,
    check_image,
    check_index,
    common_batch,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.image_size import as_image_size, check_image_size
from latino_engine.operators.parts.parallel_beam import joseph_entries, sparse_pair, sparse_product
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.protocol import Operator


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Tomography(Operator):
    """y[a, d] = (line integral of x at angle a through detector d) / max(H, W) + noise.

    Parallel beams, detectors one pixel apart, centred, enough of them for the diagonal. The
    rays are {(j, i): (j - (W-1)/2) cos a - (i - (H-1)/2) sin a = t}, as in scikit-image's `radon`;
    Joseph's method. In units of the longer side, an image of ones has line integrals about 1.
    The adjoint is the exact transpose; the prox is by conjugate gradients.

    x: (B, C, H, W); y: (B, C, A, D), the sinogram; float32 or float64, public range.

    Args:
        angles: A angles in degrees, or their number: then k 180 / A for k = 0 .. A - 1.
        image_size: H, W of the image (or one side of a square).
        noise_std: standard deviation of the noise of y, a number or (B,), >= 0.
        num_detectors: D; None = ceil(sqrt(H^2 + W^2)), rounded up to the parity of W.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    angles: Tensor
    image_size: tuple[int, int]
    noise_std: float | Tensor
    num_detectors: int
    batch_size: int | None
    _table: SizeTable
    kind = "Tomography"
    family = "tomography"

    def __init__(
        self,
        angles: int | ArrayLike,
        image_size: int | tuple[int, int],
        noise_std: float | ArrayLike,
        num_detectors: int | None = None,
    ) -> None:
        size, sigma_y = as_image_size(image_size), as_noise_std(noise_std)
        diagonal = math.ceil(math.hypot(*size))
        default = diagonal + (diagonal - size[1]) % 2
        detectors = default if num_detectors is None else num_detectors
        if isinstance(detectors, bool) or not isinstance(detectors, int):
            got = type(detectors).__name__
            raise invalid_type("num_detectors", "an integer or None", got, "leave it out")
        if detectors < 1:
            raise invalid("num_detectors", "at least 1", detectors, "leave it out")
        object.__setattr__(self, "angles", _as_angles(angles))
        object.__setattr__(self, "image_size", size)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "num_detectors", detectors)
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))
        object.__setattr__(self, "_table", SizeTable(capacity=2))

    def __repr__(self) -> str:
        height, width = self.image_size
        shape = f"{len(self.angles)} angles, {self.num_detectors} detectors"
        return f"Tomography({shape}, image {height} x {width}, {show_noise_std(self.noise_std)})"

    def A(self, x: Tensor) -> Tensor:
        """The sinogram, (B, C, A, D)."""
        check_image("x", x, self.batch_size)
        check_image_size("x", x, self.image_size)
        matrix, transposed = self._matrices(x)
        return self._product(x, matrix, transposed, (len(self.angles), self.num_detectors))

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The back-projection, the transpose of A."""
        self.check_measurement(y)
        matrix, transposed = self._matrices(y)
        return self._product(y, transposed, matrix, self.image_size)

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        """The pseudo-inverse of a finely sampled y: ramp filter along t, then back-projection.

        The filter is Ramachandran's and Lakshminarayanan's in its spatial form, 1/4 at 0 and
        -1 / (pi n)^2 at odd n, so that the mean is right; the angles must cover 180 degrees evenly.
        """
        self.check_measurement(y)
        detectors = self.num_detectors
        n = torch.arange(1 - detectors, detectors, dtype=torch.float64)
        ramp = torch.where(n % 2 != 0, -1.0 / (torch.pi * n) ** 2, torch.zeros_like(n))
        ramp[detectors - 1] = 0.25
        length = 3 * detectors
        spectrum = torch.fft.rfft(y, n=length) * torch.fft.rfft(ramp.to(y), n=length)
        filtered = torch.fft.irfft(spectrum, n=length)[..., detectors - 1 : 2 * detectors - 1]
        scale = math.pi / len(self.angles) * max(self.image_size) ** 2
        return scale * self.A_adjoint(filtered.contiguous())

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The filtered back-projection, softened, then one prox, gamma = (0.1 / sigma_y)^2."""
        return self._one_prox(_softened(self.filtered_back_projection(y)), y)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """The sinogram of one image, (C, A, D) or (1, C, A, D), stretched to [0, 1]."""
        return y / y.abs().amax().clamp(min=1e-12)

    def take(self, index: Tensor) -> Tomography:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        sigma_y = pick_noise_std(self.noise_std, check_index(index, self.batch_size))
        taken = Tomography(self.angles, self.image_size, sigma_y, self.num_detectors)
        object.__setattr__(taken, "_table", self._table)  # the matrices do not know the noise
        return taken

    def _product(
        self, image: Tensor, matrix: Tensor, transposed: Tensor, size: tuple[int, int]
    ) -> Tensor:
        columns = image.flatten(2).flatten(0, 1).T.contiguous()  # (pixels, B C)
        product = sparse_product(columns, matrix, transposed)
        return product.T.reshape(*image.shape[:2], *size).contiguous()

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A and A^T, (A D, H W) and (H W, A D)."""

        def build() -> tuple[Tensor, ...]:
            rows, columns, values = joseph_entries(self.angles, self.image_size, self.num_detectors)
            shape = (len(self.angles) * self.num_detectors, math.prod(self.image_size))
            return sparse_pair(rows, columns, values / max(self.image_size), shape, like)

        matrix, transposed = self._table.get("matrices", self.image_size, like, build)
        return matrix, transposed

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is a sinogram of these angles and detectors."""
        expected = (len(self.angles), self.num_detectors)
        if not isinstance(y, Tensor) or y.ndim != 4 or tuple(y.shape[2:]) != expected:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            wanted = f"a sinogram (B, C, {expected[0]}, {expected[1]})"
            raise invalid("y", wanted, got, "angles stand on axis 2, detectors on axis 3")
        check_dtype("y", y)
        check_batch("y", y.shape[0], self.batch_size)


def _as_angles(value: int | ArrayLike) -> Tensor:
    """(A,) float64, degrees."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise invalid("angles", "at least one", value, "give their number or the degrees")
        return torch.arange(value, dtype=torch.float64, device="cpu") * (180.0 / value)
    angles = as_parameter("angles", value)
    if angles.ndim != 1 or angles.numel() == 0:
        got = f"shape {tuple(angles.shape)}"
        raise invalid("angles", "a number of angles or a list of degrees", got, "flatten it")
    return angles


def _softened(x: Tensor) -> Tensor:
    """(1 2 1)/4 along both axes: the streaks of few angles are finer than the image."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2.0 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4.0
    return (rows[..., :-2] + 2.0 * rows[..., 1:-1] + rows[..., 2:]) / 4.0
