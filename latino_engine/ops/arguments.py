"""What the fused operations hand to their backends, each group of arguments under one name."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Identity(NamedTuple):
    """Whose noise it is, and at which position in the random stream.

    Attributes:
        seed: 0 <= seed < 2^64; in a captured graph an int64 tensor with these bits.
        image_ids, sample_ids: (P,) integers, paired.
        step: the position, 0 <= step < 2^32; see `latino_engine.ops.philox`.
    """

    seed: int | Tensor
    image_ids: Tensor
    sample_ids: Tensor
    step: int

    def plain(self) -> Identity:
        """The same with contiguous ids in int64, as kernels read them."""
        ids = (plain(self.image_ids.to(torch.int64)), plain(self.sample_ids.to(torch.int64)))
        return Identity(self.seed, *ids, self.step)


class Anchors(NamedTuple):
    """The two quadratic anchors of an inner step, of which x_weight makes one.

    Attributes:
        x, x_t: images (P, C, H, W); without x_t, x alone is the anchor.
        x_weight: a in [0, 1], (P|1, 1, 1, 1).
    """

    x: Tensor
    x_t: Tensor | None
    x_weight: Tensor

    def combined(self) -> Tensor:
        """a x + (1 - a) x_t."""
        return self.x if self.x_t is None else torch.lerp(self.x_t, self.x, self.x_weight)


class InnerCall(NamedTuple):
    """prox(a x + (1 - a) x_t) + scale eps, the prox's constants apart.

    Attributes:
        anchors: x, x_t and a.
        gamma, scale: (P|1, 1, 1, 1).
        identity: of eps.
        out: where the result is written, or None.
    """

    anchors: Anchors
    gamma: Tensor
    scale: Tensor
    identity: Identity
    out: Tensor | None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Those that a backend must be able to take."""
        return (*self.anchors, self.gamma, self.scale, self.out)


def plain(value: Any) -> Any:
    """A tensor as a contiguous one without lazy conjugation; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().resolve_conj().resolve_neg().contiguous()


def placed(result: Tensor, out: Tensor | None) -> Tensor:
    """The result, or `out` with its values."""
    return result if out is None else out.copy_(result)


def half_size(x: Tensor) -> tuple[int, int]:
    """(H, W//2+1), the sides of the half-spectrum of images x."""
    return x.shape[-2], x.shape[-1] // 2 + 1
