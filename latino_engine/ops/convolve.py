"""Circular convolutions by their half-spectra: what A and A_adjoint of a blur are made of.

"cpu" transforms sides of a power of two from 16 to 2048 by loops of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops import cpu_extension as cpu
from latino_engine.ops.arguments import half_size
from latino_engine.ops.dispatch import Backend, Table, choose


def _by_torch(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    """The specification."""
    y: Tensor = torch.fft.irfft2(_spectrum_by_torch(x, h, conjugate), s=x.shape[-2:])
    return y


def _on_cpu(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    out = cpu.empty(x)
    rest = (conjugate, cpu.array(out), torch.get_num_threads())
    cpu.extension().convolve(cpu.array(x), cpu.array(h), *rest)
    return out


def _spectrum_by_torch(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    """The specification."""
    spectrum: Tensor = (h.conj() if conjugate else h) * torch.fft.rfft2(x)
    return spectrum


def _spectrum_on_cpu(x: Tensor, h: Tensor, conjugate: bool) -> Tensor:
    out = torch.empty((*x.shape[:2], *half_size(x)), dtype=torch.complex64)
    rest = (conjugate, cpu.array(out), torch.get_num_threads())
    cpu.extension().convolved_spectrum(cpu.array(x), cpu.array(h), *rest)
    return out


CONVOLVE: Table = {"torch": _by_torch, "cpu": _on_cpu}
SPECTRUM: Table = {"torch": _spectrum_by_torch, "cpu": _spectrum_on_cpu}


def convolve(x: Tensor, h: Tensor, conjugate: bool = False, *, backend: Backend = "auto") -> Tensor:
    """irfft2(h rfft2(x)): a circular convolution, or with conj(h) its adjoint.

    Args:
        x: (B, C, H, W), float32 or float64.
        h: half-spectrum (B|1, C|1, H, W//2+1), complex.
        conjugate: take conj(h).
        backend: "auto", "torch" or "cpu".
    """
    run = choose(CONVOLVE, backend, x, h, obstacle=_obstacle(x), spectra=True)
    _check_half(h, x)
    y: Tensor = run(x, h, conjugate)
    return y


def convolved_spectrum(
    x: Tensor, h: Tensor, conjugate: bool = False, *, backend: Backend = "auto"
) -> Tensor:
    """h rfft2(x), or conj(h) rfft2(x), (B, C, H, W//2+1); arguments as in `convolve`."""
    run = choose(SPECTRUM, backend, x, h, obstacle=_obstacle(x), spectra=True)
    _check_half(h, x)
    spectrum: Tensor = run(x, h, conjugate)
    return spectrum


def _obstacle(x: Tensor) -> str | None:
    """Why "cpu" has no transforms for these images."""
    if cpu.missing() is not None or (x.ndim == 4 and cpu.has_own_loops(x.shape[2], x.shape[3])):
        return None
    return f"shape {tuple(x.shape)}, not {cpu.OWN_SIDES}"


def _check_half(h: Tensor, x: Tensor) -> None:
    expected = half_size(x)
    if x.ndim != 4 or h.ndim != 4 or tuple(h.shape[-2:]) != expected:
        wanted = f"a half-spectrum (B|1, C|1, {expected[0]}, {expected[1]})"
        got = f"{tuple(h.shape)} for x {tuple(x.shape)}"
        raise invalid("h", wanted, got, "use rfft2 of a kernel of x's size")
