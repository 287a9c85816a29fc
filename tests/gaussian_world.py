"""A world in which the posterior is known: a Gaussian prior, its exact denoiser, a linear operator.

Everything here is float64 and dense, written from the equations and independent of the package's
sampler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latino_engine.schedule import Schedule

HEIGHT, WIDTH = 8, 6


def prior_spectrum() -> np.ndarray:
    """Variance of each frequency, (H, W): 0.8 at the lowest, falling to 0.1; even in the
    frequency.
    """
    fy = np.fft.fftfreq(HEIGHT)[:, None]
    fx = np.fft.fftfreq(WIDTH)[None, :]
    return 0.1 + 0.7 / (1.0 + 30.0 * (fy**2 + fx**2))


def fourier_matrix(spectrum: np.ndarray) -> np.ndarray:
    """The (n, n) real matrix that multiplies an image's FFT by an even real spectrum."""
    basis = np.eye(HEIGHT * WIDTH).reshape(-1, HEIGHT, WIDTH)
    columns = np.fft.ifft2(np.fft.fft2(basis) * spectrum).real
    return columns.reshape(-1, HEIGHT * WIDTH).T


def denoise(x: Tensor, sigma: float) -> Tensor:
    """E[x_0 | x_0 + sigma eps = x] for the Gaussian prior of mean 0: p / (p + sigma^2) per
    frequency.
    """
    p = torch.from_numpy(prior_spectrum())
    return torch.fft.ifft2(torch.fft.fft2(x.double()) * (p / (p + float(sigma) ** 2))).real.to(
        x.dtype
    )


@dataclass
class Moments:
    """Mean (n,) and covariance (n, n) of an image."""

    mean: np.ndarray
    cov: np.ndarray


def posterior(A: np.ndarray, y: np.ndarray, sigma_y: float) -> Moments:
    """p(x | y) for x ~ N(0, C), y = A x + sigma_y eps."""
    C = fourier_matrix(prior_spectrum())
    cov = np.linalg.inv(np.linalg.inv(C) + A.T @ A / sigma_y**2)
    return Moments(cov @ A.T @ y / sigma_y**2, cov)


def chain(A: np.ndarray, y: np.ndarray, x_init: np.ndarray, schedule: Schedule) -> Moments:
    """Exact moments of the sampler's output: every step is affine in (x, x_t) with Gaussian
    noise.
    """
    n = A.shape[1]
    eye, zero = np.eye(n), np.zeros((n, n))
    mean = np.concatenate([x_init, np.zeros(n)])
    start = schedule.sigma_start or 0.0
    cov = np.block([[zero, zero], [zero, start**2 * eye]])

    def affine(M: np.ndarray, shift: np.ndarray, noise: np.ndarray) -> None:
        nonlocal mean, cov
        mean, cov = M @ mean + shift, M @ cov @ M.T + noise

    def prox(gamma: float) -> tuple[np.ndarray, np.ndarray]:
        solve = np.linalg.inv(eye + gamma * A.T @ A)
        return solve, gamma * solve @ A.T @ y

    p = prior_spectrum()
    for outer in schedule.outer:
        for step in outer.inner:
            P, b = prox(float(step.gamma))
            D = fourier_matrix(p / (p + float(step.sigma_delta) ** 2))
            a = float(step.x_weight) if outer.sigma_n is not None else 1.0
            M = np.block([[D @ P * a, D @ P * (1.0 - a)], [zero, eye]])
            spread = (step.c * float(step.sigma_delta)) ** 2 * D @ D.T
            affine(
                M, np.concatenate([D @ b, np.zeros(n)]), np.block([[spread, zero], [zero, zero]])
            )
        if outer.sigma_next is not None and outer.sigma_n is not None:
            k = np.sqrt(1.0 - outer.zeta) * outer.sigma_next / outer.sigma_n
            M = np.block([[eye, zero], [(1.0 - k) * eye, k * eye]])
            fresh = outer.zeta * outer.sigma_next**2 * eye
            affine(M, np.zeros(2 * n), np.block([[zero, zero], [zero, fresh]]))
    if schedule.final_gamma is not None:
        P, b = prox(float(schedule.final_gamma))
        affine(
            np.block([[P, zero], [zero, eye]]),
            np.concatenate([b, np.zeros(n)]),
            np.zeros((2 * n,) * 2),
        )
    return Moments(mean[:n], cov[:n, :n])
