"""What figures must be read with: machine, versions, commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from latino_engine.version import __version__

_PACKAGES = ("deepinv", "triton", "tensorrt_rtx", "tensorrt")


def machine() -> dict[str, Any]:
    """What figures measured here should be read with."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
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
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


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
