"""Loading and sampling open no socket, and write nowhere but in the cache and the output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from tiny import tiny_prior

import latino_engine as le

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

WORK = """
import sys
import torch
import latino_engine as le
for backend in ("onnxruntime", "torch"):
    engine = le.load(sys.argv[1], backend=backend)
    post = engine.sample(torch.rand(1, 3, 16, 16), le.Denoising(0.1), 1, steps=2)
post.save(sys.argv[2])
"""
_OPENED = re.compile(r'openat\([^,]+, "([^"]*)", ([A-Z_|]+)')
_MADE = re.compile(r'(?:mkdir|mkdirat|rename|link|symlink)\(.*?"([^"]*)"')


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """What the system was asked for, and the folders that may be written."""
    folder = tmp_path_factory.mktemp("closed")
    le.compile(tiny_prior(), folder / "tiny.engine", image_size=16)
    home, trace = folder / "home", folder / "trace"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "LATINO_ENGINE_CACHE": str(home / "ours")}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    calls = "trace=socket,connect,sendto,sendmsg,openat,mkdir,mkdirat,rename,symlink"
    command = ["strace", "-f", "-qq", "-e", calls, "-o", str(trace), sys.executable, "-c", WORK]
    arguments = [str(folder / "tiny.engine"), str(folder / "out")]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("this machine lets nobody trace a process")
    assert done.returncode == 0, done.stderr
    return trace.read_text(), folder


def test_no_socket_is_opened(traced):
    text, _ = traced
    assert "openat(" in text  # the trace saw the process
    calls = [line for line in text.splitlines() if re.search(r" (socket|connect|send\w+)\(", line)]
    # The system's own lookup of a user's name asks a local socket; no other kind is allowed.
    assert [line for line in calls if "AF_UNIX" not in line] == []


def test_nothing_is_written_elsewhere(traced):
    text, folder = traced
    written = [path for path, how in _OPENED.findall(text) if "WRONLY" in how or "RDWR" in how]
    written += _MADE.findall(text)
    ours = (str(folder / "out"), str(folder / ".latino-"), str(folder / "home" / "ours"))
    system = ("/dev/", "/proc/", "/sys/")
    others = {path for path in written if not path.startswith((*ours, *system))}
    assert str(folder / "out") in " ".join(written) or ".latino-" in " ".join(written)
    compiled = {
        path for path in others if path.endswith((".pyc", "__pycache__")) or ".pyc." in path
    }
    assert others - compiled == set()


def test_the_collector_is_told_before_the_import():
    code = "import os, latino_engine; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
