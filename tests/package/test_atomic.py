"""Files and folders appear whole or not at all, and every refusal is one sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from latino_engine.atomic import atomic_file, atomic_folder, exchange, recover
from latino_engine.errors import OutputNotWritable, UserError

OURS = ("engine.json", "denoiser.*")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(path: Path, data: bytes = b"new") -> None:
    with atomic_file(path) as file:
        file.write(data)


def fill(path: Path, text: str = "new", **options: object) -> None:
    with atomic_folder(path, ours=OURS, **options) as folder:  # type: ignore[arg-type]
        (folder / "engine.json").write_text(text)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if result.returncode:
        pytest.skip(f"mounting a small disk needs root: {result.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_file_is_new_or_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write(target, b"one")
    assert target.read_bytes() == b"one"
    write(target, b"two")
    assert target.read_bytes() == b"two"
    assert names(tmp_path) == ["a.bin"]


def test_file_is_invisible_until_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with atomic_file(target) as file:
        file.write(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"


def test_file_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "a.bin")
        fill(tmp_path / "a.engine")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a.engine").stat().st_mode & 0o777 == 0o750


def test_parents_are_made_and_unmade(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c.bin")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"new"
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "x" / "y" / "z.bin"):
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "x" / "y" / "z"):
        raise RuntimeError
    assert names(tmp_path) == ["a"]


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    write(tmp_path / "link.bin")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"new"


def test_longest_possible_name(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255))
    with pytest.raises(OutputNotWritable, match="the name is too long; choose a shorter one"):
        write(tmp_path / ("n" * 256))
    assert names(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_keeps_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    file_target, folder_target = tmp_path / "a.bin", tmp_path / "a.engine"
    write(file_target, b"old")
    fill(folder_target, "old")
    with pytest.raises(error), atomic_file(file_target) as file:
        file.write(b"half")
        raise error
    with pytest.raises(error), atomic_folder(folder_target, ours=OURS) as folder:
        (folder / "engine.json").write_text("half")
        raise error
    assert file_target.read_bytes() == b"old"
    assert (folder_target / "engine.json").read_text() == "old"
    assert names(tmp_path) == ["a.bin", "a.engine"]


KILLED = """
import sys, time
from pathlib import Path
from latino_engine.atomic import atomic_file, atomic_folder
root = Path(sys.argv[1])
with atomic_file(root / "a.bin") as file, atomic_folder(root / "a.engine", ours=("m",)) as folder:
    file.write(b"half")
    file.flush()
    (folder / "m").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_killed_process_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    (tmp_path / "a.engine").mkdir()
    (tmp_path / "a.engine" / "m").write_text("old")
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert (tmp_path / "a.engine" / "m").read_text() == "old"
    left = [name for name in names(tmp_path) if name.startswith(".latino-")]
    assert len(left) == 2
    fill(tmp_path / "b.engine")  # whoever writes here next
    assert names(tmp_path) == ["a.bin", "a.engine", "b.engine"]


def test_what_a_living_writer_fills_is_not_swept(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a", ours=OURS) as folder, atomic_file(tmp_path / "c") as file:
        file.write(b"one")
        command = [sys.executable, "-c", SWEEPING, str(tmp_path)]
        subprocess.run(command, check=True, timeout=120)
        fill(folder / "inner")  # a folder in one that is not yet there
        (folder / "engine.json").write_text("kept")
    assert names(tmp_path) == ["a", "b", "c"]
    assert (tmp_path / "a" / "engine.json").read_text() == "kept"
    assert (tmp_path / "c").read_bytes() == b"one"


SWEEPING = """
import sys
from latino_engine.atomic import atomic_folder
with atomic_folder(sys.argv[1] + "/b"):
    pass
"""


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_that_is_replaced_is_there_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """Looked at from outside before each call to the file system, as a kill would leave it."""
    target = tmp_path / "a.engine"
    fill(target, "old")
    if not exchanges:
        monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    elif exchange._renameat2() is None:
        pytest.skip("a kernel without renameat2")
    seen = []

    def look(event: str, _: object) -> None:
        if WATCHED and event in ("open", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            watched, WATCHED[:] = WATCHED[:], []  # what follows here is not watched
            hidden = {p.name: p for p in watched[0].iterdir() if p.suffix == ".old"}
            place = target if target.exists() else next(iter(hidden.values()))
            seen.append((target.exists(), (place / "engine.json").read_text()))
            WATCHED[:] = watched

    sys.addaudithook(look)  # for the life of this process; it sleeps while WATCHED is empty
    WATCHED[:] = [tmp_path]
    fill(target, "new")
    WATCHED.clear()
    assert {text for _, text in seen} == {"old", "new"}
    assert all(there for there, _ in seen) == exchanges


WATCHED: list[Path] = []


def test_a_folder_set_aside_is_put_back_by_whoever_reads_or_writes(tmp_path: Path) -> None:
    target, other = tmp_path / "a.engine", tmp_path / "b.engine"
    for again in (lambda: recover(target), lambda: fill(target, "new")):
        fill(target, "old")
        os.rename(target, exchange.aside_of(target))
        fill(other)  # a writer of another name leaves it alone
        assert not target.exists()
        again()
        assert names(tmp_path) == ["a.engine", "b.engine"]
    assert (target / "engine.json").read_text() == "new"
    os.mkdir(exchange.aside_of(target))  # killed before the old one was deleted
    fill(target, "newer")
    assert names(tmp_path) == ["a.engine", "b.engine"]


REASONS = [
    (errno.ENOSPC, "no space left on device; free some space or choose another folder"),
    (errno.EDQUOT, "disk quota exceeded; free some space or choose another folder"),
    (errno.EFBIG, "the file is too large; free some space or choose another folder"),
    (errno.EACCES, "permission denied; choose a folder that you may write to"),
    (errno.EPERM, "operation not permitted; choose a folder that you may write to"),
    (errno.EROFS, "read-only file system; choose a folder that you may write to"),
    (errno.EBUSY, "it is in use, or the root of a mounted disk; choose another folder"),
    (errno.EIO, "input/output error; choose another folder"),
]


@pytest.mark.parametrize(("number", "words"), REASONS)
def test_every_reason_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputNotWritable) as caught:
        write(target)
    assert str(caught.value) == f"out: cannot write {target}: {words}"
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_disk_full_on_open_and_in_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sentence = "no space left on device; free some space or choose another folder"
    with pytest.raises(OutputNotWritable, match=sentence), atomic_folder(tmp_path / "a"):
        refuse()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OutputNotWritable, match=sentence):
        write(tmp_path / "a.bin")
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(OutputNotWritable, match=sentence):
        fill(tmp_path / "a")
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    target = small_disk / "a.bin"
    write(target, b"old")
    with pytest.raises(OutputNotWritable, match="no space left on device; free some space"):
        write(target, bytes(200_000))
    assert target.read_bytes() == b"old"
    assert names(small_disk) == ["a.bin"]


def test_full_disk_keeps_the_old_folder(small_disk: Path) -> None:
    target = small_disk / "a.engine"
    fill(target, "old")
    with pytest.raises(OutputNotWritable, match="no space left on device"):
        fill(target, "x" * 200_000)
    assert (target / "engine.json").read_text() == "old"
    assert names(small_disk) == ["a.engine"]
    fill(target, "smaller")
    assert (target / "engine.json").read_text() == "smaller"


def test_mount_point_is_refused(small_disk: Path) -> None:
    with pytest.raises(OutputNotWritable, match="it is in use, or the root of a mounted disk"):
        fill(small_disk)


def test_part_of_the_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    expected = "a part of this path is a file, not a folder; choose another folder"
    for attempt in (write, fill):
        with pytest.raises(OutputNotWritable, match=expected):
            attempt(tmp_path / "file" / "a")
    assert (tmp_path / "file").read_text() == "old"


LOCKED = """
import os, sys
from latino_engine.atomic import atomic_file, atomic_folder, exchange, recover
from latino_engine.errors import OutputNotWritable
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
for manager in (atomic_file, atomic_folder):
    for path in (sys.argv[1] + "/a", sys.argv[1] + "/b/c"):
        try:
            with manager(path):
                print("written", path)
        except OutputNotWritable as error:
            print(error)
"""


def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        Path(name).chmod(0o755)
        locked = Path(name).resolve() / "locked"
        locked.mkdir(mode=0o555)
        command = [sys.executable, "-c", LOCKED, str(locked)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = [
            f"out: cannot write {locked / part}: permission denied; "
            "choose a folder that you may write to"
            for part in ("a", "b/c", "a", "b/c")
        ]
        assert printed.splitlines() == lines
        assert names(locked) == []


def test_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputNotWritable) as caught:
        write(target)
    assert str(caught.value) == (
        f"out: cannot write {target}: permission denied; choose a folder that you may write to"
    )
    assert target.read_bytes() == b"old"


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_folder(tmp_path / "a"):
        (tmp_path / "missing-input.txt").read_text()
    assert not isinstance(caught.value, UserError)
    with pytest.raises(OSError, match=r"^no number$") as plain, atomic_file(tmp_path / "a.bin"):
        raise OSError("no number")
    assert not isinstance(plain.value, UserError)
    assert names(tmp_path) == []


def test_file_of_a_folder_or_device(tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritable) as caught:
        write(tmp_path)
    assert str(caught.value) == (
        f"out: expected the name of a file, got the folder {tmp_path}; add a file name"
    )
    with pytest.raises(OutputNotWritable) as caught:
        write(Path(os.devnull))
    assert str(caught.value) == (
        f"out: expected the name of a regular file, got the device or pipe {os.devnull}; "
        "choose another name"
    )
    assert not Path(os.devnull).is_file()


def test_argument_names_the_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritable, match=r"^folder: expected the name of a folder, got "):
        (tmp_path / "file").touch()
        fill(tmp_path / "file", argument="folder")
    with pytest.raises(OutputNotWritable, match=r"^path: "), atomic_file(tmp_path, argument="path"):
        pass
