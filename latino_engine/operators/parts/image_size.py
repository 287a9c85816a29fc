"""Image sizes that an operator must know before it sees an image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from latino_engine.errors import invalid, invalid_type, whole_number
from latino_engine.system.memory import available_bytes

LARGEST_SIDE, LARGEST_IMAGE = 1 << 20, 1 << 30


def as_image_size(value: int | Sequence[int], argument: str = "image_size") -> tuple[int, int]:
    """(H, W) from one side or from both, each from 1 to 2^20, integers of any library.

    Raises:
        TypeError: no integers, or not one or two of them.
        ValueError: sides that no image has.
    """
    try:
        sides = (value, value) if not isinstance(value, str) and _is_one(value) else tuple(value)  # type: ignore[arg-type]
        whole = [whole_number(argument, side) for side in sides]
        if len(whole) != 2:
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        got = repr(value) if isinstance(value, int | tuple | list) else type(value).__name__
        expected, remedy = "a side or (H, W), integers", "give whole pixels"
        raise invalid_type(argument, expected, got[:60], remedy) from None
    if min(whole) < 1:
        raise invalid(argument, "sides of at least 1", tuple(whole), "give the image's (H, W)")
    if max(whole) > LARGEST_SIDE or whole[0] * whole[1] > LARGEST_IMAGE:
        expected = f"sides up to {LARGEST_SIDE}, at most {LARGEST_IMAGE} pixels together"
        raise invalid(argument, expected, tuple(whole), "give the image's (H, W)")
    return whole[0], whole[1]


def _is_one(value: object) -> bool:
    return getattr(value, "shape", None) == () or hasattr(value, "__index__")


def check_memory(argument: str, what: str, num_bytes: float) -> None:
    """Raises before constants are made that the free memory cannot hold."""
    free = available_bytes()
    if num_bytes > free:
        expected = f"a size whose {what} fit into the free {free / 1e9:.1f} GB"
        raise invalid(argument, expected, f"{num_bytes / 1e9:.1f} GB", "choose a smaller one")


def check_image_size(name: str, x: Tensor, size: tuple[int, int]) -> None:
    """The (H, W) of x against the one the operator was made for."""
    if tuple(x.shape[-2:]) != size:
        got = f"{x.shape[-2]} x {x.shape[-1]}"
        expected = f"{size[0]} x {size[1]} pixels"
        raise invalid(name, expected, got, "crop or resize it, or make the operator for this size")
