"""Sensors, borders, sums and chains of operators, and noise that is not Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor
from torch.nn import functional as F

from benchmarks.operations import eager
from benchmarks.operations.model import GAMMA, NOISE_STD, Model, closed, iterative
from latino_engine.operators import (
    Blur,
    BorderedBlur,
    Colorization,
    Compose,
    CompressedSensing,
    Demosaicing,
    Denoising,
    Inpainting,
    Luminance,
    PhaseRetrieval,
    PoissonNoise,
    SpatiallyVaryingBlur,
    Stack,
    Tomography,
)
from latino_engine.operators.parts.anscombe import stabilised, stabilised_mean

_ANGLES, _TILES, _RATIO, _PEAK, _NEWTON_STEPS = 12, 2, 0.25, 50.0, 10
_NONLINEAR_BOUND = 1e-4  # ten iterations carry their rounding along


def sensor_models(height: int, width: int, device: str) -> list[Model]:
    """One model of each kind at one size."""
    generator = torch.Generator().manual_seed(3)
    mask = (torch.rand(height, width, generator=generator) < 0.5).float().to(device)
    blur, silent = (Blur.gaussian(1.6, noise_std, size=13) for noise_std in (NOISE_STD, 0.0))
    kernel = blur.kernel.to(device)
    return [
        _bordered(kernel),
        _colorization(device),
        _luminance(blur, kernel, device),
        _chain(silent, kernel, mask),
        _sum(blur, kernel, mask),
        _compressed_sensing(height, width, device),
        _demosaicing(height, width, device),
        _varying_blur(height, width, device),
        _tomography(height, width, device),
        _phase_retrieval(height, width, device),
        _poisson(),
    ]


def _bordered(kernel: Tensor) -> Model:
    def A(x: Tensor) -> Tensor:
        """Mirrors pixels and convolves; it is its own adjoint, as the kernel is symmetric."""
        taps = kernel.to(x).reshape(1, 1, *kernel.shape[-2:])
        r = taps.shape[-1] // 2
        x = torch.cat((x[..., :r, :].flip(-2), x, x[..., -r:, :].flip(-2)), dim=-2)
        x = torch.cat((x[..., :r].flip(-1), x, x[..., -r:].flip(-1)), dim=-1)
        channels = x.shape[1]
        return F.conv2d(x, taps.expand(channels, 1, -1, -1), groups=channels)

    return iterative("BorderedBlur", BorderedBlur(kernel.cpu(), NOISE_STD), 3, A, A)


def _colorization(device: str) -> Model:
    op = Colorization(NOISE_STD)

    def prox(v: Tensor, y: Tensor, w: Tensor, gamma: float) -> Tensor:
        residual = y - (w * v).sum(dim=1, keepdim=True)
        return v + gamma / (1.0 + gamma * w.square().sum()) * w * residual

    return closed(
        "Colorization", op, 3, lambda x, w: (w * x).sum(dim=1, keepdim=True),
        lambda y, w: w * y, prox, op.weights.to(device)[:, None, None],
    )  # fmt: skip


def _luminance(blur: Blur, kernel: Tensor, device: str) -> Model:
    op = Luminance(blur)

    def A(x: Tensor, w: Tensor) -> Tensor:
        return eager.blur_A((w * x).sum(dim=1, keepdim=True), kernel.to(x))

    def A_adjoint(y: Tensor, w: Tensor) -> Tensor:
        return w * eager.blur_A_adjoint(y, kernel.to(y))

    def prox(v: Tensor, y: Tensor, w: Tensor, gamma: float) -> Tensor:
        grey, energy = (w * v).sum(dim=1, keepdim=True), float(w.square().sum())
        moved = eager.blur_prox(grey, y, kernel.to(v), gamma * energy)
        return v + w / energy * (moved - grey)

    weights = op.weights.to(device)[:, None, None]
    return closed("Luminance", op, 3, A, A_adjoint, prox, weights)


def _chain(silent: Blur, kernel: Tensor, mask: Tensor) -> Model:
    op = Compose([silent, Inpainting(mask, NOISE_STD)])
    return iterative(
        "Compose", op, 3, lambda x: mask.to(x) * eager.blur_A(x, kernel.to(x)),
        lambda y: eager.blur_A_adjoint(mask.to(y) * y, kernel.to(y)),
    )  # fmt: skip


def _sum(blur: Blur, kernel: Tensor, mask: Tensor) -> Model:
    height, width = mask.shape
    op = Stack([blur, Inpainting(mask, NOISE_STD)], (3, height, width))

    def A(x: Tensor) -> Tensor:
        parts = eager.blur_A(x, kernel.to(x)), mask.to(x) * x
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def A_adjoint(y: Tensor) -> Tensor:
        blurred, masked = (part.reshape(-1, 3, height, width) for part in y.chunk(2, dim=1))
        return eager.blur_A_adjoint(blurred, kernel.to(y)) + mask.to(y) * masked

    return iterative("Stack", op, 3, A, A_adjoint)


def _compressed_sensing(height: int, width: int, device: str) -> Model:
    op = CompressedSensing(_RATIO, (height, width), NOISE_STD)
    # Which patterns: the operator's own numbers; what is done with them is dense products here.
    signs, kept = (part.to(device) for part in op._patterns(torch.zeros(1, dtype=torch.float64)))
    sides = [1 << (side - 1).bit_length() for side in (height, width)]
    H, W = (torch.from_numpy(hadamard(n) / math.sqrt(n)).to(device) for n in sides)

    def A(x: Tensor) -> Tensor:
        padded = F.pad(signs.to(x) * x, (0, sides[1] - width, 0, sides[0] - height))
        return (H.to(x) @ padded @ W.to(x)).flatten(2)[..., kept]

    def A_adjoint(y: Tensor) -> Tensor:
        plane = y.new_zeros(*y.shape[:2], sides[0] * sides[1])
        plane[..., kept] = y
        image = H.to(y) @ plane.reshape(*y.shape[:2], *sides) @ W.to(y)
        return signs.to(y) * image[..., :height, :width]

    return iterative("CompressedSensing", op, 3, A, A_adjoint)


def _demosaicing(height: int, width: int, device: str) -> Model:
    rows, columns = torch.arange(height)[:, None] % 2, torch.arange(width) % 2
    red, blue = (rows + columns == 0), (rows + columns == 2)
    colours = torch.stack((red, ~(red | blue), blue)).float().to(device)
    return closed(
        "Demosaicing", Demosaicing(NOISE_STD), 3, lambda x, m: (m * x).sum(dim=1, keepdim=True),
        lambda y, m: m * y, eager.masked_prox, colours,
    )  # fmt: skip


def _varying_blur(height: int, width: int, device: str) -> Model:
    stds = (1.0, 1.5, 2.0, 2.5)
    kernels = torch.stack([Blur.gaussian(std, 0.0, size=13).kernel.squeeze() for std in stds])
    grid = kernels.reshape(_TILES, _TILES, 13, 13)
    ramps = []
    for length in (height, width):
        place = ((torch.arange(length).double() + 0.5) * _TILES / length - 0.5).clamp(0, _TILES - 1)
        ramps.append(torch.cos(0.5 * torch.pi * (place - torch.arange(_TILES)[:, None])) ** 2)
    weights = torch.einsum("rh,sw->rshw", *ramps).flatten(0, 1).to(device)
    kernels = kernels.to(device)

    def A(x: Tensor) -> Tensor:
        h = eager.spectrum(kernels.to(x), (height, width))
        parts = h * torch.fft.fft2(weights.to(x) * x[:, :, None])
        return torch.fft.ifft2(parts).real.sum(dim=2)

    def A_adjoint(y: Tensor) -> Tensor:
        h = eager.spectrum(kernels.to(y), (height, width)).conj()
        parts = torch.fft.ifft2(h * torch.fft.fft2(y)[:, :, None]).real
        return (weights.to(y) * parts).sum(dim=2)

    op = SpatiallyVaryingBlur(grid, NOISE_STD)
    return iterative("SpatiallyVaryingBlur", op, 3, A, A_adjoint)


def _tomography(height: int, width: int, device: str) -> Model:
    op = Tomography(_ANGLES, (height, width), NOISE_STD)
    t = torch.arange(op.num_detectors, device=device).double() - (op.num_detectors - 1) / 2

    def ray_sum(x: Tensor, angle: float) -> Tensor:
        """Line integrals at one angle: linear interpolation along every row, or every column."""
        cos, sin = math.cos(angle), math.sin(angle)
        if abs(cos) < abs(sin):
            x, offset, slope, steep = x.mT, -t / sin, cos / sin, abs(sin)
        else:
            offset, slope, steep = t / cos, sin / cos, abs(cos)
        steps, across = x.shape[-2:]
        step = torch.arange(steps, device=x.device).double() - (steps - 1) / 2
        place = offset[:, None] + slope * step + (across - 1) / 2  # (D, steps)
        low = place.floor()
        padded = F.pad(x, (1, 1)).flatten(2)
        row = torch.arange(steps, device=x.device) * (across + 2)
        total = x.new_zeros(())
        for neighbour, weight in ((low, 1.0 - (place - low)), (low + 1.0, place - low)):
            column = (neighbour + 1.0).clamp(0, across + 1).long()  # zeros stand at both ends
            total = total + weight.to(x) * padded[..., row + column]
        return total.sum(dim=-1) / steep

    def A(x: Tensor) -> Tensor:
        angles = [math.pi * k / _ANGLES for k in range(_ANGLES)]
        sinogram = torch.stack([ray_sum(x, angle) for angle in angles], dim=2)
        return sinogram / max(height, width)

    return iterative("Tomography", op, 3, A, _transpose(A, 3, (height, width)))


def _transpose(
    A: Callable[[Tensor], Tensor], channels: int, size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """Differentiates automatically, as one does for a model that was written forwards only."""

    def A_adjoint(y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = y.new_zeros(len(y), channels, *size).requires_grad_()
            (image,) = torch.autograd.grad(A(x), x, y)
        return image

    return A_adjoint


def _phase_retrieval(height: int, width: int, device: str) -> Model:
    op = PhaseRetrieval.coded_diffraction((height, width), NOISE_STD, num_masks=2)
    phases = op.masks.to(device)

    def masks(like: Tensor) -> Tensor:
        return phases.to(torch.complex128 if like.dtype == torch.float64 else torch.complex64)

    def field(x: Tensor) -> Tensor:
        return torch.fft.fft2(masks(x) * x[:, :, None], norm="ortho")

    def prox(v: Tensor, y: Tensor) -> Tensor:
        m, x = masks(v), v
        power = m.abs().square().sum(dim=0)
        for _ in range(op.num_iter):
            z = field(x)
            back = torch.fft.ifft2(torch.polar(y, z.angle()), norm="ortho")
            x = (GAMMA * (m.conj() * back).sum(dim=2).real + v) / (GAMMA * power + 1.0)
        return x

    plain = {"A": lambda x: field(x).abs(), "prox": prox}
    return Model("PhaseRetrieval", op, 3, plain, _NONLINEAR_BOUND)


def _poisson() -> Model:
    """Gauss-Newton steps on the stabilised counts, pixel by pixel."""
    half = 2.0 * np.sqrt(_PEAK)

    def prox(v: Tensor, y: Tensor) -> Tensor:
        x, target = v, stabilised(_PEAK * y)
        for _ in range(_NEWTON_STEPS):
            mean, slope = stabilised_mean(_PEAK * x)
            residual, slope = (mean - target) / half, _PEAK * slope / half
            x = x - (GAMMA * slope * residual + x - v) / (GAMMA * slope**2 + 1.0)
        return x

    op = PoissonNoise(Denoising(0.0), _PEAK)
    return Model("PoissonNoise", op, 3, {"A": lambda x: x.clone(), "prox": prox}, _NONLINEAR_BOUND)
