"""How threads wait for work: asleep, or, for those who own the machine, spinning.

A library's threads wait for the next parallel region in a loop by default. Beside another busy
process that loop takes the core on which the work would be done: a call then lasts ten times as
long, not twice. Asleep they cost some ten microseconds a region.
"""

from __future__ import annotations

import os
import sys

from latino_engine.errors import invalid

_ASKED = "LATINO_ENGINE_WAIT"
_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

_torch_came_first = False


def set_policy() -> None:
    """Let OpenMP's threads sleep where nobody said otherwise; called when the package is imported.

    OpenMP reads its variables when it is loaded, and torch loads it: this holds where the package
    is imported before torch. Processes that this one starts inherit it.
    """
    global _torch_came_first
    _torch_came_first = "torch" in sys.modules
    if not _torch_came_first and os.environ.get(_ASKED) != "active":
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # libgomp and libiomp both read it


def waits_actively() -> bool:
    """Whether LATINO_ENGINE_WAIT asks for threads that spin and stay on their cores.

    Raises:
        ValueError: another value than "active" or "passive".
    """
    asked = os.environ.get(_ASKED, "passive")
    if asked not in ("active", "passive"):
        raise invalid(_ASKED, "'active' or 'passive'", repr(asked), "set it so, or unset it")
    return asked == "active"


def policy() -> dict[str, str]:
    """In words: how the threads of the runtimes and those of OpenMP wait here."""
    set_here = [f"{name}={os.environ[name]}" for name in _OPENMP if name in os.environ]
    if _torch_came_first and "OMP_WAIT_POLICY" not in os.environ:
        openmp = "spinning for a while: torch was imported before latino_engine"
    else:
        openmp = ", ".join(set_here) or "spinning for a while"
    runtimes = "spinning, on their cores" if waits_actively() else "asleep, on any core"
    return {"onnxruntime and openvino": runtimes, "OpenMP (torch, operators)": openmp}
