"""What an operator's A, A_adjoint and prox are made of: convolutions, masks, k-space.

Part of `latino_engine.ops`: shape checks and one dict {backend: function} each. "cpu" transforms
sides of a power of two from 16 to 2048 by loops of its own.
"""

from __future__ import annotations

from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.ops import cpu, cpu_extension, reference, triton
from latino_engine.ops.checks import per_image
from latino_engine.ops.dispatch import Backend, Table, choose

_CONVOLVE: Table = {"torch": reference.convolve, "cpu": cpu.convolve}
_CONVOLVED_SPECTRUM: Table = {
    "torch": reference.convolved_spectrum,
    "cpu": cpu.convolved_spectrum,
}
_KEEP_OBSERVED: Table = {
    "torch": reference.keep_observed,
    "cpu": cpu.keep_observed,
}
_KSPACE_FORWARD: Table = {
    "torch": reference.kspace_forward,
    "cpu": cpu.kspace_forward,
}
_KSPACE_ADJOINT: Table = {
    "torch": reference.kspace_adjoint,
    "cpu": cpu.kspace_adjoint,
}
_FOURIER_MASK_PROX: Table = {
    "torch": reference.fourier_mask_prox,
    "cpu": cpu.fourier_mask_prox,
    "triton": triton.fourier_mask_prox,
}

_OBSERVED_PROX: Table = {"torch": reference.observed_prox, "cpu": cpu_extension.masked_prox}

#: operation -> its table, of this file.
TABLES: dict[str, Table] = {
    "convolve": _CONVOLVE,
    "convolved_spectrum": _CONVOLVED_SPECTRUM,
    "keep_observed": _KEEP_OBSERVED,
    "kspace_forward": _KSPACE_FORWARD,
    "kspace_adjoint": _KSPACE_ADJOINT,
    "fourier_mask_prox": _FOURIER_MASK_PROX,
    "observed_prox": _OBSERVED_PROX,
}


def convolve(x: Tensor, h: Tensor, conjugate: bool = False, *, backend: Backend = "auto") -> Tensor:
    """irfft2(h rfft2(x)): a circular convolution, or with conj(h) its adjoint.

    Args:
        x: (B, C, H, W), float32 or float64.
        h: half-spectrum (B|1, C|1, H, W//2+1), complex.
        conjugate: take conj(h).
        backend: "auto", "torch" or "cpu".
    """
    run = choose(_CONVOLVE, backend, x, h, obstacle=_by_torch(x), spectra=True)
    _check_half("h", h, x)
    y: Tensor = run(x, h, conjugate)
    return y


def convolved_spectrum(
    x: Tensor, h: Tensor, conjugate: bool = False, *, backend: Backend = "auto"
) -> Tensor:
    """h rfft2(x), or conj(h) rfft2(x), (B, C, H, W//2+1); arguments as in `convolve`."""
    run = choose(_CONVOLVED_SPECTRUM, backend, x, h, obstacle=_by_torch(x), spectra=True)
    _check_half("h", h, x)
    spectrum: Tensor = run(x, h, conjugate)
    return spectrum


def keep_observed(x: Tensor, mask: Tensor, *, backend: Backend = "auto") -> Tensor:
    """x where m > 0, else exactly 0, even for NaN.

    Args:
        x: (B, C, H, W), real.
        mask: broadcasts against x; "cpu" takes (B|1, C|1, H, W).
        backend: "auto", "torch" or "cpu".
    """
    fits = mask.ndim == 4 and cpu_extension.broadcasts_to_planes(mask, x)
    obstacle = None if fits else "a mask that is not (B|1, C|1, H, W)"
    kept: Tensor = choose(_KEEP_OBSERVED, backend, x, mask, obstacle=obstacle)(x, mask)
    return kept


def observed_prox(
    v: Tensor, mask: Tensor, y: Tensor, gamma: float | Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """`masked_prox` of real images; y is not used where m = 0, it may be NaN there.

    Args:
        v: (B, C, H, W).
        mask, y: (B|1, C|1, H, W), m in {0, 1}.
        gamma: >= 0, a number or (B,).
        backend: "auto", "torch" or "cpu".
    """
    for name, tensor in (("mask", mask), ("y", y)):
        if tensor.ndim != 4 or not cpu_extension.broadcasts_to_planes(tensor, v):
            expected = "(B|1, C|1, H, W) for v " + str(tuple(v.shape))
            raise invalid(name, expected, tuple(tensor.shape), "match the image v")
    tensors = (v, mask, y, per_image(gamma, v))
    z: Tensor = choose(_OBSERVED_PROX, backend, *tensors)(*tensors)
    return z


def kspace_forward(x: Tensor, mask: Tensor, *, backend: Backend = "auto") -> Tensor:
    """m F x, F = fftshift fft2(ifftshift x), orthonormal: (B, 2, H, W), DC in the middle.

    Args:
        x: images (B, 2, H, W) as (re, im), or real ones (B, 1, H, W).
        mask: (B|1, 1, H, W), m in {0, 1}.
        backend: "auto", "torch" or "cpu".
    """
    _check_kspace("x", x, mask, (1, 2))
    y: Tensor = choose(_KSPACE_FORWARD, backend, x, mask)(x, mask)
    return y


def kspace_adjoint(
    y: Tensor, mask: Tensor, channels: int = 2, *, backend: Backend = "auto"
) -> Tensor:
    """F^-1 (m y): (B, 2, H, W), or with one channel its real part. y is not used where m = 0.

    Args:
        y: k-space (B, 2, H, W) as (re, im), DC in the middle.
        mask: (B|1, 1, H, W), m in {0, 1}.
        channels: 1 or 2.
        backend: "auto", "torch" or "cpu".
    """
    _check_kspace("y", y, mask, (2,))
    if channels not in (1, 2):
        raise invalid("channels", "1 or 2", channels, "give 2 for complex images")
    x: Tensor = choose(_KSPACE_ADJOINT, backend, y, mask)(y, mask, channels)
    return x


def fourier_mask_prox(
    v: Tensor, mask: Tensor, y: Tensor, gamma: float | Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """argmin_x gamma/2 ||m (F x - y)||^2 + 1/2 ||x - v||^2 for complex images as (re, im).

    Args:
        v: (B, 2, H, W).
        mask: (B|1, 1, H, W) over k-space, DC in the middle, m in {0, 1}.
        y: (B|1, 2, H, W), k-space, DC in the middle; not used where m = 0.
        gamma: >= 0, a number or (B,).
        backend: "auto", "torch", "cpu" or "triton".
    """
    _check_kspace("v", v, mask, (2,))
    if y.ndim != 4 or y.shape[0] not in (1, v.shape[0]) or y.shape[1:] != v.shape[1:]:
        expected = f"({v.shape[0]}|1, 2, {v.shape[2]}, {v.shape[3]})"
        raise invalid("y", expected, tuple(y.shape), "match the image v")
    tensors = (v, mask, y, per_image(gamma, v))
    z: Tensor = choose(_FOURIER_MASK_PROX, backend, *tensors)(*tensors)
    return z


def _by_torch(x: Tensor) -> str | None:
    """Why "cpu" has no transforms for these images."""
    if x.ndim == 4 and cpu.own_sides(x.shape[2], x.shape[3]):
        return None
    return f"shape {tuple(x.shape)}, not {cpu.OWN_SIDES}"


def _check_half(name: str, spectrum: Tensor, x: Tensor) -> None:
    expected = (x.shape[-2], x.shape[-1] // 2 + 1)
    if x.ndim != 4 or spectrum.ndim != 4 or tuple(spectrum.shape[-2:]) != expected:
        wanted = f"a half-spectrum (B|1, C|1, {expected[0]}, {expected[1]})"
        got = f"{tuple(spectrum.shape)} for x {tuple(x.shape)}"
        raise invalid(name, wanted, got, "use rfft2 of a kernel of x's size")


def _check_kspace(name: str, x: Tensor, mask: Tensor, channels: tuple[int, ...]) -> None:
    if x.ndim != 4 or x.shape[1] not in channels:
        wanted = "|".join(map(str, channels))
        raise invalid(name, f"(B, {wanted}, H, W)", tuple(x.shape), "store (re, im) as channels")
    expected = ((1, *x.shape[2:]), (1, x.shape[0]))
    if mask.ndim != 4 or tuple(mask.shape[1:]) != expected[0] or mask.shape[0] not in expected[1]:
        wanted = f"({x.shape[0]}|1, 1, {x.shape[2]}, {x.shape[3]})"
        raise invalid("mask", wanted, tuple(mask.shape), f"match {name}")
