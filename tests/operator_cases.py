"""The linear operators of the tests: a name, how to build one, and its image size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    LinearOperator,
    SpatiallyVaryingBlur,
    Stack,
    SuperResolution,
    Tomography,
)

BATCH = 3
NOISE = torch.tensor([0.02, 0.05, 0.1])


@dataclass(frozen=True)
class Case:
    """build(H, W) is an operator for images (3, channels, H, W), sides multiples of factor."""

    name: str
    build: Callable[[int, int], Any]
    channels: int = 3
    factor: int = 1
    uses_cg: bool = False


def random(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_kernel(*shape: int) -> Tensor:
    """Lopsided, with negative taps, sum 1."""
    kernel = torch.rand(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kernel = kernel - 0.2
    return kernel / kernel.sum(dim=(-2, -1), keepdim=True)


def symmetric_kernel(kh: int, kw: int) -> Tensor:
    """Its own mirror image in both axes, with negative taps, sum 1."""
    kernel = random_kernel(kh, kw)
    kernel = kernel + kernel.flip(0)
    return (kernel + kernel.flip(1)) / 4


def random_mask(*shape: int) -> Tensor:
    mask = (random(*shape, seed=3) > 0).double()
    mask[..., shape[-2] // 2, shape[-1] // 2] = 1.0
    return mask


class Gradient:
    """x -> forward differences with repeated border, both directions on a fifth axis; picklable."""

    def __call__(self, x: Tensor) -> Tensor:
        down = torch.diff(x, dim=-2, append=x[..., -1:, :])
        right = torch.diff(x, dim=-1, append=x[..., -1:])
        return torch.stack((down, right), dim=1) + 0.5 * x[:, None]


class GradientAdjoint:
    """The adjoint of `Gradient`, written out."""

    def __call__(self, y: Tensor) -> Tensor:
        down, right = y[:, 0], y[:, 1]
        x = 0.5 * (down + right)
        inner = down[..., :-1, :]
        x = (
            x
            + torch.nn.functional.pad(inner, (0, 0, 1, 0))
            - torch.nn.functional.pad(inner, (0, 0, 0, 1))
        )
        inner = right[..., :-1]
        return x + torch.nn.functional.pad(inner, (1, 0)) - torch.nn.functional.pad(inner, (0, 1))


def coil_maps(*shape: int) -> Tensor:
    """Complex maps whose squares sum to about 1."""
    maps = torch.complex(random(*shape, seed=5), random(*shape, seed=6))
    return maps / math.sqrt(2 * shape[-3])


LINEAR_CASES = (
    Case("blur_gaussian", lambda h, w: Blur.gaussian(1.0, 0.02, size=7)),
    Case("blur_even_kernel", lambda h, w: Blur(random_kernel(4, 6).numpy(), 0.02)),
    Case("blur_per_sample", lambda h, w: Blur(random_kernel(BATCH, 1, 3, 4), NOISE)),
    Case("blur_per_channel", lambda h, w: Blur(random_kernel(1, 3, 5, 2), NOISE)),
    Case("sr_bicubic", lambda h, w: SuperResolution(2, 0.02), factor=2),
    Case("sr_gaussian", lambda h, w: SuperResolution(2, NOISE, kernel="gaussian"), factor=2),
    Case("sr_odd_factor", lambda h, w: SuperResolution(3, 0.02, random_kernel(4, 5)), factor=3),
    Case(
        "sr_per_sample",
        lambda h, w: SuperResolution(2, 0.02, random_kernel(BATCH, 3, 3, 4)),
        factor=2,
    ),
    Case("inpainting", lambda h, w: Inpainting(random_mask(h, w) > 0, 0.02)),
    Case(
        "inpainting_per_sample", lambda h, w: Inpainting(random_mask(BATCH, 3, h, w), NOISE.numpy())
    ),
    Case("denoising", lambda h, w: Denoising(NOISE)),
    Case("mri_complex", lambda h, w: MRI(random_mask(h, w), 0.02), channels=2),
    Case(
        "mri_real",
        lambda h, w: MRI(random_mask(BATCH, 1, h, w), NOISE, real_image=True),
        channels=1,
    ),
    Case(
        "mri_coils_complex",
        lambda h, w: MRI(random_mask(h, w), 0.02, coil_maps(4, h, w)),
        channels=2,
        uses_cg=True,
    ),
    Case(
        "mri_coils_real",
        lambda h, w: MRI(random_mask(h, w), 0.02, coil_maps(BATCH, 4, h, w), real_image=True),
        channels=1,
        uses_cg=True,
    ),
    Case(
        "linear_operator",
        lambda h, w: LinearOperator(Gradient(), GradientAdjoint(), NOISE),
        uses_cg=True,
    ),
    Case("demosaicing", lambda h, w: Demosaicing(NOISE)),
    Case("demosaicing_gbrg", lambda h, w: Demosaicing(0.02, "GBRG")),
    Case("colorization", lambda h, w: Colorization(NOISE)),
    Case("colorization_weights", lambda h, w: Colorization(0.02, (1.0, -0.5)), channels=2),
    Case(
        "blur_reflect",
        lambda h, w: BorderedBlur(symmetric_kernel(5, 3), NOISE),
    ),
    Case(
        "blur_reflect_cg",
        lambda h, w: BorderedBlur(random_kernel(BATCH, 1, 3, 4), 0.02),
        uses_cg=True,
    ),
    Case(
        "blur_replicate",
        lambda h, w: BorderedBlur(random_kernel(1, 3, 4, 5), NOISE, border="replicate"),
        uses_cg=True,
    ),
    Case(
        "blur_valid",
        lambda h, w: BorderedBlur(random_kernel(3, 4), 0.02, border="valid"),
        uses_cg=True,
    ),
    Case(
        "blur_varying",
        lambda h, w: SpatiallyVaryingBlur(random_kernel(2, 3, 3, 4), NOISE),
        uses_cg=True,
    ),
    Case("tomography", lambda h, w: Tomography(20, (h, w), NOISE), channels=2, uses_cg=True),
    Case(
        "tomography_limited",
        lambda h, w: Tomography([-30.0, 7.5, 45.0, 100.0], (h, w), 0.02, num_detectors=9),
        channels=1,
        uses_cg=True,
    ),
    Case(
        "compressed_sensing",
        lambda h, w: CompressedSensing(0.5, (h, w), NOISE),
        channels=2,
        uses_cg=True,
    ),
    Case(
        "compressed_sensing_sequency",
        lambda h, w: CompressedSensing(0.3, (h, w), 0.02, ordering="sequency"),
        channels=1,
        uses_cg=True,
    ),
    Case(
        "stack_blurs",
        lambda h, w: Stack((Blur(random_kernel(BATCH, 1, 3, 4), NOISE), Denoising(0.1)), (3, h, w)),
    ),
    Case(
        "stack_masks",
        lambda h, w: Stack(
            (Inpainting(random_mask(h, w), 0.02), Demosaicing(NOISE), Denoising(0.3)), (3, h, w)
        ),
    ),
    Case(
        "stack_mixed",
        lambda h, w: Stack(
            (SuperResolution(2, 0.05, random_kernel(4, 3)), Colorization(NOISE)), (3, h, w)
        ),
        factor=2,
        uses_cg=True,
    ),
    Case(
        "compose_blurs",
        lambda h, w: Compose((Blur(random_kernel(3, 4), 0.0), Blur.gaussian(0.7, NOISE, size=5))),
    ),
    Case(
        "compose_blur_mask",
        lambda h, w: Compose(
            (Blur(random_kernel(BATCH, 1, 3, 4), 0.0), Inpainting(random_mask(h, w), NOISE))
        ),
        uses_cg=True,
    ),
)
