"""Convolution and decimation with its singular value decomposition, as physics of deepinv."""

from __future__ import annotations

import torch
from deepinv.physics import DecomposablePhysics, GaussianNoise
from torch import Tensor

from latino_engine.operators.parts.spectra import kernel_full_spectrum


class ConvolutionPhysics(DecomposablePhysics):  # type: ignore[misc]
    """y = (h * x)[::s, ::s] = U diag(mask) V^T x, U and V real and orthonormal; s = 1 is a blur.

    deepinv's `Downsampling` has no decomposition, which DDRM needs. Split x into its s^2 phases
    p_j[n] = x[s n + j]. With their discrete Fourier transforms (on the small grid, orthonormal) the
    model is one row a(k) per frequency, y(k) = sum_j a_j(k) p_j(k). A Householder reflection Q(k)
    turns a^H / |a| into the first axis, so that y(k) = |a(k)| phase(k) (Q p)_0(k) and the other
    phases of Q p span the null space. As x is real, Q(-k) = conj Q(k): every phase of Q p is the
    transform of a real image, whose Hartley coefficients re - im are real, and |a| is even in k.

    Args:
        kernel: (1|C, 1, kh, kw) or (1, 1|C, kh, kw) float64, origin at (kh//2, kw//2).
        factor: s.
        img_size: (C, H, W) of x; H and W multiples of s.
        noise_std: public units.

    x is (B, C, H, W), y is (B, C, H/s, W/s), the coefficients are (B, C, H, W), float32.
    """

    def __init__(
        self, kernel: Tensor, factor: int, img_size: tuple[int, int, int], noise_std: float
    ) -> None:
        super().__init__(img_size=img_size, noise_model=GaussianNoise(noise_std))
        self.factor = factor
        row = _phase_spectra(kernel, factor, (img_size[1], img_size[2]))  # (1, C|1, s^2, h, w)
        norm = row.abs().square().sum(dim=2, keepdim=True).sqrt()
        seen = norm > 1e-12 * norm.max()
        first = torch.zeros_like(row)
        first[:, :, 0] = 1.0
        axis = torch.where(seen, row.conj() / norm.clamp(min=1e-300), first)
        leading = axis[:, :, :1]
        size = leading.abs()
        phase = torch.where(size > 0, leading / size.clamp(min=1e-300), torch.ones_like(leading))
        mirror = axis + phase * first  # never small: no cancellation
        mirror = mirror / mirror.abs().square().sum(dim=2, keepdim=True).sqrt()
        mask = torch.zeros(row.shape, dtype=torch.float64)
        mask[:, :, :1] = torch.where(seen, norm, torch.zeros_like(norm))
        self.register_buffer("mirror", mirror.to(torch.complex64))
        self.register_buffer("phase", -phase.conj().to(torch.complex64))
        mask = self._joined(mask).float().expand(1, *img_size)
        self.register_buffer("mask", mask.contiguous())

    def V_adjoint(self, x: Tensor) -> Tensor:
        """Image to coefficients."""
        return self._joined(_to_hartley(self._reflected(_fft(self._split(x)))))

    def V(self, x: Tensor, **_: object) -> Tensor:
        """Coefficients to image."""
        return self._joined(_ifft(self._reflected(_from_hartley(self._split(x)))))

    def U_adjoint(self, x: Tensor, **_: object) -> Tensor:
        """Measurement to coefficients, zero in the null space."""
        seen = _to_hartley(self.phase.conj() * _fft(x[:, :, None]))
        phases = self.factor**2
        rest = seen.new_zeros((*seen.shape[:2], phases - 1, *seen.shape[3:]))
        return self._joined(torch.cat((seen, rest), dim=2))

    def U(self, x: Tensor) -> Tensor:
        """Coefficients to measurement."""
        seen = _from_hartley(self._split(x)[:, :, :1])
        return _ifft(self.phase * seen)[:, :, 0]

    def _reflected(self, c: Tensor) -> Tensor:
        """Q c = c - 2 w (w^H c), |w| = 1."""
        share = (self.mirror.conj() * c).sum(dim=2, keepdim=True)
        reflected: Tensor = c - 2.0 * self.mirror * share
        return reflected

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, H, W) as phases (B, C, s^2, H/s, W/s)."""
        s = self.factor
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, channels, height // s, s, width // s, s)
        return parts.permute(0, 1, 3, 5, 2, 4).reshape(
            batch, channels, s * s, height // s, width // s
        )

    def _joined(self, p: Tensor) -> Tensor:
        """The inverse of `_split`."""
        s = self.factor
        batch, channels, _, height, width = p.shape
        parts = p.reshape(batch, channels, s, s, height, width).permute(0, 1, 4, 2, 5, 3)
        return parts.reshape(batch, channels, height * s, width * s)


def halved(physics: DecomposablePhysics) -> DecomposablePhysics:
    """The same physics with coefficients divided by sqrt(2), for deepinv's DDRM.

    DDRM of deepinv 0.5 divides all noise that it draws by sqrt(2). That is right for coefficients
    that are the real and imaginary parts of a Fourier transform (`BlurFFT`), which carry half of
    the variance each; with real orthonormal ones (`Inpainting`, and the decomposition above) the
    image then holds noise of sigma / sqrt(2) while the denoiser is told sigma. U, V and their
    adjoints scaled like this restore sigma: A, its adjoint and the prox are unchanged.
    """
    root = 2.0**0.5
    return DecomposablePhysics(
        U=lambda c: root * physics.U(c),
        U_adjoint=lambda y: physics.U_adjoint(y) / root,
        V=lambda c: root * physics.V(c),
        V_adjoint=lambda x: physics.V_adjoint(x) / root,
        mask=physics.mask,
        noise_model=physics.noise_model,
    )


def _phase_spectra(kernel: Tensor, s: int, size: tuple[int, int]) -> Tensor:
    """a_j(k): the transform of g_j[m] = h[s m - j], complex128 (1, C|1, s^2, H/s, W/s)."""
    h = torch.fft.ifft2(kernel_full_spectrum(kernel, size)).real
    rows = [
        torch.roll(h, (down, right), dims=(-2, -1))[..., ::s, ::s]
        for down in range(s)
        for right in range(s)
    ]
    spectra: Tensor = torch.fft.fft2(torch.stack(rows, dim=2))
    return spectra


def _fft(x: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.fft2(x, norm="ortho")
    return spectrum


def _ifft(c: Tensor) -> Tensor:
    x: Tensor = torch.fft.ifft2(c, norm="ortho").real
    return x


def _to_hartley(c: Tensor) -> Tensor:
    return c.real - c.imag


def _from_hartley(r: Tensor) -> Tensor:
    mirrored = torch.roll(r.flip(-2, -1), (1, 1), dims=(-2, -1))  # k -> -k
    return torch.complex((r + mirrored) / 2.0, (mirrored - r) / 2.0)
