"""Phase retrieval: only the magnitudes of masked Fourier transforms are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    as_parameter,
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
from latino_engine.operators.parts.image_size import (
    as_image_size,
    check_image_size,
    check_memory,
)
from latino_engine.operators.parts.scalars import as_count
from latino_engine.operators.parts.simulation import add_measurement_noise
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import complex_of
from latino_engine.operators.protocol import DataStep, Operator

_MOST = 1 << 16  # masks, iterations and padding: beyond any use
_START_ITERATIONS = 200  # of the phase search behind initial_estimate
_RELAXATION = 0.9  # of its negative feedback; Fienup's beta


@dataclass(frozen=True, eq=False, repr=False, init=False)
class PhaseRetrieval(Operator):
    """y_l = |F(m_l x)| + noise, l = 1 .. L: magnitudes behind L known masks.

    F is the orthonormal FFT of the image padded by zeros to `oversampling` times its sides; every
    channel is measured for itself. Coded diffraction has L >= 2 masks of random phases; without a
    mask, an oversampling of 2 determines an image up to trivial ambiguities.

    Not linear. `prox` runs `num_iter` proximal gradient iterations from v on
    F(x) = gamma/2 || |A x| - y ||^2 + 1/2 ||x - v||^2: with the phases of A x kept, the first term
    is at most the quadratic gamma/2 ||A u - y e^(i arg A x)||^2 in u, whose minimiser with the
    anchor is the next x, exact per pixel as A^H A is diagonal. F never increases; it is not convex,
    and what is reached is the stationary point that belongs to v.

    What y cannot tell: the sign of x (the images here are not negative, which settles it); without
    masks also the image turned by 180 degrees, and shifts of an image with a black border.

    x: (B, C, H, W); y: (B, C, L, H', W') >= 0; float32 or float64, public range [0, 1].

    Args:
        masks: m_l, (H, W) or (L, H, W), complex or real, torch or numpy.
        noise_std: standard deviation of the noise of the magnitudes, a number or (B,), >= 0.
        oversampling: H' = oversampling H, W' = oversampling W; 1 or more.
        num_iter: proximal gradient iterations of a data step, >= 1.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.

    Source: Candes, Li, Soltanolkotabi, *Phase retrieval from coded diffraction patterns*, Appl.
    Comput. Harmon. Anal. 39(2), 2015; Fienup, *Phase retrieval algorithms: a comparison*, Applied
    Optics 21(15), 1982.
    """

    masks: Tensor
    noise_std: float | Tensor
    oversampling: int
    num_iter: int
    batch_size: int | None
    _table: SizeTable
    kind = "PhaseRetrieval"
    family = "phase"
    is_linear = False

    def __init__(
        self,
        masks: ArrayLike,
        noise_std: float | ArrayLike,
        oversampling: int = 1,
        num_iter: int = 10,
    ) -> None:
        m, sigma_y = as_parameter("masks", masks, torch.complex128), as_noise_std(noise_std)
        if m.ndim not in (2, 3) or m.numel() == 0 or not bool((m != 0).any()):
            got = tuple(m.shape) if m.ndim not in (2, 3) or not m.numel() else "zeros alone"
            raise invalid("masks", "(H, W) or (L, H, W), not all 0", got, "give one mask or more")
        for name, value in (("oversampling", oversampling), ("num_iter", num_iter)):
            as_count(name, value, _MOST, "leave it out")
        object.__setattr__(self, "masks", m if m.ndim == 3 else m[None])
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "oversampling", int(oversampling))
        object.__setattr__(self, "num_iter", int(num_iter))
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))
        object.__setattr__(self, "_table", SizeTable())

    @classmethod
    def coded_diffraction(
        cls,
        image_size: int | tuple[int, int],
        noise_std: float | ArrayLike,
        num_masks: int = 4,
        seed: int = 0,
        num_iter: int = 10,
    ) -> PhaseRetrieval:
        """L masks of independent, uniform phases; L = 4 determines a real image well."""
        count = as_count("num_masks", num_masks, _MOST, "4 suit most uses")
        size = as_image_size(image_size)
        check_memory("image_size", "masks", 64.0 * count * size[0] * size[1])
        random = np.random.Generator(np.random.Philox(key=ops.check_seed(seed)))
        phases = random.uniform(0.0, 2.0 * math.pi, (count, *size))
        return cls(np.exp(1j * phases), noise_std, num_iter=num_iter)

    @classmethod
    def oversampled(
        cls,
        image_size: int | tuple[int, int],
        noise_std: float | ArrayLike,
        oversampling: int = 2,
        num_iter: int = 10,
    ) -> PhaseRetrieval:
        """No mask: the magnitudes of the image padded to `oversampling` times its sides."""
        return cls(torch.ones(as_image_size(image_size)), noise_std, oversampling, num_iter)

    def __repr__(self) -> str:
        num_masks, height, width = self.masks.shape
        return (
            f"PhaseRetrieval({num_masks} masks {height} x {width}, oversampling="
            f"{self.oversampling}, {show_noise_std(self.noise_std)}, num_iter={self.num_iter})"
        )

    def A(self, x: Tensor) -> Tensor:
        """The magnitudes, (B, C, L, H', W')."""
        return self.field(x).abs()

    def A_adjoint(self, y: Tensor) -> NoReturn:
        """Raises: magnitudes are not linear."""
        raise invalid("A_adjoint", "a linear operator", "PhaseRetrieval", "use prox instead")

    def field(self, x: Tensor) -> Tensor:
        """The complex field F(m_l x), (B, C, L, H', W'), linear in x."""
        check_image("x", x, self.batch_size)
        check_image_size("x", x, self._size)
        masks, _ = self._constants(x)
        z: Tensor = torch.fft.fft2(masks * x[:, :, None], s=self._field_size, norm="ortho")
        return z

    def data_step(self, y: Tensor) -> DataStep:
        """`num_iter` proximal gradient iterations from v, for one y."""
        self.check_measurement(y)
        check_finite(y)
        expected, dtype = (*y.shape[:2], *self._size), y.dtype
        _, power = self._constants(y)

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, expected, dtype)
            check_gamma(gamma)
            weight = ops.per_image(gamma, v)
            x = v
            for _ in range(self.num_iter):
                x = (weight * self._explained(x, y) + v) / (weight * power + 1.0)
            return x

        return step

    def initial_estimate(self, y: Tensor) -> Tensor:
        """`search` from mid-grey, in [0, 1]."""
        self.check_measurement(y)
        grey = torch.full((*y.shape[:2], *self._size), 0.5, dtype=y.dtype, device=y.device)
        return self.search(y, grey)

    def search(self, y: Tensor, start: Tensor) -> Tensor:
        """A search for the phases, then the image of the phases that explain y best, in [0, 1].

        From `start`, 200 of Fienup's hybrid input-output iterations: u = A^+(y e^(i arg A x)),
        x <- u where u lies in [0, 1] and x - 0.9 u where it does not; the u of the smallest
        || |A u| - y || is kept, which plain alternating projections, run in the end, improve. A
        spectral start gains nothing here: docs/operators.md.

        Args:
            y: magnitudes (B, C, L, H', W').
            start: (B, C, H, W), of y's dtype.
        """
        _, power = self._constants(y)
        safe = power.clamp(min=1e-3 * float(power.max()))
        self.check_measurement(y)
        expected = (*y.shape[:2], *self._size)
        if tuple(start.shape) != expected or start.dtype != y.dtype:
            got = f"{tuple(start.shape)} {start.dtype}"
            raise invalid("start", f"{expected} {y.dtype}", got, "give one image for each of y")
        x = start
        best, smallest = x, torch.full(y.shape[:2], math.inf, dtype=y.dtype, device=y.device)
        with torch.no_grad():
            for iteration in range(_START_ITERATIONS):
                u = self._explained(x, y) / safe
                allowed = u.clamp(0.0, 1.0)
                error = (self.A(allowed) - y).square().sum(dim=(2, 3, 4))
                better = (error < smallest)[..., None, None]
                best, smallest = torch.where(better, allowed, best), torch.minimum(error, smallest)
                feedback = iteration < _START_ITERATIONS // 2
                x = torch.where(u == allowed, u, x - _RELAXATION * u) if feedback else allowed
                if iteration == _START_ITERATIONS // 2:
                    x = best
        return best

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """|F(m_l x)| + noise_std * eps, not below 0, reproducible by the seed."""
        return add_measurement_noise(self.A(x), self.noise_std, seed).clamp(min=0.0)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """The logarithm of the first mask's magnitudes, DC in the middle, (1, C, H', W')."""
        first = torch.fft.fftshift((y if y.ndim == 5 else y[None])[:, :, 0], dim=(-2, -1))
        logarithm = torch.log1p(10.0 * first.clamp(min=0.0))
        return logarithm / logarithm.amax().clamp(min=1e-12)

    def take(self, index: Tensor) -> PhaseRetrieval:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        sigma_y = pick_noise_std(self.noise_std, check_index(index, self.batch_size))
        return PhaseRetrieval(self.masks, sigma_y, self.oversampling, self.num_iter)

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y holds the magnitudes behind every mask."""
        expected = (len(self.masks), *self._field_size)
        if not isinstance(y, Tensor) or y.ndim != 5 or tuple(y.shape[2:]) != expected:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            wanted = f"magnitudes (B, C, {', '.join(map(str, expected))})"
            raise invalid("y", wanted, got, "masks stand on axis 2")
        check_dtype("y", y)
        check_batch("y", y.shape[0], self.batch_size)

    @property
    def _size(self) -> tuple[int, int]:
        return (self.masks.shape[-2], self.masks.shape[-1])

    @property
    def _field_size(self) -> tuple[int, int]:
        return (self.oversampling * self._size[0], self.oversampling * self._size[1])

    def _explained(self, x: Tensor, y: Tensor) -> Tensor:
        """Re A^H (y e^(i arg A x)); the phase of 0 is 0."""
        z = self.field(x)
        magnitude = z.abs()
        lit = magnitude > 0
        phase = torch.where(lit, z / torch.where(lit, magnitude, 1.0), torch.ones_like(z))
        masks, _ = self._constants(x)
        height, width = self._size
        back = torch.fft.ifft2(y * phase, norm="ortho")[..., :height, :width]
        explained: Tensor = (masks.conj() * back).real.sum(dim=2)
        return explained

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The masks, complex, and A^H A = sum_l |m_l|^2, (H, W)."""

        def build() -> tuple[Tensor, ...]:
            power = self.masks.abs().square().sum(dim=0)
            return self.masks.to(like.device, complex_of(like)), power.to(like)

        masks, power = self._table.get("masks", self._size, like, build)
        return masks, power
