"""Image sizes that an operator must know before it sees an image."""

from __future__ import annotations

from torch import Tensor

from latino_engine.errors import invalid, invalid_type


def as_image_size(value: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) from one side or from both, each at least 1."""
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in sides):
        raise invalid_type("image_size", "a side or (H, W), integers", value, "give whole pixels")
    if min(sides) < 1:
        raise invalid("image_size", "sides of at least 1", sides, "give the image's (H, W)")
    return sides


def check_image_size(name: str, x: Tensor, size: tuple[int, int]) -> None:
    """The (H, W) of x against the one the operator was made for."""
    if tuple(x.shape[-2:]) != size:
        got = f"{x.shape[-2]} x {x.shape[-1]}"
        expected = f"{size[0]} x {size[1]} pixels"
        raise invalid(name, expected, got, "crop or resize it, or make the operator for this size")
