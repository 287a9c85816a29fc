"""Deblurring: circular convolution with a known kernel."""

from __future__ import annotations

from dataclasses import dataclass

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
)
from latino_engine.operators.parts.cost import Call, Count, Sizes, one_of
from latino_engine.operators.parts.fused_step import FusedStep
from latino_engine.operators.parts.point_spread import (
    check_compat,
    gaussian_kernel,
    motion_kernel,
    published_gaussian_kernel,
    uniform_kernel,
)
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import as_kernel, complex_of, kernel_spectrum
from latino_engine.operators.protocol import DataStep, Operator


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Blur(Operator):
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
    kind = "Blur"
    family = "deblurring"
    measures_image = True
    wraps = True
    diagonal = ("frequencies",)

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

    def A(self, x: Tensor) -> Tensor:
        """h * x."""
        h, _ = self.spectra_of(x, "x")
        return ops.convolve(x, h)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Correlation with h: irfft2(conj(h) rfft2(y))."""
        h, _ = self.spectra_of(y, "y")
        return ops.convolve(y, h, conjugate=True)

    def data_step(self, y: Tensor) -> DataStep:
        """IFFT[(gamma conj(h) Y + V) / (gamma |h|^2 + 1)] for one y, conj(h) Y computed once."""
        h, power = self.spectra_of(y, "y")
        check_finite(y)
        back_projected = ops.convolved_spectrum(y, h, conjugate=True)
        return FusedStep(
            formula=("fourier_prox",),
            shape=tuple(y.shape),
            dtype=y.dtype,
            constants=(power, back_projected),
            prox=ops.fourier_prox,
            inner=ops.fourier_prox_noise,
            launch=ops.launch_fourier_prox_noise,
            transforms=ops.transforms_of(y.device, y.shape[-2:]),
        )

    def initial_estimate(self, y: Tensor) -> Tensor:
        """One prox from y itself, gamma = (0.1 / sigma_y)^2."""
        return self._one_prox(y, y)

    def take(self, index: Tensor) -> Blur:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Blur(pick(self.kernel, index), pick_noise_std(self.noise_std, index))

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is an image with the channels of the kernel."""
        check_image("y", y, self.batch_size, self.kernel.shape[1])

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count:
        """Two transforms around products with half-spectra."""
        n, kernels = Sizes(shape), self.kernel.shape[:-2].numel()
        flops = n.planes * (2 * n.transform + 8 * n.bins)
        step = Count(flops, 2 * n.image + 8 * n.planes * n.bins + 4 * kernels * n.bins)
        forward = Count(n.planes * (2 * n.transform + 6 * n.bins), 2 * n.image + 8 * n.bins)
        return one_of(call, forward, step, Count(n.planes * (n.transform + 6 * n.bins), n.image))

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
