"""The whole sampler as one ONNX file: a Loop over steps around the denoiser, for other languages.

v = x_weight x + (1 - x_weight) x_t;  z = prox(v, y, gamma);  x = denoise(z + scale eps, sigma)
x_t <- keep_x x + keep_xt x_t + renew eps      (UD2M's reverse step; 0, 1, 0 where there is none)
and one last prox. Images are in [-1, 1], float32; noise and coefficients are inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.atomic import atomic_file
from latino_engine.errors import invalid, invalid_type, two_sides
from latino_engine.export.denoiser import exact_graph
from latino_engine.export.whole_sampler_graph import COLUMNS, FAMILIES, TRANSFORMS, sampler_graph
from latino_engine.operators import Blur, Inpainting
from latino_engine.operators.own import as_operator
from latino_engine.operators.parts.spectra import kernel_full_spectrum, kernel_spectrum
from latino_engine.operators.protocol import Operator
from latino_engine.priors.loading import pixel_prior
from latino_engine.priors.prior import Prior, PriorSpec
from latino_engine.sampling.problem import make_problem
from latino_engine.schedule import InnerStep, OuterStep, ScheduleBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Inputs: TypeAlias = "dict[str, np.ndarray]"


def export_whole_sampler(
    prior: Prior | str | Path,
    target: str | Path,
    size: int | tuple[int, int],
    operator: str = "blur",
    dft: str = "matmul",
) -> None:
    """Write one ONNX file that samples: any batch, any number of steps, this size.

    Inputs, float32 unless stated: `x_init` (batch, C, H, W); `y` of the same shape, internal units;
    `noise` (draws, batch, C, H, W); `coefficients` (steps, 7), columns x_weight, gamma, sigma,
    scale, keep_x, keep_xt, renew; `draws` (steps, 2) int64, the indices in `noise` of a step's two
    draws; `ends` (2,), sigma of the start's noise and gamma of the last prox; for "blur" `h_real`
    and `h_imag` (batch|1, C|1, H, K), for "mask" `mask` (batch|1, C|1, H, W). Output `x`, internal
    units. `whole_sampler_inputs` makes them all.

    Args:
        prior: a `Prior`, a shipped name, a folder of a prior or an engine; its denoiser is in
            float32, with an adapter where one was merged, as into an engine.
        target: the file.
        size: side or (H, W), multiples of the prior's size_multiple.
        operator: "blur" (circular convolution) or "mask" (inpainting, denoising).
        dft: for "blur": "matmul" (products with the Fourier matrices, K = W // 2 + 1, accepted
            wherever MatMul is; keep TF32 off) or "dft" (the ONNX operator, K = W; TensorRT >= 11.2,
            no TensorRT for RTX).

    Raises:
        ValueError: a latent prior, another operator or transform, a size that the network cannot
            take.
        OutputNotWritable: the file cannot be written.
    """
    _check_choice("operator", operator, FAMILIES)
    _check_choice("dft", dft, TRANSFORMS)
    prior = pixel_prior(prior)
    sides = _fitting_sides(size, prior.spec.size_multiple)
    model = sampler_graph(exact_graph(prior), prior.channels, sides, operator, dft)
    with atomic_file(target) as file:
        file.write(model.SerializeToString(deterministic=True))


def whole_sampler_inputs(
    spec: PriorSpec,
    y: Tensor,
    op: Operator,
    build: ScheduleBuilder,
    seed: int = 0,
    sample_id: int = 0,
    image_ids: Sequence[int] | None = None,
    dft: str = "matmul",
) -> dict[str, np.ndarray]:
    """What the exported graph takes to draw the same sample as `Engine.sample`.

    The result is in internal units: public = (x - spec.offset) / spec.scale.

    Args:
        spec: of the prior.
        y: the measurement, (B, C, H, W), public units.
        op: `Blur`, `Inpainting` or `Denoising`, with one noise level for the batch.
        build: noise level -> schedule, for instance lambda s: latino_schedule(s, levels).
        seed, sample_id, image_ids: identity of the sample, as in `Engine.sample`.
        dft: as exported.

    Raises:
        ValueError, TypeError: a measurement or an operator that the graph cannot serve.
    """
    _check_choice("dft", dft, TRANSFORMS)
    op = as_operator("op", op)
    if op.kind not in _OPERATOR_INPUTS:
        remedy = "sample with an engine instead"
        raise invalid_type("op", "Blur, Inpainting or Denoising", type(op).__name__, remedy)
    problem = make_problem(y, op, spec, None, "cpu")
    if isinstance(problem.sigma_y, Tensor):
        raise invalid("noise_std", "one number", "one for each image", "export a batch per level")
    schedule = build(problem.sigma_y)
    rows, draws = _rows(spec, schedule.outer)
    shape = tuple(problem.x_init.shape)
    images = list(range(shape[0])) if image_ids is None else list(image_ids)
    samples = [sample_id] * shape[0]
    last = int(draws.max())
    noise = [ops.gaussian_noise(seed, images, samples, step, shape) for step in range(last + 1)]
    ones = torch.ones_like(problem.x_init)
    internal = spec.scale * problem.y + spec.offset * op.A(ones)
    ends = [schedule.sigma_start or 0.0, schedule.final_gamma or 0.0]
    return {
        "x_init": problem.x_init.numpy(),
        "y": internal.float().numpy(),
        "noise": torch.stack(noise).numpy(),
        "coefficients": rows,
        "draws": draws,
        "ends": np.asarray(ends, dtype=np.float32),
        **_OPERATOR_INPUTS[op.kind](op, (shape[2], shape[3]), dft),
    }


def _spectrum(op: Blur, size: tuple[int, int], dft: str) -> Inputs:
    transform = kernel_spectrum if dft == "matmul" else kernel_full_spectrum
    h = transform(op.kernel, size)
    return {"h_real": h.real.float().numpy(), "h_imag": h.imag.float().numpy()}


def _mask(op: Inpainting, size: tuple[int, int], dft: str) -> Inputs:
    return {"mask": op.mask.float().numpy()}


def _full_mask(op: Operator, size: tuple[int, int], dft: str) -> Inputs:
    return {"mask": np.ones((1, 1, *size), dtype=np.float32)}


#: What the graph is told of an operator, by `Operator.kind`.
_OPERATOR_INPUTS: dict[str, Callable[[Any, tuple[int, int], str], Inputs]] = {
    "Blur": _spectrum,
    "Inpainting": _mask,
    "Denoising": _full_mask,
}


def _rows(spec: PriorSpec, outer: Sequence[OuterStep]) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients, (steps, 7) float32, and draws, (steps, 2) int64."""
    rows: list[list[float]] = []
    draws: list[list[int]] = []
    for level in outer:
        for step in level.inner:
            rows.append([*_inner(spec, step), 0.0, 1.0, 0.0])
            draws.append([step.noise_step, 0])
        if level.sigma_n is not None and level.sigma_next is not None:
            kept = level.sigma_next * (1.0 - level.zeta) ** 0.5 / level.sigma_n
            rows[-1][4:] = [1.0 - kept, kept, level.sigma_next * level.zeta**0.5]
            draws[-1][1] = level.noise_step
    assert all(len(row) == len(COLUMNS) for row in rows)
    return np.asarray(rows, dtype=np.float32), np.asarray(draws, dtype=np.int64)


def _inner(spec: PriorSpec, step: InnerStep) -> list[float]:
    sigma, scale = float(step.sigma_delta), step.c * float(step.sigma_delta)
    clamped = min(max(sigma, spec.sigma_min), spec.sigma_max)
    return [float(step.x_weight), float(step.gamma), clamped, scale]


def _fitting_sides(size: int | tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = two_sides("size", size)
    if min(height, width) < multiple or height % multiple or width % multiple:
        got = f"{height} x {width}"
        raise invalid("size", f"sides that are multiples of {multiple}", got, "pad the images")
    return height, width


def _check_choice(argument: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        expected = "one of " + ", ".join(repr(name) for name in known)
        raise invalid(argument, expected, repr(value), "choose one of these")
