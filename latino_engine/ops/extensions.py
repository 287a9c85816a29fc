"""How a compiled extension is imported: nothing fails because one is missing."""

from __future__ import annotations

import importlib
from typing import Any


def import_extension(name: str, interface: int) -> tuple[Any, str | None]:
    """(latino_engine.<name>, None), or (None, what is missing).

    It is imported after torch: both then share one OpenMP runtime and its threads.
    """
    what = f"the compiled extension latino_engine.{name}"
    try:
        found = importlib.import_module(f"latino_engine.{name}")
    except ModuleNotFoundError:
        return None, f"{what}, which is not built here"
    except ImportError as error:
        return None, f"{what}, which cannot be loaded ({error})"
    built = getattr(found, "INTERFACE_VERSION", None)
    if built != interface:
        return None, f"{what} with interface {interface}, but the one built here has {built}"
    return found, None
