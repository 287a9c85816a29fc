"""The accuracy gate: a runtime against float32 torch, at every noise level of the schedules."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import AccuracyError, UserError
from latino_engine.learned_schedule import LearnedSchedule
from latino_engine.priors.preconditioning import PredictionDenoiser
from latino_engine.priors.prior import Prior, PriorSpec
from latino_engine.runtimes import installed, version
from latino_engine.schedule import few_step_sigmas, ud2m_schedule

#: Largest relative error of one denoiser call that an engine may have, see `relative_errors`.
#: Measured on the shipped prior: fp32 2.1e-6, fp16 2.1e-3, bf16 1.6e-2, and "tf32", float32 whose
#: products round their factors to 10 bits, 1.6e-3 to nearest, 7.4e-3 where hardware cuts them off.
BOUNDS = {"fp32": 1e-5, "tf32": 2e-2, "fp16": 5e-3, "bf16": 4e-2}

_PROBE_SEED = 20_250_702
_PROBE_SIDES = (64, 96)
_TIMING_RUNS = 5
_PROBE_NOISE = (0.01, 0.05)  # public noise levels whose UD2M steps are probed


def probe_sigmas(prior: Prior, learned: LearnedSchedule | None = None) -> list[float]:
    """Noise levels at which the default schedules, and a learned one, call this prior's denoiser,
    and the ends of its range.
    """
    spec = prior.spec
    found = set(spec.latino_sigmas())
    for noise_std in _PROBE_NOISE:
        grid = few_step_sigmas(3, spec.sigma_table)
        found |= set(ud2m_schedule(spec.scale * noise_std, grid, 1).denoiser_sigmas())
        if learned is not None:
            for tables in learned.steps.values():
                found |= set(learned.schedule(spec.scale * noise_std, tables).denoiser_sigmas())
    found |= {spec.sigma_min, spec.sigma_max}
    return sorted({min(max(s, spec.sigma_min), spec.sigma_max) for s in found})


def probe_sides(spec: PriorSpec) -> tuple[int, int]:
    """Height and width of the probe images: small, not square, multiples of the prior's."""
    height, width = (side + -side % spec.size_multiple for side in _PROBE_SIDES)
    return height, width


def probe_images(channels: int, height: int, width: int) -> Tensor:
    """Two smooth random images in [-1, 1], (2, C, H, W) float32: the same on every machine."""
    shape = (2, channels, height, width)
    coarse = ops.gaussian_noise(_PROBE_SEED, [0, 1], [0, 0], 0, shape)
    smooth = F.avg_pool2d(F.pad(coarse, (4, 4, 4, 4), mode="reflect"), 9, stride=1)
    return (4.0 * smooth).clamp(-1.0, 1.0)


def probe_sample(prior: Prior, sigma: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The probe images with noise of level sigma, (2, C, H, W), and their noise levels, (2,)."""
    clean = probe_images(prior.channels, height, width)
    eps = ops.gaussian_noise(_PROBE_SEED, [0, 1], [0, 0], 1, tuple(clean.shape))
    return clean + sigma * eps, torch.full((2,), sigma, dtype=torch.float32)


def relative_errors(
    runtime: Callable[[Tensor, Tensor], Tensor],
    prior: Prior,
    sigmas: Sequence[float],
    height: int,
    width: int,
) -> dict[str, float]:
    """||out - ref|| / ||ref|| per noise level, out from the runtime, ref from float32 torch.

    A network that predicts eps gives x0_hat = x - sigma eps, at large sigma a small difference of
    large images: no two float32 runtimes agree on it to more digits than on x. There the error is
    taken relative to the larger one of ||ref|| and ||c_skip x||.
    """
    errors = {}
    for sigma in sigmas:
        noisy, levels = probe_sample(prior, sigma, height, width)
        with torch.no_grad():
            expected = prior.denoiser(noisy, levels).double()
        found = runtime(noisy, levels).cpu().double()
        scale = max(float(expected.norm()), _skipped(prior, noisy, levels))
        errors[f"{sigma:.6g}"] = float((found - expected).norm()) / scale
    return errors


def _skipped(prior: Prior, noisy: Tensor, levels: Tensor) -> float:
    """||c_skip x|| where the network predicts eps, v or the score, else 0."""
    if not isinstance(prior.denoiser, PredictionDenoiser):
        return 0.0
    weight = prior.denoiser.skip_weight(levels.double())
    return float((weight[:, None, None, None] * noisy.double()).norm())


def check_accuracy(name: str, precision: str, errors: dict[str, float]) -> float:
    """The largest of the errors.

    Raises:
        AccuracyError: it is above the bound of the precision or of "tf32", or not a number.
    """
    sigma, worst = max(errors.items(), key=lambda item: (item[1] != item[1], item[1]))
    bound = BOUNDS[precision]
    if not worst <= bound:
        raise AccuracyError(
            f"precision: expected a relative error of at most {bound:g} against float32 torch, got "
            f"{worst:.3g} from {name} in {precision} at sigma {sigma}; choose a higher precision "
            "or "
            "another backend"
        )
    return worst


def median_time_ms(step: Callable[[], object]) -> float:
    """Milliseconds of one call, the median of several; a call before them allocates."""
    times = []
    for _ in range(1 + _TIMING_RUNS):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def examine(
    candidates: Container[str],
    backend: str,
    precision: str,
    probe: Callable[[str, dict[str, Any]], None],
) -> dict[str, dict[str, Any]]:
    """Measured errors and time of every installed runtime.

    Args:
        candidates: backends that may be used.
        backend: as asked; a named one must pass, others may be refused.
        precision: of the networks, which gives the bound.
        probe: (runtime, record) fills the record, or raises a `UserError`.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in (name for name in installed() if name in candidates):
        record: dict[str, Any] = {"version": version(name), "bound": BOUNDS[precision]}
        found[name] = record
        try:
            probe(name, record)
        except UserError as error:
            if name == backend:
                raise
            record.pop("relative_error", None)
            record["refused"] = str(error)
    return found
