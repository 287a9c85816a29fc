"""Whether a model that a user wrote is what it says: linear, with its adjoint, for any batch."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from latino_engine.errors import invalid

_ADJOINT_GAP = 0.1  # projectors and back-projectors that are not quite matched stay below


class Model(Protocol):
    """What is examined."""

    @property
    def batch_size(self) -> int | None: ...

    def A(self, x: Tensor) -> Tensor: ...

    def A_adjoint(self, y: Tensor) -> Tensor: ...


def check_own_model(model: Model, y: Tensor) -> None:
    """Raises for a model that does not measure such a y, or whose A_adjoint is not A's."""
    image = model.A_adjoint(y)
    predicted = model.A(torch.ones_like(image))
    if predicted.shape != y.shape:
        remedy = "A must return what was measured, for any number of images"
        raise invalid("A", f"the shape of y {tuple(y.shape)}", tuple(predicted.shape), remedy)
    if not bool(torch.isfinite(predicted).all() & torch.isfinite(image).all()):
        got = "NaN or infinite numbers"
        raise invalid("A, A_adjoint", "finite results for finite images", got, "correct the model")
    _check_adjoint(model, image)
    if model.batch_size is None and not _alike(model, image):
        # The images travel in chunks of any order: such a model would be applied to the wrong ones.
        got = "one that depends on the place of an image in the batch"
        raise invalid("A", "the same model for every image", got, "sample the images one by one")


def energy(z: Tensor) -> Tensor:
    """||z||^2 of every image, real or complex: (B,) float64."""
    real = torch.view_as_real(z) if z.is_complex() else z
    return real.reshape(len(z), -1).double().square().sum(dim=1)


def _check_adjoint(model: Model, image: Tensor) -> None:
    """<A x, A x> = <x, A_adjoint(A x)> at x = A_adjoint(y), as far as approximations go: with
    another A_adjoint conjugate gradients diverge.
    """
    measured = model.A(image)
    norm2 = energy(measured)
    back = model.A_adjoint(measured)
    inner = (image.double() * back.double()).reshape(len(image), -1).sum(dim=1)
    wrong = (inner - norm2).abs() > _ADJOINT_GAP * norm2
    if bool(wrong.any()):
        got = f"{float((inner / norm2)[wrong][0]):.3g} of it for x = A_adjoint(y)"
        expected = "the adjoint of A, so that <x, A_adjoint(A x)> = ||A x||^2"
        raise invalid("A_adjoint", expected, got, "correct it, or the scale of one of the two")


def _alike(model: Model, image: Tensor) -> bool:
    """Whether A commutes with a reordering of the batch."""
    if image.shape[0] == 1:
        return True
    straight, reordered = model.A(image), model.A(image.flip(0)).flip(0)
    return bool((straight - reordered).abs().max() <= 1e-3 * straight.abs().max())
