"""The specification: every fused operation in a few lines of torch.

It is the oracle of the tests, the baseline of the benchmarks and the fallback of the engine.
Nothing here checks its arguments: that is done once, in `latino_engine.ops`. Shapes: an image is
(B, C, H, W); a per-image scalar is (B, 1, 1, 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latino_engine.ops.philox import philox_normals


def fourier_prox(v: Tensor, power: Tensor, back_projected: Tensor, gamma: Tensor) -> Tensor:
    """IFFT[(gamma conj(h) Y + V) / (gamma |h|^2 + 1)]: the exact prox of a circular convolution.

    power = |h|^2 and back_projected = conj(h) Y are half-spectra (B|1, C|1, H, W//2+1).
    """
    V = torch.fft.rfft2(v)  # (B, C, H, W//2+1)
    X = (gamma * back_projected + V) / (gamma * power + 1.0)
    z: Tensor = torch.fft.irfft2(X, s=v.shape[-2:])
    return z


def convolve(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    """irfft2(h rfft2(x)), or with conj(h): a circular convolution and its adjoint."""
    y: Tensor = torch.fft.irfft2(convolved_spectrum(x, h, conjugate), s=x.shape[-2:])
    return y


def convolved_spectrum(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    """h rfft2(x), or conj(h) rfft2(x); h is a half-spectrum (B|1, C|1, H, W//2+1)."""
    spectrum: Tensor = (h.conj() if conjugate else h) * torch.fft.rfft2(x)
    return spectrum


def keep_observed(x: Tensor, mask: Tensor) -> Tensor:
    """x with exact zeros where m = 0; a product would let NaN through."""
    return torch.where(mask > 0, x, torch.zeros((), dtype=x.dtype, device=x.device))


def kspace_forward(x: Tensor, mask: Tensor) -> Tensor:
    """m F x with F = fftshift fft2(ifftshift x), orthonormal: images (B, 2, H, W) as (re, im), or
    (B, 1, H, W), to k-space (B, 2, H, W).
    """
    image = torch.complex(x[:, 0], x[:, 1] if x.shape[1] == 2 else torch.zeros_like(x[:, 0]))
    V = torch.fft.fft2(torch.fft.ifftshift(image, dim=(-2, -1)), norm="ortho")
    V = torch.fft.fftshift(V, dim=(-2, -1))
    return keep_observed(torch.stack((V.real, V.imag), dim=1), mask)


def kspace_adjoint(y: Tensor, mask: Tensor, channels: int) -> Tensor:
    """F^-1 (m y) in its parts, or with one channel its real part: (B, channels, H, W)."""
    kept = keep_observed(y, mask)
    Y = torch.fft.ifftshift(torch.complex(kept[:, 0], kept[:, 1]), dim=(-2, -1))
    x = torch.fft.fftshift(torch.fft.ifft2(Y, norm="ortho"), dim=(-2, -1))
    return torch.stack((x.real, x.imag)[:channels], dim=1)


def fourier_mask_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """F^-1 masked_prox(F v, mask, y), F as in `kspace_forward`; y is not used where m = 0."""
    axes, y = (-2, -1), keep_observed(y, mask)
    corner = torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=axes)  # (P, 1, H, W)
    V = torch.fft.fftshift(torch.fft.fft2(corner, norm="ortho"), dim=axes)
    X = masked_prox(V, mask, torch.complex(y[:, :1], y[:, 1:]), gamma)
    image = torch.fft.ifft2(torch.fft.ifftshift(X, dim=axes), norm="ortho")
    image = torch.fft.fftshift(image, dim=axes)
    return torch.cat((image.real, image.imag), dim=1)  # (P, 2, H, W)


def alias_fold(spectrum: Tensor, factor: int) -> Tensor:
    """Mean over the factor x factor aliases: (..., H, W) -> (..., H/factor, W/factor)."""
    *lead, height, width = spectrum.shape
    split = spectrum.reshape(*lead, factor, height // factor, factor, width // factor)
    return split.mean(dim=(-4, -2))


def alias_fold_half(spectrum: Tensor, factor: int, width: int) -> Tensor:
    """`alias_fold` of a real image's half-spectrum (..., H, W//2+1): (..., H/factor, W/factor)."""
    *lead, height, _ = spectrum.shape
    rows = spectrum.reshape(*lead, factor, height // factor, -1).mean(dim=-3)
    mirrored = rows[..., 1 : (width + 1) // 2].flip(-2, -1).roll(1, dims=-2).conj()
    full = torch.cat((rows, mirrored), dim=-1)  # (..., H/factor, W)
    return full.reshape(*lead, height // factor, factor, width // factor).mean(dim=-2)


def alias_prox(
    v: Tensor, h: Tensor, folded_power: Tensor, back_projected: Tensor, gamma: Tensor, factor: int
) -> Tensor:
    """Exact prox of x -> decimate(h * x), by the Woodbury identity in the alias domain.

    b = V + gamma conj(h) tile(Y), X = b - gamma conj(h) tile(fold(h b) / (1 + gamma fold(|h|^2))).
    h, back_projected = conj(h) tile(Y) are full spectra (B|1, C|1, H, W); folded_power =
    fold(|h|^2).
    """
    half = v.shape[-1] // 2 + 1  # the other columns are the conjugates of these
    b = torch.fft.rfft2(v) + gamma * back_projected[..., :half]
    inner = alias_fold_half(h[..., :half] * b, factor, v.shape[-1])  # (B, C, H/s, W/s)
    inner = inner * (gamma / (1.0 + gamma * folded_power))
    tiled = inner.repeat(1, 1, factor, factor // 2 + 1)[..., :half]
    z: Tensor = torch.fft.irfft2(b - h[..., :half].conj() * tiled, s=v.shape[-2:])
    return z


def masked_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """(gamma m y + v) / (gamma m + 1) per entry, for a mask with values in {0, 1}."""
    weight = gamma * mask
    return (weight * y + v) / (weight + 1.0)


def observed_prox(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """`masked_prox`, y not used where m = 0."""
    return masked_prox(v, mask, keep_observed(y, mask), gamma)


def combine_anchors(x: Tensor, x_t: Tensor, x_weight: Tensor) -> Tensor:
    """v = a x + (1 - a) x_t, the two quadratic anchors as one; a = (1/rho^2) / (1/rho^2 +
    1/sigma_n^2).
    """
    return torch.lerp(x_t, x, x_weight)


def running_moments(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Welford's update: mean and sum of squared deviations after the count-th value x, from 1."""
    delta = x - mean
    mean = mean + delta / count
    return mean, m2 + delta * (x - mean)


def gaussian_noise(
    seed: int | Tensor,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    shape: tuple[int, int, int, int],
) -> Tensor:
    """Standard normals (P, C, H, W) as float32, a pure function of (seed, image, sample, step)."""
    return philox_normals(seed, image_ids, sample_ids, step, shape).to(torch.float32)


def langevin_noise(
    z: Tensor, scale: Tensor, seed: int | Tensor, image_ids: Tensor, sample_ids: Tensor, step: int
) -> Tensor:
    """z + scale * eps with eps = gaussian_noise(seed, image_ids, sample_ids, step, z.shape)."""
    pairs, channels, height, width = z.shape
    eps = gaussian_noise(seed, image_ids, sample_ids, step, (pairs, channels, height, width))
    return torch.addcmul(z, scale, eps.to(z))


def reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    sigma_n: float,
    sigma_next: float,
    zeta: float,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
    *,
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """x_t <- x0 + sigma_next (sqrt(1 - zeta) (x_t - x0) / sigma_n + sqrt(zeta) eps), x0 clamped."""
    x0 = x0_hat if clamp is None else x0_hat.clamp(*clamp)
    pairs, channels, height, width = x_t.shape
    eps = gaussian_noise(seed, image_ids, sample_ids, step, (pairs, channels, height, width))
    return reverse_sum(x0, x_t, eps, sigma_next, math.sqrt(1.0 - zeta) / sigma_n, math.sqrt(zeta))


def reverse_sum(
    x0_hat: Tensor,
    x_t: Tensor,
    eps: Tensor,
    sigma_next: float | Tensor,
    kept: float | Tensor,
    renewed: float | Tensor,
) -> Tensor:
    """x0 + sigma_next (kept (x_t - x0) + renewed eps)."""
    return x0_hat + sigma_next * (kept * (x_t - x0_hat) + renewed * eps.to(x_t))


def fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """fourier_prox(a x + (1 - a) x_t) + scale * eps; without x_t the anchor is x."""
    v = x if x_t is None else combine_anchors(x, x_t, x_weight)
    z = fourier_prox(v, power, back_projected, gamma)
    return langevin_noise(z, scale, seed, image_ids, sample_ids, step)


def alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    factor: int,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """alias_prox(a x + (1 - a) x_t) + scale * eps; without x_t the anchor is x."""
    v = x if x_t is None else combine_anchors(x, x_t, x_weight)
    z = alias_prox(v, h, folded_power, back_projected, gamma, factor)
    return langevin_noise(z, scale, seed, image_ids, sample_ids, step)


def masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """masked_prox(a x + (1 - a) x_t) + scale * eps; without x_t the anchor is x."""
    v = x if x_t is None else combine_anchors(x, x_t, x_weight)
    z = masked_prox(v, mask, y, gamma)
    return langevin_noise(z, scale, seed, image_ids, sample_ids, step)


def fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """F^-1 masked_prox(F v, mask, y) + scale * eps, v = a x + (1 - a) x_t; channels are (re, im).

    F = fftshift fft2(ifftshift v), orthonormal: DC of mask and y lies in the middle.
    """
    v = x if x_t is None else combine_anchors(x, x_t, x_weight)
    z = fourier_mask_prox(v, mask, y, gamma)
    return langevin_noise(z, scale, seed, image_ids, sample_ids, step)
