"""What a killed writer leaves: hidden temporary files and folders.

Each is locked (`flock`) while its writer lives, so that a sweeper, in any process, knows which are
left. A sweeper may come between the making of one and its lock: then it is made again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

HIDDEN = ".latino-"
_TRIES = 100  # far more than sweepers can come at the same moment
#: (device, inode) of the temporary folders of this process, which holds their locks.
_OWN: set[tuple[int, int]] = set()


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is what a killed writer leaves."""
    return name.startswith(HIDDEN)


def sibling(target: Path) -> Path:
    """A new hidden name beside the target."""
    # Does not contain the target's name, which may already be as long as a name can be.
    return target.parent / f"{HIDDEN}{secrets.token_hex(6)}.tmp"


@contextmanager
def living_file(path: Path) -> Iterator[BinaryIO]:
    """A new file of this name, open for writing, and locked until the block ends."""
    for _ in range(_TRIES):
        # Not tempfile: its files have mode 0600, and these shall follow the umask.
        with open(path, "xb") as file:
            if _locked(path, file.fileno()):
                yield file
                return
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))


@contextmanager
def living_folder(path: Path) -> Iterator[None]:
    """A new folder of this name, locked until the block ends."""
    for _ in range(_TRIES):
        os.mkdir(path)
        if fcntl is None:
            yield
            return
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        about = os.fstat(handle)
        own = about.st_dev, about.st_ino
        try:
            if _locked(path, handle):
                _OWN.add(own)
                yield
                return
        finally:
            _OWN.discard(own)
            os.close(handle)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))


def _locked(path: Path, handle: int) -> bool:
    """Locks an open file or folder; False where a sweeper deleted it before."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks, where nothing is swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
    return path.exists()


def sweep(folder: Path) -> None:
    """Deletes the temporary files and folders here whose writers are dead."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(HIDDEN)]
        for path in found:
            with suppress(OSError):  # gone, another's, or locked: its writer lives
                _sweep_one(path)


def _sweep_one(path: Path) -> None:
    mode = path.lstat().st_mode
    if path.suffix != ".tmp" or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Other writers of the same folder wait: a look and a rename are no single step."""
    if fcntl is None or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        about = os.fstat(handle)
        if (about.st_dev, about.st_ino) not in _OWN:  # locked by this process for its lifetime
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
