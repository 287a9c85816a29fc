"""The fused operations of `latino_engine.ops`, each backend, and the compositions they replace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.operations.case import OURS, Arguments, Case, Provider
from latino_engine import ops
from latino_engine.operators import MRI, Blur, Inpainting, SuperResolution
from latino_engine.operators.parts.cost import Count
from latino_engine.operators.parts.spectra import kernel_spectrum
from latino_engine.ops import alias_fold
from latino_engine.ops.dispatch import BACKENDS
from latino_engine.ops.philox import philox_normals

GAMMA, SCALE, X_WEIGHT, FACTOR, SEED, STEP = 3.0, 0.3, 0.4, 4, 1, 2
SIGMA_N, SIGMA_NEXT, ZETA = 2.5, 0.4, 0.9
_NOISE_BOUND = 2e-5

Identity = tuple[int, Tensor, Tensor, int]


def fused_cases(batch: int, height: int, width: int, device: str = "cpu") -> list[Case]:
    """All fused operations at one size; sides are multiples of 4."""
    return [
        *_noise_cases((batch, 3, height, width), device),
        *_pointwise_cases((batch, 3, height, width), device),
        *_fourier_cases((batch, 3, height, width), device),
        *_alias_cases((batch, 3, height, width), device),
        *_masked_cases((batch, 3, height, width), device),
        _fourier_mask_case((batch, 2, height, width), device),
    ]


def _backends(run: Callable[..., Any], device: str) -> dict[str, Provider]:
    """The operation with each backend of its table that this machine has."""
    names = [name for name in _BACKENDS[device] if name in ops.TABLES[run.__name__]]
    here = [name for name in names if name == "torch" or BACKENDS[name].module.missing() is None]
    return {f"{OURS} {name}": partial(run, backend=name) for name in here}


_BACKENDS = {"cpu": ("cpu", "torch"), "cuda": ("cuda", "triton", "torch")}


def _identity(batch: int, device: str) -> Identity:
    ids = torch.arange(batch, device=device)
    return SEED, ids, ids, STEP


def images(count: int, shape: tuple[int, ...], device: str, seed: int = 7) -> list[Tensor]:
    """The same uniform images at every call with a seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator).to(device) for _ in range(count)]


def _eps(shape: tuple[int, ...], device: str) -> Tensor:
    """The noise of this package, float64."""
    return philox_normals(*_identity(shape[0], device), shape).double()  # type: ignore[arg-type]


def in_float64(arguments: Arguments) -> Arguments:
    def converted(value: Any) -> Any:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        return value.to(torch.complex128 if value.is_complex() else torch.float64)

    return tuple(converted(value) for value in arguments)


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _noise_cases(shape: tuple[int, int, int, int], device: str) -> list[Case]:
    identity, n = _identity(shape[0], device), _numel(shape)

    def eager(z: Tensor) -> Tensor:
        return z + SCALE * torch.randn_like(z)

    def reverse(x0: Tensor, x_t: Tensor, eps: Tensor | None = None) -> Tensor:
        eps = torch.randn_like(x0) if eps is None else eps
        return x0 + SIGMA_NEXT * ((1 - ZETA) ** 0.5 * (x_t - x0) / SIGMA_N + ZETA**0.5 * eps.to(x0))

    def ours_reverse(backend: Provider) -> Provider:
        return lambda x0, x_t: backend(x0, x_t, SIGMA_N, SIGMA_NEXT, ZETA, *identity)

    noise = {
        name: (lambda like, run=run: run(*identity, tuple(like.shape)))
        for name, run in _backends(ops.gaussian_noise, device).items()
    }
    langevin = {
        name: (lambda z, run=run: run(z, SCALE, *identity))
        for name, run in _backends(ops.langevin_noise, device).items()
    }
    backward = {n: ours_reverse(r) for n, r in _backends(ops.reverse_step, device).items()}
    one, two = (partial(images, count, shape, device) for count in (1, 2))
    return [
        Case(
            "gaussian_noise", shape, one, {**noise, "eager": torch.randn_like},
            lambda: _eps(shape, device), {"eager": lambda like: _eps(shape, device).float()},
            Count(0.0, 4.0 * n), _NOISE_BOUND,
        ),
        Case(
            "langevin_noise", shape, one, {**langevin, "eager": eager},
            lambda: one()[0].double() + SCALE * _eps(shape, device),
            {"eager": lambda z: z + SCALE * _eps(shape, device).float()},
            Count(2.0 * n, 8.0 * n), _NOISE_BOUND,
        ),
        Case(
            "reverse_step", shape, two, {**backward, "eager": reverse},
            lambda: reverse(*in_float64(tuple(two())), _eps(shape, device)),
            {"eager": lambda a, b: reverse(a, b, _eps(shape, device))},
            Count(6.0 * n, 12.0 * n), _NOISE_BOUND,
        ),
    ]  # fmt: skip


def _pointwise_cases(shape: tuple[int, int, int, int], device: str) -> list[Case]:
    n = _numel(shape)
    moments = {
        name: (lambda mean, m2, x, run=run: run(mean, m2, 3, x))
        for name, run in _backends(ops.running_moments, device).items()
    }

    def eager_anchors(x: Tensor, x_t: Tensor) -> Tensor:
        return X_WEIGHT * x + (1.0 - X_WEIGHT) * x_t

    def eager_moments(mean: Tensor, m2: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        delta = x - mean
        new = mean + delta / 3
        return new, m2 + delta * (x - new)

    two, three = (partial(images, count, shape, device) for count in (2, 3))
    anchors = {f"{OURS} torch": lambda x, x_t: ops.combine_anchors(x, x_t, X_WEIGHT)}
    return [
        Case(
            "combine_anchors", shape, two, {**anchors, "eager": eager_anchors},
            lambda: eager_anchors(*in_float64(tuple(two()))), count=Count(3.0 * n, 12.0 * n),
        ),
        Case(
            "running_moments", shape, three, {**moments, "eager": eager_moments},
            lambda: eager_moments(*in_float64(tuple(three()))), count=Count(6.0 * n, 20.0 * n),
        ),
    ]  # fmt: skip


def _step_case(
    name: str,
    shape: tuple[int, int, int, int],
    run: Callable[..., Tensor],
    eager: Callable[..., Tensor],
    constants: Callable[[], tuple[Tensor, ...]],
    count: Count | None,
    device: str,
    *behind: int,
) -> Case:
    """A whole inner step: anchors, the data step `eager(v, *constants)`, noise."""
    identity, n = _identity(shape[0], device), _numel(shape)

    def make() -> Arguments:
        return (*images(2, shape, device), *constants())

    def composed(x: Tensor, x_t: Tensor, *rest: Tensor, eps: Tensor | None = None) -> Tensor:
        v = X_WEIGHT * x + (1.0 - X_WEIGHT) * x_t
        z = eager(v, *rest)
        return z + SCALE * (torch.randn_like(z) if eps is None else eps.to(z))

    ours = {
        label: (
            lambda x, x_t, *rest, backend=backend: backend(
                x, x_t, X_WEIGHT, *rest, GAMMA, SCALE, *behind, *identity
            )
        )
        for label, backend in _backends(run, device).items()
    }
    assert count is not None
    return Case(
        name, shape, make, {**ours, "eager": composed},
        lambda: composed(*in_float64(make()), eps=_eps(shape, device)),
        {"eager": lambda *a: composed(*a, eps=_eps(shape, device))},
        Count(count.flops + 5.0 * n, count.bytes + 4.0 * n), _NOISE_BOUND,
    )  # fmt: skip


def _fourier_cases(shape: tuple[int, int, int, int], device: str) -> list[Case]:
    op = Blur.gaussian(1.6, 0.02, size=13)
    size = (shape[-2], shape[-1])
    count = op.cost("data_step", shape)

    def constants() -> tuple[Tensor, ...]:
        y = op.A(images(1, shape, device, seed=8)[0])
        h = kernel_spectrum(op.kernel, size)
        back = h.conj().resolve_conj().to(y.device, torch.complex64) * torch.fft.rfft2(y)
        return (h.abs() ** 2).to(y), back

    def eager(v: Tensor, power: Tensor, back: Tensor) -> Tensor:
        V = (GAMMA * back + torch.fft.rfft2(v)) / (GAMMA * power + 1.0)
        return torch.fft.irfft2(V, s=size)

    def make() -> Arguments:
        return (images(1, shape, device)[0], *constants())

    prox = {f"{OURS} torch": lambda v, power, back: ops.fourier_prox(v, power, back, GAMMA)}
    return [
        Case(
            "fourier_prox", shape, make, {**prox, "eager": eager},
            lambda: eager(*in_float64(make())), count=count,
        ),
        _step_case(
            "fourier_prox_noise", shape, ops.fourier_prox_noise, eager, constants, count, device
        ),
    ]  # fmt: skip


def _alias_cases(shape: tuple[int, int, int, int], device: str) -> list[Case]:
    op = SuperResolution(FACTOR, 0.02)
    count = op.cost("data_step", shape)
    height, width = shape[-2:]

    def constants() -> tuple[Tensor, ...]:
        image = images(1, shape, device, seed=8)[0]
        h, folded = op._spectra(image, (height, width))
        low = torch.fft.fft2(op.A(image))
        back = (h.conj() * low.repeat(1, 1, FACTOR, FACTOR)).resolve_conj()
        return h.clone(), folded.clone(), back

    def eager(v: Tensor, h: Tensor, folded: Tensor, back: Tensor) -> Tensor:
        b = torch.fft.fft2(v) + GAMMA * back
        inner = alias_fold(h * b, FACTOR) / (1.0 + GAMMA * folded)
        X = b - GAMMA * h.conj() * inner.repeat(1, 1, FACTOR, FACTOR)
        return torch.fft.ifft2(X).real

    def make() -> Arguments:
        return (images(1, shape, device)[0], *constants())

    prox = {f"{OURS} torch": lambda v, *rest: ops.alias_prox(v, *rest, GAMMA, FACTOR)}
    return [
        Case(
            "alias_prox", shape, make, {**prox, "eager": eager},
            lambda: eager(*in_float64(make())), count=count,
        ),
        _step_case(
            "alias_prox_noise", shape, ops.alias_prox_noise, eager, constants, count, device, FACTOR
        ),
    ]  # fmt: skip


def _masked_cases(shape: tuple[int, int, int, int], device: str) -> list[Case]:
    def constants() -> tuple[Tensor, ...]:
        image, chances = images(2, shape, device, seed=8)
        return (chances[:1, :1] < 0.5).to(image), image

    def eager(v: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        return (GAMMA * mask * y + v) / (GAMMA * mask + 1.0)

    def make() -> Arguments:
        return (images(1, shape, device)[0], *constants())

    prox = {
        label: (lambda v, mask, y, run=run: run(v, mask, y, GAMMA))
        for label, run in _backends(ops.masked_prox, device).items()
    }
    count = Inpainting(torch.ones(shape[-2:]), 0.02).cost("data_step", shape)
    return [
        Case(
            "masked_prox", shape, make, {**prox, "eager": eager},
            lambda: eager(*in_float64(make())), count=count,
        ),
        _step_case(
            "masked_prox_noise", shape, ops.masked_prox_noise, eager, constants, count, device
        ),
    ]  # fmt: skip


def _fourier_mask_case(shape: tuple[int, int, int, int], device: str) -> Case:
    size = (shape[-2], shape[-1])

    def constants() -> tuple[Tensor, ...]:
        y, chances = images(2, shape, device, seed=8)
        mask = (chances[:1, :1] < 0.5).to(y)
        return mask, mask * y

    def eager(v: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        axes = (-2, -1)
        image = torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=axes)
        V = torch.fft.fftshift(torch.fft.fft2(image, norm="ortho"), dim=axes)
        X = (GAMMA * mask * torch.complex(y[:, :1], y[:, 1:]) + V) / (GAMMA * mask + 1.0)
        z = torch.fft.ifft2(torch.fft.ifftshift(X, dim=axes), norm="ortho")
        z = torch.fft.fftshift(z, dim=axes)
        return torch.cat((z.real, z.imag), dim=1)

    count = MRI(torch.ones(size), 0.02).cost("data_step", shape)
    return _step_case(
        "fourier_mask_prox_noise", shape, ops.fourier_mask_prox_noise, eager, constants, count,
        device,
    )  # fmt: skip
