"""The photographs that the package brings along."""

from __future__ import annotations

import difflib
from importlib import resources

from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.image_io.images import read_image

SAMPLE_IMAGES = ("coffee", "chelsea")


def sample_image(name: str = "coffee") -> Tensor:
    """One of the shipped photographs, float32 (1, 3, 256, 256) in [0, 1].

    Args:
        name: "coffee" (a cup) or "chelsea" (a cat); both are CC0, see `assets/SOURCES.md`.

    Raises:
        ValueError: another name.
    """
    if name not in SAMPLE_IMAGES:
        known = " or ".join(repr(known) for known in SAMPLE_IMAGES)
        close = difflib.get_close_matches(str(name), SAMPLE_IMAGES, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "read files by image_io.read_image"
        raise invalid("name", known, repr(name), remedy)
    with resources.as_file(resources.files("latino_engine") / "assets" / f"{name}.png") as path:
        return read_image(path)
