"""A law that nothing breaks proves nothing: each broken operator is rejected by its law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import laws
import pytest
import torch
from operator_cases import random_kernel, random_mask
from torch import Tensor

from latino_engine import ops
from latino_engine.operators import (
    MRI,
    Blur,
    BorderedBlur,
    Colorization,
    Compose,
    CompressedSensing,
    Demosaicing,
    Denoising,
    Inpainting,
    SpatiallyVaryingBlur,
    Stack,
    SuperResolution,
    Tomography,
)
from latino_engine.operators.parts.hadamard import hadamard_2d
from latino_engine.operators.parts.spectra import kernel_spectrum

pytestmark = pytest.mark.usefixtures("one_thread")

KERNEL = random_kernel(4, 3)


class AdjointWithoutConjugate(Blur):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)


class KernelTransposedNotFlipped(Blur):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return Blur(self.kernel.mT, 0.0).A(y)


class ScaledOutput(Blur):
    def A(self, x: Tensor) -> Tensor:
        return 1.001 * super().A(x)


class Zeros(Blur):
    def A(self, x: Tensor) -> Tensor:
        return 0 * super().A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return 0 * super().A_adjoint(y)


class ZeroProx(Blur):
    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        return torch.zeros_like(v)


class HalfGamma(Blur):
    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        return super().prox(v, y, gamma / 2)


class IgnoresGamma(Denoising):
    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        return super().prox(v, y, 1.0)


class OneGammaForAll(Denoising):
    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        return super().prox(v, y, gamma if isinstance(gamma, float) else float(gamma[0]))


class DecimationOffByOne(SuperResolution):
    def A(self, x: Tensor) -> Tensor:
        return super().A(torch.roll(x, (-1, -1), dims=(-2, -1)))


class SquaredSpectrum(SuperResolution):
    """h^2 in the place of |h|^2, equal for symmetric kernels only."""

    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        h, _ = self._spectra(y, (v.shape[-2], v.shape[-1]))
        s = self.factor
        gamma = ops.per_image(gamma, v)
        back_projected = h.conj() * torch.fft.fft2(y).repeat(1, 1, s, s)
        b = torch.fft.fft2(v) + gamma * back_projected
        folded = (h**2).reshape(1, 1, s, v.shape[-2] // s, s, v.shape[-1] // s).mean(dim=(-4, -2))
        inner = (h * b).reshape(*b.shape[:2], s, v.shape[-2] // s, s, v.shape[-1] // s)
        inner = inner.mean(dim=(-4, -2)) / (1 + gamma * folded)
        return torch.fft.ifft2(b - gamma * h.conj() * inner.repeat(1, 1, s, s)).real


class Affine(Blur):
    def A(self, x: Tensor) -> Tensor:
        return super().A(x) + 1e-3


class SoftMask(Inpainting):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return y


class MirrorOffByOne(MRI):
    """k -> -k by a flip alone, wrong for a DC that is not mirrored onto itself."""

    def _symmetric_mask(self, like: Tensor) -> Tensor:
        corner = torch.fft.ifftshift(self.mask.to(like), dim=(-2, -1))
        return ((corner + corner.flip(-2, -1)) / 2)[..., : corner.shape[-1] // 2 + 1].contiguous()


class MeanOverTheBatch(Denoising):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return y * (1 + 1e-3 * y.mean())


class ReadsStorage(Blur):
    def A(self, x: Tensor) -> Tensor:
        h = kernel_spectrum(self.kernel.to(x.dtype), (x.shape[-2], x.shape[-1]))
        raw = torch.as_strided(x, x.shape, x.contiguous().stride())
        return torch.fft.irfft2(h * torch.fft.rfft2(raw), s=x.shape[-2:])


class TakeForgets(Blur):
    def take(self, index: Tensor) -> Blur:
        return TakeForgets(self.kernel[: len(index)], 0.02)


class WritesIntoV(Denoising):
    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        return v.copy_(super().prox(v, y, gamma))


class MosaicFlipped(Demosaicing):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return super().A_adjoint(y).flip(1)


class MosaicWithoutMask(Demosaicing):
    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        weight = ops.per_image(gamma, v)
        return (weight * y + v) / (weight + 1)


class WeightsOfThePseudoInverse(Colorization):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return super().A_adjoint(y) / float(self.weights.square().sum())


class EnergyForgotten(Colorization):
    def prox(self, v: Tensor, y: Tensor, gamma: Any) -> Tensor:
        weight, w = ops.per_image(gamma, v), self._weights(v)
        return v + weight / (1 + weight) * w * (y - (w * v).sum(dim=1, keepdim=True))


class BorderCutOff(BorderedBlur):
    """What falls outside is dropped and not folded back."""

    def _folded(self, padded: Tensor) -> Tensor:
        above, left = self._before
        rows, columns = (k - 1 for k in self.kernel.shape[-2:])
        height, width = padded.shape[-2] - rows, padded.shape[-1] - columns
        return padded[..., above : above + height, left : left + width]


class CosinesForAnyKernel(BorderedBlur):
    """The DCT step for a kernel that it does not diagonalise."""

    is_symmetric = True  # type: ignore[assignment]


class WeightsAfterTheBlur(SpatiallyVaryingBlur):
    def A_adjoint(self, y: Tensor) -> Tensor:
        h, weights = self._parts("y", y)
        spectrum = h.conj() * torch.fft.rfft2(weights * y[:, :, None])
        return torch.fft.irfft2(spectrum.sum(dim=2), s=y.shape[-2:])


class RaysTheOtherWay(Tomography):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return super().A_adjoint(y.flip(-1))


class SignsOnOneSide(CompressedSensing):
    def A_adjoint(self, y: Tensor) -> Tensor:
        height, width = self.image_size
        return hadamard_2d(self.coefficients(y))[..., :height, :width]


class LevelsForgotten(Stack):
    """Every part with the same weight in the adjoint, whatever its noise."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        pairs = zip(self.operators, self._parts(y), strict=True)
        return torch.stack([op.A_adjoint(part) for op, part in pairs]).sum(dim=0)


class AdjointsInTheSameOrder(Compose):
    def A_adjoint(self, y: Tensor) -> Tensor:
        for op in self.operators:
            y = op.A_adjoint(y)
        return y


STACKED = (Blur(KERNEL, 0.1), Denoising(0.3))
CHAIN = (Blur(KERNEL, 0.0), Inpainting(random_mask(12, 10), 0.1))

BROKEN: tuple[tuple[Any, Callable[..., Any], int], ...] = (
    (AdjointWithoutConjugate(KERNEL, 0.02), laws.check_adjoint, 2),
    (AdjointWithoutConjugate(KERNEL, 0.02), laws.check_autograd_adjoint, 2),
    (KernelTransposedNotFlipped(KERNEL, 0.02), laws.check_adjoint, 2),
    (KernelTransposedNotFlipped(KERNEL, 0.02), laws.check_autograd_adjoint, 2),
    (ScaledOutput(KERNEL, 0.02), laws.check_adjoint, 2),
    (ScaledOutput(KERNEL, 0.02), laws.check_autograd_adjoint, 2),
    (Zeros(KERNEL, 0.02), laws.check_linear, 2),
    (Zeros(KERNEL, 0.02), laws.check_adjoint, 2),
    (ZeroProx(KERNEL, 0.02), laws.check_prox_optimal, 2),
    (ZeroProx(KERNEL, 0.02), laws.check_prox_limits, 2),
    (HalfGamma(KERNEL, 0.02), laws.check_prox_optimal, 2),
    (IgnoresGamma(0.02), laws.check_prox_limits, 2),
    (OneGammaForAll(0.02), laws.check_prox_optimal, 2),
    (DecimationOffByOne(2, 0.02, KERNEL), laws.check_adjoint, 2),
    (DecimationOffByOne(2, 0.02, KERNEL), laws.check_prox_optimal, 2),
    (SquaredSpectrum(2, 0.02, KERNEL), laws.check_prox_optimal, 2),
    (Affine(KERNEL, 0.02), laws.check_linear, 2),
    (SoftMask(random_mask(12, 10), 0.02), laws.check_adjoint, 2),
    (MirrorOffByOne(random_mask(12, 10), 0.02, real_image=True), laws.check_prox_optimal, 1),
    (MeanOverTheBatch(0.02), laws.check_batch_equals_one_by_one, 2),
    (TakeForgets(random_kernel(3, 1, 4, 3), 0.02), laws.check_batch_equals_one_by_one, 2),
    (ReadsStorage(KERNEL, 0.02), laws.check_noncontiguous, 2),
    (WritesIntoV(0.02), laws.check_inputs_unchanged, 2),
    (MosaicFlipped(0.02), laws.check_adjoint, 3),
    (MosaicWithoutMask(0.02), laws.check_prox_optimal, 3),
    (WeightsOfThePseudoInverse(0.02), laws.check_adjoint, 3),
    (EnergyForgotten(0.02), laws.check_prox_optimal, 3),
    (BorderCutOff(KERNEL, 0.02), laws.check_adjoint, 2),
    (BorderCutOff(KERNEL, 0.02, "replicate"), laws.check_autograd_adjoint, 2),
    (CosinesForAnyKernel(random_kernel(3, 5), 0.02), laws.check_prox_optimal, 2),
    (WeightsAfterTheBlur(random_kernel(2, 2, 4, 3), 0.02), laws.check_adjoint, 2),
    (RaysTheOtherWay([10.0, 40.0, 75.0], (12, 10), 0.02), laws.check_adjoint, 2),
    (SignsOnOneSide(0.5, (12, 10), 0.02), laws.check_adjoint, 2),
    (LevelsForgotten(STACKED, (2, 12, 10)), laws.check_adjoint, 2),
    (AdjointsInTheSameOrder(CHAIN), laws.check_adjoint, 2),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=("f32", "f64"))
@pytest.mark.parametrize(
    ("op", "law", "channels"),
    BROKEN,
    ids=[f"{type(b[0]).__name__}-{b[1].__name__}" for b in BROKEN],
)
def test_a_broken_operator_is_rejected(
    op: Any, law: Callable[..., Any], channels: int, dtype: torch.dtype
) -> None:
    x = torch.rand(3, channels, 12, 10, dtype=dtype)
    with pytest.raises(AssertionError):
        law(op, x)


def test_the_whole_operators_pass_where_the_broken_ones_fail() -> None:
    """The rejections above are the breakage's doing."""
    x = torch.rand(3, 2, 12, 10)
    per_sample = Blur(random_kernel(3, 1, 4, 3), 0.02)
    for op in (Blur(KERNEL, 0.02), Denoising(0.02), SuperResolution(2, 0.02, KERNEL), per_sample):
        laws.check_linear(op, x)
        laws.check_adjoint(op, x)
        laws.check_autograd_adjoint(op, x)
        laws.check_prox_optimal(op, x)
        laws.check_prox_limits(op, x)
        laws.check_batch_equals_one_by_one(op, x)
        laws.check_noncontiguous(op, x)
        laws.check_inputs_unchanged(op, x)


def test_the_whole_operators_of_three_channels_pass_too() -> None:
    x = torch.rand(3, 3, 12, 10)
    varying = SpatiallyVaryingBlur(random_kernel(2, 2, 4, 3), 0.02)
    sensed = CompressedSensing(0.5, (12, 10), 0.02)
    for op in (Demosaicing(0.02), Colorization(0.02), BorderedBlur(KERNEL, 0.02), varying, sensed):
        laws.check_adjoint(op, x)
        laws.check_autograd_adjoint(op, x)
    for op in (Tomography([10.0, 40.0, 75.0], (12, 10), 0.02), Stack(STACKED, (3, 12, 10))):
        laws.check_adjoint(op, x)
    laws.check_adjoint(Compose(CHAIN), x)
    laws.check_prox_optimal(Demosaicing(0.02), x)
    laws.check_prox_optimal(Colorization(0.02), x)


def test_nan_is_never_within_a_tolerance() -> None:
    with pytest.raises(AssertionError):
        laws.require("linear", torch.float32, float("nan"))
