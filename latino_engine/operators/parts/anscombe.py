"""Anscombe's transform, which gives Poisson counts the variance 1, and its exact mean."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_SHIFT = 3.0 / 8.0
_TABLE_END = 20.0  # square root of the largest tabulated rate; beyond, the asymptote has 1e-6
_PER_UNIT = 64  # points for each unit of the square root


def stabilised(counts: Tensor) -> Tensor:
    """2 sqrt(k + 3/8), k < 0 taken as 0.

    Source: Anscombe, *The transformation of Poisson, binomial and negative-binomial data*,
    Biometrika 35, 1948.
    """
    return 2.0 * torch.sqrt(counts.clamp(min=0.0) + _SHIFT)


def stabilised_mean(rate: Tensor) -> tuple[Tensor, Tensor]:
    """m(r) = E[2 sqrt(K + 3/8)] for K ~ Poisson(r), and its derivative m'(r); r < 0 linearly.

    Its inverse is the exact unbiased inverse of the transform. Cubic interpolation in sqrt(r)
    between sums over the Poisson law; 2 sqrt(r + 1/8) above r = 400.

    Source: Makitalo, Foi, *Optimal inversion of the Anscombe transformation in low-count Poisson
    image denoising*, IEEE Trans. Image Process. 20(1), 2011.
    """
    values, slopes = (t.to(rate) for t in _table())
    root = rate.clamp(min=0.0).sqrt()
    position = (root * _PER_UNIT).clamp(max=len(values) - 1.000001)
    low = position.floor().long().clamp(max=len(values) - 2)
    t, h = position - low, 1.0 / _PER_UNIT
    (a, b), (da, db) = ((p[low], p[low + 1]) for p in (values, slopes))  # slopes: d m / d root
    c2, c3 = 3.0 * (b - a) - h * (2.0 * da + db), 2.0 * (a - b) + h * (da + db)
    near = a + t * (h * da + t * (c2 + t * c3))
    slope = (h * da + t * (2.0 * c2 + 3.0 * t * c3)) / h
    first = float(2.0 * (math.sqrt(1.0 + _SHIFT) - math.sqrt(_SHIFT)))  # m'(0) = T(1) - T(0)
    per_rate = torch.where(root > 0.5 * h, slope / (2.0 * root.clamp(min=0.5 * h)), first)
    far = rate.clamp(min=1.0) + 0.125
    beyond = root >= _TABLE_END
    mean = torch.where(beyond, 2.0 * far.sqrt(), near) + first * rate.clamp(max=0.0)
    return mean, torch.where(beyond, far.rsqrt(), per_rate)


@lru_cache(maxsize=1)
def _table() -> tuple[Tensor, Tensor]:
    """m and d m / d sqrt(r) at sqrt(r) = 0, 1/64, ..., 20, float64, by sums over the counts."""
    root = torch.arange(int(_TABLE_END * _PER_UNIT) + 1, dtype=torch.float64, device="cpu")
    rate = (root / _PER_UNIT)[:, None] ** 2
    k = torch.arange(700, dtype=torch.float64, device="cpu")
    log_pmf = torch.xlogy(k, rate) - rate - torch.lgamma(k + 1.0)
    pmf = log_pmf.exp()
    mean = (pmf * stabilised(k)).sum(dim=1)
    per_rate = (pmf * (stabilised(k + 1.0) - stabilised(k))).sum(dim=1)  # d E f(K) / dr
    return mean, 2.0 * root / _PER_UNIT * per_rate
