"""Physics of deepinv as operators of this package.

deepinv is told by the module of an object's classes and never imported here. Where this package has
the same model in closed form it is used, else conjugate gradients on the physics' own A and
A_adjoint. Both agree on the range [0, 1], the prox and the layout of k-space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from latino_engine.errors import invalid, invalid_type
from latino_engine.operators import (
    MRI,
    Blur,
    Denoising,
    Inpainting,
    LinearOperator,
    PoissonNoise,
    Stack,
    SuperResolution,
)
from latino_engine.operators.parts.checks import (
    check_index,
    common_batch,
    pick_noise_std,
    show_noise_std,
    starting_gamma,
)
from latino_engine.operators.protocol import Operator

NoiseStd: TypeAlias = "float | Tensor"

#: Tensors of a physics that may differ from image to image, as deepinv's generators make them.
_PER_IMAGE = ("filter", "mask", "coil_maps", "filters", "multipliers")
_FILTERED_BACK_PROJECTION = ("Tomography", "TomographyWithAstra")


def is_physics(op: object) -> bool:
    """Whether this is a forward model of deepinv, or of a class that derives from one."""
    return "Physics" in _deepinv_classes(op, "deepinv.physics")


def is_reconstructor(function: object) -> bool:
    """Whether this is a restoration network of deepinv, called as (y, physics)."""
    return "Reconstructor" in _deepinv_classes(function, "deepinv.models")


def from_physics(
    physics: Any, device: str = "cpu", image_shape: tuple[int, int, int] | None = None
) -> Operator:
    """The operator of a deepinv physics: the same A, A_adjoint, prox and noise level.

    Blur and Downsampling with circular borders, BlurFFT, Inpainting (Demosaicing), MRI,
    MultiCoilMRI and Denoising become operators of this package. Any other `LinearPhysics`, other
    borders included, is solved by conjugate gradients; Tomography starts at its filtered
    back-projection. Linear physics that are stacked become a `Stack`; `PoissonNoise` of gain g
    becomes `PoissonNoise` of peak 1 / g, but not inside a stack. What the physics holds is copied:
    later changes do not reach the operator.

    Args:
        physics: a `LinearPhysics` with `GaussianNoise` (one sigma, or one for each image),
            `ZeroNoise` or `PoissonNoise` (one gain, or one for each image).
        device: where A will be applied.
        image_shape: (C, H, W) of the image, which stacked physics need.

    Raises:
        InvalidType, InvalidArgument: a non-linear model, another noise, a sensor model, a missing
            mask or filter.
    """
    names = _deepinv_classes(physics, "deepinv.physics")
    kind = type(physics).__name__
    if is_stacked(physics):
        if image_shape is None:
            remedy = "stacked physics do not know it"
            raise invalid("image_shape", "(C, H, W)", None, remedy)
        return Stack([_part(part, i, device) for i, part in enumerate(physics)], image_shape)
    if "LinearPhysics" not in names:
        remedy = "use an operator of this package, or linearise it as a LinearPhysics"
        raise invalid_type("op", "a linear deepinv physics", kind, remedy)
    sensor = getattr(physics, "sensor_model", None)
    if getattr(sensor, "__module__", "deepinv.physics.forward") != "deepinv.physics.forward":
        remedy = "undo the sensor model on y, and leave it out of the physics"
        raise invalid("op", "a deepinv physics without sensor_model", repr(sensor), remedy)
    gain = _gain(physics.noise_model)
    if gain is None:
        return _linear(physics, _noise_std(physics.noise_model), device)
    return PoissonNoise(_linear(physics, 0.0, device), 1.0 / gain)


def _part(physics: Any, place: int, device: str) -> Operator:
    """One of stacked physics, each linear with Gaussian noise."""
    if getattr(physics, "noise_model", None) is not None and _gain(physics.noise_model) is not None:
        remedy = "sample it by itself, or approximate it by GaussianNoise"
        got = type(physics.noise_model).__name__
        name = f"op[{place}].noise_model"
        raise invalid_type(name, "GaussianNoise or ZeroNoise in a stack", got, remedy)
    return from_physics(physics, device)


def _linear(physics: Any, noise_std: NoiseStd, device: str) -> Operator:
    known = type(physics).__module__.startswith("deepinv.physics")
    exact = _EXACT.get(type(physics).__name__) if known else None
    found = None if exact is None else exact(physics, noise_std)
    return PhysicsOperator(physics, noise_std, device) if found is None else found


def is_stacked(physics: object) -> bool:
    """Whether this is several physics of deepinv that see one image."""
    return "StackedPhysics" in _deepinv_classes(physics, "deepinv.physics")


def measured_parts(y: Any, physics: Any) -> list[Tensor]:
    """The measurements of stacked physics, a `TensorList` or another sequence of tensors.

    Raises:
        InvalidType, InvalidArgument: something else, or not one tensor for each physics.
    """
    num_parts = len(physics)
    expected = f"{num_parts} tensors, one for each of the stacked physics"
    if isinstance(y, Tensor) or not (hasattr(y, "__getitem__") and hasattr(y, "__len__")):
        got = type(y).__name__
        raise invalid_type("y", expected, got, "give what physics(x) returns")
    parts = [y[i] for i in range(len(y))]
    for part in parts:
        if not isinstance(part, Tensor):
            raise invalid_type("y", expected, f"a {type(part).__name__} in it", "give tensors")
    if len(parts) != num_parts:
        raise invalid("y", expected, len(parts), "give all of them in order")
    return parts


def counts_gain(physics: Any) -> Tensor | None:
    """The gain by which y is multiplied first, where the physics gives counts that are not
    normalised; else None.
    """
    if is_stacked(physics) or not hasattr(physics, "noise_model"):
        return None
    gain = _gain(physics.noise_model)
    return None if gain is None or bool(physics.noise_model.normalize) else gain


class PhysicsOperator(LinearOperator):
    """Any linear physics of deepinv: its own A and A_adjoint, the prox by conjugate gradients.

    The image is real, y real or complex.

    Args:
        physics: copied.
        noise_std: of y, public units, a number or (B,).
        device: where A is applied.
    """

    physics: Any

    def __init__(self, physics: Any, noise_std: NoiseStd, device: str = "cpu") -> None:
        own = physics.clone().to(device)
        super().__init__(own.A, _real_adjoint(own), noise_std)
        sizes = [len(parameter) for parameter in _per_image(own).values()]
        object.__setattr__(self, "physics", own)
        object.__setattr__(self, "batch_size", common_batch("op", sizes, self.noise_std))

    def __repr__(self) -> str:
        return f"PhysicsOperator({type(self.physics).__name__}, {show_noise_std(self.noise_std)})"

    def initial_estimate(self, y: Tensor) -> Tensor:
        """Tomography: filtered back-projection, then one prox, gamma = (0.1 / sigma_y)^2; any other
        model: as `LinearOperator`.
        """
        if type(self.physics).__name__ not in _FILTERED_BACK_PROJECTION:
            return super().initial_estimate(y)
        return self.prox(self.physics.A_dagger(y), y, starting_gamma(self.noise_std))

    def take(self, index: Tensor) -> LinearOperator:
        """The physics with the parameters of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        part = self.physics.clone()
        for name, parameter in _per_image(part).items():
            setattr(part, name, parameter[index.to(parameter.device)])
        device = str(next((b.device for b in part.buffers()), "cpu"))
        return PhysicsOperator(part, pick_noise_std(self.noise_std, index), device)


def _real_adjoint(physics: Any) -> Callable[[Tensor], Tensor]:
    """The adjoint over real images: of complex ones the real part."""

    def adjoint(y: Tensor) -> Tensor:
        image: Tensor = physics.A_adjoint(y)
        return image.real if image.is_complex() else image

    return adjoint


def _deepinv_classes(thing: object, package: str) -> set[str]:
    """Names of the classes of an object that come from this package of deepinv."""
    return {
        base.__name__
        for base in type(thing).__mro__
        if base.__module__ == package or base.__module__.startswith(package + ".")
    }


def _per_image(physics: Any) -> dict[str, Tensor]:
    found = {name: getattr(physics, name, None) for name in _PER_IMAGE}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, Tensor) and value.ndim >= 4 and value.shape[0] > 1
    }


def _noise_std(noise_model: Any) -> NoiseStd:
    """The standard deviation that a noise model states, a number or (B,) float64."""
    names = _deepinv_classes(noise_model, "deepinv.physics")
    if "ZeroNoise" in names:
        return 0.0
    if "GaussianNoise" not in names:
        remedy = "approximate it by physics.set_noise_model(GaussianNoise(sigma))"
        expected, got = "GaussianNoise, PoissonNoise or ZeroNoise", type(noise_model).__name__
        raise invalid_type("op.noise_model", expected, got, remedy)
    sigma = noise_model.sigma.detach().to("cpu", torch.float64)
    _check_per_image("op.noise_model.sigma", sigma)
    return float(sigma) if sigma.numel() == 1 else sigma.flatten()


def _gain(noise_model: Any) -> Tensor | None:
    """() or (B,) float64 of Poisson noise, None for other noise."""
    if "PoissonNoise" not in _deepinv_classes(noise_model, "deepinv.physics"):
        return None
    gain: Tensor = noise_model.gain.detach().to("cpu", torch.float64)
    _check_per_image("op.noise_model.gain", gain)
    return gain.flatten()


def _check_per_image(name: str, level: Tensor) -> None:
    if level.ndim > 1 and level.numel() != level.shape[0]:
        remedy = "a noise level for each pixel is not supported"
        raise invalid(name, "one number per image", tuple(level.shape), remedy)


def _needed(physics: Any, name: str) -> Tensor:
    value = getattr(physics, name)
    if value is None:
        raise invalid(f"op.{name}", "a tensor", None, f"set it: physics.update({name}=...)")
    return torch.as_tensor(value)


def _denoising(physics: Any, noise_std: NoiseStd) -> Operator | None:
    return Denoising(noise_std) if bool((physics.mask == 1).all()) else None


def _blur(physics: Any, noise_std: NoiseStd) -> Operator | None:
    kernel = _needed(physics, "filter")
    return Blur(kernel, noise_std) if physics.padding == "circular" else None


def _blur_fft(physics: Any, noise_std: NoiseStd) -> Operator:
    return Blur(_needed(physics, "filter"), noise_std)


def _downsampling(physics: Any, noise_std: NoiseStd) -> Operator | None:
    """None also where the sides are no multiples of the factor, as deepinv then keeps one more."""
    factor, size = int(physics.factor), physics.imsize
    divisible = size is None or not (size[-2] % factor or size[-1] % factor)
    if not divisible or (physics.padding != "circular" and physics.filter is not None):
        return None
    kernel = torch.ones(1, 1) if physics.filter is None else physics.filter
    return SuperResolution(factor, noise_std, kernel)


def _inpainting(physics: Any, noise_std: NoiseStd) -> Operator | None:
    """None for a mask that is constant along an axis and left to broadcasting."""
    mask = _needed(physics, "mask")
    if mask.ndim < 2 or mask.ndim > 4 or 1 in mask.shape[-2:]:
        return None
    return Inpainting(mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape)), noise_std)


def _mri(physics: Any, noise_std: NoiseStd) -> Operator | None:
    mask = _k_space_mask(physics)
    return None if mask is None else MRI(mask, noise_std)


def _multi_coil_mri(physics: Any, noise_std: NoiseStd) -> Operator | None:
    mask = _k_space_mask(physics)
    return None if mask is None else MRI(mask, noise_std, _needed(physics, "coil_maps"))


def _k_space_mask(physics: Any) -> Tensor | None:
    """(B|1, 1, H, W); None where real and imaginary parts are sampled differently."""
    if physics.three_d:
        raise invalid("op", "images", "a three_d physics", "sample the volume slice by slice")
    mask = _needed(physics, "mask")
    return mask[:, :1] if bool((mask == mask[:, :1]).all()) else None


#: Class of deepinv -> the same model here, or None where it is not the same. A class that
#: derives from one of these may have another A and goes by conjugate gradients.
_EXACT: dict[str, Callable[[Any, NoiseStd], Operator | None]] = {
    "Blur": _blur,
    "BlurFFT": _blur_fft,
    "Demosaicing": _inpainting,
    "Denoising": _denoising,
    "Downsampling": _downsampling,
    "Inpainting": _inpainting,
    "MRI": _mri,
    "MultiCoilMRI": _multi_coil_mri,
}
