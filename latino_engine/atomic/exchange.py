"""A new folder takes the place of an old one in one step, or in two that can be ended later."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from latino_engine.atomic.leftovers import HIDDEN, alone_in

_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h
#: What renameat2 answers where the kernel or the file system does not know the exchange.
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV)


def resolve(path: str | os.PathLike[str]) -> Path:
    """The path without links, whether or not it exists."""
    return Path(os.path.realpath(path))


def recover(path: str | os.PathLike[str]) -> None:
    """Puts a folder back whose writer died between the two renames of an exchange.

    Every reader of a folder that `atomic_folder` replaces calls it where the folder is missing.
    """
    target = resolve(path)
    if not target.exists() and aside_of(target).exists():
        with suppress(OSError), alone_in(target.parent):  # a reader that may not write
            recover_alone(target)


def move_in(temporary: Path, target: Path) -> None:
    """The new folder in the place of the old one, which is then `temporary`, or is no more."""
    if not target.exists():
        os.rename(temporary, target)
        return
    if _exchange(temporary, target):
        return
    aside = aside_of(target)
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def recover_alone(target: Path) -> None:
    """Ends what a dead writer of this folder began; its lock on the parent is ours now."""
    aside = aside_of(target)
    if not aside.exists():
        return
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(aside, target)


def _exchange(one: Path, other: Path) -> bool:
    """The two change places in one step; False where kernel or file system cannot do it."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)  # as Python's own renames do
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        found: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library older than 2018
        return None
    text = ctypes.c_char_p
    found.argtypes = (ctypes.c_int, text, ctypes.c_int, text, ctypes.c_uint)
    found.restype = ctypes.c_int
    return found  # type: ignore[no-any-return]


def aside_of(target: Path) -> Path:
    """Where the folder waits while a new one takes its place; follows from the name alone."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:24]
    return target.parent / f"{HIDDEN}{name}.old"
