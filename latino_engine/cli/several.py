"""One command for several files: which they are, and where the results of each go."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from latino_engine.errors import UserError, invalid


def files_of(given: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The image files of a list of files and folders, each with a relative name for its results.

    Folders are searched at any depth; hidden files are passed over. The name is that of the file
    without its extension, below a folder with the folders on the way, and with the extension
    where two files differ in nothing else.

    Raises:
        ValueError: a folder without images, or two files that ask for the same name.
    """
    from latino_engine.image_io.datasets import files_below
    from latino_engine.image_io.images import EXTENSIONS

    found: list[tuple[Path, Path]] = []
    for path in given:
        if not path.is_dir():
            found.append((path, Path(path.name)))
            continue
        below = files_below(path, EXTENSIONS)
        if not below:
            expected, remedy = f"images below {str(path)!r}", "name another folder, or files"
            raise invalid("image", expected, "none", remedy)
        found += [(file, file.relative_to(path)) for file in below]
    counts = Counter(name.with_suffix("") for _, name in found)
    named = [(f, n.with_suffix("") if counts[n.with_suffix("")] == 1 else n) for f, n in found]
    twice = [name for name, count in Counter(name for _, name in named).items() if count > 1]
    if twice:
        remedy = "rename one of them, or give their folder"
        raise invalid("image", "files of different names", f"{twice[0]} twice", remedy)
    return named


def each(
    files: Sequence[tuple[Path, Path]], out: Path, work: Callable[[Path, Path], dict[str, Any]]
) -> dict[str, Any]:
    """work(file, out / name) for every file; what cannot be used is told and passed over.

    Returns:
        {"images": the reports, "failures": {file: its sentence}}.
    """
    reports, failures = [], {}
    for number, (file, name) in enumerate(files, start=1):
        try:
            reports.append(work(file, out / name))
        except UserError as error:
            failures[str(file)] = " ".join(str(error).split())
            told = f"error: {failures[str(file)]}"
        else:
            told = f"written to {out / name}"
        print(f"{number} of {len(files)}: {told}", file=sys.stderr, flush=True)
    return {"images": reports, "failures": failures}
