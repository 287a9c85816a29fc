"""Deblurring: circular convolution with a known kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    check_finite,
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
    check_compat,
    gaussian_kernel,
    motion_kernel,
    published_gaussian_kernel,
    uniform_kernel,
)
from latino_engine.operators.parts.simulation import add_measurement_noise
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import as_kernel, complex_of, kernel_spectrum
from latino_engine.operators.protocol import DataStep
from latino_engine.ops import cuda_launches


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Blur:
    """y = h * x + noise: true circular convolution, kernel pixel (kh//2, kw//2) at the origin.

    y[n] = sum_k kernel[k] x[n - (k - centre)], indices modulo (H, W).
    x, y: (B, C, H, W), float32 or float64, public range [0, 1].

    Args:
        kernel: (kh, kw) or (B|1, C|1, kh, kw), torch or numpy, any size up to the image's; a sum
            of 1 keeps the brightness.
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    kernel: Tensor
    noise_std: float | Tensor
    batch_size: int | None
    _table: SizeTable

    def __init__(self, kernel: ArrayLike, noise_std: float | ArrayLike) -> None:
        taps, sigma_y = as_kernel(kernel), as_noise_std(noise_std)
        object.__setattr__(self, "kernel", taps)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "batch_size", common_batch("kernel", taps.shape[:1], sigma_y))
        object.__setattr__(self, "_table", SizeTable())

    @classmethod
    def gaussian(
        cls,
        std: float,
        noise_std: float | ArrayLike,
        size: int | None = None,
        compat: str | None = None,
    ) -> Blur:
        """A Gaussian of this std in pixels; size None = 2 int(std/0.3 + 1) + 1.

        compat="ud2m" takes std and size (25 by default) as the authors' UD2M code does: its std is
        half a variance. For checkpoints that were trained with it.
        """
        if check_compat(compat):
            return cls(published_gaussian_kernel(std, 25 if size is None else size), noise_std)
        return cls(gaussian_kernel(std, size), noise_std)

    @classmethod
    def uniform(cls, size: int, noise_std: float | ArrayLike) -> Blur:
        """The mean over size x size pixels; an even size shifts by half a pixel."""
        return cls(uniform_kernel(size), noise_std)

    @classmethod
    def motion(cls, size: int, noise_std: float | ArrayLike, seed: int = 0) -> Blur:
        """A smooth random motion inside size x size pixels, a function of the seed."""
        return cls(motion_kernel(size, seed), noise_std)

    def __repr__(self) -> str:
        batch, channels, kh, kw = self.kernel.shape
        many = f" ({batch} x {channels})" if batch * channels > 1 else ""
        return f"Blur(kernel {kh} x {kw}{many}, {show_noise_std(self.noise_std)})"

    @property
    def is_linear(self) -> bool:
        """True."""
        return True

    def A(self, x: Tensor) -> Tensor:
        """h * x."""
        h, _ = self.spectra_of(x, "x")
        return ops.convolve(x, h)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Correlation with h: irfft2(conj(h) rfft2(y))."""
        h, _ = self.spectra_of(y, "y")
        return ops.convolve(y, h, conjugate=True)

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """IFFT[(gamma conj(h) Y + V) / (gamma |h|^2 + 1)]; gamma >= 0, a number or (B,)."""
        return self.data_step(y)(v, gamma)

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, conj(h) Y computed once."""
        h, power = self.spectra_of(y, "y")
        check_finite(y)
        back_projected = ops.convolved_spectrum(y, h, conjugate=True)
        return FusedStep(
            formula=("fourier_prox",),
            shape=tuple(y.shape),
            dtype=y.dtype,
            constants=(power, back_projected),
            prox=lambda v, gamma, power, back: ops.fourier_prox(v, power, back, gamma),
            inner=ops.fourier_prox_noise,
            launch=cuda_launches.run_fourier_prox_noise,
            transforms=ops.transforms_of(y.device, y.shape[-2:]),
        )

    def initial_estimate(self, y: Tensor) -> Tensor:
        """One prox from y itself, gamma = (0.1 / sigma_y)^2."""
        return self.prox(y, y, starting_gamma(self.noise_std))

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """h * x + noise_std * eps, reproducible by the seed."""
        return add_measurement_noise(self.A(x), self.noise_std, seed)

    def observed(self, y: Tensor) -> Tensor:
        """y: every entry is observed."""
        return y

    def num_observed(self, y: Tensor) -> Tensor:
        """C H W for every image, (B,) float64."""
        return torch.full(y.shape[:1], float(y[:1].numel()), dtype=torch.float64, device=y.device)

    def take(self, index: Tensor) -> Blur:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Blur(pick(self.kernel, index), pick_noise_std(self.noise_std, index))

    def spectra_of(self, image: Tensor, name: str = "image") -> tuple[Tensor, Tensor]:
        """h (complex) and |h|^2, half-spectra (B|1, C|1, H, W//2+1), for images of this size."""
        check_image(name, image, self.batch_size, self.kernel.shape[1])
        size = (image.shape[-2], image.shape[-1])

        def build() -> tuple[Tensor, ...]:
            h = kernel_spectrum(self.kernel, size)
            power = h.real**2 + h.imag**2
            return (
                h.to(image.device, complex_of(image)),
                power.to(image.device, image.dtype),
            )

        h, power = self._table.get("spectra", size, image, build)
        return h, power
