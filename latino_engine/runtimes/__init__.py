"""Runtimes of the denoiser: one file each, one dict, resolved once."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import cast

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

_MODULES = {
    "onnxruntime": "latino_engine.runtimes.onnxruntime",
    "torch": "latino_engine.runtimes.torch",
    "openvino": "latino_engine.runtimes.openvino",
    "tensorrt": "latino_engine.runtimes.tensorrt",
}
#: Runtimes that run only what was built for them: `compile` takes them by name, never by "auto".
AHEAD_OF_TIME = ("tensorrt",)
_EITHER = {"tensorrt_rtx": ("tensorrt_rtx", "tensorrt")}  # packages with one Python interface
_INSTALL = {
    "onnxruntime": ("onnxruntime", "pip install onnxruntime"),
    "torch": ("torch", "pip install torch"),
    "openvino": ("openvino", "pip install 'latino-engine[openvino]'"),
    "tensorrt": ("tensorrt_rtx", "pip install 'latino-engine[tensorrt]'"),
}


def installed() -> list[str]:
    """Names of the runtimes whose package is installed here, the default first."""
    return [name for name in _MODULES if _present(_INSTALL[name][0])]


def runtime_module(backend: str) -> RuntimeModule:
    """The module of a named runtime.

    Raises:
        ValueError: an unknown name, or a runtime whose package is not installed here.
    """
    if backend not in _INSTALL:
        known = ", ".join(repr(name) for name in ("auto", *_MODULES))
        raise invalid("backend", f"one of {known}", repr(backend), "choose one of these")
    package, command = _INSTALL[backend]
    if not _present(package):
        raise BackendNotAvailable(
            f"backend: expected one that is installed here, got {backend!r}, whose package "
            f"{package} is "
            f"missing; install it with: {command}"
        )
    return cast(RuntimeModule, importlib.import_module(_MODULES[backend]))


def version(backend: str) -> str:
    """Version of the runtime's package."""
    package = _INSTALL[backend][0]
    return metadata.version(next(n for n in _EITHER.get(package, (package,)) if _present(n)))


def _present(package: str) -> bool:
    return any(importlib.util.find_spec(name) for name in _EITHER.get(package, (package,)))
