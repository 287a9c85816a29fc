"""Operators of this package as physics of deepinv: the same measurement model, [0, 1] units."""

from __future__ import annotations

from typing import cast

from deepinv.physics import DecomposablePhysics, LinearPhysics
from torch import Tensor

from benchmarks.peers.convolution import ConvolutionPhysics, halved
from latino_engine.errors import invalid, invalid_type
from latino_engine.interop.deepinv import to_physics
from latino_engine.operators import MRI, Blur, Inpainting, SuperResolution
from latino_engine.operators.protocol import Operator


def make_physics(op: Operator, img_size: tuple[int, int, int]) -> LinearPhysics:
    """deepinv's own physics with the parameters of this operator: the same A, adjoint and prox.

    Blur is `BlurFFT`, SuperResolution is `Downsampling` with circular borders, Inpainting and MRI
    of one coil have the same names there.

    Args:
        op: one operator for the whole batch, its noise_std a number.
        img_size: (C, H, W) of the image.

    Raises:
        InvalidType, InvalidArgument: another operator, parameters that differ from image to image,
            or MRI of real images.
    """
    _shared_noise_std(op)
    known = isinstance(op, Blur | SuperResolution | Inpainting | MRI)
    if not known or (isinstance(op, MRI) and op.coil_maps is not None):
        expected = "Blur, SuperResolution, Inpainting or MRI of one coil"
        raise invalid_type("operator", expected, repr(op), "the peers know no other")
    return cast(LinearPhysics, to_physics(op, img_size))


def make_decomposable(
    op: Operator, img_size: tuple[int, int, int], half_variance: bool
) -> DecomposablePhysics:
    """The physics with the singular value decomposition that DDRM needs.

    Args:
        op, img_size: as in `make_physics`.
        half_variance: give DDRM the noise that its denoiser is told (see `convolution.halved`).
            False: deepinv's own decomposition as it is, and for SuperResolution, which has none
            there, an orthonormal one. True: orthonormal ones, scaled. (The coefficients of
            `BlurFFT` need no scale, but those of its first column are redundant: noise that is
            drawn for them independently loses half of its variance on the way to the image.)
    """
    if isinstance(op, SuperResolution) or (isinstance(op, Blur) and half_variance):
        factor = op.factor if isinstance(op, SuperResolution) else 1
        physics = ConvolutionPhysics(op.kernel, factor, img_size, _shared_noise_std(op))
    else:
        physics = make_physics(op, img_size)
    return halved(physics) if half_variance else physics


def _shared_noise_std(op: Operator) -> float:
    if op.batch_size is not None or isinstance(op.noise_std, Tensor):
        expected = "one set of parameters for all images"
        raise invalid("operator", expected, repr(op), "run the peers once for each")
    return op.noise_std
