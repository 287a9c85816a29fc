"""How threads wait, and how many there are: what the environment and the control groups say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from latino_engine.system import machine, waiting


def waited(program, **environment):
    """What a fresh process prints."""
    known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**known, **environment},
        check=True,
    )
    return done.stdout.strip()


TOLD = "import os, latino_engine; print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, "PASSIVE"),
        ({"LATINO_ENGINE_WAIT": "active"}, "None"),
        ({"LATINO_ENGINE_WAIT": "passive"}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
    ],
)
def test_the_policy_is_set_where_nobody_said_otherwise(environment, expected):
    assert waited(TOLD, **environment) == expected


def test_openmp_itself_reads_the_policy():
    """libgomp tells what it read when it was loaded, on stderr."""
    program = (
        "import latino_engine, os, sys; os.environ['OMP_DISPLAY_ENV'] = 'true'; "
        "os.dup2(1, 2); import torch"
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in waited(program)


def test_a_torch_that_came_first_keeps_its_own():
    program = (
        "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); "
        "from latino_engine.system.waiting import policy; "
        "print(policy()['OpenMP (torch, operators)'])"
    )
    assert waited(program) == "spinning for a while: torch was imported before latino_engine"
    told = waited("from latino_engine.system.waiting import policy; print(policy())")
    assert "OMP_WAIT_POLICY=PASSIVE" in told and "asleep, on any core" in told


def test_the_wish_is_one_of_two(monkeypatch):
    monkeypatch.setenv("LATINO_ENGINE_WAIT", "active")
    assert waiting.waits_actively()
    monkeypatch.setenv("LATINO_ENGINE_WAIT", "")
    with pytest.raises(ValueError, match=r"^LATINO_ENGINE_WAIT: expected 'active' or 'passive'"):
        waiting.policy()


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes control groups; eight cores of four siblings each pair of threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_TOPOLOGY", tmp_path / "cpu")
    for n in range(8):
        folder = tmp_path / f"cpu/cpu{n}/topology"
        folder.mkdir(parents=True)
        (folder / "core_cpus_list").write_text(f"{n % 4},{n % 4 + 4}\n")

    def write(lines, files):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "self").write_text(lines)
        return machine.usable_cores(tmp_path / "self", tmp_path)

    return write


@pytest.mark.parametrize(
    "lines, files, expected",
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        (
            "4:cpu,cpuacct:/\n1:memory:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("", {}, 4),
    ],
    ids=["no quota", "2.5", "0.5", "of a parent", "version 1", "version 1, none", "no groups"],
)
def test_cores_of_the_quota(groups, lines, files, expected):
    assert groups(lines, files) == expected


def test_cores_of_the_affinity(groups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4, 5}, raising=False)
    assert groups("0::/\n", {"cpu.max": "max 100000\n"}) == 2  # 0 and 4 are one core


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("fpu sse2", ""),
        ("fpu avx2 fma", "AVX2"),
        ("avx2 avx512f", "AVX-512"),
        ("avx2 avx512f avx512_bf16", "AVX512-BF16"),
        ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "AMX"),
    ],
)
def test_instructions(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert machine.instructions(tmp_path / "cpuinfo") == expected
    assert machine.instructions(tmp_path / "none") == ""
