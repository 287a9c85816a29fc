"""Runtimes of the denoiser: one file and one row each."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import NamedTuple, cast

from latino_engine.errors import BackendNotAvailable, invalid
from latino_engine.runtimes.protocol import DenoiserRuntime, RuntimeModule

__all__ = [
    "AHEAD_OF_TIME",
    "DenoiserRuntime",
    "RuntimeModule",
    "installed",
    "runtime_module",
    "version",
]


class _Row(NamedTuple):
    """A runtime, whose module is the file of its name.

    Attributes:
        packages: with one Python interface; one of them is enough.
        install: the command that installs it.
        ahead_of_time: it runs only what was built for it.
    """

    packages: tuple[str, ...]
    install: str
    ahead_of_time: bool = False


#: One row for each runtime, the default first.
_RUNTIMES = {
    "onnxruntime": _Row(("onnxruntime",), "pip install onnxruntime"),
    "torch": _Row(("torch",), "pip install torch"),
    "openvino": _Row(("openvino",), "pip install 'latino-engine[openvino]'"),
    "tensorrt": _Row(
        ("tensorrt_rtx", "tensorrt"), "pip install 'latino-engine[tensorrt]'", ahead_of_time=True
    ),
}
#: `compile` takes these by name, never by "auto".
AHEAD_OF_TIME = tuple(name for name, row in _RUNTIMES.items() if row.ahead_of_time)


def installed() -> list[str]:
    """Names of the runtimes whose package is installed here, the default first."""
    return [name for name, row in _RUNTIMES.items() if any(map(_present, row.packages))]


def runtime_module(backend: str) -> RuntimeModule:
    """The module of a named runtime.

    Raises:
        ValueError: an unknown name, or a runtime whose package is not installed here.
    """
    if backend not in _RUNTIMES:
        known = ", ".join(repr(name) for name in ("auto", *_RUNTIMES))
        raise invalid("backend", f"one of {known}", repr(backend), "choose one of these")
    row = _RUNTIMES[backend]
    if not any(map(_present, row.packages)):
        raise BackendNotAvailable(
            f"backend: expected one that is installed here, got {backend!r}, whose package "
            f"{row.packages[0]} is missing; install it with: {row.install}"
        )
    return cast(RuntimeModule, importlib.import_module(f"latino_engine.runtimes.{backend}"))


def version(backend: str) -> str:
    """Version of the runtime's package."""
    return metadata.version(next(filter(_present, _RUNTIMES[backend].packages)))


def _present(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
