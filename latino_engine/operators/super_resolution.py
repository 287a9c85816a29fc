"""Super-resolution: a convolution and every s-th pixel, or the resizing of a library."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    check_anchor,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    common_batch,
    noise_word,
    pick,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.cost import Call, Count, Sizes, one_of, real_fft
from latino_engine.operators.parts.fused_step import FixedStep, FusedStep
from latino_engine.operators.parts.point_spread import check_compat
from latino_engine.operators.parts.resampling import LIBRARY_FILTERS, resize_matrix
from latino_engine.operators.parts.sampling_grid import (
    check_grid,
    interpolation_matrix,
    moments,
    named_kernel,
    on_corner_grid,
    wrapped,
)
from latino_engine.operators.parts.scalars import as_count
from latino_engine.operators.parts.separable_step import (
    SingularParts,
    separable_step,
    singular_parts,
)
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import as_kernel, complex_of, kernel_full_spectrum
from latino_engine.operators.protocol import DataStep, Operator

#: gamma of the fused formula costs gamma times the rounding of its numbers: 1e-4 in float32 here,
#: which the default schedules reach at this noise level.
_LARGEST_FACTOR = 1 << 13
_LARGE_GAMMA, _SMALL_NOISE_STD = 1e3, 5e-3


@dataclass(frozen=True, eq=False, repr=False, init=False)
class SuperResolution(Operator):
    """y = (h * x)[::s, ::s] + noise, a circular convolution sampled every s pixels.

    x: (B, C, H, W) with H and W multiples of s; y: (B, C, H/s, W/s); float32 or float64.

    Pixel i of y lies on pixel s i of x (grid "corner"), or in the middle of the s pixels that it
    stands for, at s i + (s - 1) / 2 (grid "centred"): this is where every image library puts it.
    With the kernel of a library, y is the resized image of that library to the last pixel: its
    borders do not wrap around.

    Args:
        factor: s >= 1, an integer.
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.
        kernel: "bicubic" (Keys, a = -1/2, widened by s), "gaussian" (std 0.5 s pixels), an array
            (kh, kw) or (B|1, C|1, kh, kw), or one of `LIBRARY_FILTERS`: "pillow-bicubic",
            "pillow-lanczos", "torch-bicubic" (antialias=True), "matlab-bicubic" (imresize), "area"
            and others.
        compat: None for the exact data step. "ud2m" takes the surrogate of the authors' UD2M code,
            for checkpoints that were trained with it; see `_surrogate_step`.
        grid: "corner", where pixel (kh//2, kw//2) of the kernel lies on pixel s i (the kernel of
            "bicubic" is centred half a pixel after it), or "centred", where its middle lies on that
            of the small pixel: kh and kw are odd or even as s is. None: "centred" for the kernel of
            a library, which has no other, else "corner".

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    factor: int
    kernel: Tensor
    noise_std: float | Tensor
    kernel_name: str
    grid: str
    batch_size: int | None
    compat: str | None
    _table: SizeTable
    kind = "SuperResolution"
    family = "super-resolution"
    measures_image = True

    def __init__(
        self,
        factor: int,
        noise_std: float | ArrayLike,
        kernel: str | ArrayLike = "bicubic",
        compat: str | None = None,
        grid: str | None = None,
    ) -> None:
        remedy = "give the ratio of the two resolutions"
        factor = as_count("factor", factor, _LARGEST_FACTOR, remedy)
        own_grid = "centred" if isinstance(kernel, str) and kernel in LIBRARY_FILTERS else "corner"
        grid = own_grid if grid is None else check_grid(grid)
        if isinstance(kernel, str):
            taps = named_kernel(kernel, factor, grid)
        else:
            taps = as_kernel(kernel)
            taps = on_corner_grid(taps, factor) if grid == "centred" else taps
        if check_compat(compat) is not None and grid == "centred":
            remedy = "leave compat out: the authors' data step is made for pixel 0"
            raise invalid("grid", "'corner' with compat", "'centred'", remedy)
        sigma_y = as_noise_std(noise_std)
        object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "kernel", taps)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "kernel_name", kernel if isinstance(kernel, str) else "array")
        object.__setattr__(self, "batch_size", common_batch("kernel", taps.shape[:1], sigma_y))
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "compat", compat)
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        kh, kw = self.kernel.shape[-2:]
        sigma_y = show_noise_std(self.noise_std)
        more = ", centred grid" if self.grid == "centred" and self.is_periodic else ""
        more += "" if self.compat is None else f", compat={self.compat!r}"
        name = f"{self.kernel_name} kernel {kh} x {kw}"
        return f"SuperResolution({self.factor}x, {name}, {sigma_y}{more})"

    def words(self) -> str | None:
        """What the command line reads as this operator; None for taps, and for `compat`."""
        noise = noise_word(self.noise_std)
        if noise is None or self.kernel_name == "array" or self.compat is not None:
            return None
        return f"sr:factor={self.factor},kernel={self.kernel_name},grid={self.grid},{noise}"

    @property
    def is_periodic(self) -> bool:
        """True where the image wraps around: a convolution with `kernel`, sampled from pixel 0."""
        return self.kernel_name not in LIBRARY_FILTERS

    def A(self, x: Tensor) -> Tensor:
        """(h * x)[::s, ::s], or x as the library resizes it."""
        check_image("x", x, self.batch_size, self.kernel.shape[1])
        size, s = (x.shape[-2], x.shape[-1]), self.factor
        if size[0] % s or size[1] % s:
            crop = f"crop it to {size[0] - size[0] % s} x {size[1] - size[1] % s}"
            raise invalid("x", f"sides divisible by {s}", f"{size[0]} x {size[1]}", crop)
        if not self.is_periodic:
            rows, columns = self._resize_matrices(x, (size[0] // s, size[1] // s))
            return rows @ x @ columns.mT
        return ops.convolve(x, self._half_spectrum(x, size))[..., ::s, ::s].contiguous()

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Zeros between the pixels of y, then correlation with h; or the transposed matrices."""
        self.check_measurement(y)
        if not self.is_periodic:
            rows, columns = self._resize_matrices(y, (y.shape[-2], y.shape[-1]))
            return rows.mT @ y @ columns
        size, s = self._full_size(y), self.factor
        spread = y.new_zeros((*y.shape[:2], *size))
        spread[..., ::s, ::s] = y
        return ops.convolve(spread, self._half_spectrum(y, size), conjugate=True)

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """Exact, by the Woodbury identity in the alias domain; gamma >= 0, a number or (B,).

        b = V + gamma conj(h) tile(Y),
        X = b - gamma conj(h) tile(fold(h b) / (1 + gamma fold(|h|^2))).

        For the kernel of a library by the singular vectors of its matrices, `separable_step`.
        """
        check_gamma(gamma)
        large = not isinstance(gamma, Tensor) or gamma.device.type == "cpu"
        large = large and float(torch.as_tensor(gamma).detach().max()) > _LARGE_GAMMA
        if large and self.compat is None and self.is_periodic:
            return self._corrected_step(y)(v, gamma)
        return self.data_step(y)(v, gamma)

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, conj(h) tile(Y) computed once."""
        self.check_measurement(y)
        check_finite(y)
        if self.compat is not None:
            return self._surrogate_step(y)
        if not self.is_periodic:
            return separable_step(y, *self._resize_parts(y))
        if float(torch.as_tensor(self.noise_std).min()) < _SMALL_NOISE_STD:
            return self._corrected_step(y)
        factor = self.factor
        size = self._full_size(y)
        h, folded_power = self._spectra(y, size)
        back_projected = h.conj() * torch.fft.fft2(y).repeat(1, 1, factor, factor)
        return FusedStep(
            formula=("alias_prox", factor),
            shape=(*y.shape[:2], *size),
            dtype=y.dtype,
            constants=(h, folded_power, back_projected),
            prox=partial(ops.alias_prox, factor=factor),
            inner=partial(ops.alias_prox_noise, factor=factor),
            launch=partial(ops.launch_alias_prox_noise, factor=factor),
            transforms=ops.transforms_of(y.device, size, factor),
        )

    def initial_estimate(self, y: Tensor) -> Tensor:
        """`enlarged(y)`, then one prox, gamma = (0.1 / sigma_y)^2."""
        return self._one_prox(self.enlarged(y), y)

    def enlarged(self, y: Tensor) -> Tensor:
        """Bicubic interpolation of y on the grid of x, (B, C, H, W).

        Pixel i of y lies at s i - (centroid of h), so that neither an even s nor a lopsided kernel
        nor the grid shifts it; y is divided by the kernel's sum. For the bicubic kernel this is
        A_adjoint(y) / A_adjoint(1). At a border that does not wrap around, edge pixels repeat.
        """
        self.check_measurement(y)
        rows, columns = self._interpolation(y)
        return rows @ y @ columns

    def take(self, index: Tensor) -> SuperResolution:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        sigma_y = pick_noise_std(self.noise_std, index)
        if self.kernel_name != "array":
            return SuperResolution(self.factor, sigma_y, self.kernel_name, self.compat, self.grid)
        kernel = pick(self.kernel, index)  # its origin is already that of the corner
        taken = SuperResolution(self.factor, sigma_y, kernel, self.compat)
        object.__setattr__(taken, "grid", self.grid)
        return taken

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is an image with the channels of the kernel."""
        check_image("y", y, self.batch_size, self.kernel.shape[1])

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count | None:
        """The transforms of the image and of y around products in the alias domain; the matrices
        of a library are not counted.
        """
        if not self.is_periodic:
            return None
        n, kernels, s = Sizes(shape), self.kernel.shape[:-2].numel(), self.factor
        flops = n.planes * (2 * n.transform + 24 * n.bins)
        step = Count(flops, 2 * n.image + 8 * n.planes * n.bins + 8 * kernels * n.bins)
        small = real_fft(n.pixels // s**2)
        low = n.planes * (n.transform + small)
        forward = Count(low + 6 * n.planes * n.bins, n.image * (1 + s**-2) + 8 * n.bins)
        return one_of(call, forward, step, Count(n.planes * (small + 6 * n.bins), 0))

    def _corrected_step(self, y: Tensor) -> DataStep:
        """The prox as a correction of v, X = V + conj(h) tile(g (Y - fold(h V)) / (1 + g F)) with
        F = fold(|h|^2): the same number, without the difference of two large ones that `prox` has.
        """
        self.check_measurement(y)
        check_finite(y)
        factor, size = self.factor, self._full_size(y)
        h, folded_power = self._spectra(y, size)

        def prox(v: Tensor, h: Tensor, folded: Tensor, Y: Tensor, gamma: float | Tensor) -> Tensor:
            weight = ops.per_image(gamma, v)
            V = torch.fft.fft2(v)
            missing = Y - ops.alias_fold(h * V, factor)
            tiled = (missing * (weight / (1.0 + weight * folded))).repeat(1, 1, factor, factor)
            correction: Tensor = torch.fft.ifft2(h.conj() * tiled)
            return v + correction.real

        return FixedStep(
            formula=("alias_correction", factor),
            shape=(*y.shape[:2], *size),
            dtype=y.dtype,
            constants=(h, folded_power, torch.fft.fft2(y)),
            prox=prox,
        )

    def _surrogate_step(self, y: Tensor) -> DataStep:
        """Re IFFT[(V + g conj(h) F(bilinear(y))) / (1 + g h^2)], g = 4 gamma: no prox of this A.

        The data step that the authors' UD2M checkpoints were trained with: the downsampling is
        left out and y enlarged instead, the square of h is complex, and the noise level is halved
        for images in [0, 1] while rho and sigma_t stay those of [-1, 1]. Its clamp to [0, 1] is not
        reproduced. Source: the published code of arXiv:2507.02686.
        """
        self.check_measurement(y)
        size = self._full_size(y)
        h, _ = self._spectra(y, size)
        enlarged = F.interpolate(y, size=size, mode="bilinear")
        back_projected = h.conj() * torch.fft.fft2(enlarged)

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, (*y.shape[:2], *size), y.dtype)
            check_gamma(gamma)
            g = 4.0 * torch.as_tensor(gamma, dtype=y.dtype, device=y.device).reshape(-1, 1, 1, 1)
            x: Tensor = torch.fft.ifft2((torch.fft.fft2(v) + g * back_projected) / (1.0 + g * h**2))
            return x.real.contiguous()

        return step

    def _full_size(self, y: Tensor) -> tuple[int, int]:
        return (self.factor * y.shape[-2], self.factor * y.shape[-1])

    def _spectra(self, like: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """h (all frequencies) and fold(|h|^2) for images of this size."""

        def build() -> tuple[Tensor, ...]:
            centred = self.grid == "centred"
            kernel = wrapped(self.kernel, self.factor, size) if centred else self.kernel
            h = kernel_full_spectrum(kernel, size)
            folded = ops.alias_fold(h.real**2 + h.imag**2, self.factor)
            return h.to(like.device, complex_of(like)), folded.to(like.device, like.dtype)

        h, folded_power = self._table.get("spectra", size, like, build)
        return h, folded_power

    def _half_spectrum(self, like: Tensor, size: tuple[int, int]) -> Tensor:
        """h for real images of this size, (B|1, C|1, H, W//2+1)."""

        def build() -> tuple[Tensor, ...]:
            h, _ = self._spectra(like, size)
            return (h[..., : size[1] // 2 + 1].contiguous(),)

        (h,) = self._table.get("half spectrum", size, like, build)
        return h

    def _interpolation(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices (B|1, C|1, H, H/s) and (B|1, C|1, W/s, W) with upsampled = rows y columns."""
        size = (y.shape[-2], y.shape[-1])

        def build() -> tuple[Tensor, ...]:
            s, wraps = self.factor, self.is_periodic
            total, row_centroid, column_centroid = moments(self.kernel)
            rows = interpolation_matrix(size[0], s, row_centroid, wraps) / total[..., None, None]
            columns = interpolation_matrix(size[1], s, column_centroid, wraps).mT
            return rows.to(y.device, y.dtype), columns.to(y.device, y.dtype)

        rows, columns = self._table.get("interpolation", size, y, build)
        return rows, columns

    def _resize_matrices(self, like: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The library's matrices (h, H) and (w, W) for small images of this size."""

        def build() -> tuple[Tensor, ...]:
            pair = (resize_matrix(self.kernel_name, side, self.factor) for side in size)
            return tuple(matrix.to(like.device, like.dtype) for matrix in pair)

        rows, columns = self._table.get("resize", size, like, build)
        return rows, columns

    def _resize_parts(self, y: Tensor) -> tuple[SingularParts, SingularParts]:
        """The singular parts of both matrices, for a y of this size."""
        size = (y.shape[-2], y.shape[-1])

        def build() -> tuple[Tensor, ...]:
            matrices = (resize_matrix(self.kernel_name, side, self.factor) for side in size)
            parts = (part for matrix in matrices for part in singular_parts(matrix))
            return tuple(part.to(y.device, y.dtype) for part in parts)

        u, s, v, *columns = self._table.get("singular parts", size, y, build)
        return (u, s, v), (columns[0], columns[1], columns[2])
