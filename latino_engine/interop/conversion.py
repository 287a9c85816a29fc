"""Operators of this package as physics of deepinv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, invalid, invalid_type
from latino_engine.operators import (
    MRI,
    Blur,
    Inpainting,
    PoissonNoise,
    Stack,
    SuperResolution,
)
from latino_engine.operators.protocol import Operator

try:
    import deepinv
except ImportError as error:
    raise BackendNotAvailable(
        "latino_engine.interop.deepinv: expected the package deepinv, which is not installed; "
        "install it with: pip install deepinv"
    ) from error

Size: TypeAlias = tuple[int, int, int]
#: (operator, size of the image, noise model) -> the physics.
Conversion: TypeAlias = Callable[[Any, Size, Any], Any]


def to_physics(op: Operator, img_size: tuple[int, int, int]) -> Any:
    """deepinv's own physics with the parameters of this operator: the same A, adjoint and noise.

    Blur is `BlurFFT`, SuperResolution is `Downsampling` with circular borders; Denoising,
    Inpainting and MRI (`MultiCoilMRI` with coil maps) have the same names there. Stack is a
    `StackedLinearPhysics`, PoissonNoise a physics with `PoissonNoise` of gain 1 / peak, any other
    linear operator a `LinearPhysics` with its A and A_adjoint.

    Args:
        op: parameters may differ from image to image, as far as the physics allows.
        img_size: (C, H, W) of the image.

    Raises:
        InvalidType, InvalidArgument: JPEG, phase retrieval, or MRI of real images.
    """
    if isinstance(op, Stack):
        return deepinv.physics.stack(*(to_physics(part, img_size) for part in op.operators))
    if isinstance(op, PoissonNoise):
        gain = torch.as_tensor(1.0 / op.peak).float()
        noise = deepinv.physics.PoissonNoise(gain, clip_positive=True)
        return _to_linear(op.operator, img_size, noise)
    level = op.noise_std
    return _to_linear(
        op,
        img_size,
        deepinv.physics.GaussianNoise(level.float() if isinstance(level, Tensor) else float(level)),
    )


def _to_linear(op: Operator, img_size: Size, noise: Any) -> Any:
    own: Conversion = _PHYSICS.get(op.kind, _to_any)
    return own(op, img_size, noise)


def _to_any(op: Operator, img_size: Size, noise: Any) -> Any:
    if not op.is_linear:
        expected = "a linear operator, or PoissonNoise of one"
        raise invalid_type("operator", expected, repr(op), "deepinv is given no other")
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: op.A(x),
        A_adjoint=lambda y, **_: op.A_adjoint(y),
        img_size=img_size,
        noise_model=noise,
    )


def _to_denoising(op: Operator, img_size: Size, noise: Any) -> Any:
    return deepinv.physics.Denoising(noise)


def _to_blur(op: Blur, img_size: Size, noise: Any) -> Any:
    return deepinv.physics.BlurFFT(img_size, filter=op.kernel.float(), noise_model=noise)


def _to_downsampling(op: SuperResolution, img_size: Size, noise: Any) -> Any:
    if not op.is_periodic:
        return _to_any(op, img_size, noise)
    return deepinv.physics.Downsampling(
        img_size,
        filter=op.kernel.float(),
        factor=op.factor,
        padding="circular",
        noise_model=noise,
    )


def _to_inpainting(op: Inpainting, img_size: Size, noise: Any) -> Any:
    mask = op.mask.float().expand(-1, *img_size).contiguous()
    return deepinv.physics.Inpainting(img_size, mask=mask, noise_model=noise)


def _to_mri(op: MRI, img_size: Size, noise: Any) -> Any:
    if img_size[0] != 2:
        remedy = "use a prior of complex images"
        raise invalid("operator", "2 channels (re, im) for MRI", img_size[0], remedy)
    mask = op.mask.float().expand(-1, 2, -1, -1).contiguous()
    if op.coil_maps is None:
        return deepinv.physics.MRI(mask=mask, img_size=img_size, noise_model=noise)
    maps = op.coil_maps.to(torch.complex64)
    return deepinv.physics.MultiCoilMRI(mask, maps, img_size=img_size, noise_model=noise)


#: Operators that have a physics of their own, by `Operator.kind`.
_PHYSICS: dict[str, Conversion] = {
    "Denoising": _to_denoising,
    "Blur": _to_blur,
    "SuperResolution": _to_downsampling,
    "Inpainting": _to_inpainting,
    "MRI": _to_mri,
}
