"""From a user's y and operator to the problem that the sampler solves: checks, units, start."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from latino_engine.errors import (
    InvalidArgument,
    InvalidType,
    axes_remedy,
    channels_last,
    convert_remedy,
    invalid,
    invalid_type,
)
from latino_engine.interop.physics import (
    counts_gain,
    from_physics,
    is_physics,
    is_reconstructor,
    is_stacked,
    measured_parts,
)
from latino_engine.operators.own import as_operator
from latino_engine.operators.parts.checks import SMALLEST_NOISE_STD, as_tensor, check_finite
from latino_engine.operators.parts.fused_step import FixedStep
from latino_engine.operators.parts.own_model import energy
from latino_engine.operators.protocol import DataStep, Operator
from latino_engine.priors.prior import PriorSpec, check_image
from latino_engine.schedule import Scalar

_LARGEST_VALUE = (
    16.0  # |y| beyond this many ranges is a picture in 0..255, not one in the public range
)

#: How the chain starts: a word, an image, or a restoration network (y, operator) -> x. The operator
#: is the one that the caller gave: a physics of deepinv reaches a network of deepinv as it is.
Init: TypeAlias = "str | Tensor | np.ndarray | Callable[[Tensor, Any], Tensor] | None"
#: What was measured: a tensor, or one for each part of a stack.
Measurement: TypeAlias = "Tensor | np.ndarray | Sequence[Tensor]"


@dataclass(frozen=True, eq=False)
class Problem:
    """A measurement, ready to be sampled.

    Attributes:
        operator: the forward model, public units.
        spec: the prior's units.
        y: the measurement, public units, float32, unobserved entries 0.
        x_init: the start, (B, C, H, W), internal units.
        sigma_y: noise level, internal units, a number or (B,) float64, > 0.
    """

    operator: Operator
    spec: PriorSpec
    y: Tensor
    x_init: Tensor
    sigma_y: Scalar

    def data_step(self, index: Tensor) -> DataStep:
        """The prox of the images `index`, internal units; samples of one y share its spectrum.

        With internal = a public + b, a linear A gives the internal measurement a y + b A(1), and
        the prox keeps its form and its gamma. A non-linear operator is called in public units: both
        squares of the prox scale alike, so gamma stays here too.
        """
        shared = index[:1] if self.y.shape[0] == 1 else index
        step = self._step(shared)
        if len(shared) == len(index):
            return step
        return step.for_batch(len(index)) if isinstance(step, FixedStep) else self._step(index)

    def _step(self, index: Tensor) -> DataStep:
        operator, y = self.operator.take(index), self.y[index]
        scale, offset = self.spec.scale, self.spec.offset
        if operator.is_linear:
            ones = torch.ones_like(self.x_init[index])
            return operator.data_step(scale * y + offset * operator.A(ones))
        public_step = operator.data_step(y)
        if isinstance(public_step, FixedStep):
            return public_step.in_units(scale, offset)

        def internal_step(v: Tensor, gamma: Scalar) -> Tensor:
            return scale * public_step((v - offset) / scale, gamma) + offset

        return internal_step

    def sigma_of(self, index: Tensor) -> Scalar:
        """The noise level of the images `index`."""
        return self.sigma_y[index] if isinstance(self.sigma_y, Tensor) else self.sigma_y

    def residual_chi2(self, x: Tensor, index: Tensor) -> Tensor:
        """||A x - y||^2 / (m sigma_y^2) for public samples x of the images `index`: (P,)
        float64.
        """
        operator, y = self.operator.take(index), self.y[index]
        squares = energy(operator.residual(x, y))
        sigma = torch.as_tensor(self.sigma_of(index), dtype=torch.float64).cpu() / self.spec.scale
        return squares.cpu() / (operator.num_observed(y).double().cpu() * sigma**2)


def make_problem(
    y: Measurement, op: Operator | nn.Module, spec: PriorSpec, init: Init, device: str
) -> Problem:
    """Check the user's arguments and state the problem in the engine's units.

    A physics of deepinv becomes an operator here; a restoration network is given the physics.

    Raises:
        ValueError, TypeError: an argument that cannot be used, in one sentence.
    """
    operator, y = _converted(y, op, device)
    if spec.channels == 1:
        operator = operator.for_grey()
    measured = given = _as_tensor(y, device, operator.takes_complex)
    _check_shape(measured, operator, spec)
    measured = operator.observed(measured)
    _check_values(measured, operator, spec)
    operator = operator.for_measurement(measured)
    operator.check_model(measured)
    estimate = operator.initial_estimate(measured)
    _check_colour(estimate, spec)
    check_image("y", estimate, spec)
    x_public = _start(init, given, op, operator, estimate)
    x_init = (spec.scale * x_public + spec.offset).contiguous()
    return Problem(operator, spec, measured, x_init, _sigma_y(operator, spec))


def _converted(y: Any, op: Any, device: str) -> tuple[Operator, Any]:
    """(operator, y): deepinv's physics and measurements as this package has them, a user's own
    class with the defaults of the contract, and the parts of a stack joined.
    """
    if is_physics(op) and is_stacked(op):
        parts = [_as_tensor(part, device) for part in measured_parts(y, op)]
        first = op[0].A_adjoint(parts[0])
        operator = from_physics(op, device, tuple(first.shape[1:]))
        return operator, operator.join(parts)
    if is_physics(op):
        gain = counts_gain(op)
        if gain is not None:
            counts = _as_tensor(y, device)
            y = gain.to(counts).reshape(-1, *(1,) * (counts.ndim - 1)) * counts
        return from_physics(op, device), y
    operator = as_operator("op", op)
    if isinstance(y, list | tuple) and all(isinstance(part, Tensor | np.ndarray) for part in y):
        y = operator.join([_as_tensor(part, device, operator.takes_complex) for part in y])
    return operator, y


def _as_tensor(y: Any, device: str, may_be_complex: bool = False) -> Tensor:
    if isinstance(y, np.ndarray):
        y = as_tensor("y", y)
    if not isinstance(y, Tensor):
        expected = "a torch tensor or a numpy array"
        raise invalid_type("y", expected, type(y).__name__, convert_remedy(y))
    if y.is_complex() and may_be_complex:
        return y.detach().to(device, torch.complex64)
    if y.is_complex():
        remedy = "store real and imaginary parts as two channels (torch.view_as_real)"
        raise invalid_type("y", "real numbers", y.dtype, remedy)
    if not y.is_floating_point():
        remedy = "convert it, for example y.float() / 255"
        raise invalid_type("y", "floating-point numbers in the public range", y.dtype, remedy)
    return y.detach().to(device, torch.float32)


def _check_shape(y: Tensor, operator: Operator, spec: PriorSpec) -> None:
    channels = operator.measured_channels or spec.channels
    wrong = operator.measures_image and (y.ndim != 4 or channels_last(y.shape, channels))
    if y.ndim < 2 or wrong:
        expected = f"(B, {channels}, H, W)" if operator.measures_image else "(B, ...)"
        remedy = axes_remedy(y.shape) if operator.measures_image else "add a batch axis"
        raise invalid("y", f"{expected} float32", tuple(y.shape), remedy)
    if y.shape[0] == 0:
        raise invalid("y", "at least one measurement", "an empty batch", "give one or more")
    if operator.batch_size not in (None, y.shape[0]):
        expected = f"a batch of {operator.batch_size}, one for each parameter set of the operator"
        remedy = "give the operator as many kernels, masks or noise levels as there are images"
        raise invalid("y", expected, y.shape[0], remedy)
    operator.check_measurement(y)


def _check_colour(estimate: Tensor, spec: PriorSpec) -> None:
    if estimate.ndim == 4 and estimate.shape[1] == 1 < spec.channels:
        expected = f"{spec.channels} channels, as the prior {spec.name!r} has"
        remedy = "wrap the operator: Luminance(op) measures the grey image of a colour one"
        raise invalid("y", expected, 1, remedy)


def _check_values(y: Tensor, operator: Operator, spec: PriorSpec) -> None:
    check_finite(y)
    low, high = spec.data_range
    largest = float(y.abs().max())
    if operator.measures_image and largest > _LARGEST_VALUE * (high - low):
        expected = f"an image in the prior's range [{low:g}, {high:g}]"
        raise invalid("y", expected, f"values up to {largest:g}", "rescale it, for example y / 255")


def _start(
    init: Init, y: Tensor, op: Operator | nn.Module, operator: Operator, estimate: Tensor
) -> Tensor:
    if init is None:
        return estimate
    if isinstance(init, str):
        if init != "measurement":
            expected = "None, 'measurement', an image or a function (y, op) -> image"
            raise invalid("init", expected, repr(init), "choose one of these")
        found, remedy = operator.observed(y), "use init=None where y is no image of the same size"
    else:
        if callable(init) and not isinstance(init, Tensor):
            init = _restored(init, y, op, operator, estimate)
        try:
            found = as_tensor("init", init).detach().to(y.device, torch.float32)
        except (TypeError, RuntimeError) as error:
            raise InvalidType(
                f"init: expected an image, got {type(init).__name__}; give a tensor or a numpy "
                "array"
            ) from error
        remedy = "give one public image for each measurement"
    found = operator.as_state(found)
    if found.shape != estimate.shape or found.is_complex():
        raise invalid("init", f"shape {tuple(estimate.shape)}", tuple(found.shape), remedy)
    if not bool(torch.isfinite(found).all()):
        raise invalid("init", "finite numbers", "NaN or infinite entries", "clean the start")
    return found


def _restored(
    network: Callable[[Any, Any], Tensor],
    y: Tensor,
    op: Operator | nn.Module,
    operator: Operator,
    image: Tensor,
) -> Tensor:
    """What a restoration network makes of y: one of deepinv, or any for a physics of deepinv, is
    called as deepinv calls it.
    """
    if not (isinstance(op, nn.Module) or is_reconstructor(network)):
        return network(operator.observed(y), op)
    if not isinstance(op, nn.Module):
        from latino_engine.interop.conversion import to_physics

        channels, height, width = image.shape[1:]
        op = cast(nn.Module, to_physics(op, (channels, height, width)).to(image.device))
    gain = counts_gain(op)
    if gain is not None:
        return network(y / gain.to(y).reshape(-1, *(1,) * (y.ndim - 1)), op)
    if is_stacked(op):
        from deepinv.utils import TensorList

        return network(TensorList(operator.split(y)), op)
    return network(operator.observed(y), op)


def _sigma_y(operator: Operator, spec: PriorSpec) -> Scalar:
    smallest = SMALLEST_NOISE_STD * (spec.data_range[1] - spec.data_range[0])
    level = operator.noise_std
    if isinstance(level, Tensor):
        level = level.detach().to("cpu", torch.float64)
        if bool((level < smallest).any()):
            _warn_noiseless(float(level.min()), smallest)
        return spec.scale * level.clamp(min=smallest)
    if level < 0:
        raise InvalidArgument(
            f"noise_std: expected at least 0, got {level}; give a standard deviation"
        )
    if level < smallest:
        _warn_noiseless(level, smallest)
    return spec.scale * max(float(level), smallest)


def _warn_noiseless(level: float, smallest: float) -> None:
    """Below it a float32 image holds no more of y, and conjugate gradients do not end."""
    warnings.warn(
        f"noise_std: {level:g} is taken as {smallest:g}, the least that is told apart in float32; "
        "state a larger noise level of the measurement to be rid of this",
        UserWarning,
        stacklevel=5,
    )
