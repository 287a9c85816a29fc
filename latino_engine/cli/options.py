"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

INTERRUPTED_AND_SAVED = 131  # leaves the program as 130, after the command's own sentence

EnginePath = Annotated[Path, typer.Argument(help="Folder of a compiled engine.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")
]
Backend = Annotated[
    str | None, typer.Option(help="auto, onnxruntime, torch, openvino or tensorrt.")
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of network and data step; all by default.")
]
Rebuild = Annotated[
    bool,
    typer.Option("--rebuild", help="Build TensorRT plans again that do not fit this machine."),
]
TensorRTPackage = Annotated[
    str | None,
    typer.Option(help="Which TensorRT builds: tensorrt_rtx or tensorrt; one that is installed."),
]
WorkspaceMib = Annotated[
    int | None, typer.Option(help="TensorRT: most scratch memory of a layer, MiB.")
]
TorchCompile = Annotated[
    bool, typer.Option("--torch-compile", help="With the backend torch: through torch.compile.")
]


def parse_tile(text: str) -> int | Literal["auto"] | None:
    """256 from "256", None from "none", "auto" as it is."""
    from latino_engine.errors import invalid

    word = text.strip().lower()
    if word == "auto" or word == "none":
        return "auto" if word == "auto" else None
    if not word.isdecimal():
        raise invalid("tile", "a side such as 256, none or auto", repr(text), "write it so")
    return int(word)


def parse_size(text: str) -> int | tuple[int, int]:
    """256 or (256, 320) from "256" or "256x320"."""
    from latino_engine.errors import invalid

    parts = text.lower().split("x")
    if not all(part.strip().isdigit() for part in parts) or len(parts) > 2:
        raise invalid("image_size", "a side such as 256, or 256x320", repr(text), "write it so")
    sides = [int(part) for part in parts]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def parse_noise(text: str) -> float:
    """A noise level, or what "auto" becomes: one that is estimated from the measurement."""
    from latino_engine.errors import invalid
    from latino_engine.operators.parts.checks import ESTIMATE

    if text == "auto":
        return ESTIMATE
    try:
        return float(text)
    except ValueError:
        expected = "a number such as 0.02, or auto"
        raise invalid("noise_std", expected, repr(text), "write it so") from None
