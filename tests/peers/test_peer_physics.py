"""The physics that deepinv's samplers are given are the operators of this package."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

deepinv = pytest.importorskip("deepinv", reason="peers: run make test-peers")

import latino_engine as le  # noqa: E402
from benchmarks.peers.convolution import ConvolutionPhysics  # noqa: E402
from benchmarks.peers.physics import make_decomposable, make_physics  # noqa: E402
from latino_engine.errors import InvalidArgument, InvalidType  # noqa: E402

pytestmark = pytest.mark.peers

NOISE = 0.05
SIZE = (2, 12, 24)


def _mask() -> Tensor:
    return (torch.rand(SIZE[1:], generator=torch.Generator().manual_seed(5)) > 0.4).float()


CASES = {
    "gaussian blur": (le.Blur.gaussian(1.2, NOISE), "BlurFFT"),
    "even blur": (le.Blur.uniform(4, NOISE), "BlurFFT"),
    "lopsided blur": (le.Blur.motion(7, NOISE, seed=2), "BlurFFT"),
    "2x bicubic": (le.SuperResolution(2, NOISE), "Downsampling"),
    "3x bicubic": (le.SuperResolution(3, NOISE), "Downsampling"),
    "2x motion": (
        le.SuperResolution(2, NOISE, kernel=le.Blur.motion(5, NOISE).kernel),
        "Downsampling",
    ),
    "inpainting": (le.Inpainting(_mask(), NOISE), "Inpainting"),
    "MRI": (le.MRI(_mask(), NOISE), "MRI"),
}


def _agree(physics: object, op: le.Blur) -> None:
    """A, A_adjoint, prox and the noise level."""
    x, v = torch.rand(3, *SIZE), torch.randn(3, *SIZE)
    y = torch.randn_like(op.A(x))
    torch.testing.assert_close(physics.A(x), op.A(x), atol=2e-6, rtol=0)
    torch.testing.assert_close(physics.A_adjoint(y), op.A_adjoint(y), atol=2e-6, rtol=0)
    for gamma in (0.3, 40.0):
        found = physics.prox_l2(v, y, gamma)
        torch.testing.assert_close(found, op.prox(v, y, gamma), atol=1e-4, rtol=0)
    assert float(physics.noise_model.sigma) == pytest.approx(NOISE)


@pytest.mark.parametrize(("op", "name"), CASES.values(), ids=CASES)
def test_deepinvs_own_physics_is_the_operator(op: le.Blur, name: str) -> None:
    physics = make_physics(op, SIZE)
    assert type(physics) is getattr(deepinv.physics, name)
    _agree(physics, op)


@pytest.mark.parametrize("half_variance", [False, True])
@pytest.mark.parametrize("op", [op for op, _ in CASES.values()], ids=CASES)
def test_a_decomposition_is_the_operator(op: le.Blur, half_variance: bool) -> None:
    physics = make_decomposable(op, SIZE, half_variance)
    assert isinstance(physics, deepinv.physics.DecomposablePhysics)
    _agree(physics, op)
    x = torch.rand(3, *SIZE)
    torch.testing.assert_close(physics.V(physics.V_adjoint(x)), x, atol=2e-6, rtol=0)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_decomposition_is_orthonormal(factor: int) -> None:
    kernel = le.Blur.motion(7, NOISE, seed=2).kernel
    physics = ConvolutionPhysics(kernel, factor, (1, 12, 18), NOISE)
    basis = torch.eye(12 * 18).reshape(-1, 1, 12, 18)
    for transform in (physics.V_adjoint, physics.V):
        matrix = transform(basis).flatten(1)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(12 * 18), atol=2e-6, rtol=0)
    dense = physics.A(basis).flatten(1).T.double()
    values = torch.linalg.svdvals(dense)
    kept = physics.mask.flatten().double().sort(descending=True).values
    torch.testing.assert_close(kept[: len(values)], values, atol=1e-6, rtol=0)
    assert float(kept[len(values) :].sum()) == 0.0
    y = torch.randn(4, 1, 12 // factor, 18 // factor)
    torch.testing.assert_close(physics.U(physics.U_adjoint(y)), y, atol=2e-6, rtol=0)


def test_frequencies_that_a_kernel_removes_are_in_the_null_space() -> None:
    op = le.Blur.uniform(4, NOISE)  # 24 columns: every sixth frequency has no response
    physics = make_decomposable(op, (1, 12, 24), half_variance=True)
    assert int((physics.mask == 0).sum()) > 20
    _agree(make_decomposable(op, SIZE, half_variance=True), op)


@pytest.mark.parametrize("half_variance", [False, True])
@pytest.mark.parametrize("name", ["2x bicubic", "inpainting"])
def test_half_variance_restores_the_noise_that_ddrm_means(name: str, half_variance: bool) -> None:
    """DDRM's draws have a variance of 1/2 in every coefficient."""
    physics = make_decomposable(CASES[name][0], SIZE, half_variance)
    noise = physics.V(torch.randn(200, *SIZE) / 2.0**0.5)
    assert float(noise.var()) == pytest.approx(1.0 if half_variance else 0.5, rel=0.02)


def test_blur_fft_loses_noise_in_its_redundant_columns_and_ours_does_not() -> None:
    shares = {}
    for half_variance in (False, True):
        physics = make_decomposable(CASES["gaussian blur"][0], SIZE, half_variance)
        draws = torch.randn(2000, *physics.mask.shape[1:]) / 2.0**0.5
        power = torch.fft.fft2(physics.V(draws), norm="ortho").abs().square().mean(dim=(0, 1))
        shares[half_variance] = float(power[1:, 0].mean())
    assert shares[False] == pytest.approx(0.5, rel=0.05)
    assert shares[True] == pytest.approx(1.0, rel=0.05)


def test_unknown_operators_are_refused_in_one_sentence() -> None:
    with pytest.raises(
        InvalidType, match=r"^operator: expected Blur, .* got JPEG\(.*know no other"
    ):
        make_physics(_with_noise(le.JPEG(50)), SIZE)
    many = le.Blur.gaussian(1.0, torch.tensor([0.1, 0.2]))
    with pytest.raises(InvalidArgument, match="one set of parameters for all images, got Blur"):
        make_physics(many, SIZE)
    with pytest.raises(InvalidArgument, match=r"2 channels \(re, im\) for MRI, got 1;"):
        make_physics(le.MRI(_mask(), NOISE), (1, *SIZE[1:]))


def _with_noise(op: le.JPEG) -> le.JPEG:
    assert op.batch_size is None
    return op
