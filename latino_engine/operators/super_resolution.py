"""Super-resolution: circular convolution, then every s-th pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid, invalid_type
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
    starting_gamma,
)
from latino_engine.operators.parts.fused_step import FusedStep
from latino_engine.operators.parts.point_spread import (
    bicubic_profile,
    check_compat,
    gaussian_kernel,
    keys_cubic,
)
from latino_engine.operators.parts.simulation import add_measurement_noise
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import as_kernel, complex_of, kernel_full_spectrum
from latino_engine.operators.protocol import DataStep
from latino_engine.ops import cuda_launches, reference

_GAUSSIAN_STD_PER_FACTOR = (
    0.5  # |h| = 0.29 at the new Nyquist frequency: little aliasing, still sharp
)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class SuperResolution:
    """y = (h * x)[::s, ::s] + noise, a circular convolution sampled from pixel 0.

    x: (B, C, H, W) with H and W multiples of s; y: (B, C, H/s, W/s); float32 or float64.

    Args:
        factor: s >= 1, an integer.
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.
        kernel: "bicubic" (Keys, a = -1/2, 4 s taps to an axis), "gaussian" (std 0.5 s pixels), or
            an array (kh, kw) or (B|1, C|1, kh, kw) whose pixel (kh//2, kw//2) is the origin.
        compat: None for the exact data step. "ud2m" takes the surrogate of the authors' UD2M code,
            for checkpoints that were trained with it; see `_surrogate_step`.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    factor: int
    kernel: Tensor
    noise_std: float | Tensor
    kernel_name: str
    batch_size: int | None
    compat: str | None
    _table: SizeTable

    def __init__(
        self,
        factor: int,
        noise_std: float | ArrayLike,
        kernel: str | ArrayLike = "bicubic",
        compat: str | None = None,
    ) -> None:
        if isinstance(factor, bool) or not isinstance(factor, int):
            raise invalid_type("factor", "an integer", type(factor).__name__, "give whole pixels")
        if factor < 1:
            raise invalid("factor", "at least 1", factor, "give the ratio of the two resolutions")
        taps = _named_kernel(kernel, factor) if isinstance(kernel, str) else as_kernel(kernel)
        sigma_y = as_noise_std(noise_std)
        object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "kernel", taps)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "kernel_name", kernel if isinstance(kernel, str) else "array")
        object.__setattr__(self, "batch_size", common_batch("kernel", taps.shape[:1], sigma_y))
        object.__setattr__(self, "compat", check_compat(compat))
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        kh, kw = self.kernel.shape[-2:]
        sigma_y = show_noise_std(self.noise_std)
        more = "" if self.compat is None else f", compat={self.compat!r}"
        name = f"{self.kernel_name} kernel {kh} x {kw}"
        return f"SuperResolution({self.factor}x, {name}, {sigma_y}{more})"

    @property
    def is_linear(self) -> bool:
        """True."""
        return True

    def A(self, x: Tensor) -> Tensor:
        """(h * x)[::s, ::s]."""
        check_image("x", x, self.batch_size, self.kernel.shape[1])
        size, s = (x.shape[-2], x.shape[-1]), self.factor
        if size[0] % s or size[1] % s:
            crop = f"crop it to {size[0] - size[0] % s} x {size[1] - size[1] % s}"
            raise invalid("x", f"sides divisible by {s}", f"{size[0]} x {size[1]}", crop)
        return ops.convolve(x, self._half_spectrum(x, size))[..., ::s, ::s].contiguous()

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Zeros between the pixels of y, then correlation with h."""
        check_image("y", y, self.batch_size, self.kernel.shape[1])
        size, s = self._full_size(y), self.factor
        spread = y.new_zeros((*y.shape[:2], *size))
        spread[..., ::s, ::s] = y
        return ops.convolve(spread, self._half_spectrum(y, size), conjugate=True)

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """Exact, by the Woodbury identity in the alias domain; gamma >= 0, a number or (B,).

        b = V + gamma conj(h) tile(Y),
        X = b - gamma conj(h) tile(fold(h b) / (1 + gamma fold(|h|^2))).
        """
        return self.data_step(y)(v, gamma)

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, conj(h) tile(Y) computed once."""
        check_image("y", y, self.batch_size, self.kernel.shape[1])
        check_finite(y)
        if self.compat is not None:
            return self._surrogate_step(y)
        factor = self.factor
        size = self._full_size(y)
        h, folded_power = self._spectra(y, size)
        back_projected = h.conj() * torch.fft.fft2(y).repeat(1, 1, factor, factor)

        def inner(x: Tensor, x_t: Tensor | None, *rest: Any, out: Tensor | None = None) -> Tensor:
            weight, h, folded, back, gamma, scale, seed, images, samples, step = rest
            spectra, identity = (h, folded, back), (seed, images, samples, step)
            return ops.alias_prox_noise(
                x, x_t, weight, *spectra, gamma, scale, factor, *identity, out=out
            )

        def launch(x: Tensor, x_t: Tensor | None, *rest: Any) -> Tensor:
            h, folded, back, steps, noise = rest
            return cuda_launches.run_alias_prox_noise(x, x_t, h, folded, back, factor, steps, noise)

        return FusedStep(
            formula=("alias_prox", factor),
            shape=(*y.shape[:2], *size),
            dtype=y.dtype,
            constants=(h, folded_power, back_projected),
            prox=lambda v, gamma, h, folded, back: ops.alias_prox(
                v, h, folded, back, gamma, factor
            ),
            inner=inner,
            launch=launch,
            transforms=ops.transforms_of(y.device, size, factor),
        )

    def initial_estimate(self, y: Tensor) -> Tensor:
        """Bicubic interpolation at the kernel's centroid, then one prox, gamma = (0.1 / sigma_y)^2.

        Pixel i of y lies at s i - (centroid of h), so that neither an even s nor a lopsided kernel
        shifts the start; y is divided by the kernel's sum. For the bicubic kernel the interpolation
        is A_adjoint(y) / A_adjoint(1).
        """
        check_image("y", y, self.batch_size, self.kernel.shape[1])
        rows, columns = self._interpolation(y)
        upsampled = rows @ y @ columns
        return self.prox(upsampled, y, starting_gamma(self.noise_std))

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A(x) + noise_std * eps, reproducible by the seed."""
        return add_measurement_noise(self.A(x), self.noise_std, seed)

    def observed(self, y: Tensor) -> Tensor:
        """y: every entry is observed."""
        return y

    def num_observed(self, y: Tensor) -> Tensor:
        """C (H/s) (W/s) for every image, (B,) float64."""
        return torch.full(y.shape[:1], float(y[:1].numel()), dtype=torch.float64, device=y.device)

    def take(self, index: Tensor) -> SuperResolution:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        named = self.kernel_name != "array"
        kernel = self.kernel_name if named else pick(self.kernel, index)
        sigma_y = pick_noise_std(self.noise_std, index)
        return SuperResolution(self.factor, sigma_y, kernel, self.compat)

    def _surrogate_step(self, y: Tensor) -> DataStep:
        """Re IFFT[(V + g conj(h) F(bilinear(y))) / (1 + g h^2)], g = 4 gamma: no prox of this A.

        The data step that the authors' UD2M checkpoints were trained with: the downsampling is
        left out and y enlarged instead, the square of h is complex, and the noise level is halved
        for images in [0, 1] while rho and sigma_t stay those of [-1, 1]. Its clamp to [0, 1] is not
        reproduced. Source: the published code of arXiv:2507.02686.
        """
        check_image("y", y, self.batch_size, self.kernel.shape[1])
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
            h = kernel_full_spectrum(self.kernel, size)
            folded = reference.alias_fold(h.real**2 + h.imag**2, self.factor)
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
            total, row_centroid, column_centroid = _moments(self.kernel)
            rows = (
                _interpolation_matrix(size[0], self.factor, row_centroid) / total[..., None, None]
            )
            columns = _interpolation_matrix(size[1], self.factor, column_centroid).mT
            return rows.to(y.device, y.dtype), columns.to(y.device, y.dtype)

        rows, columns = self._table.get("interpolation", size, y, build)
        return rows, columns


def _named_kernel(name: str, factor: int) -> Tensor:
    """The kernel of this name as (1, 1, kh, kw)."""
    if name == "bicubic":
        profile = bicubic_profile(factor)
        return torch.outer(profile, profile)[None, None]
    if name == "gaussian":
        return gaussian_kernel(_GAUSSIAN_STD_PER_FACTOR * factor)[None, None]
    raise invalid("kernel", '"bicubic", "gaussian" or an array', f'"{name}"', "choose one of them")


def _moments(kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum and centroid (relative to the origin, inside the kernel), each (B|1, C|1).

    A kernel that (nearly) sums to zero has no centroid: it counts as centred with sum 1.
    """
    kh, kw = kernel.shape[-2:]
    total = kernel.sum(dim=(-2, -1))
    usable = total.abs() > 1e-3 * kernel.abs().sum(dim=(-2, -1))
    total = torch.where(usable, total, torch.ones_like(total))
    row = torch.arange(kh, dtype=torch.float64, device="cpu") - kh // 2
    column = torch.arange(kw, dtype=torch.float64, device="cpu") - kw // 2
    row_centroid = (kernel.sum(dim=-1) @ row / total).clamp(float(row[0]), float(row[-1]))
    column_centroid = (kernel.sum(dim=-2) @ column / total).clamp(
        float(column[0]), float(column[-1])
    )
    zero = torch.zeros_like(total)
    return (
        total,
        torch.where(usable, row_centroid, zero),
        torch.where(usable, column_centroid, zero),
    )


def _interpolation_matrix(length: int, factor: int, centroid: Tensor) -> Tensor:
    """Circular bicubic interpolation (..., s * length, length) from samples at s i - centroid."""
    pixel = torch.arange(factor * length, dtype=torch.float64, device="cpu")
    position = (pixel + centroid[..., None]) / factor  # in units of samples
    matrix = torch.zeros(*position.shape, length, dtype=torch.float64, device="cpu")
    for offset in (-1, 0, 1, 2):
        neighbour = position.floor() + offset
        weight = keys_cubic(position - neighbour)
        matrix.scatter_add_(-1, (neighbour.long() % length)[..., None], weight[..., None])
    return matrix
