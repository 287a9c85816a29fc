"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latino_engine.atomic import atomic_folder, exchange
from latino_engine.errors import OutputNotWritable

OURS = ("engine.json", "denoiser.*")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fill(path: Path, text: str = "new", **options: object) -> None:
    with atomic_folder(path, ours=OURS, **options) as folder:  # type: ignore[arg-type]
        (folder / "engine.json").write_text(text)


def test_folder_is_new_empty_or_ours(tmp_path: Path) -> None:
    target = tmp_path / "a.engine"
    fill(target, "one")
    (target / "denoiser.onnx").touch()
    fill(target, "two")
    assert names(target) == ["engine.json"]
    assert (target / "engine.json").read_text() == "two"
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty")
    assert names(tmp_path) == ["a.engine", "empty"]


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (["notes.txt"], "which holds notes.txt"),
        (["engine.json", "notes.txt"], "which holds notes.txt"),
        (["denoiser.onnx"], "which lacks engine.json"),
    ],
)
def test_foreign_folder_is_refused_unless_told(tmp_path: Path, held: list[str], found: str) -> None:
    target = tmp_path / "a"
    target.mkdir()
    for name in held:
        (target / name).write_text("precious")
    with pytest.raises(OutputNotWritable) as caught:
        fill(target)
    assert str(caught.value) == (
        "out: expected a new folder, an empty one or one that holds only engine.json, denoiser.*, "
        f"got {target}, {found}; choose another folder or delete this one"
    )
    assert names(target) == sorted(held)
    assert names(tmp_path) == ["a"]
    fill(target, overwrite=True)
    assert names(target) == ["engine.json"]


def test_nothing_is_ours_by_default(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    with pytest.raises(OutputNotWritable) as caught, atomic_folder(tmp_path / "a"):
        pass
    assert str(caught.value) == (
        f"out: expected a new folder or an empty one, got {tmp_path / 'a'}, which holds b; "
        "choose another folder or delete this one"
    )


def test_folder_that_became_foreign_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with (
        pytest.raises(OutputNotWritable, match=r"which holds notes\.txt"),
        atomic_folder(target, ours=OURS),
    ):
        target.mkdir()
        (target / "notes.txt").write_text("precious")
    assert names(target) == ["notes.txt"]
    assert names(tmp_path) == ["a"]


def test_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for target in (Path("."), tmp_path):
        with pytest.raises(OutputNotWritable, match="in which this command runs"):
            fill(target, overwrite=True)


def test_failed_swap_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.engine"
    fill(target, "old")
    monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    rename, calls = os.rename, []

    def second_fails(source: object, destination: object) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, destination)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OutputNotWritable, match="no space left on device"):
        fill(target)
    assert len(calls) == 3
    assert (target / "engine.json").read_text() == "old"
    assert names(tmp_path) == ["a.engine"]


def test_writers_of_the_same_folder_do_not_hinder_each_other(tmp_path):
    """Four processes, each 60 times: no failure, nothing left behind, the last one stands whole."""
    code = f"""
from latino_engine.atomic import atomic_folder
for n in range(60):
    with atomic_folder({str(tmp_path / "x.engine")!r}, ours=("engine.json", "data")) as folder:
        (folder / "engine.json").write_text("{{}}")
        (folder / "data").write_text(str(n))
"""
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0, 0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["x.engine"]
    assert (tmp_path / "x.engine" / "data").read_text() == "59"
