"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED_AND_SAVED = 131  # leaves the program as 130, after the command's own sentence

EnginePath = Annotated[Path, typer.Argument(help="Folder of a compiled engine.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")
]
Backend = Annotated[str | None, typer.Option(help="auto, onnxruntime, torch or tensorrt.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of network and data step; all by default.")
]
Seed = Annotated[int, typer.Option(help="0 <= seed < 2^64; the same seed gives the same samples.")]
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
