"""Files and folders that appear whole or not at all.

Each is written under a hidden temporary name beside its target, flushed to the disk, and takes the
target's place in one step: a rename, or an exchange of two folders (`renameat2`). Where the file
system cannot exchange, the old folder steps aside under a name that follows from its own, and
`recover` puts it back if the process died between the two renames.

A failure, Ctrl-C included, removes the temporary one and leaves what stood there before. A killed
process leaves the hidden `.latino-*.tmp`, which is locked while its writer lives: the next writer
in the same folder deletes those that nobody locks.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

from latino_engine.atomic.exchange import move_in, recover_alone, resolve
from latino_engine.atomic.leftovers import alone_in, living_file, living_folder, sibling, sweep
from latino_engine.errors import OutputNotWritable, UserError

PathLike: TypeAlias = "str | os.PathLike[str]"

_FREE_SPACE = "free some space or choose another folder"
_OTHER_FOLDER = "choose another folder"
_YOUR_FOLDER = "choose a folder that you may write to"

#: errno -> (what came, remedy); any other number takes the system's own words.
_REASONS = {
    errno.ENOSPC: ("no space left on device", _FREE_SPACE),
    errno.EDQUOT: ("disk quota exceeded", _FREE_SPACE),
    errno.EFBIG: ("the file is too large", _FREE_SPACE),
    errno.EACCES: ("permission denied", _YOUR_FOLDER),
    errno.EPERM: ("operation not permitted", _YOUR_FOLDER),
    errno.EROFS: ("read-only file system", _YOUR_FOLDER),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", _OTHER_FOLDER),
    errno.EBUSY: ("it is in use, or the root of a mounted disk", _OTHER_FOLDER),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

#: Folders whose leftovers this process has looked for; each file of a large folder need not.
_SWEPT: set[Path] = set()


@contextmanager
def atomic_file(path: PathLike, *, argument: str = "out") -> Iterator[BinaryIO]:
    """An open binary file that takes the place of `path` when the block ends without an error.

    Missing parent folders are made. A symbolic link is followed, not replaced.

    Args:
        path: the file to write; one that exists is replaced.
        argument: the name that begins the sentence of an error.

    Raises:
        OutputNotWritable: no space, no permission, a folder or a device of that name.
    """
    target = resolve(path)
    temporary = sibling(target)
    with _one_sentence(argument, target, temporary):
        _check_file(argument, target)
        with _parents(target):
            if target.parent not in _SWEPT:
                _SWEPT.add(target.parent)
                sweep(target.parent)
            try:
                with living_file(temporary) as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())  # a full disk may say so only here
                    os.replace(temporary, target)
                _flush_folder(target.parent)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise


@contextmanager
def atomic_folder(
    path: PathLike, *, ours: Sequence[str] = (), overwrite: bool = False, argument: str = "out"
) -> Iterator[Path]:
    """A new, empty folder that takes the place of `path` when the block ends without an error.

    A folder that exists is replaced only where it is empty or *ours*: it holds an entry of the
    first name in `ours`, and nothing but names that match `ours`. The two change places in one
    step, and the old one is deleted. Missing parents are made.

    Args:
        path: the folder to write.
        ours: file name patterns, such as `("engine.json", "denoiser.*")`; empty: nothing is ours.
        overwrite: replace an existing folder whatever it holds.
        argument: the name that begins the sentence of an error.

    Yields:
        The temporary sibling folder to fill.

    Raises:
        OutputNotWritable: no space, no permission, a file of that name, a folder that is not ours.
    """
    target = resolve(path)
    temporary = sibling(target)
    with _one_sentence(argument, target, temporary):
        with alone_in(target.parent):
            recover_alone(target)
            _check_folder(argument, target, ours, overwrite)
        with _parents(target):
            sweep(target.parent)
            try:
                with living_folder(temporary):
                    yield temporary
                    _flush_below(temporary)
                    with alone_in(target.parent):
                        _check_folder(argument, target, ours, overwrite)  # hours may have passed
                        move_in(temporary, target)
                shutil.rmtree(temporary, ignore_errors=True)  # what stood there before
                _flush_folder(target.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise


def check_writable(folder: PathLike, *, argument: str = "out") -> None:
    """Raises unless files can be written into this folder, made for the trial where it is missing.

    Raises:
        OutputNotWritable: no space, no permission, a file of that name.
    """
    target = resolve(folder) / "file"
    temporary = sibling(target)
    missing = [place for place in target.parents if not place.exists()]
    with _one_sentence(argument, target.parent, temporary), _parents(target):
        with living_file(temporary):
            temporary.unlink()
        sweep(target.parent)
        for place in missing:
            with suppress(OSError):  # in use by someone else meanwhile
                place.rmdir()


def _check_file(argument: str, target: Path) -> None:
    if target.is_dir():
        raise OutputNotWritable(
            f"{argument}: expected the name of a file, got the folder {target}; add a file name"
        )
    if target.exists() and not target.is_file():
        raise OutputNotWritable(
            f"{argument}: expected the name of a regular file, got the device or pipe {target}; "
            "choose another name"
        )
    if target.exists() and not os.access(target, os.W_OK):  # a rename would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))


def _check_folder(argument: str, target: Path, ours: Sequence[str], overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputNotWritable(
            f"{argument}: expected the name of a folder, got the file {target}; choose another name"
        )
    if target in (Path.cwd(), *Path.cwd().parents):
        raise OutputNotWritable(
            f"{argument}: expected a folder that can be replaced, got {target}, in which this "
            "command runs; choose another name"
        )
    names = sorted(entry.name for entry in target.iterdir())
    if overwrite or not names or _is_ours(names, ours):
        return
    own = f", an empty one or one that holds only {', '.join(ours)}" if ours else " or an empty one"
    foreign = [name for name in names if not _matches(name, ours)]
    found = f"which holds {foreign[0]}" if foreign else f"which lacks {ours[0]}"
    raise OutputNotWritable(
        f"{argument}: expected a new folder{own}, got {target}, {found}; "
        "choose another folder or delete this one"
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_ours(names: Sequence[str], ours: Sequence[str]) -> bool:
    return bool(ours) and ours[0] in names and all(_matches(name, ours) for name in names)


def _flush_below(folder: Path) -> None:
    """Every file below it reaches the disk, so that a power cut finds the old or the new."""
    if os.name != "posix":
        return
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(PermissionError), open(os.path.join(place, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_folder(Path(place))


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    with suppress(OSError):  # file systems that cannot flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Makes the missing parents, and on failure removes those that it made."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # never made, or in use by someone else
                parent.rmdir()
        raise


@contextmanager
def _one_sentence(argument: str, target: Path, temporary: Path) -> Iterator[None]:
    """Turns an OSError about this target into one sentence; one about another file passes."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError) or not _concerns(error, target, temporary):
            raise
        system = (os.strerror(error.errno or 0).lower(), _OTHER_FOLDER)
        reason, remedy = _REASONS.get(error.errno or 0, system)
        raise OutputNotWritable(f"{argument}: cannot write {target}: {reason}; {remedy}") from error


def _concerns(error: OSError, target: Path, temporary: Path) -> bool:
    if error.errno is None:
        return False
    if error.filename is None or error.errno in _DISK_FULL:
        return True
    path = Path(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else target
    return path in (target, *target.parents) or temporary in (path, *path.parents)
