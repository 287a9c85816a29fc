"""What a user can do wrong, each as one sentence: argument, expected, got, remedy."""

from __future__ import annotations

import operator
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COLOURS = (1, 3, 4)  # channels of a grey image, of RGB and of RGB with alpha
_LONGEST = 400  # characters of what came


class UserError(Exception):
    """Base of every error that a user can mend; the command line prints its one sentence."""


class InvalidArgument(UserError, ValueError):
    """A value that cannot be used."""


class InvalidType(UserError, TypeError):
    """An argument of the wrong type or dtype."""


class BackendNotAvailable(UserError, ValueError):
    """A named backend that this machine lacks."""


class EngineInvalid(UserError, ValueError):
    """An engine folder that is damaged, incomplete or of another version."""


class PriorInvalid(UserError, ValueError):
    """A checkpoint that cannot be read as a prior."""


class AdapterInvalid(UserError, ValueError):
    """An adapter that cannot be read, or belongs to another prior."""


class AccuracyError(UserError, ValueError):
    """A runtime whose output is further from float32 torch than its bound."""


class RuntimeFailed(UserError, RuntimeError):
    """A runtime whose library failed in the middle of a call."""


class TrainingStopped(UserError, ValueError):
    """A training run that cannot go on; what it reached is kept."""


class ImageUnreadable(UserError, ValueError):
    """An image file that cannot be used as a measurement."""


class SamplingStopped(UserError, TimeoutError):
    """A call of `sample` that was ended between two evaluations, by its timeout or its caller."""


class PosteriorInvalid(UserError, ValueError):
    """A saved posterior that is missing, damaged or of another version."""


class NotFinite(UserError, ArithmeticError):
    """Samples that are no numbers; the sentence says which step made them."""


class OutputNotWritable(UserError, OSError):
    """A folder or file that cannot be written; whatever stood there before is unchanged."""


def invalid(argument: str, expected: str, got: object, remedy: str) -> InvalidArgument:
    """The sentence ``argument: expected ..., got ...; remedy`` as an `InvalidArgument`."""
    return InvalidArgument(f"{argument}: expected {expected}, got {told(got)}; {remedy}")


def invalid_type(argument: str, expected: str, got: object, remedy: str) -> InvalidType:
    """The sentence ``argument: expected ..., got ...; remedy`` as an `InvalidType`."""
    return InvalidType(f"{argument}: expected {expected}, got {told(got)}; {remedy}")


def told(got: object) -> str:
    """What a sentence says that came: one line of characters that can be printed, never an array.

    A text with line feeds is the repr of an array: its name and the beginning are enough.
    """
    text = str(got)
    if "\n" in text:
        text = f"{text.split('[', 1)[0].split(chr(10), 1)[0].rstrip('(')} ..."
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def unreadable(path: Path, expected: str, got: object, remedy: str) -> ImageUnreadable:
    """The sentence ``path: expected ..., got ...; remedy`` as an `ImageUnreadable`."""
    return ImageUnreadable(f"{path}: expected {expected}, got {got}; {remedy}")


@contextmanager
def about(what: str, instead_of_crop: str | None = None) -> Iterator[None]:
    """Begin the sentence of an `InvalidArgument` from inside with what the user wrote.

    Where its remedy is to crop the image, the user may be given another one.
    """
    try:
        yield
    except InvalidArgument as error:
        sentence, crop, _ = str(error).rpartition("; crop ")
        found = f"{sentence}; {instead_of_crop}" if crop and instead_of_crop else error
        raise InvalidArgument(f"{what}, {found}") from error


def two_sides(argument: str, value: Any) -> tuple[int, int]:
    """(height, width) of one side or of both.

    Raises:
        InvalidArgument: neither of them, or sides that are no whole numbers.
    """
    given = value if isinstance(value, tuple | list) else (value, value)
    try:
        height, width = (whole_number(argument, side) for side in given)
    except (TypeError, ValueError):
        remedy = "give whole numbers"
        raise invalid(argument, "one side, or (height, width)", value, remedy) from None
    return height, width


def convert_remedy(value: object) -> str:
    """How a value that should have been a tensor becomes one: of a file, a picture, an array."""
    if isinstance(value, str | bytes | os.PathLike):
        return "read the file first: latino_engine.image_io.read_image(path)"
    module = type(value).__module__.partition(".")[0]
    if module == "PIL":
        grey = getattr(value, "mode", "RGB") in ("L", "1", "I", "F", "I;16")
        axes = "[None, None]" if grey else ".permute(2, 0, 1)[None]"
        return f"convert it: torch.tensor(numpy.array(image)){axes} / 255"
    if module == "numpy":
        return "convert it by torch.from_numpy"
    if value is None:
        return "give an image"
    return "convert it by torch.as_tensor"


def channels_last(shape: Sequence[int], channels: int = 1) -> bool:
    """Whether these sides are those of (H, W, C) or (B, H, W, C), as no image (B, C, H, W) has."""
    if len(shape) not in (3, 4) or shape[-3] == channels:
        return False
    return shape[-1] in _COLOURS and shape[-3] > max(_COLOURS)


def axes_remedy(shape: Sequence[int]) -> str:
    """How an image of this shape becomes (B, C, H, W)."""
    if channels_last(shape):
        batch = "[None]" if len(shape) == 3 else ""
        end = "and add a batch axis: " if batch else "before height and width: "
        torch_way, numpy_way = f"movedim(-1, -3){batch}", f"moveaxis(image, -1, -3){batch}"
        return f"move the channels {end}image.{torch_way}, or numpy.{numpy_way}"
    if len(shape) == 3:
        return "add a batch axis"
    return "add two axes: image[None, None]" if len(shape) == 2 else "reshape it"


def whole_number(argument: str, value: Any) -> int:
    """The value as an int of 64 bits: Python's and numpy's integers, but no booleans, no floats."""
    number = whole_number_of_any_size(argument, value)
    if not -(2**63) <= number < 2**64:
        raise invalid(argument, "an integer of 64 bits", "a larger one", "choose a smaller number")
    return number


def whole_number_of_any_size(argument: str, value: Any) -> int:
    """The same for an argument that has a bound, and a sentence, of its own."""
    try:
        if isinstance(value, bool) or getattr(value, "shape", ()) != ():
            raise TypeError
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # the last two: torch, of what has no value
        got = type(value).__name__
        raise invalid_type(argument, "an integer", got, "give a whole number") from None


def warn(sentence: str) -> None:
    """Warns, at the line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    package = __name__.partition(".")[0]
    while frame.f_back is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] != package:
            break
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, UserWarning, stacklevel=level)
