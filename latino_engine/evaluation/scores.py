"""Scores that judge a distribution: proper scores, coverage, distance between sets.

Samples are (S, B, C, H, W), the truth is (B, C, H, W), both in the public range, not clamped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine.errors import invalid


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score, mean over the pixels: (B,) float64, lower is better.

    E|X - x| - 1/2 E|X - X'|, the second term over distinct pairs, so that its expectation does not
    depend on S >= 2.

    Source: Gneiting & Raftery (2007), section 4.2; Zamo & Naveau (2018) for the fair estimator.
    """
    count = _check(samples, truth)
    ordered = samples.double().sort(dim=0).values
    error = (ordered - truth.double()).abs().mean(dim=0)
    rank = torch.arange(1, count + 1, dtype=torch.float64, device=samples.device)
    weight = (2.0 * rank - count - 1.0).reshape(-1, 1, 1, 1, 1)
    spread = (weight * ordered).sum(dim=0) / (count * (count - 1))  # 1/2 E|X - X'|
    score: Tensor = (error - spread).flatten(1).mean(dim=1)
    return score


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """Energy score of whole images: (B,) float64, lower is better.

    E||X - x|| - 1/2 E||X - X'|| with the Euclidean norm, the second term over distinct pairs.

    Source: Gneiting & Raftery (2007), section 4.3.
    """
    count = _check(samples, truth)
    flat = samples.double().flatten(2).transpose(0, 1)  # (B, S, n)
    error = (flat - truth.double().flatten(1)[:, None]).norm(dim=2).mean(dim=1)
    pairs = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    score: Tensor = error - 0.5 * pairs.sum(dim=(1, 2)) / (count * (count - 1))
    return score


def coverage(samples: Tensor, truth: Tensor, level: float, least_std: float = 0.0) -> float:
    """Share of the pixels whose truth lies in the central interval of this level, by its rank.

    With b samples below the truth and t equal to it, u is uniform on [b, b + t + 1] / (S + 1); the
    pixel counts by the chance that |u - 1/2| <= level / 2. For samples that are exchangeable with
    the truth the expected share is `level`, whatever S and however often values repeat, as long as
    level <= (S - 1)/(S + 1). An interval between quantiles would not do: of images that are exactly
    0 in most places it holds 80 % of nothing, its lower end being where the truth is.

    Source: Czado, Gneiting & Held (2009), section 2, for the rank of a value that repeats.

    Args:
        samples, truth: as everywhere here.
        level: in (0, 1).
        least_std: pixels where samples and truth together (S + 1 values) have a smaller standard
            deviation are left out. This choice treats the truth as one more sample, so it keeps
            the expected share at `level`; one by the samples alone would leave out the pixels where
            only the truth has ink, and flatter every sampler of sparse images.

    Returns:
        The share, NaN where S is too small for the level or no pixel is left.
    """
    count = _check(samples, truth)
    if not 0.0 < level < 1.0:
        raise invalid("level", "a probability in (0, 1)", level, "for example 0.8")
    if level > (count - 1) / (count + 1) + 1e-9:
        return float("nan")
    below, ties = (samples < truth).sum(dim=0), (samples == truth).sum(dim=0)
    first, last = below / (count + 1), (below + ties + 1) / (count + 1)
    low, high = 0.5 - 0.5 * level, 0.5 + 0.5 * level
    within = last.clamp(max=high) - first.clamp(min=low)
    inside = within.clamp(min=0.0) / (last - first)
    active = torch.cat([samples, truth[None].to(samples)]).std(dim=0) >= least_std
    return float(inside[active].double().mean()) if bool(active.any()) else float("nan")


def sliced_wasserstein(
    samples: Tensor, truth: Tensor, num_directions: int = 256, seed: int = 0
) -> float:
    """Sliced Wasserstein-1 distance between two sets of images, per pixel.

    The mean, over random unit directions, of the mean distance between the sorted projections,
    times sqrt(pi/2): sets that differ by a constant c in every pixel are about |c| apart.

    Args:
        samples, truth: (N, C, H, W) each, as many of one as of the other.
        num_directions: how many directions.
        seed: of the directions.
    """
    if samples.shape != truth.shape:
        raise invalid("samples", f"shape {tuple(truth.shape)}", tuple(samples.shape), "match them")
    a, b = samples.double().flatten(1), truth.double().flatten(1)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], num_directions, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    ordered = [(images @ directions).sort(dim=0).values for images in (a, b)]
    return float((ordered[0] - ordered[1]).abs().mean() * (torch.pi / 2.0) ** 0.5)


def _check(samples: Tensor, truth: Tensor) -> int:
    if samples.ndim != 5 or samples.shape[1:] != truth.shape:
        expected = f"shape (S, *{tuple(truth.shape)})"
        raise invalid("samples", expected, tuple(samples.shape), "give the posterior of this truth")
    if samples.shape[0] < 2:
        raise invalid("samples", "at least 2 samples", samples.shape[0], "draw more")
    return int(samples.shape[0])
