"""What is kept between calls: exports, by a key, with the hashes of their files."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from latino_engine.atomic import atomic_file
from latino_engine.errors import OutputNotWritable


def cache_folder() -> Path:
    """Where exports are kept: $LATINO_ENGINE_CACHE, else the user's cache folder, else, for a user
    without a home, a temporary one of this process.
    """
    named = os.environ.get("LATINO_ENGINE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "latino-engine"
    try:
        return Path.home() / ".cache" / "latino-engine"
    except RuntimeError:  # no HOME, and a user whom the system does not know, as in containers
        return _folder_of_this_process()


@functools.cache
def _folder_of_this_process() -> Path:
    """A private folder that goes with the process: one that others could write is no cache."""
    folder = tempfile.mkdtemp(prefix="latino-engine-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def through_cache(name: str, target: Path, export: Callable[[], None]) -> None:
    """`target`, and `target.data` where the weights lie apart: copied from the cache where they are
    there intact, else written by `export` and kept.
    """
    cached = cache_folder() / "exports" / f"{name}.onnx"
    checksums = cached.with_suffix(".sha256")
    pairs = ((cached, target), (_weights_of(cached), _weights_of(target)))
    if _intact([source for source, _ in pairs], checksums):
        for source, copy in pairs:
            if source.exists():
                shutil.copyfile(source, copy)
        return
    export()
    # A cache that cannot be written costs the next compile some time, not this one its result.
    with suppress(OSError, OutputNotWritable):
        written = [(kept, made) for kept, made in pairs if made.exists()]
        for kept, made in written:
            with atomic_file(kept) as file, made.open("rb") as written_file:
                shutil.copyfileobj(written_file, file)
        with atomic_file(checksums) as file:
            file.write("\n".join(file_sha256(made) for _, made in written).encode())


def _weights_of(graph: Path) -> Path:
    return graph.with_name(f"{graph.name}.data")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _intact(cached: list[Path], checksums: Path) -> bool:
    """Whether exactly the files of the last export are there, as they were written."""
    try:
        return checksums.read_text().split() == [file_sha256(p) for p in cached if p.exists()]
    except OSError:
        return False
