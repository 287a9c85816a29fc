"""Colourisation: a colour image of which a weighted sum of its channels was measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    as_parameter,
    check_anchor,
    check_finite,
    check_gamma,
    check_image,
    check_index,
    common_batch,
    noise_word,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.protocol import DataStep, Operator

#: Luma of ITU-R BT.601, as JPEG, Pillow and deepinv weigh (R, G, B).
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Colorization(Operator):
    """y = sum_c w_c x_c + noise: a grey photograph of a colour image.

    x: (B, C, H, W), y: (B, 1, H, W), float32 or float64, public range [0, 1].

    Args:
        noise_std: standard deviation of the noise, public units, a number or (B,), >= 0.
        weights: w, one number for each channel of x, not all zero; BT.601's luma by default.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    weights: Tensor
    noise_std: float | Tensor
    batch_size: int | None
    kind = "Colorization"
    measured_channels = 1
    family = "colorization"
    measures_image = True

    def __init__(self, noise_std: float | ArrayLike, weights: ArrayLike = LUMA) -> None:
        w, sigma_y = as_parameter("weights", weights), as_noise_std(noise_std)
        if w.ndim != 1 or not bool((w != 0).any()):
            got = f"shape {tuple(w.shape)}" if w.ndim != 1 else "none"
            remedy = "give one number for each channel"
            raise invalid("weights", "a list of numbers, one of them not 0", got, remedy)
        object.__setattr__(self, "weights", w)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))

    def __repr__(self) -> str:
        weights = ", ".join(f"{w:g}" for w in self.weights.tolist())
        return f"Colorization({show_noise_std(self.noise_std)}, weights=({weights}))"

    def words(self) -> str | None:
        """What the command line reads as this operator; None for other weights than its own."""
        noise = noise_word(self.noise_std)
        plain = self.weights.equal(Colorization(0.0).weights)
        return f"colorize:{noise}" if plain and noise is not None else None

    def A(self, x: Tensor) -> Tensor:
        """sum_c w_c x_c, (B, 1, H, W)."""
        check_image("x", x, self.batch_size)
        if x.shape[1] != len(self.weights):
            remedy = "the operator has one weight for each channel"
            raise invalid("x", f"{len(self.weights)} channels", x.shape[1], remedy)
        return (self._weights(x) * x).sum(dim=1, keepdim=True)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """w_c y in channel c."""
        self.check_measurement(y)
        return self._weights(y) * y

    def data_step(self, y: Tensor) -> DataStep:
        """v + gamma w (y - w.v) / (1 + gamma |w|^2) per pixel (Sherman-Morrison)."""
        self.check_measurement(y)
        check_finite(y)
        w = self._weights(y)
        expected = (y.shape[0], len(self.weights), *y.shape[2:])
        energy = float(self.weights.square().sum())

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, expected, y.dtype)
            check_gamma(gamma)
            weight = ops.per_image(gamma, v)
            missing = y - (w * v).sum(dim=1, keepdim=True)
            return v + weight / (1.0 + weight * energy) * w * missing

        return step

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The grey image of this y: the same value in every channel; without colour, not wrong."""
        self.check_measurement(y)
        total, energy = float(self.weights.sum()), float(self.weights.square().sum())
        if abs(total) > 1e-3 * float(self.weights.abs().sum()):
            return (y / total).expand(-1, len(self.weights), -1, -1).contiguous()
        return self._weights(y) * y / energy  # weights that cancel see no grey

    def take(self, index: Tensor) -> Colorization:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Colorization(pick_noise_std(self.noise_std, index), self.weights)

    def _weights(self, like: Tensor) -> Tensor:
        return self.weights.to(like).reshape(1, -1, 1, 1)

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is an image of one channel."""
        check_image("y", y, self.batch_size)
        if y.shape[1] != 1:
            remedy = "a grey image has one channel; use Denoising where the colours were measured"
            raise invalid("y", "(B, 1, H, W)", tuple(y.shape), remedy)
