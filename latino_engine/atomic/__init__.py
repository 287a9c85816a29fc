"""Files and folders that appear whole or not at all: `writing` says how."""

from latino_engine.atomic.exchange import recover
from latino_engine.atomic.leftovers import is_leftover
from latino_engine.atomic.writing import PathLike, atomic_file, atomic_folder, check_writable

__all__ = [
    "PathLike",
    "atomic_file",
    "atomic_folder",
    "check_writable",
    "is_leftover",
    "recover",
]
