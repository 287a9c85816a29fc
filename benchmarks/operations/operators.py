"""A, A_adjoint and prox of every operator, beside plain torch and deepinv."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.operations import eager
from benchmarks.operations.case import BOUND, OURS, Arguments, Case, Provider
from benchmarks.operations.model import GAMMA, NOISE_STD, Model, closed, iterative
from benchmarks.operations.sensors import sensor_models
from latino_engine.operators import (
    JPEG,
    MRI,
    Blur,
    Denoising,
    Inpainting,
    LinearOperator,
    SuperResolution,
)
from latino_engine.operators.parts.jpeg_codec import quantisation_tables

FACTOR, COILS, QUALITY = 4, 4, 30


def operator_cases(batch: int, height: int, width: int, device: str = "cpu") -> list[Case]:
    """A, A_adjoint and prox of every operator at one size; sides are multiples of 8."""
    return [
        case
        for model in _models(height, width, device)
        for case in _cases(model, (batch, model.channels, height, width), device)
    ]


def sensor_cases(batch: int, height: int, width: int, device: str = "cpu") -> list[Case]:
    """The same of sensors, sums, chains and of noise that is not Gaussian."""
    return [
        case
        for model in sensor_models(height, width, device)
        for case in _cases(model, (batch, model.channels, height, width), device)
    ]


def _models(height: int, width: int, device: str) -> list[Model]:
    generator = torch.Generator().manual_seed(3)
    chance = torch.rand(height, width, generator=generator)
    mask = (chance < 0.5).float().to(device)
    maps = torch.randn(2, COILS, height, width, generator=generator).to(device) / (2 * COILS) ** 0.5
    coils = torch.complex(maps[0], maps[1])
    blur, sr = Blur.gaussian(1.6, NOISE_STD, size=13), SuperResolution(FACTOR, NOISE_STD)
    jpeg = JPEG(QUALITY)
    return [
        closed("Blur", blur, 3, eager.blur_A, eager.blur_A_adjoint, eager.blur_prox,
               blur.kernel.to(device)),
        closed("SuperResolution", sr, 3, eager.sr_A, eager.sr_A_adjoint, eager.sr_prox,
               sr.kernel.to(device), FACTOR),
        closed("Inpainting", Inpainting(mask, NOISE_STD), 3, eager.masked, eager.masked,
               eager.masked_prox, mask),
        Model("Denoising", Denoising(NOISE_STD), 3,
               {"prox": lambda v, y: (GAMMA * y + v) / (GAMMA + 1.0)}),
        closed("MRI", MRI(mask, NOISE_STD), 2, eager.mri_A, eager.mri_A_adjoint, eager.mri_prox,
               mask[None, None]),
        iterative(f"MRI, {COILS} coils", MRI(mask, NOISE_STD, coils), 2,
                   lambda x: eager.coils_A(x, mask[None, None].to(x), coils.to(_complex(x))),
                   lambda y: eager.coils_A_adjoint(y, mask[None, None].to(y),
                                                   coils.to(_complex(y)))),
        Model("JPEG", jpeg, 3, {
            "A": lambda x: eager.jpeg_A(x, quantisation_tables(QUALITY, 3))}),
        iterative("LinearOperator",
                   LinearOperator(eager.differences, eager.differences_adjoint, NOISE_STD), 3,
                   eager.differences, eager.differences_adjoint),
    ]  # fmt: skip


def _complex(like: Tensor) -> torch.dtype:
    return torch.complex128 if like.dtype == torch.float64 else torch.complex64


def _cases(model: Model, shape: tuple[int, int, int, int], device: str) -> list[Case]:
    def images(count: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(11)
        return [torch.rand(shape, generator=generator).to(device) for _ in range(count)]

    def measured() -> Tensor:
        return model.op.A(images(1)[0])

    makers: dict[str, Callable[[], Arguments]] = {
        "A": lambda: (images(1)[0],),
        "A_adjoint": lambda: (measured(),),
        "prox": lambda: (images(2)[1], measured()),
    }
    ours: dict[str, Provider] = {
        "A": model.op.A,
        "A_adjoint": model.op.A_adjoint,
        "prox": lambda v, y: model.op.prox(v, y, GAMMA),
    }
    peers = _deepinv(model, shape[1:], device)
    cases = []
    for method, plain in model.plain.items():
        make = makers[method]
        providers = {OURS: ours[method], "eager": plain}
        if method in peers:
            providers["deepinv"] = peers[method]
        cases.append(
            Case(
                f"{model.name}.{method}",
                shape,
                make,
                providers,
                lambda plain=plain, make=make: plain(*(a.double() for a in make())),
                count=model.op.cost(method, shape),
                bound=model.prox_bound if method == "prox" else BOUND,
            )
        )
    return cases


def _deepinv(
    model: Model, img_size: tuple[int, int, int], device: str
) -> dict[str, Callable[..., Any]]:
    """deepinv's own physics with the same parameters, where it is installed and has such one."""
    known = isinstance(model.op, Blur | SuperResolution | Inpainting) or model.name == "MRI"
    if not known or importlib.util.find_spec("deepinv") is None:
        return {}
    from benchmarks.peers.physics import make_physics

    physics = make_physics(model.op, img_size).to(device)
    return {
        "A": physics.A,
        "A_adjoint": physics.A_adjoint,
        "prox": lambda v, y: physics.prox_l2(v, y, GAMMA),
    }
