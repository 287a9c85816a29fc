"""deepinv's samplers on a prior of this package: they restore, and the same seed draws the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gaussian_world import HEIGHT, WIDTH, prior_spectrum
from gaussian_world import denoise as gaussian_denoise
from tiny import tiny_prior
from torch import Tensor

pytest.importorskip("deepinv", reason="peers: run make test-peers")

import latino_engine as le
from benchmarks.peers import grid
from benchmarks.peers.denoiser import PriorDenoiser
from benchmarks.peers.samplers import METHODS, sample
from latino_engine.errors import InvalidArgument
from latino_engine.priors import Prior, PriorSpec

pytestmark = pytest.mark.peers

NOISE = 0.05
IMG_SIZE = (1, HEIGHT, WIDTH)
PARAMETERS: dict[str, dict[str, Any]] = {
    "diffpir": {"lambda_": 3.0, "zeta": 0.4},
    "ddrm": {
        "start": 1.0,
        "spacing": "linear",
        "eta": 0.85,
        "etab": 1.0,
        "half_variance": True,
    },
    "dps": {"guidance": "norm", "weight": 60.0},
}
_STD = 0.5  # of the Gaussian world's images, as a share of its unit: they stay within [-1, 1]


class _GaussianDenoiser(torch.nn.Module):
    """The exact denoiser of images of std * N(0, C) in [-1, 1], one level per call."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return _STD * gaussian_denoise(x / _STD, float(sigma[0]) / _STD)


def _gaussian_prior() -> Prior:
    spec = PriorSpec(
        name="gaussian",
        channels=1,
        size_multiple=1,
        data_range=(0.0, 1.0),
        sigma_min=1e-3,
        sigma_max=20.0,
        architecture={},
        preconditioning={},
    )
    return Prior(spec, _GaussianDenoiser())


def _gaussian_images(count: int) -> Tensor:
    """Images of the Gaussian world in the public range."""
    root = torch.from_numpy(prior_spectrum()).sqrt()
    white = torch.randn(count, 1, HEIGHT, WIDTH, dtype=torch.float64)
    x = _STD * torch.fft.ifft2(torch.fft.fft2(white) * root).real
    return ((x + 1.0) / 2.0).float()


def _mask() -> Tensor:
    mask = torch.ones(HEIGHT, WIDTH)
    mask[::2, 1::2] = 0.0
    return mask


OPERATORS = {
    "blur": le.Blur.gaussian(0.7, NOISE, size=5),
    "super-resolution": le.SuperResolution(
        2, NOISE, kernel=le.Blur.gaussian(1.0, NOISE, size=5).kernel
    ),
    "inpainting": le.Inpainting(_mask(), NOISE),
}


def _draw(method: str, op: le.Blur, y: Tensor, seed: int = 0, **more: int) -> tuple[Tensor, int]:
    settings = {"steps": 30, "num_samples": 4, **more}
    denoiser = PriorDenoiser(_gaussian_prior())
    parameters = PARAMETERS[method]
    return sample(method, denoiser, op, y, IMG_SIZE, parameters=parameters, seed=seed, **settings)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_wrapper_is_the_prior(channels: int) -> None:
    prior = tiny_prior(channels)
    denoiser = PriorDenoiser(prior)
    x = torch.rand(2, channels, 12, 10)
    levels = torch.tensor([0.05, 0.7])
    for sigma in (0.3, torch.tensor(0.3), torch.tensor([0.3]), levels):
        twice = 2.0 * torch.as_tensor(sigma).squeeze()
        expected = prior.denoise(2.0 * x - 1.0, twice)
        torch.testing.assert_close(2.0 * denoiser(x, sigma) - 1.0, expected, atol=1e-5, rtol=0)
    assert denoiser.evaluations == 4


def test_noise_beyond_the_prior_is_scaled_to_its_range() -> None:
    prior = tiny_prior(1)
    x, eps = torch.rand(2, 1, 12, 12), torch.randn(2, 1, 12, 12)
    found = PriorDenoiser(prior)(x + 100.0 * eps, 100.0)  # 200 in [-1, 1] units, its limit is 20
    expected = prior.denoise(0.1 * (2.0 * (x + 100.0 * eps) - 1.0), 20.0)
    torch.testing.assert_close(2.0 * found - 1.0, expected, atol=1e-5, rtol=0)


def test_a_prior_of_another_range_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"^prior: expected .* \[0, 1\], as deepinv has them"):
        PriorDenoiser(tiny_prior(1, data_range=(-1.0, 1.0)))


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_near_the_posterior_mean(method: str, op: le.Blur) -> None:
    """The mean of 16 samples, against the distance that the prior's own mean has from it."""
    truth = _gaussian_images(24)
    y = op.measure(truth, seed=3)
    drawn, nfe = _draw(method, op, y, num_samples=16)
    assert nfe == 30
    assert drawn.shape == (16, *truth.shape)
    best = _posterior_mean(op, y)
    start = (0.5 - best).square().mean()
    assert float((drawn.mean(dim=0) - best).square().mean()) < 0.3 * float(start)
    assert 0.0 < float(drawn.std(dim=0).mean()) < float(truth.std())


def _posterior_mean(op: le.Blur, y: Tensor) -> Tensor:
    """0.5 + C A^T (A C A^T + sigma^2)^-1 (y - A 0.5), dense, public units."""
    basis = torch.eye(HEIGHT * WIDTH, dtype=torch.float64).reshape(-1, *IMG_SIZE)
    A = op.A(basis).flatten(1).T
    spectrum = torch.from_numpy(prior_spectrum())
    C = (_STD / 2.0) ** 2 * torch.fft.ifft2(torch.fft.fft2(basis) * spectrum).real.flatten(1)
    middle = torch.full((1, *IMG_SIZE), 0.5, dtype=torch.float64)
    gram = A @ C @ A.T + NOISE**2 * torch.eye(len(A), dtype=torch.float64)
    residual = (y.double() - op.A(middle)).flatten(1)
    found = middle + (residual @ torch.linalg.solve(gram, A @ C)).reshape(-1, *IMG_SIZE)
    return found.float()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_draws_the_same_and_leaves_torch_alone(method: str) -> None:
    op = OPERATORS["inpainting"]
    y = op.measure(_gaussian_images(3), seed=1)
    before, given = torch.get_rng_state(), y.clone()
    first, _ = _draw(method, op, y, seed=7, steps=5)
    torch.randn(10)
    again, _ = _draw(method, op, y, seed=7, steps=5)
    assert torch.equal(first, again)
    torch.set_rng_state(before)
    _draw(method, op, y, seed=7, steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(y, given)
    other, _ = _draw(method, op, y, seed=8, steps=5)
    assert not torch.allclose(first, other, atol=1e-3)
    assert not torch.allclose(first[0], first[1], atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_does_not_depend_on_how_many_are_drawn(method: str) -> None:
    op = OPERATORS["blur"]
    y = op.measure(_gaussian_images(2), seed=1)
    two, _ = _draw(method, op, y, steps=5, num_samples=2)
    four, _ = _draw(method, op, y, steps=5, num_samples=4)
    assert torch.equal(two, four[:2])


def test_seed_zero_is_a_seed() -> None:
    """deepinv takes 0 for none: DDRM would draw anew at each call."""
    op = OPERATORS["inpainting"]
    y = op.measure(_gaussian_images(2), seed=1)
    assert torch.equal(_draw("ddrm", op, y, steps=4)[0], _draw("ddrm", op, y, steps=4)[0])


def test_unknown_methods_and_too_few_steps_are_refused() -> None:
    op = OPERATORS["blur"]
    y = op.measure(_gaussian_images(1))
    denoiser = PriorDenoiser(_gaussian_prior())
    with pytest.raises(
        InvalidArgument, match=r"^method: expected one of diffpir, ddrm, dps, got 'x'"
    ):
        sample("x", denoiser, op, y, IMG_SIZE, 10, {}, 2)
    with pytest.raises(InvalidArgument, match=r"^steps: expected at least 2 network evaluations"):
        sample("dps", denoiser, op, y, IMG_SIZE, 1, PARAMETERS["dps"], 2)


def test_every_point_of_the_grids_is_a_set_of_parameters() -> None:
    op = OPERATORS["blur"]
    y = op.measure(_gaussian_images(1))
    denoiser = PriorDenoiser(_gaussian_prior())
    for method, points in grid.GRIDS.items():
        assert len({str(sorted(point.items())) for point in points}) == len(points) > 1
        for point in points:
            drawn, nfe = sample(method, denoiser, op, y, IMG_SIZE, 3, point, 1)
            assert (nfe, drawn.shape) == (3, (1, 1, *IMG_SIZE))


def test_the_grid_takes_the_lowest_crps_and_passes_over_what_runs_away() -> None:
    truth = torch.zeros(2, 1, 4, 4)
    offsets: tuple[dict[str, Any], ...] = tuple(
        {"offset": c} for c in (0.3, float("nan"), 0.1, 0.2)
    )
    best, tried = grid.choose(
        lambda p: p["offset"] + 0.01 * torch.randn(3, 2, 1, 4, 4), truth, offsets
    )
    assert best == {"offset": 0.1}
    assert [point["crps"] is None for point in tried] == [False, True, False, False]
    assert tried[2]["crps"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(InvalidArgument, match=r"^method: expected parameters .* none among 1;"):
        grid.choose(lambda p: p["offset"] + torch.zeros(3, 2, 1, 4, 4), truth, offsets[1:2])
