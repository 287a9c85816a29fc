"""What A, A_adjoint and prox are made of: convolutions, masks, k-space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.operations import eager
from benchmarks.operations.case import OURS, Arguments, Case, Provider
from benchmarks.operations.fused import GAMMA, images, in_float64
from latino_engine import ops
from latino_engine.operators import MRI, Blur, Inpainting
from latino_engine.operators.parts.cost import Count
from latino_engine.operators.parts.spectra import kernel_spectrum


def call_cases(batch: int, height: int, width: int, device: str = "cpu") -> list[Case]:
    """All of them at one size."""
    shape, kspace = (batch, 3, height, width), (batch, 2, height, width)
    blur, size = Blur.gaussian(1.6, 0.02, size=13), (height, width)
    mask = (images(1, (1, 1, *size), device, seed=8)[0] < 0.5).float()
    half = 8.0 * batch * 3 * height * (width // 2 + 1)

    def convolution() -> Arguments:
        h = kernel_spectrum(blur.kernel, size).to(device, torch.complex64)
        return images(1, shape, device)[0], h

    def spectrum(x: Tensor, h: Tensor) -> Tensor:
        return h * torch.fft.rfft2(x)

    def convolve(x: Tensor, h: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum(x, h), s=size)

    def masked(of: tuple[int, ...], count: int = 1) -> Arguments:
        return (*images(count, of, device), mask)

    convolved = blur.cost("A", shape)
    one_way = Count(convolved.flops / 2, convolved.bytes / 2 + half)
    mri = MRI(mask[0, 0].cpu(), 0.02)

    def last(v: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return eager.mri_prox(v, y, m, GAMMA)

    def observed(v: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return eager.masked_prox(v, torch.where(m > 0, y, 0), m, GAMMA)

    kspace_prox, pixel_prox = (
        {
            provider: (lambda v, y, m, run=run: run(v, m, y, GAMMA))
            for provider, run in _backends(name).items()
        }
        for name in ("fourier_mask_prox", "observed_prox")
    )
    return [
        _case("convolve", shape, convolution, convolve, convolved),
        _case("convolved_spectrum", shape, convolution, spectrum, one_way),
        _case("keep_observed", shape, partial(masked, shape), lambda x, m: torch.where(m > 0, x, 0),
              Inpainting(mask.cpu(), 0.02).cost("A", shape)),
        _case("kspace_forward", kspace, partial(masked, kspace), eager.mri_A,
              mri.cost("A", kspace)),
        _case("kspace_adjoint", kspace, partial(masked, kspace), eager.mri_A_adjoint,
              mri.cost("A_adjoint", kspace)),
        _case("fourier_mask_prox", kspace, partial(masked, kspace, 2), last,
              mri.cost("prox", kspace), kspace_prox),
        _case("observed_prox", shape, partial(masked, shape, 2), observed,
              Inpainting(mask[0, 0].cpu(), 0.02).cost("prox", shape), pixel_prox),
    ]  # fmt: skip


def _case(
    name: str,
    shape: tuple[int, int, int, int],
    make: Callable[[], Arguments],
    plain: Callable[..., Tensor],
    count: Count | None,
    ours: dict[str, Provider] | None = None,
) -> Case:
    found = _backends(name) if ours is None else ours
    return Case(
        name, shape, make, {**found, "eager": plain}, lambda: plain(*in_float64(make())),
        count=count,
    )  # fmt: skip


def _backends(name: str) -> dict[str, Provider]:
    """The backend that a call takes, and torch alone."""
    run = getattr(ops, name)
    return {OURS: run, f"{OURS} torch": partial(run, backend="torch")}
