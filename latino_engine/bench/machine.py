"""What figures must be read with: machine, versions, commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from latino_engine.manifest import machine, versions

_PACKAGES = ("deepinv", "triton", "tensorrt_rtx", "tensorrt")


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory, and the GPU where the engine runs on one."""
    facts = machine()
    if device.startswith("cuda"):
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


def commit() -> str:
    """The commit of the source folder, "-dirty" behind it where files differ; "" elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(describe, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
