"""An engine as a reconstructor of deepinv, and operators of this package as its physics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

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
    from deepinv.models import Reconstructor as _Base
except ImportError as error:
    raise BackendNotAvailable(
        "latino_engine.interop.deepinv: expected the package deepinv, which is not installed; "
        "install it with: pip install deepinv"
    ) from error

if TYPE_CHECKING:
    from latino_engine.engine import Engine
    from latino_engine.sampling.problem import Init

__all__ = ["Reconstructor", "to_physics"]

ESTIMATES = ("mean", "sample")
Size: TypeAlias = tuple[int, int, int]
#: (operator, size of the image, noise model) -> the physics.
Conversion: TypeAlias = Callable[[Any, Size, Any], Any]


class Reconstructor(_Base):  # type: ignore[misc]
    """model(y, physics) -> x_hat for deepinv: its evaluation, metrics and training of others.

    x_hat is the posterior mean, estimated by `num_samples` draws, which has the smallest expected
    squared error, or one draw. It has no parameters and no gradient. The same y, physics and seed
    give the same x_hat.

    Args:
        engine: a loaded engine; its data range is the one of the images, deepinv's is [0, 1].
        num_samples: draws to average.
        estimate: "mean", or "sample" for the first draw alone.
        seed, sampler, steps, unfold, init, tile, overlap: as in `Engine.sample`.

    Raises:
        InvalidType, InvalidArgument: an engine that is none, an unknown estimate; on use, whatever
            `Engine.sample` refuses.
    """

    def __init__(
        self,
        engine: Engine,
        num_samples: int = 4,
        estimate: str = "mean",
        seed: int = 0,
        sampler: str = "auto",
        steps: int | None = None,
        unfold: int | None = None,
        init: Init = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(engine, "sample"):
            remedy = "load one: latino_engine.load(folder)"
            raise invalid_type("engine", "an engine", type(engine).__name__, remedy)
        if estimate not in ESTIMATES:
            expected = f"one of {', '.join(repr(name) for name in ESTIMATES)}"
            raise invalid("estimate", expected, repr(estimate), "choose one of these")
        self.engine = engine
        self.num_samples = num_samples if estimate == "mean" else 1
        self.seed = seed
        self.sampler, self.steps, self.unfold = sampler, steps, unfold
        self.tile, self.overlap = tile, overlap
        # A network of deepinv must not become a child of this module: its parameters are its own.
        self._start = [init]

    def forward(self, y: Tensor, physics: torch.nn.Module) -> Tensor:
        """x_hat, (B, C, H, W), on the device of y and of its dtype, real for a complex y.

        Args:
            y: measurement, as physics(x) gives it.
            physics: linear, with Gaussian or Poisson noise, or stacked; see
                `interop.physics.from_physics`.
        """
        post = self.engine.sample(
            y,
            physics,
            self.num_samples,
            self.seed,
            self.sampler,
            self.steps,
            self.unfold,
            self._start[0],
            keep_samples=False,
            tile=self.tile,
            overlap=self.overlap,
        )
        first = y if isinstance(y, Tensor) else y[0]
        return post.mean.to(first.device, first.real.dtype)


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
