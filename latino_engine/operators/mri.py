"""Magnetic resonance imaging: a masked Fourier transform, seen by one coil or by several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_iterations,
    as_mask,
    as_noise_std,
    as_parameter,
    as_tolerance,
    check_anchor,
    check_batch,
    check_dtype,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    check_prox,
    check_size,
    common_batch,
    pick,
    pick_noise_std,
    show_noise_std,
    starting_gamma,
)
from latino_engine.operators.parts.conjugate_gradients import best_scale, proximal_solve
from latino_engine.operators.parts.cost import Call, Count, Sizes, one_of
from latino_engine.operators.parts.fused_step import FusedStep
from latino_engine.operators.parts.scalars import as_switch
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.parts.spectra import complex_of
from latino_engine.operators.protocol import DataStep, Operator


@dataclass(frozen=True, eq=False, repr=False, init=False)
class MRI(Operator):
    """y = m F(s x) + noise, F = fftshift fft2(ifftshift x), orthonormal.

    k-space has DC in the middle; all layouts are deepinv's. A complex image has two channels,
    (re, im); a real image has one. y is (B, 2, H, W), with coil maps (B, 2, N, H, W), float32 or
    float64. One coil: the prox is exact. Several: conjugate gradients.

    Args:
        mask: (H, W) or (B|1, 1, H, W) over centred k-space, DC at (H//2, W//2), 1 = measured. For
            a mask with DC at (0, 0) give fftshift(mask).
        noise_std: standard deviation of the real and of the imaginary part, public units, a
            number or (B,), >= 0.
        coil_maps: complex (N, H, W) or (B|1, N, H, W), or None for one coil of sensitivity 1.
        real_image: A_adjoint and initial_estimate return one real channel; A and prox as many as x.
        tol, max_iter: relative residual and most iterations of the conjugate gradients of several
            coils.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    mask: Tensor
    noise_std: float | Tensor
    coil_maps: Tensor | None
    real_image: bool
    batch_size: int | None
    tol: float
    max_iter: int
    _table: SizeTable
    kind = "MRI"
    family = "mri"

    def __init__(
        self,
        mask: ArrayLike,
        noise_std: float | ArrayLike,
        coil_maps: ArrayLike | None = None,
        real_image: bool = False,
        tol: float = 1e-6,
        max_iter: int = 200,
    ) -> None:
        m, sigma_y = as_mask(mask, "1"), as_noise_std(noise_std)
        maps = None if coil_maps is None else _as_coil_maps(coil_maps, m)
        sizes = [m.shape[0]] if maps is None else [m.shape[0], maps.shape[0]]
        name = "mask" if maps is None else "mask and coil_maps"
        object.__setattr__(self, "mask", m)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "coil_maps", maps)
        object.__setattr__(self, "real_image", as_switch("real_image", real_image))
        object.__setattr__(self, "tol", as_tolerance(tol))
        object.__setattr__(self, "max_iter", as_iterations(max_iter))
        object.__setattr__(self, "batch_size", common_batch(name, sizes, sigma_y))
        object.__setattr__(self, "_table", SizeTable())

    def __repr__(self) -> str:
        height, width = self._size
        seen = f"{100.0 * float(self.mask.mean()):.1f} % measured"
        coils = "" if self.coil_maps is None else f", {self.coil_maps.shape[1]} coils"
        kind = "real" if self.real_image else "complex"
        sigma_y = show_noise_std(self.noise_std)
        return f"MRI(mask {height} x {width}, {seen}{coils}, {kind} image, {sigma_y})"

    def A(self, x: Tensor) -> Tensor:
        """m F(s x): (B, 2, H, W), or (B, 2, N, H, W) with coil maps."""
        self._check_image("x", x)
        maps = self._maps(x)
        if maps is None:
            return ops.kspace_forward(x, self._mask(x))
        image = _to_complex(x)  # (B, 1, H, W)
        return self._kept(_from_complex(_fft_centred(maps * image)))

    def A_adjoint(self, y: Tensor) -> Tensor:
        """sum_n conj(s_n) F^-1(m y_n), the zero-filled image; its real part if real_image."""
        self.check_measurement(y)
        channels = 1 if self.real_image else 2
        if self.coil_maps is None:
            return ops.kspace_adjoint(y, self._mask(y), channels)
        return _as_image(self._zero_filled(y), channels)

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """The exact data step of one coil, conjugate gradients for several.

        v with two channels: (gamma m Y + V) / (gamma m + 1) in k-space. v with one channel:
        (gamma S(m Y) + V) / (gamma S(m) + 1), S(a)(k) = (a(k) + conj a(-k)) / 2.
        """
        self.check_measurement(y)
        if self.coil_maps is not None or not isinstance(v, Tensor) or v.shape[1:2] != (2,):
            return self.data_step(y)(v, gamma)
        self._check_anchor(v, (y.shape[0], 2, *self._size), y.dtype)
        check_gamma(gamma)
        mask = self._mask(y)
        z = ops.fourier_mask_prox(v, mask, y, gamma)
        check_prox(z, y, mask)
        return z

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, the zero-filled image and its spectrum computed once."""
        self.check_measurement(y)
        check_finite(self._kept(y))
        if self.coil_maps is None:
            return self._exact_step(y)
        zero_filled = self._zero_filled(y)
        solve, shape, dtype = self._cg_step(zero_filled), tuple(zero_filled.shape), y.dtype

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            self._check_anchor(v, shape, dtype)
            check_gamma(gamma)
            return solve(v, gamma)

        return step

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The zero-filled image, then one prox, which undoes what is counted half or twice in it.

        A real image measured at k but not at -k has half of that frequency in the zero-filled one;
        with coil maps its best multiple is the start. Complex, one coil: the prox changes nothing.
        """
        zero_filled = self.A_adjoint(y)
        if self.coil_maps is None and not self.real_image:
            return zero_filled
        if self.coil_maps is None:
            return self.prox(zero_filled, y, starting_gamma(self.noise_std))
        start = best_scale(zero_filled, self.A(zero_filled)) * zero_filled
        return self.prox(start, y, starting_gamma(self.noise_std))

    def observed(self, y: Tensor) -> Tensor:
        """y with 0 where m = 0, whatever stood there."""
        self.check_measurement(y)
        return self._kept(y)

    def num_observed(self, y: Tensor) -> Tensor:
        """2 x coils x mask sum of every image, (B,) float64."""
        self.check_measurement(y)
        mask = self.mask.to(y.device).expand(y.shape[0], -1, -1, -1)
        return mask.sum(dim=(1, 2, 3)) * float(y.shape[1:-2].numel())

    def take(self, index: Tensor) -> MRI:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        maps = None if self.coil_maps is None else pick(self.coil_maps, index)
        sigma_y = pick_noise_std(self.noise_std, index)
        return self._like(pick(self.mask, index), sigma_y, maps, self.real_image)

    def for_grey(self) -> MRI:
        """The operator for real images."""
        if self.real_image:
            return self
        return self._like(self.mask, self.noise_std, self.coil_maps, True)

    def _like(
        self, mask: Tensor, noise_std: float | Tensor, maps: Tensor | None, real_image: bool
    ) -> MRI:
        return MRI(mask, noise_std, maps, real_image, self.tol, self.max_iter)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """The logarithm of the magnitudes, root of the sum of squares over the coils, DC inside."""
        squares = self._kept(y).square().sum(dim=1)
        magnitude = (squares if squares.ndim == 3 else squares.sum(dim=1)).sqrt()
        logarithm = torch.log1p(100.0 * magnitude)[:, None]
        return logarithm / logarithm.amax().clamp(min=1e-12)

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count | None:
        """Two transforms around a product with the mask; several coils are not counted."""
        if self.coil_maps is not None:
            return None
        n, mask = Sizes(shape), 4 * self.mask.numel()
        step = Count(n.planes * (2 * n.transform + 6 * n.pixels), 3 * n.image + mask)
        forward = Count(n.planes * n.transform + n.planes * n.pixels, 2 * n.image + mask)
        return one_of(call, forward, step, Count(0, 0))  # y is k-space already

    @property
    def _size(self) -> tuple[int, int]:
        return (self.mask.shape[-2], self.mask.shape[-1])

    def _exact_step(self, y: Tensor) -> FusedStep:
        """One coil; the whole inner step is one operation, for complex and for real images.

        Of a real image the zero-filled one's real part has the half-spectrum S(m Y), DC at (0, 0).
        """
        real_part = ops.kspace_adjoint(y, self._mask(y), 1)
        symmetric, spectrum = self._symmetric_mask(y), torch.fft.rfft2(real_part)
        shape, real = (y.shape[0], 1 if self.real_image else 2, *self._size), self.real_image
        return FusedStep(
            formula=("kspace_prox",),
            shape=shape,
            dtype=y.dtype,
            constants=(symmetric, spectrum, self._mask(y), self._kept(y)),
            prox=_kspace_prox,
            check=self._check_anchor,
            inner=_kspace_prox_noise,
            launch=_launch_kspace_prox_noise,
            transforms=ops.transforms_of(y.device, self._size, None if real else 0),
        )

    def _cg_step(self, zero_filled: Tensor) -> DataStep:
        """Several coils: A^T A x = sum_n conj(s_n) F^-1[m F(s_n x)], in which the shifts of centred
        transforms cancel, as a product in k-space commutes with them.
        """

        def solve(v: Tensor, gamma: float | Tensor) -> Tensor:
            channels = v.shape[1]
            target = _as_image(zero_filled, channels)
            maps, mask = self._maps(v), self._corner_mask(v)
            assert maps is not None
            turned = maps.conj()

            def normal(x: Tensor) -> Tensor:
                seen = torch.fft.fft2(maps * _to_complex(x)) * mask
                image = (turned * torch.fft.ifft2(seen)).sum(dim=1, keepdim=True)
                return _as_image(image, channels)

            return proximal_solve(normal, v, target, gamma, self.tol, self.max_iter)

        return solve

    def _corner_mask(self, like: Tensor) -> Tensor:
        """The mask with DC at (0, 0)."""

        def build() -> tuple[Tensor, ...]:
            return (torch.fft.ifftshift(self.mask, dim=(-2, -1)).to(like),)

        (mask,) = self._table.get("corner mask", self._size, like, build)
        return mask

    def _zero_filled(self, y: Tensor) -> Tensor:
        """sum_n conj(s_n) F^-1(m y_n): complex (B, 1, H, W)."""
        image = _ifft_centred(_to_complex(self._kept(y)))
        maps = self._maps(y)
        if maps is None:
            return image
        return (maps.conj() * image).sum(dim=1, keepdim=True)

    def _mask(self, like: Tensor) -> Tensor:
        (mask,) = self._table.get("mask", self._size, like, lambda: (self.mask.to(like),))
        return mask

    def _kept(self, y: Tensor) -> Tensor:
        """y with exact zeros where m = 0; a product would let NaN through."""
        mask = self._mask(y)
        return ops.keep_observed(y, mask if y.ndim == 4 else mask[:, :, None])

    def _maps(self, like: Tensor) -> Tensor | None:
        maps = self.coil_maps
        if maps is None:
            return None
        dtype = complex_of(like)
        (cast,) = self._table.get("maps", self._size, like, lambda: (maps.to(like.device, dtype),))
        return cast

    def _symmetric_mask(self, like: Tensor) -> Tensor:
        """S(m) as a half-spectrum, DC at (0, 0)."""

        def build() -> tuple[Tensor, ...]:
            corner = torch.fft.ifftshift(self.mask, dim=(-2, -1))
            mirrored = torch.roll(corner.flip(-2, -1), (1, 1), dims=(-2, -1))  # k -> -k
            return (((corner + mirrored)[..., : self._size[1] // 2 + 1] / 2.0).to(like),)

        (symmetric,) = self._table.get("symmetric mask", self._size, like, build)
        return symmetric

    def _check_image(self, name: str, x: Tensor) -> None:
        check_image(name, x, self.batch_size)
        if x.shape[1] != 1 and (self.real_image or x.shape[1] != 2):
            expected = "1 channel" if self.real_image else "2 channels (re, im) or 1 (real)"
            raise invalid(name, expected, x.shape[1], "a complex image is stored as two channels")
        check_size(name, x, self._size, "mask")

    def _check_anchor(self, v: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """v may have one channel or two."""
        self._check_image("v", v)
        check_anchor(v, (shape[0], v.shape[1], *shape[2:]), dtype)

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is k-space of the mask's size, of every coil."""
        coils = () if self.coil_maps is None else (self.coil_maps.shape[1],)
        expected = ("B", 2, *coils, *self._size)
        if not isinstance(y, Tensor) or tuple(y.shape[1:]) != expected[1:]:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            wanted = "(" + ", ".join(str(n) for n in expected) + ")"
            raise invalid("y", wanted, got, "store k-space as (re, im) on axis 1")
        check_dtype("y", y)
        check_batch("y", y.shape[0], self.batch_size)


def _as_coil_maps(value: ArrayLike, mask: Tensor) -> Tensor:
    """Coil maps as complex128 (B|1, N, H, W), of the mask's size."""
    maps = as_parameter("coil_maps", value, torch.complex128)
    if maps.ndim not in (3, 4) or maps.numel() == 0:
        expected = "(N, H, W) or (B, N, H, W)"
        raise invalid("coil_maps", expected, tuple(maps.shape), "index or reshape them")
    check_size("coil_maps", maps, (mask.shape[-2], mask.shape[-1]), "mask")
    return maps if maps.ndim == 4 else maps[None]


def _kspace_prox(
    v: Tensor, symmetric: Tensor, real_y: Tensor, mask: Tensor, kept: Tensor, gamma: float | Tensor
) -> Tensor:
    """The exact data step of one coil, for real images or complex ones as (re, im)."""
    if v.shape[1] == 1:
        return ops.fourier_prox(v, symmetric, real_y, gamma)
    return ops.fourier_mask_prox(v, mask, kept, gamma)


def _kspace_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: float | Tensor,
    *rest: Any,
    **options: Any,
) -> Tensor:
    """The whole inner step of one coil; `rest` begins with the constants of the step."""
    real, complex_, rest = rest[:2], rest[2:4], rest[4:]
    if x.shape[1] == 1:
        return ops.fourier_prox_noise(x, x_t, x_weight, *real, *rest, **options)
    return ops.fourier_mask_prox_noise(x, x_t, x_weight, *complex_, *rest, **options)


def _launch_kspace_prox_noise(
    x: Tensor, x_t: Tensor | None, *constants: Any, **options: Any
) -> Tensor:
    """The same by launches whose scalars are the next row of a step table."""
    if x.shape[1] == 1:
        return ops.launch_fourier_prox_noise(x, x_t, *constants[:2], **options)
    return ops.launch_fourier_mask_prox_noise(x, x_t, *constants[2:], **options)


def _as_image(image: Tensor, channels: int) -> Tensor:
    """Complex (B, 1, H, W) as its real part or as (re, im)."""
    return image.real if channels == 1 else torch.cat((image.real, image.imag), dim=1)


def _to_complex(x: Tensor) -> Tensor:
    """(B, 2, ...) as complex (B, 1, ...) or, with coils, (B, N, ...); (B, 1, H, W) with im = 0."""
    if x.shape[1] == 1:
        return torch.complex(x, torch.zeros_like(x))
    image = torch.complex(x[:, 0], x[:, 1])
    return image if image.ndim == 4 else image[:, None]


def _from_complex(y: Tensor) -> Tensor:
    """Complex (B, N, H, W) as (B, 2, N, H, W)."""
    return torch.stack((y.real, y.imag), dim=1)


def _fft_centred(x: Tensor) -> Tensor:
    shifted = torch.fft.ifftshift(x, dim=(-2, -1))
    y: Tensor = torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))
    return y


def _ifft_centred(y: Tensor) -> Tensor:
    shifted = torch.fft.ifftshift(y, dim=(-2, -1))
    x: Tensor = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
    return x
