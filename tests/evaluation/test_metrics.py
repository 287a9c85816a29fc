"""PSNR and SSIM against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from latino_engine.errors import InvalidArgument, InvalidType
from latino_engine.evaluation.metrics import psnr, ssim


def pair(channels: int = 3) -> tuple[Tensor, Tensor]:
    reference = torch.rand(2, channels, 19, 23)
    return reference + 0.1 * torch.randn(reference.shape), reference


def test_psnr_is_its_formula() -> None:
    x, reference = pair()
    mse = [
        ((a - b) ** 2).mean() for a, b in zip(x.numpy().clip(0, 1), reference.numpy(), strict=True)
    ]
    wanted = torch.tensor([-10 * math.log10(value) for value in mse], dtype=torch.float64)
    value = psnr(x, reference)
    assert value.shape == (2,)
    assert value.dtype == torch.float64
    assert (value / wanted - 1).abs().max() < 1e-6


def test_psnr_of_a_known_error() -> None:
    reference = torch.full((1, 1, 4, 4), 0.5)
    assert psnr(reference + 0.1, reference)[0] == pytest.approx(20.0, rel=1e-6)
    assert psnr(reference, reference)[0] == math.inf


def test_both_are_clamped() -> None:
    x, reference = pair()
    far = torch.where(x > 0.5, x + 7 * (x > 1), x - 7 * (x < 0))
    assert (far != x).any()
    for metric in (psnr, ssim):
        assert torch.equal(metric(far, reference), metric(x.clamp(0, 1), reference))
        assert torch.equal(metric(reference, far), metric(reference, x.clamp(0, 1)))


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_its_formula(channels: int) -> None:
    x, reference = pair(channels)

    def blur(plane: np.ndarray) -> np.ndarray:
        return gaussian_filter(plane, 1.5, truncate=3.5, mode="reflect")

    def one_plane(a: np.ndarray, b: np.ndarray) -> float:
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        cov = blur(a * b) - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
        bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        return float((top / bottom)[5:-5, 5:-5].mean())

    pairs = zip(x.clamp(0, 1).double().numpy(), reference.double().numpy(), strict=True)
    wanted = [np.mean([one_plane(p, q) for p, q in zip(a, b, strict=True)]) for a, b in pairs]
    value = ssim(x, reference)
    assert value.shape == (2,)
    assert value.dtype == torch.float64
    assert np.abs(value.numpy() / wanted - 1).max() < 1e-10
    assert value.max() < 0.95
    assert ssim(reference, reference).tolist() == pytest.approx([1.0, 1.0], rel=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_images_do_not_mix(metric: object) -> None:
    assert callable(metric)
    x, reference = pair()
    alone = torch.cat([metric(x[i : i + 1], reference[i : i + 1]) for i in range(2)])
    assert torch.allclose(metric(x, reference), alone, rtol=1e-12, atol=0)
    assert alone[0] != alone[1]


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("x", "reference", "error", "message"),
    [
        (
            torch.rand(3, 16, 16),
            torch.rand(3, 16, 16),
            InvalidArgument,
            "x: expected shape (B, C, H, W), got (3, 16, 16); "
            "add the missing axes, e.g. image[None] for a batch of one",
        ),
        (
            torch.rand(1, 3, 16, 16),
            torch.rand(1, 3, 16, 15),
            InvalidArgument,
            "x: expected the shape of reference, (1, 3, 16, 15), got (1, 3, 16, 16); "
            "compare images of one size",
        ),
        (
            torch.rand(1, 3, 16, 16),
            torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
            InvalidType,
            "reference: expected floating-point values in [0, 1], got torch.uint8; "
            "divide by the maximum of its type",
        ),
        (
            np.zeros((1, 3, 16, 16)),
            torch.rand(1, 3, 16, 16),
            InvalidType,
            "x: expected a tensor, got ndarray; convert it by torch.from_numpy",
        ),
        (
            torch.rand(0, 3, 16, 16),
            torch.rand(0, 3, 16, 16),
            InvalidArgument,
            "x: expected shape (B, C, H, W), got (0, 3, 16, 16); "
            "add the missing axes, e.g. image[None] for a batch of one",
        ),
    ],
)
def test_refusals(
    metric: object, x: Tensor, reference: Tensor, error: type[Exception], message: str
) -> None:
    assert callable(metric)
    with pytest.raises(error) as caught:
        metric(x, reference)
    assert str(caught.value) == message


def test_images_smaller_than_the_window() -> None:
    small = torch.rand(1, 1, 10, 40)
    with pytest.raises(InvalidArgument) as caught:
        ssim(small, small)
    assert str(caught.value) == (
        "x: expected sides of 11 pixels or more, as the window of SSIM has, got 10 x 40; "
        "use psnr for images this small"
    )
    assert ssim(torch.zeros(1, 1, 11, 11), torch.zeros(1, 1, 11, 11))[0] == 1.0
