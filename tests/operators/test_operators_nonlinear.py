"""Phase retrieval and Poisson noise: gradients, falling objectives, known solutions, samples."""

from __future__ import annotations

import itertools
import math

import pytest
import skimage.data
import torch
from laws import relative_error
from operator_cases import random, random_kernel, random_mask
from torch import Tensor

from latino_engine.operators import (
    JPEG,
    Blur,
    CompressedSensing,
    Demosaicing,
    Denoising,
    Inpainting,
    Operator,
    PhaseRetrieval,
    PoissonNoise,
    Tomography,
)
from latino_engine.operators.parts.anscombe import stabilised, stabilised_mean

pytestmark = pytest.mark.usefixtures("one_thread")

CODED = PhaseRetrieval.coded_diffraction((11, 8), 0.05)
PADDED = PhaseRetrieval.oversampled((11, 8), 0.05)
GREY_MASKS = PhaseRetrieval(random(3, 11, 8), 0.05, oversampling=2)
PHOTONS = (
    PoissonNoise(Denoising(0.0), 20.0),
    PoissonNoise(Inpainting(random_mask(11, 8), 0.0), 5),
    PoissonNoise(Blur.gaussian(1.0, 0.0, size=5), 50.0),
    PoissonNoise(Demosaicing(0.0), 100.0),
)


def positive(*shape: int) -> Tensor:
    return 0.05 + 0.9 * torch.rand(*shape, dtype=torch.float64)


def photograph(side: int = 64) -> Tensor:
    pixels = skimage.data.chelsea()[80 : 80 + side, 150 : 150 + side].copy()
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a.clamp(0, 1) - b).square().mean()))


def misfit(op: PhaseRetrieval | PoissonNoise, x: Tensor, y: Tensor) -> Tensor:
    residual = op.residual(x, y) if isinstance(op, PoissonNoise) else op.A(x) - y
    return residual.square().sum()


@pytest.mark.parametrize("op", [CODED, PADDED, GREY_MASKS], ids=("coded", "padded", "real masks"))
def test_magnitudes_are_those_of_the_padded_masked_transform(op: PhaseRetrieval) -> None:
    x = positive(2, 3, 11, 8)
    k = op.oversampling
    padded = torch.nn.functional.pad(op.masks * x[:, :, None], (0, 8 * k - 8, 0, 11 * k - 11))
    rows = torch.fft.fft(torch.eye(11 * k, dtype=torch.complex128)) / math.sqrt(11 * k)
    columns = torch.fft.fft(torch.eye(8 * k, dtype=torch.complex128)) / math.sqrt(8 * k)
    assert relative_error(op.A(x), (rows @ padded @ columns).abs()) < 1e-12


@pytest.mark.parametrize("op", [CODED, PADDED, GREY_MASKS], ids=("coded", "padded", "real masks"))
def test_every_iteration_is_a_proximal_gradient_step_and_lowers_the_objective(
    op: PhaseRetrieval,
) -> None:
    y, v = op.measure(positive(1, 2, 11, 8)), positive(1, 2, 11, 8)
    _, power = op._constants(v)
    for gamma in (0.3, 4.0, 100.0):
        costs = []
        for count in range(1, 8):
            one = PhaseRetrieval(op.masks, 0.05, op.oversampling, num_iter=count)
            z = one.prox(v, y, gamma)
            costs.append(float(gamma / 2 * misfit(op, z, y) + (z - v).square().sum() / 2))
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(costs))
        x = v.clone().requires_grad_()
        (slope,) = torch.autograd.grad(0.5 * misfit(op, x, y), x)
        one = PhaseRetrieval(op.masks, 0.05, op.oversampling, num_iter=1)
        step = (v - slope * gamma / (1 + gamma * power)).detach()  # the anchor is v itself
        assert relative_error(one.prox(v, y, gamma), step) < 1e-10


def test_the_true_image_is_a_fixed_point_of_phase_retrieval() -> None:
    x = positive(2, 1, 11, 8)
    for op in (CODED, PADDED, GREY_MASKS):
        assert relative_error(op.prox(x, op.A(x), 30.0), x) < 1e-12
        assert relative_error(op.prox(x, op.A(positive(2, 1, 11, 8)), 0.0), x) < 1e-12
        with pytest.raises(ValueError, match="A_adjoint: expected a linear operator"):
            op.A_adjoint(op.A(x))


@pytest.mark.parametrize("num_masks", [2, 4])
def test_coded_diffraction_finds_the_photograph(num_masks: int) -> None:
    """32 and 36 dB where the magnitudes have noise 0.02."""
    x = photograph()
    op = PhaseRetrieval.coded_diffraction(64, 0.02, num_masks)
    assert psnr(op.initial_estimate(op.measure(x)), x) > 28


def test_without_masks_the_start_explains_the_magnitudes_better_than_grey() -> None:
    x = photograph()
    op = PhaseRetrieval.oversampled(64, 0.02)
    y = op.measure(x)
    start = op.initial_estimate(y)
    assert float(misfit(op, start, y)) < 0.2 * float(misfit(op, torch.full_like(x, 0.5), y))
    turned = torch.flip(x, (-2, -1))  # the trivial ambiguity
    assert relative_error(op.A(turned), op.A(x)) < 1e-5


def test_anscombes_mean_is_the_sum_over_the_poisson_law() -> None:
    for rate in (0.0, 1e-3, 0.3, 1.0, 2.5, 17.3, 150.0, 399.0, 401.0, 5000.0):
        k = torch.arange(int(rate + 80 + 20 * math.sqrt(rate)), dtype=torch.float64)
        r = torch.tensor([rate], dtype=torch.float64)
        pmf = (torch.xlogy(k, r) - r - torch.lgamma(k + 1)).exp()
        mean, slope = stabilised_mean(r)
        assert float(mean) == pytest.approx(float((pmf * stabilised(k)).sum()), abs=2e-6)
        expected = float((pmf * (stabilised(k + 1) - stabilised(k))).sum())
        assert float(slope) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("op", PHOTONS, ids=lambda op: type(op.operator).__name__)
def test_photons_have_the_mean_and_the_variance_of_poisson(op: PoissonNoise) -> None:
    x = torch.full((400, 3, 11, 8), 0.7, dtype=torch.float64)
    y = op.measure(x, seed=3)
    assert torch.equal(y, op.measure(x, seed=3)) and not torch.equal(y, op.measure(x, seed=4))
    assert torch.equal(y[:2], op.measure(x[:2], seed=3))
    seen = op.observed(torch.ones_like(y)) > 0
    values, count = y[seen], int(seen.sum())
    assert abs(float(values.mean()) - 0.7) < 5 * math.sqrt(0.7 / op.peak / count)
    assert float(values.var()) == pytest.approx(0.7 / op.peak, rel=0.05)
    counts = op.peak * values
    assert float((counts - counts.round()).abs().max()) < 1e-9
    whitened = op.residual(x, y)[seen] / op.noise_std
    assert abs(float(whitened.mean())) < 5 / math.sqrt(count)  # unbiased, as the mean is exact
    assert 0.9 < float(whitened.var()) < 1.1


@pytest.mark.parametrize("op", PHOTONS, ids=lambda op: type(op.operator).__name__)
def test_the_photon_prox_is_stationary_and_lowers_the_objective(op: PoissonNoise) -> None:
    y, v = op.measure(positive(2, 3, 11, 8)), positive(2, 3, 11, 8)
    for gamma in (0.0, 0.5, 9.0, 80.0):
        z = op.prox(v, y, gamma)

        def cost(x: Tensor, gamma: float = gamma) -> Tensor:
            return gamma / 2 * misfit(op, x, y) + (x - v).square().sum() / 2

        x = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(cost(x), x)
        start = v.clone().requires_grad_()
        (first,) = torch.autograd.grad(cost(start), start)
        assert float(slope.norm()) <= 1e-3 * float(first.norm()) + 1e-12
        assert float(cost(z)) <= float(cost(v))


def test_the_photon_prox_of_many_photons_is_that_of_weighted_least_squares() -> None:
    """At high counts (m - T)/(2 sqrt(peak)) is (x - y) / (2 sqrt(y))."""
    op, y = PoissonNoise(Denoising(0.0), 1e10), positive(1, 1, 6, 5)
    v = y + 1e-4 * random(1, 1, 6, 5)
    weight = 3.0 / (4.0 * y)
    expected = (weight * y + v) / (weight + 1.0)
    assert float((op.prox(v, y, 3.0) - expected).abs().max()) < 1e-7


def test_gradients_flow_through_the_photon_prox() -> None:
    for op in PHOTONS[:3]:
        y, w = op.measure(positive(1, 1, 11, 8)), random(1, 1, 11, 8)
        v = positive(1, 1, 11, 8).requires_grad_()
        (slope,) = torch.autograd.grad(op.prox(v, y, 0.5), v, w)
        assert bool(torch.isfinite(slope).all()) and float(slope.norm()) > 0.1 * float(w.norm())


def test_the_start_under_photon_noise_is_better_than_the_counts() -> None:
    x = photograph()
    op = PoissonNoise(Denoising(0.0), 20.0)
    y = op.measure(x)
    assert psnr(op.initial_estimate(y), x) > psnr(y, x) + 2  # 21.9 against 18.7 dB


def test_a_peak_for_every_image() -> None:
    x, peaks = positive(3, 3, 11, 8), torch.tensor([5.0, 20.0, 80.0])
    op = PoissonNoise(Blur.gaussian(1.0, 0.0, size=5), peaks)
    assert op.noise_std.tolist() == pytest.approx([0.5 / p**0.5 for p in peaks.tolist()])
    y, v = op.measure(x, seed=4), positive(3, 3, 11, 8)
    for i, peak in enumerate(peaks.tolist()):
        one = PoissonNoise(op.operator, peak)
        counts = peak * y[i]
        assert float((counts - counts.round()).abs().max()) < 1e-9
        pairs = (
            (one.prox(v[i : i + 1], y[i : i + 1], 2.0)[0], op.prox(v, y, 2.0)[i]),
            (one.initial_estimate(y[i : i + 1])[0], op.initial_estimate(y)[i]),
            (one.residual(x[i : i + 1], y[i : i + 1])[0], op.residual(x, y)[i]),
        )
        assert all(relative_error(a, b) < 1e-4 for a, b in pairs)


@pytest.mark.parametrize("op", [CODED, PADDED, *PHOTONS], ids=lambda op: type(op).__name__)
def test_batches_and_takes(op: PhaseRetrieval | PoissonNoise) -> None:
    assert isinstance(op, Operator) and not op.is_linear
    x, v = positive(3, 3, 11, 8), positive(3, 3, 11, 8)
    y = op.measure(x)
    gamma = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    whole, start = op.prox(v, y, gamma), op.initial_estimate(y)
    index = torch.tensor([2, 0])
    part = op.take(index)
    assert relative_error(part.prox(v[index], y[index], gamma[index]), whole[index]) < 1e-5
    if isinstance(op, PoissonNoise):  # a search for phases has no such limit
        assert relative_error(part.initial_estimate(y[index]), start[index]) < 1e-4


MISTAKES = (
    (lambda: Demosaicing(0.1, "RGB"), "pattern: expected one of RGGB, BGGR, GRBG, GBRG, got 'RGB'"),
    (lambda: Tomography(0, 8, 0.1), "angles: expected at least one, got 0"),
    (
        lambda: Tomography(4, 8, 0.1).A(torch.ones(1, 1, 8, 9)),
        "x: expected 8 x 8 pixels, got 8 x 9",
    ),
    (
        lambda: Tomography(4, 8, 0.1).A_adjoint(torch.ones(1, 1, 4, 9)),
        "y: expected a sinogram (B, C, 4, 12), got (1, 1, 4, 9)",
    ),
    (lambda: CompressedSensing(1.5, 8, 0.1), "ratio: expected a number in (0, 1], got 1.5"),
    (
        lambda: CompressedSensing(0.5, 8, 0.1).A_adjoint(torch.ones(1, 1, 31)),
        "y: expected coefficients (B, C, 32), got (1, 1, 31)",
    ),
    (
        lambda: PhaseRetrieval(torch.ones(3), 0.1),
        "masks: expected (H, W) or (L, H, W), not all 0, got (3,)",
    ),
    (
        lambda: PhaseRetrieval(torch.ones(3, 3), 0.1, num_iter=0),
        "num_iter: expected at least 1, got 0",
    ),
    (
        lambda: PoissonNoise(Blur(random_kernel(3, 3), 0.1), 5.0),
        "operator.noise_std: expected 0, got 0.1",
    ),
    (
        lambda: CODED.search(torch.ones(1, 1, 4, 11, 8), torch.ones(1, 1, 8, 8)),
        "start: expected (1, 1, 11, 8) torch.float32, got (1, 1, 8, 8) torch.float32",
    ),
    (
        lambda: PoissonNoise(Inpainting(torch.ones(2, 1, 3, 3), 0.0), [1.0, 2.0, 3.0]),
        "peak: expected a number or 2 values, got 3 values",
    ),
    (
        lambda: PoissonNoise(Denoising(0.0), torch.ones(2, 2)),
        "peak: expected a number or shape (B,), got shape (2, 2)",
    ),
    (
        lambda: PoissonNoise(Denoising(0.0), [5.0, 9.0]).prox(*torch.ones(2, 3, 1, 4, 4), 1.0),
        "y: expected a batch of 2, got 3",
    ),
    (lambda: PoissonNoise(JPEG(50), 9.0), "operator: expected a linear operator, got JPEG"),
    (lambda: PoissonNoise(Denoising(0.0), 0.0), "peak: expected finite numbers > 0, got 0"),
    (
        lambda: PoissonNoise(Denoising(0.0), 9.0).check_measurement(torch.full((1, 1, 2, 2), 99.0)),
        "y: expected counts divided by the peak, about [0, 1], got values up to 99",
    ),
)


@pytest.mark.parametrize(
    ("call", "sentence"), MISTAKES, ids=lambda p: p[:30] if isinstance(p, str) else p.__name__
)
def test_mistakes(call, sentence) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value).startswith(sentence + "; ")
