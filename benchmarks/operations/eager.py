"""Operators as plain torch: what one writes from the formula, everything computed at every call.

They share no code with `latino_engine.operators`, so they are an oracle as well as a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def spectrum(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """fft2 of the kernel with its centre at the origin."""
    kh, kw = kernel.shape[-2:]
    padded = F.pad(kernel, (0, size[1] - kw, 0, size[0] - kh))
    return torch.fft.fft2(torch.roll(padded, (-(kh // 2), -(kw // 2)), dims=(-2, -1)))


def blur_A(x: Tensor, kernel: Tensor) -> Tensor:
    """h * x."""
    return torch.fft.ifft2(spectrum(kernel, x.shape[-2:]) * torch.fft.fft2(x)).real


def blur_A_adjoint(y: Tensor, kernel: Tensor) -> Tensor:
    """Correlation."""
    return torch.fft.ifft2(spectrum(kernel, y.shape[-2:]).conj() * torch.fft.fft2(y)).real


def blur_prox(v: Tensor, y: Tensor, kernel: Tensor, gamma: float) -> Tensor:
    """IFFT[(gamma conj(h) Y + V) / (gamma |h|^2 + 1)]."""
    h = spectrum(kernel, v.shape[-2:])
    X = gamma * h.conj() * torch.fft.fft2(y) + torch.fft.fft2(v)
    return torch.fft.ifft2(X / (gamma * h.abs() ** 2 + 1.0)).real


def sr_A(x: Tensor, kernel: Tensor, factor: int) -> Tensor:
    """(h * x)[::s, ::s]."""
    return blur_A(x, kernel)[..., ::factor, ::factor]


def sr_A_adjoint(y: Tensor, kernel: Tensor, factor: int) -> Tensor:
    """Zeros between the pixels, then correlation."""
    x = y.new_zeros(*y.shape[:2], factor * y.shape[2], factor * y.shape[3])
    x[..., ::factor, ::factor] = y
    return blur_A_adjoint(x, kernel)


def sr_prox(v: Tensor, y: Tensor, kernel: Tensor, factor: int, gamma: float) -> Tensor:
    """v + gamma A^T z, (1 + gamma A A^T) z = y - A v: a division per small frequency."""
    size = (v.shape[-2], v.shape[-1])
    power = spectrum(kernel, size).abs() ** 2
    blocks = power.reshape(*power.shape[:-2], factor, size[0] // factor, factor, size[1] // factor)
    folded = blocks.mean(dim=(-4, -2))
    residual = torch.fft.fft2(y - sr_A(v, kernel, factor))
    z = torch.fft.ifft2(residual / (1.0 + gamma * folded)).real
    return v + gamma * sr_A_adjoint(z, kernel, factor)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """m x."""
    return mask * x


def masked_prox(v: Tensor, y: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """(gamma m y + v) / (gamma m + 1)."""
    return (gamma * mask * y + v) / (gamma * mask + 1.0)


def _to_complex(x: Tensor) -> Tensor:
    return torch.complex(x[:, 0], x[:, 1])


def _to_channels(x: Tensor) -> Tensor:
    return torch.stack((x.real, x.imag), dim=1)


def _centred(transform: Callable[..., Tensor], x: Tensor) -> Tensor:
    shifted = torch.fft.ifftshift(x, dim=(-2, -1))
    return torch.fft.fftshift(transform(shifted, norm="ortho"), dim=(-2, -1))


def mri_A(x: Tensor, mask: Tensor) -> Tensor:
    """m F x; (re, im) channels."""
    return mask * _to_channels(_centred(torch.fft.fft2, _to_complex(x)))


def mri_A_adjoint(y: Tensor, mask: Tensor) -> Tensor:
    """F^-1 m y."""
    return _to_channels(_centred(torch.fft.ifft2, _to_complex(mask * y)))


def mri_prox(v: Tensor, y: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """F^-1 of the masked data step of F v."""
    X = masked_prox(_to_channels(_centred(torch.fft.fft2, _to_complex(v))), y, mask, gamma)
    return _to_channels(_centred(torch.fft.ifft2, _to_complex(X)))


def coils_A(x: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
    """m F(s_n x): (B, 2, N, H, W)."""
    return mask[:, :, None] * _to_channels(_centred(torch.fft.fft2, maps * _to_complex(x)[:, None]))


def coils_A_adjoint(y: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
    """sum_n conj(s_n) F^-1 m y_n."""
    images = _centred(torch.fft.ifft2, _to_complex(mask[:, :, None] * y))
    return _to_channels((maps.conj() * images).sum(dim=1))


def cg_prox(
    v: Tensor,
    y: Tensor,
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
    gamma: float,
    tol: float = 1e-6,
) -> Tensor:
    """(1 + gamma A^T A) x = v + gamma A^T y by conjugate gradients from v."""
    rhs = v + gamma * A_adjoint(y)
    x, r = v, rhs - v - gamma * A_adjoint(A(v))
    p, rr, goal = r, r.square().sum(), tol**2 * rhs.square().sum()
    while rr > goal:
        q = p + gamma * A_adjoint(A(p))
        alpha = rr / (p * q).sum()
        x, r = x + alpha * p, r - alpha * q
        last, rr = rr, r.square().sum()
        p = r + rr / last * p
    return x


def differences(x: Tensor) -> Tensor:
    """x and its circular differences down and to the right: a user's own model, (B, 3, C, H, W)."""
    down, right = torch.roll(x, -1, dims=-2) - x, torch.roll(x, -1, dims=-1) - x
    return torch.stack((0.5 * x, down, right), dim=1)


def differences_adjoint(y: Tensor) -> Tensor:
    """The adjoint of `differences`."""
    down, right = y[:, 1], y[:, 2]
    down = torch.roll(down, 1, dims=-2) - down
    right = torch.roll(right, 1, dims=-1) - right
    return 0.5 * y[:, 0] + down + right


def _dct() -> Tensor:
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi * torch.outer(k, 2 * k + 1) / 16.0) / 2.0
    matrix[0] = math.sqrt(1.0 / 8.0)
    return matrix


def _colour(x: Tensor) -> Tensor:
    """RGB -> YCbCr without offsets (ITU-R BT.601, as JFIF has it), (3, 3)."""
    rows = [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.886 / 1.772],
        [0.701 / 1.402, -0.587 / 1.402, -0.114 / 1.402],
    ]
    return torch.tensor(rows, dtype=torch.float64).to(x)


def _coefficients(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1], sides multiples of 8 -> DCT coefficients (B, 3, H/8, W/8, 8, 8)."""
    planes = torch.tensordot(255.0 * x, _colour(x), dims=([1], [1])).permute(0, 3, 1, 2)
    planes = planes - torch.tensor([128.0, 0.0, 0.0]).to(x)[:, None, None]
    dct = _dct().to(x)
    return dct @ planes.unfold(2, 8, 8).unfold(3, 8, 8) @ dct.T


def _image(coefficients: Tensor) -> Tensor:
    """The inverse."""
    dct = _dct().to(coefficients)
    blocks = dct.T @ coefficients @ dct  # (B, 3, R, S, 8, 8)
    batch, channels, rows, columns = blocks.shape[:4]
    planes = blocks.permute(0, 1, 2, 4, 3, 5).reshape(batch, channels, 8 * rows, 8 * columns)
    planes = planes + torch.tensor([128.0, 0.0, 0.0]).to(planes)[:, None, None]
    inverse = torch.linalg.inv(_colour(planes).double()).to(planes) / 255.0
    return torch.tensordot(planes, inverse, dims=([1], [1])).permute(0, 3, 1, 2)


def jpeg_A(x: Tensor, tables: Tensor) -> Tensor:
    """Coefficients rounded to multiples of the tables (3, 8, 8)."""
    q = tables.to(x)[:, None, None]
    return _image(q * torch.round(_coefficients(x) / q))
