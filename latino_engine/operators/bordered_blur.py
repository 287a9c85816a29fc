"""Deblurring of real photographs, whose surroundings do not wrap around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.blur import Blur
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    check_anchor,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    common_batch,
    pick,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.scalars import as_choice
from latino_engine.operators.parts.separable_step import (
    SingularParts,
    as_product,
    separable_step,
    singular_parts,
)
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import (
    as_kernel,
    check_kernel_fits,
    complex_of,
    kernel_spectrum,
)
from latino_engine.operators.protocol import DataStep, Operator

Border: TypeAlias = Literal["reflect", "replicate", "valid"]
BORDERS: tuple[str, ...] = get_args(Border)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class BorderedBlur(Operator):
    """y[n] = sum_k h[k] x[n - (k - centre)] + noise, what lies outside of x given by its border.

    "reflect":   d c b a | a b c d | d c b a   (scipy.ndimage's reflect, numpy's symmetric)
    "replicate": a a a a | a b c d | d d d d
    "valid":     nothing is assumed; y has only the pixels whose every neighbour lies inside x

    x: (B, C, H, W); y: the same, for "valid" (B, C, H - kh + 1, W - kw + 1); float32 or float64,
    public range [0, 1]. The centre is kernel pixel (kh//2, kw//2), as in `Blur`.

    The prox is exact where the border reflects and the kernel is symmetric in both axes (odd sides,
    h[-i, j] = h[i, j] = h[i, -j]): there the DCT diagonalises A. It is exact, too, where the kernel
    is one product a b^T, such as a Gaussian or a mean: then A is a matrix for the rows and one for
    the columns, and their singular vectors diagonalise it. Else conjugate gradients.

    Args:
        kernel: (kh, kw) or (B|1, C|1, kh, kw), torch or numpy, any size up to the image's.
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.
        border: "reflect", "replicate" or "valid".

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.

    Source: Ng, Chan, Tang, *A fast algorithm for deblurring models with Neumann boundary
    conditions*, SIAM J. Sci. Comput. 21(3), 1999.
    """

    kernel: Tensor
    noise_std: float | Tensor
    border: str
    batch_size: int | None
    _table: SizeTable
    kind = "BorderedBlur"
    family = "deblurring"
    measures_image = True

    def __init__(
        self, kernel: ArrayLike, noise_std: float | ArrayLike, border: Border = "reflect"
    ) -> None:
        taps, sigma_y = as_kernel(kernel), as_noise_std(noise_std)
        expected = " or ".join(repr(name) for name in BORDERS)
        remedy = "use Blur where the image wraps around"
        as_choice("border", border, BORDERS, expected, remedy)
        object.__setattr__(self, "kernel", taps)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "border", border)
        object.__setattr__(self, "batch_size", common_batch("kernel", taps.shape[:1], sigma_y))
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        batch, channels, kh, kw = self.kernel.shape
        many = f" ({batch} x {channels})" if batch * channels > 1 else ""
        sigma_y = show_noise_std(self.noise_std)
        return f"BorderedBlur(kernel {kh} x {kw}{many}, {sigma_y}, border={self.border!r})"

    @property
    def is_symmetric(self) -> bool:
        """True where the kernel is its own mirror image in both axes."""
        kh, kw = self.kernel.shape[-2:]
        mirrored = (self.kernel.flip(-2), self.kernel.flip(-1))
        slack = 1e-12 * float(self.kernel.abs().max())
        near = all(float((m - self.kernel).abs().max()) <= slack for m in mirrored)
        return kh % 2 == 1 and kw % 2 == 1 and near

    @property
    def is_exact(self) -> bool:
        """True where the DCT solves the prox, and not conjugate gradients."""
        return self.border == "reflect" and self.is_symmetric

    def A(self, x: Tensor) -> Tensor:
        """The blurred image, borders as stated."""
        check_image("x", x, self.batch_size, self.kernel.shape[1])
        check_kernel_fits(self.kernel, (x.shape[-2], x.shape[-1]))
        return self._convolved(self._padded(x), conjugate=False, crop=True)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Correlation with h, what falls outside folded back as the border came about."""
        self.check_measurement(y)
        rows, columns = (k - 1 for k in self.kernel.shape[-2:])
        above, left = self._before
        spread = torch.nn.functional.pad(y, (left, columns - left, above, rows - above))
        return self._folded(self._convolved(spread, conjugate=True, crop=False))

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y: exact for a symmetric kernel that reflects and for a product of two
        profiles, else by CG.
        """
        if self.border != "reflect" or not self.is_symmetric:
            profiles = as_product(self.kernel)
            if profiles is None:
                return super().data_step(y)
            self.check_measurement(y)
            check_finite(y)
            return separable_step(y, *self._parts(y, profiles))
        self.check_measurement(y)
        check_finite(y)
        size = (y.shape[-2], y.shape[-1])
        whole = Blur(self.kernel, self.noise_std)
        h, power = whole.spectra_of(_mirrored(y))
        back_projected = h.conj() * torch.fft.rfft2(_mirrored(y))
        expected, dtype = tuple(y.shape), y.dtype

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            # The mirrored image is periodic; the circular prox keeps its symmetry.
            check_anchor(v, expected, dtype)
            check_gamma(gamma)
            z = ops.fourier_prox(_mirrored(v), power, back_projected, gamma)
            return z[..., : size[0], : size[1]].contiguous()

        return step

    def _parts(
        self, y: Tensor, profiles: tuple[Tensor, Tensor]
    ) -> tuple[SingularParts, SingularParts]:
        """The singular parts of the matrices of rows and columns, for a y of this size."""
        size = (y.shape[-2], y.shape[-1])

        def build() -> tuple[Tensor, ...]:
            matrices = (self._matrix(profiles[axis], size[axis], axis) for axis in (0, 1))
            parts = (part for matrix in matrices for part in singular_parts(matrix))
            return tuple(part.to(y.device, y.dtype) for part in parts)

        u, s, v, *columns = self._table.get("singular parts", size, y, build)
        return (u, s, v), (columns[0], columns[1], columns[2])

    def _matrix(self, profile: Tensor, measured: int, axis: int) -> Tensor:
        """A along one axis, (measured, length): y[n] = sum_k h[k] padded[n + taps - 1 - k]."""
        taps = profile.numel()
        length = measured + (taps - 1 if self.border == "valid" else 0)
        count = torch.arange(measured)[:, None]
        place = count + torch.arange(taps - 1, -1, -1)
        if self.border != "valid":
            place = self._sources(length, axis, profile)[place]
        matrix = torch.zeros(measured, length, dtype=torch.float64)
        return matrix.index_put_((count.expand_as(place), place), profile.expand(place.shape), True)

    def initial_estimate(self, y: Tensor) -> Tensor:
        """One prox from y, for "valid" y with its border repeated; gamma = (0.1 / sigma_y)^2."""
        self.check_measurement(y)
        start = y
        if self.border == "valid":
            rows, columns = (k - 1 for k in self.kernel.shape[-2:])
            above, left = self._before
            outside = (left, columns - left, above, rows - above)
            start = torch.nn.functional.pad(y, outside, mode="replicate")
        return self._one_prox(start, y)

    def take(self, index: Tensor) -> BorderedBlur:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        sigma_y = pick_noise_std(self.noise_std, index)
        return BorderedBlur(pick(self.kernel, index), sigma_y, self.border)  # type: ignore[arg-type]

    @property
    def _before(self) -> tuple[int, int]:
        """Pixels that the kernel reaches above and to the left of a pixel: kh - 1 - kh//2."""
        kh, kw = self.kernel.shape[-2:]
        return (kh - 1 - kh // 2, kw - 1 - kw // 2)

    def _sources(self, length: int, axis: int, like: Tensor) -> Tensor:
        """Which pixel of x stands at each place of the padded axis."""
        taps = self.kernel.shape[-2 + axis]
        place = torch.arange(length + taps - 1, device=like.device) - self._before[axis]
        if self.border == "replicate":
            return place.clamp(0, length - 1)
        place = place % (2 * length)
        return torch.where(place < length, place, 2 * length - 1 - place)

    def _padded(self, x: Tensor) -> Tensor:
        if self.border == "valid":
            return x
        x = x.index_select(-2, self._sources(x.shape[-2], 0, x))
        return x.index_select(-1, self._sources(x.shape[-1], 1, x))

    def _folded(self, padded: Tensor) -> Tensor:
        """The adjoint of `_padded`."""
        if self.border == "valid":
            return padded
        height, width = (
            n - k + 1 for n, k in zip(padded.shape[-2:], self.kernel.shape[-2:], strict=True)
        )
        rows = torch.zeros_like(padded[..., :height, :])
        rows = rows.index_add(-2, self._sources(height, 0, padded), padded)
        columns = torch.zeros_like(rows[..., :width])
        return columns.index_add(-1, self._sources(width, 1, padded), rows)

    def _convolved(self, padded: Tensor, conjugate: bool, crop: bool) -> Tensor:
        """Circular convolution (or correlation) of the padded image, which no border reaches."""
        size = (padded.shape[-2], padded.shape[-1])

        def build() -> tuple[Tensor, ...]:
            h = kernel_spectrum(self.kernel, size)
            return (h.to(padded.device, complex_of(padded)),)

        (h,) = self._table.get("spectrum", size, padded, build)
        spectrum = (h.conj() if conjugate else h) * torch.fft.rfft2(padded)
        image: Tensor = torch.fft.irfft2(spectrum, s=size)
        if not crop:
            return image
        rows, columns = (n - k + 1 for n, k in zip(size, self.kernel.shape[-2:], strict=True))
        above, left = self._before
        return image[..., above : above + rows, left : left + columns].contiguous()

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y has the channels of the kernel and is no smaller than it."""
        check_image("y", y, self.batch_size, self.kernel.shape[1])
        if self.border != "valid":
            check_kernel_fits(self.kernel, (y.shape[-2], y.shape[-1]))


def _mirrored(x: Tensor) -> Tensor:
    """One period (B, C, 2 H, 2 W) of the reflected image."""
    x = torch.cat((x, x.flip(-2)), dim=-2)
    return torch.cat((x, x.flip(-1)), dim=-1)
