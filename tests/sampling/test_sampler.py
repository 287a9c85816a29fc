"""The sampler against closed forms: a Gaussian prior with its exact denoiser, blur and
inpainting.
"""

from __future__ import annotations

from dataclasses import replace

import gaussian_world as world
import numpy as np
import pytest
import torch

from latino_engine import ops
from latino_engine.operators import Blur, Inpainting
from latino_engine.sampler import sample_posterior
from latino_engine.sampling.eager_steps import EagerSteps
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.schedule import Schedule, few_step_sigmas, latino_schedule, ud2m_schedule

SIGMA_Y = 0.4
SAMPLES = 6000
SIZE = world.HEIGHT * world.WIDTH


def blur():
    kernel = np.array([[0.05, 0.1, 0.0], [0.1, 0.4, 0.2], [0.0, 0.1, 0.05]])  # not symmetric
    return Blur(kernel, SIGMA_Y)


def inpainting():
    mask = (np.arange(SIZE).reshape(world.HEIGHT, world.WIDTH) * 7) % 5 < 3
    return Inpainting(mask.astype(float), SIGMA_Y)


def dense(op):
    basis = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 1, world.HEIGHT, world.WIDTH)
    return op.A(basis).reshape(SIZE, -1).T.numpy()


def run(op, schedule, seed=0):
    """(A, y, x_init, samples (S, n))."""
    truth = ops.gaussian_noise(99, [0], [0], 0, (1, 1, world.HEIGHT, world.WIDTH)).double()
    y = op.measure(truth, seed=5)
    x_init = op.initial_estimate(y)
    step = op.data_step(y.expand(SAMPLES, -1, -1, -1).contiguous())
    shape = (SAMPLES, 1, world.HEIGHT, world.WIDTH)
    images, ids = torch.zeros(SAMPLES, dtype=torch.int64), torch.arange(SAMPLES)

    steps = EagerSteps(step, NoiseStream(seed, images, ids))
    x = sample_posterior(steps, world.denoise, schedule, x_init.expand(shape).contiguous())
    A = dense(op)
    return A, y.reshape(-1).numpy(), x_init.reshape(-1).numpy(), x.reshape(SAMPLES, SIZE).numpy()


def assert_moments(samples, expected, allowed_bias=0.0):
    """Mean and covariance within their sampling error, plus a stated share for the method's own
    bias.

    With S samples of an n-dimensional Gaussian, |mean error|^2 has expectation tr(C) / S, and the
    relative Frobenius error of the sample covariance is sqrt((1 + tr(C)^2 / |C|^2) / S).
    """
    count = len(samples)
    error = np.linalg.norm(samples.mean(0) - expected.mean)
    bias = allowed_bias * np.linalg.norm(expected.mean)
    assert error <= 2.0 * np.sqrt(np.trace(expected.cov) / count) + bias, "mean"
    norm = np.linalg.norm(expected.cov)
    relative = np.linalg.norm(np.cov(samples.T) - expected.cov) / norm
    spread = np.sqrt((1.0 + (np.trace(expected.cov) / norm) ** 2) / count)
    assert relative <= 1.3 * spread + allowed_bias, "covariance"


SCHEDULES = {
    "latino": latino_schedule(SIGMA_Y, [1.0, 0.6, 0.4, 0.2]),
    "ud2m": ud2m_schedule(SIGMA_Y, few_step_sigmas(3), 2),
    "ud2m-tuned": ud2m_schedule(
        SIGMA_Y, few_step_sigmas(2), 2, r=[[1.5, 0.8], [0.6, 1.2]], d=0.7, lam=1.3, zeta=0.5, c=1.2
    ),
}


@pytest.mark.parametrize("make", [blur, inpainting])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_its_exact_moments(make, name):
    A, y, x_init, samples = run(make(), SCHEDULES[name])
    assert_moments(samples, world.chain(A, y, x_init, SCHEDULES[name]))


@pytest.mark.parametrize("make", [blur, inpainting])
def test_the_comparison_can_fail(make):
    schedule = SCHEDULES["ud2m"]
    A, y, x_init, samples = run(make(), schedule)
    expected = world.chain(A, y, x_init, schedule)
    with pytest.raises(AssertionError, match="mean"):
        assert_moments(samples + 0.1, expected)
    with pytest.raises(AssertionError, match="covariance"):
        assert_moments(1.1 * (samples - samples.mean(0)) + samples.mean(0), expected)


def small_steps(c: float) -> Schedule:
    """Langevin with one small noise level: step sigma^2 = 0.01 beside posterior variances of 0.05
    to 0.8.
    """
    return replace(latino_schedule(SIGMA_Y, [0.1] * 600, c=c), final_gamma=None)


@pytest.mark.slow
@pytest.mark.parametrize("make", [blur, inpainting])
@pytest.mark.parametrize("c", [1.0, 2.0**0.5])
def test_small_step_limit(make, c):
    """x <- x + s^2 grad log p(x | y) + c s eps + O(s^4): Langevin at temperature c^2 / 2.

    Its stationary law is Gaussian with the posterior's mean and c^2 / 2 times its covariance: half
    of it as published (c = 1), the posterior itself with c = sqrt(2). The finite step s^2 = 0.01
    shifts the mean and changes a variance v by a share of about s^2 / v, 10 % or less here: that is
    the allowed bias.
    """
    A, y, _, samples = run(make(), small_steps(c))
    exact = world.posterior(A, y, SIGMA_Y)
    limit = world.Moments(exact.mean, 0.5 * c**2 * exact.cov)
    relative = np.trace(np.cov(samples.T)) / np.trace(exact.cov)
    assert relative == pytest.approx(0.5 * c**2, rel=0.1)
    assert_moments(samples, limit, allowed_bias=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [blur, inpainting])
def test_unfolded_sampler_reaches_the_posterior(make):
    """c = sqrt(2), small steps and many of them: each outer step draws from p(x_0 | y, x_t) and the
    reverse step keeps the marginals, so the last draw is one of p(x_0 | y). Bias: the share r^2 of
    each inner
    step, 10 %."""
    schedule = ud2m_schedule(SIGMA_Y, [20.0, 1.0], 400, r=0.3, c=2.0**0.5)
    A, y, _, samples = run(make(), schedule)
    exact = world.posterior(A, y, SIGMA_Y)
    assert np.trace(np.cov(samples.T)) == pytest.approx(np.trace(exact.cov), rel=0.1)
    assert_moments(samples, exact, allowed_bias=0.1)


class Recorder:
    """Steps that change nothing and remember where their noise stands in the stream."""

    def __init__(self):
        self.used = []
        self.last_gamma = None

    def start(self, x, sigma):
        self.used.append(0)
        return x

    def propose(self, x, x_t, inner):
        self.used.append(inner.noise_step)
        return x

    def reverse(self, x0_hat, x_t, outer):
        self.used.append(outer.noise_step)
        return x_t

    def finish(self, x, gamma):
        self.last_gamma = gamma
        return x


@pytest.mark.parametrize("name, nfe", [("latino", 4), ("ud2m", 6), ("ud2m-tuned", 4)])
def test_nfe_counts_the_calls_of_the_denoiser(name, nfe):
    schedule, calls = SCHEDULES[name], []

    def counting(x, sigma):
        calls.append(float(sigma))
        return x

    recorder = Recorder()
    sample_posterior(recorder, counting, schedule, torch.zeros(1, 1, 4, 4))
    assert recorder.last_gamma == schedule.final_gamma
    assert len(calls) == schedule.nfe == nfe
    assert calls == pytest.approx(schedule.denoiser_sigmas())


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_steps_are_those_of_the_random_stream(name):
    """DESIGN: 0 is x_t, inner 1 + i (K + 1) + k, reverse 1 + i (K + 1) + K; LATINO's k-th is 1 +
    k.
    """
    recorder = Recorder()
    sample_posterior(recorder, lambda x, s: x, SCHEDULES[name], torch.zeros(1, 1, 4, 4))
    used = recorder.used
    if name == "latino":
        assert used == [1, 2, 3, 4]
    else:
        outer, inner = (3, 2) if name == "ud2m" else (2, 2)
        expected = [0]
        for i in range(outer):
            expected += [1 + i * (inner + 1) + k for k in range(inner)]
            expected += [1 + i * (inner + 1) + inner] if i + 1 < outer else []
        assert used == expected
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("make", [blur, inpainting])
@pytest.mark.parametrize("c", [1.0, 2.0**0.5])
def test_the_bias_of_the_limit_vanishes_with_the_step(make, c):
    """A quarter of the step s^2 leaves a quarter of the bias, in mean and covariance (exact
    moments).
    """
    op = make()
    A = dense(op)
    y = (
        A
        @ ops.gaussian_noise(99, [0], [0], 0, (1, 1, world.HEIGHT, world.WIDTH))
        .double()
        .reshape(-1)
        .numpy()
    )
    exact = world.posterior(A, y, SIGMA_Y)
    bias = []
    for sigma, count in ((0.1, 1500), (0.05, 6000)):
        schedule = replace(latino_schedule(SIGMA_Y, [sigma] * count, c=c), final_gamma=None)
        found = world.chain(A, y, np.zeros(SIZE), schedule)
        limit = 0.5 * c**2 * exact.cov
        bias.append(
            (
                np.linalg.norm(found.mean - exact.mean) / np.linalg.norm(exact.mean),
                np.linalg.norm(found.cov - limit) / np.linalg.norm(limit),
            )
        )
    for large, small in zip(*bias, strict=True):
        assert large < 0.1
        assert small / large == pytest.approx(0.25, abs=0.05)
