"""Several measurements of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid, invalid_type, whole_number
from latino_engine.operators.own import as_linear
from latino_engine.operators.parts.checks import (
    SMALLEST_NOISE_STD,
    check_batch,
    check_dtype,
    check_finite,
    check_index,
    known_noise_std,
)
from latino_engine.operators.parts.families import family_of_stack
from latino_engine.operators.parts.image_size import as_image_size, check_memory
from latino_engine.operators.parts.pictures import side_by_side
from latino_engine.operators.parts.shared_diagonal import diagonal_step, shared_diagonal
from latino_engine.operators.protocol import DataStep, Operator
from latino_engine.ops.philox import MAX_CHANNELS


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Stack(Operator):
    """y = (y_1, y_2, ...), y_i = A_i x + noise_i: one image seen by several linear operators.

    y is one vector for each image: y_1, y_2, ... flattened and joined, each divided by its noise
    level relative to the first one's, so that the noise of all of y has the level of the first.
    `join` makes it from the measurements, `split` takes it apart.

    x: (B, C, H, W); y: (B, M), float32 or float64, public range.

    The prox is exact where all parts are circular blurs (or denoising), or all are masks; else by
    conjugate gradients on the sum of the A_i^T A_i.

    Args:
        operators: A_1, A_2, ..., linear, each with its own noise level; JPEG, phase retrieval and
            photon counts are sampled by themselves.
        image_shape: (C, H, W) of x.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    operators: tuple[Operator, ...]
    image_shape: tuple[int, int, int]
    noise_std: float | Tensor
    batch_size: int | None
    shapes: tuple[tuple[int, ...], ...]
    kind = "Stack"

    def __init__(self, operators: Sequence[Operator], image_shape: Sequence[int]) -> None:
        remedy = "sample JPEG, phase retrieval and photon counts by themselves"
        parts = linear_parts("operators", operators, remedy)
        shape = _as_image_shape(image_shape)
        batch, shapes = batch_of(parts), tuple(op.measured_shape(shape) for op in parts)
        object.__setattr__(self, "operators", parts)
        object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "noise_std", _common_noise_std(parts))
        object.__setattr__(self, "batch_size", batch)
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "family", family_of_stack(parts))
        object.__setattr__(self, "diagonal", shared_diagonal(parts))

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.image_shape)
        return f"Stack({', '.join(repr(op) for op in self.operators)}; image {shape})"

    def A(self, x: Tensor) -> Tensor:
        """The joined measurements, (B, M)."""
        if isinstance(x, Tensor) and x.ndim == 4 and tuple(x.shape[1:]) != self.image_shape:
            remedy = "the stack was made for images of this shape"
            raise invalid(
                "x", f"(B, {', '.join(map(str, self.image_shape))})", tuple(x.shape), remedy
            )
        return self.join([op.A(x) for op in self.operators])

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The sum of the adjoints, weighted as `join` weighs."""
        parts = self._parts(y)
        weights = self._weights(y)
        images = [
            ops.per_image(w, p) * op.A_adjoint(p)
            for op, w, p in zip(self.operators, weights, parts, strict=True)
        ]
        return torch.stack(images).sum(dim=0)

    def join(self, measurements: Sequence[Tensor]) -> Tensor:
        """y (B, M) of the measurements y_1, y_2, ..., each as its own operator returns it."""
        if len(measurements) != len(self.operators):
            expected = f"{len(self.operators)}, one for each operator"
            raise invalid("measurements", expected, len(measurements), "give all of them in order")
        weighted = []
        for i, (y, shape) in enumerate(zip(measurements, self.shapes, strict=True)):
            if tuple(y.shape[1:]) != shape:
                expected = f"(B, {', '.join(map(str, shape))}) as its operator measures"
                raise invalid(f"measurements[{i}]", expected, tuple(y.shape), "keep their order")
            weight = ops.per_image(self._weights(y)[i], y)
            weighted.append((weight * self.operators[i].observed(y)).flatten(1))
        return torch.cat(weighted, dim=1)

    def split(self, y: Tensor) -> list[Tensor]:
        """The measurements y_1, y_2, ... that `join` made y from."""
        parts = self._parts(y)
        weights = self._weights(y)
        return [p / ops.per_image(w, p) for w, p in zip(weights, parts, strict=True)]

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y: exact where the parts share a diagonalisation, else by CG."""
        if not self.diagonal:
            return super().data_step(y)
        back_projected = self.A_adjoint(y)
        check_finite(self.observed(y))
        return diagonal_step(self.diagonal[0], self._normal, back_projected)

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The mean of the parts' own estimates, then one prox, gamma = (0.1 / sigma_y)^2."""
        pairs = zip(self.operators, self.split(y), strict=True)
        estimates = [op.initial_estimate(part) for op, part in pairs]
        return self._one_prox(torch.stack(estimates).mean(dim=0), y)

    def observed(self, y: Tensor) -> Tensor:
        """y with 0 where its part never observed anything."""
        parts = zip(self.operators, self._parts(y), strict=True)
        return torch.cat([op.observed(part).flatten(1) for op, part in parts], dim=1)

    def num_observed(self, y: Tensor) -> Tensor:
        """The sum over the parts, (B,) float64."""
        parts = zip(self.operators, self._parts(y), strict=True)
        return torch.stack([op.num_observed(part) for op, part in parts]).sum(dim=0)

    def take(self, index: Tensor) -> Stack:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return Stack([op.take(index) for op in self.operators], self.image_shape)

    def for_grey(self) -> Stack:
        """The same of every part."""
        grey = [op.for_grey() for op in self.operators]
        same = all(a is b for a, b in zip(grey, self.operators, strict=True))
        return self if same else Stack(grey, self.image_shape)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """The pictures of all parts, side by side."""
        parts = zip(self.operators, self.split(y), strict=True)
        return side_by_side([op.measurement_picture(part) for op, part in parts])

    def _parts(self, y: Tensor) -> list[Tensor]:
        """y in its parts, still weighted."""
        self.check_measurement(y)
        pieces = torch.split(y, [torch.Size(shape).numel() for shape in self.shapes], dim=1)
        return [
            piece.reshape(len(y), *shape) for piece, shape in zip(pieces, self.shapes, strict=True)
        ]

    def _weights(self, like: Tensor) -> list[float | Tensor]:
        """sigma / sigma_i of every part, 0 read as 1e-3 (all 0: no weights)."""
        levels = [torch.as_tensor(op.noise_std).double() for op in self.operators]
        first = levels[0].clamp(min=SMALLEST_NOISE_STD)
        return [(first / level.clamp(min=SMALLEST_NOISE_STD)).to(like) for level in levels]

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is one vector for each image, as `join` makes it."""
        total = sum(torch.Size(shape).numel() for shape in self.shapes)
        if not isinstance(y, Tensor) or y.ndim != 2 or y.shape[1] != total:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise invalid("y", f"(B, {total})", got, "make it by join([y_1, y_2, ...])")
        check_dtype("y", y)
        check_batch("y", y.shape[0], self.batch_size)


def _as_image_shape(value: object) -> tuple[int, int, int]:
    """(C, H, W) from three whole numbers of any library."""
    expected, remedy = "(C, H, W)", "give the shape of one image"
    sides = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)
    if isinstance(value, str) or len(sides) != 3:
        plain = isinstance(value, tuple | list | int)
        got = repr(sides) if plain else type(value).__name__
        raise invalid("image_shape", expected, got, remedy)
    channels = whole_number("image_shape", sides[0])
    if not 1 <= channels <= MAX_CHANNELS:
        raise invalid("image_shape", f"from 1 to {MAX_CHANNELS} channels", channels, remedy)
    height, width = as_image_size(sides[1:], "image_shape")
    check_memory("image_shape", "images", 64.0 * channels * height * width)
    return channels, height, width


def linear_parts(name: str, operators: Sequence[Operator], remedy: str) -> tuple[Operator, ...]:
    """At least one operator, all linear; else `remedy`."""
    parts = tuple(operators) if isinstance(operators, Sequence) else ()
    if not parts:
        got = "none" if isinstance(operators, Sequence) else type(operators).__name__
        raise invalid_type(name, "a list of operators", got, "give one or more")
    return tuple(as_linear(f"{name}[{i}]", op, remedy) for i, op in enumerate(parts))


def batch_of(operators: Sequence[Operator]) -> int | None:
    """The batch size of operators that belong together, None where all share their parameters."""
    batches = {op.batch_size for op in operators} - {None}
    if len(batches) > 1:
        got = " and ".join(str(b) for b in sorted(batches, key=str))
        raise invalid("operators", "one batch size", got, "give parameters for every image")
    return next(iter(batches), None)


def _common_noise_std(parts: Sequence[Operator]) -> float | Tensor:
    """The first one's level; 0 is read as 1e-3 unless all are 0."""
    for op in parts:
        known_noise_std(op.noise_std)
    levels = [torch.as_tensor(op.noise_std).double() for op in parts]
    if all(not bool(level.any()) for level in levels):
        return 0.0
    first = levels[0].clamp(min=SMALLEST_NOISE_STD)
    return float(first) if first.numel() == 1 else first
