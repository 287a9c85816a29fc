"""Grey measurements for a prior of colour images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.operators.colorization import LUMA
from latino_engine.operators.own import as_operator
from latino_engine.operators.parts.checks import ArrayLike, as_parameter, check_anchor, check_gamma
from latino_engine.operators.protocol import DataStep, Operator


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Luminance(Operator):
    """y = A(sum_c w_c x_c) + noise: a grey image, measured by `operator`, of a colour state x.

    A prior of colour images so serves grey measurements: the sampler draws colour images whose
    luminance explains y, the noise counts once, and what is returned is the luminance,
    (S, B, 1, H, W). Its prox is that of the grey operator, with s = w.v and e = |w|^2:

        prox(v, y, gamma) = v + w / e (prox_A(s, y, gamma e) - s)

    x: (B, 3, H, W), or (B, 1, H, W), an image that is grey already; y: as the operator measures of
    grey images; float32 or float64, public range [0, 1].

    Args:
        operator: the forward model of grey images; MRI takes its form for real images.
        weights: w, divided by its sum; BT.601's luma by default, as Pillow makes images grey.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    operator: Operator
    weights: Tensor
    kind = "Luminance"
    measured_channels = 1

    def __init__(self, operator: Operator, weights: ArrayLike = LUMA) -> None:
        grey, w = as_operator("operator", operator).for_grey(), as_parameter("weights", weights)
        if w.ndim != 1 or not float(w.min()) >= 0.0 < float(w.sum()):
            got = f"shape {tuple(w.shape)}" if w.ndim != 1 else f"{w.tolist()}"
            raise invalid("weights", "numbers >= 0, one above", got, "give one for each channel")
        object.__setattr__(self, "operator", grey)
        object.__setattr__(self, "weights", w / w.sum())
        for name in _OF_THE_GREY_ONE:
            object.__setattr__(self, name, getattr(grey, name))

    def __repr__(self) -> str:
        return f"Luminance({self.operator!r})"

    def A(self, x: Tensor) -> Tensor:
        """What the operator measures of the luminance of x."""
        return self.operator.A(self.as_result(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        """w_c A^T y in channel c."""
        return self._weights(y) * self.operator.A_adjoint(y)

    def data_step(self, y: Tensor) -> DataStep:
        """The operator's own step of the luminance, by which all channels move along w."""
        self.check_measurement(y)
        grey_step, w = self.operator.data_step(y), self._weights(y)
        energy = float(self.weights.square().sum())

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, (y.shape[0], len(self.weights), *v.shape[2:]), v.dtype)
            check_gamma(gamma)
            s = self.as_result(v)
            return v + w.to(v) / energy * (grey_step(s, gamma * energy) - s)

        return step

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The operator's grey one, the same in every channel."""
        self.check_measurement(y)
        return self.as_state(self.operator.initial_estimate(y))

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """What the operator measures of the luminance of x, with its noise."""
        return self.operator.measure(self.as_result(x), seed)

    def as_result(self, x: Tensor) -> Tensor:
        """The luminance of x, (B, 1, H, W); a grey x as it is."""
        if x.ndim == 4 and x.shape[1] == 1:
            return x
        if x.ndim != 4 or x.shape[1] != len(self.weights):
            expected = f"(B, {len(self.weights)}, H, W) or (B, 1, H, W)"
            raise invalid("x", expected, tuple(x.shape), "give one weight for each channel")
        return (self._weights(x) * x).sum(dim=1, keepdim=True)

    def as_state(self, image: Tensor) -> Tensor:
        """A grey image in every channel; a colour image as it is."""
        if image.ndim != 4 or image.shape[1] != 1:
            return image
        return image.expand(-1, len(self.weights), -1, -1).contiguous()

    def observed(self, y: Tensor) -> Tensor:
        """What the operator observes of y."""
        return self.operator.observed(y)

    def num_observed(self, y: Tensor) -> Tensor:
        """What the operator counts, (B,) float64."""
        return self.operator.num_observed(y)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """The operator's residual of the luminance of x."""
        return self.operator.residual(self.as_result(x), y)

    def take(self, index: Tensor) -> Luminance:
        """The operator of the images `index`, 1-D int64."""
        return self if self.batch_size is None else self._of(self.operator.take(index))

    def for_grey(self) -> Operator:
        """The operator of grey images itself."""
        return self.operator

    def for_measurement(self, y: Tensor) -> Luminance:
        """The same with what y tells of the operator."""
        told = self.operator.for_measurement(y)
        return self if told is self.operator else self._of(told)

    def with_noise_std(self, noise_std: float | Tensor) -> Luminance:
        """The same model with another noise level, a number or (B,)."""
        return self._of(self.operator.with_noise_std(noise_std))

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        """That of the operator, (B,) float64."""
        return self.operator.estimate_noise_std(y)

    def join(self, measurements: Sequence[Tensor]) -> Tensor:
        """y of several measurements, as the operator joins them."""
        return self.operator.join(measurements)

    def split(self, y: Tensor) -> list[Tensor]:
        """The measurements that `join` made y from."""
        return self.operator.split(y)

    def check_measurement(self, y: Tensor) -> None:
        """Raises for a y that the operator cannot have measured, and for a colour image."""
        self.operator.check_measurement(y)
        if self.measures_image and y.shape[1] != 1:
            remedy = "give the operator itself where colours were measured"
            raise invalid("y", "(B, 1, H, W)", tuple(y.shape), remedy)

    def check_model(self, y: Tensor) -> None:
        """Raises where the operator contradicts itself."""
        self.operator.check_model(y)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """The operator's picture of y."""
        return self.operator.measurement_picture(y)

    def enlarged(self, y: Tensor) -> Tensor:
        """y on the grid of x."""
        return self.operator.enlarged(y)

    def _of(self, operator: Operator) -> Luminance:
        return Luminance(operator, self.weights)

    def _weights(self, like: Tensor) -> Tensor:
        return self.weights.to(like.real if like.is_complex() else like).reshape(1, -1, 1, 1)


#: What is the same of the grey operator.
_OF_THE_GREY_ONE = (
    "noise_std",
    "batch_size",
    "is_linear",
    "family",
    "measures_image",
    "takes_complex",
    "wraps",
    "first_radius",
    "tol",
    "max_iter",
)


def suits_grey(op: Operator) -> bool:
    """Whether a grey file, before a prior of colour images, is to be measured by `Luminance`.

    Operators that make a grey image of a colour one themselves see colours behind it.
    """
    return op.measures_image and op.measured_channels is None
