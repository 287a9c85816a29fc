"""What figures must be read with: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from latino_engine.version import __version__

_PACKAGES = ("deepinv", "triton", "tensorrt_rtx", "tensorrt")
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX",
}
_TOPOLOGY = Path("/sys/devices/system/cpu")


def machine() -> dict[str, Any]:
    """What figures measured here should be read with."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "instructions": instructions(),
        "cores": psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
    }


def versions() -> dict[str, str]:
    """Versions of what shapes an engine's results."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # Ten milliseconds of reading files, which every call of `sample` would pay.
    found = {"latino-engine": __version__, "python": platform.python_version()}
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The widest instructions for products that this processor has, "" where that is not told."""
    flags = set(_line(cpuinfo, "flags").split())
    return next((_INSTRUCTIONS[name] for name in reversed(_INSTRUCTIONS) if name in flags), "")


def usable_cores(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs")) -> int:
    """How many cores this process can keep busy: those of its affinity, two threads of one core
    counted once, and no more than the quota of its control groups allows, rounded down.

    Args:
        groups: names the control groups.
        root: where the folder "cgroup" is mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone
    own = affinity(0) if affinity else range(os.cpu_count() or 1)
    siblings = {_first_line(_TOPOLOGY / f"cpu{n}/topology/core_cpus_list") or str(n) for n in own}
    quotas = [int(quota) for quota in _quotas(groups, root / "cgroup")]
    return max(1, min([len(siblings), *quotas]))


def limited_cores() -> int | None:
    """`usable_cores` where a quota holds, which no library looks at; None where none does."""
    affinity = getattr(os, "sched_getaffinity", None)
    quotas = list(_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))
    if affinity is None or min(quotas, default=len(affinity(0))) >= len(affinity(0)):
        return None
    return usable_cores()


def _quotas(groups: Path, root: Path) -> Iterator[float]:
    """Cores' worth of time of the control groups around this process, their parents included."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2
            for folder in _upwards(root, name):
                quota, _, period = _first_line(folder / "cpu.max").partition(" ")
                if quota.isdigit() and period.isdigit():
                    yield int(quota) / int(period)
        elif "cpu" in controllers.split(","):
            for folder in _upwards(root / controllers, name):
                quota = _first_line(folder / "cpu.cfs_quota_us")
                period = _first_line(folder / "cpu.cfs_period_us")
                if quota.isdigit() and period.isdigit():  # -1: none
                    yield int(quota) / int(period)


def _upwards(root: Path, name: str) -> Iterator[Path]:
    """The folder of a control group and those around it; a container sees its own as the root."""
    folder = root / name.strip("/")
    yield folder
    while folder != root and root in folder.parents:
        folder = folder.parent
        yield folder


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError:
        return ""


def _processor() -> str:
    return _line(Path("/proc/cpuinfo"), "model name") or platform.processor()


def _line(path: Path, name: str) -> str:
    """What stands behind the first "name:" of a file, "" where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((t.split(":", 1)[1].strip() for t in lines if t.startswith(name)), "")


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory, and the GPU where the engine runs on one."""
    facts = machine()
    if device.startswith("cuda"):
        import torch

        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["gpu_architecture"] = f"sm_{properties.major}{properties.minor}"
        facts["gpu_memory_bytes"] = properties.total_memory
    return facts


def software_versions() -> dict[str, str]:
    """Versions of all that a time depends on, as far as they are installed."""
    found = {**versions(), "system": platform.release()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path = Path(__file__).parents[2]) -> str:
    """The commit of the source folder, "-dirty" behind it where code differs; "" elsewhere.

    The tables that measurements are added to, documentation and pictures are no code.
    """
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    others = [f":(exclude){path}" for path in ("benchmarks/results", "docs", "*.md")]
    describe = [*git, "describe", "--always", "--abbrev=12"]
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", *others]
    try:
        found, differs = (
            subprocess.run(command, capture_output=True, text=True, timeout=20)
            for command in (describe, status)
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if found.returncode or differs.returncode:
        return ""
    return found.stdout.strip() + ("-dirty" if differs.stdout.strip() else "")
