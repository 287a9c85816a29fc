"""Which TensorRT is installed, which GPUs it builds for, and which GPU is here."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from latino_engine.errors import BackendNotAvailable, invalid

#: One Python interface, two packages: TensorRT for RTX builds for every GPU of its list on any
#: machine, TensorRT for the GPU of this machine only.
PACKAGES = ("tensorrt_rtx", "tensorrt")

_ARCHITECTURE = re.compile(r"sm_[0-9]{2,3}")


@dataclass(frozen=True)
class Gpu:
    """The GPU of a machine: architecture such as "sm_89", its name, the driver's CUDA version."""

    architecture: str
    name: str = ""
    driver: str = ""


def local_gpu() -> Gpu | None:
    """The GPU that torch uses here, None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    tell = getattr(torch._C, "_cuda_getDriverVersion")  # noqa: B009 (only CUDA builds have it)
    number = int(tell())  # 13000 means CUDA 13.0
    driver = f"{number // 1000}.{number % 1000 // 10}"
    return Gpu(f"sm_{major}{minor}", torch.cuda.get_device_name(), driver)


def installed_packages() -> list[str]:
    """Those of `PACKAGES` that are installed here, TensorRT for RTX first."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is not None]


def package_version(package: str) -> str | None:
    """Version of an installed package, None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def load_package(package: str) -> Any:
    """The module `tensorrt_rtx` or `tensorrt`."""
    return importlib.import_module(package)


def buildable(package: str, gpu: Gpu | None) -> list[str]:
    """Architectures that a package can build plans for on this machine."""
    if package == "tensorrt":
        return [] if gpu is None else [gpu.architecture]
    names = load_package(package).ComputeCapability.__members__
    numbers = sorted(int(name[2:]) for name in names if name[2:].isdigit())
    return [f"sm_{number}" for number in numbers]


def resolve_architectures(asked: Sequence[str] | None, gpu: Gpu | None) -> dict[str, str]:
    """The package that builds for each architecture asked for; None asks for the GPU here.

    Raises:
        ValueError: a name that is none, none named and no GPU here, no package that builds for it.
    """
    if asked is None:
        if gpu is None:
            raise invalid(
                "gpu_architectures",
                "at least one architecture, such as ['sm_89'], on a machine without a GPU",
                None,
                "name the GPUs that the engine shall run on",
            )
        asked = [gpu.architecture]
    names = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    wrong = [n for n in names if not (isinstance(n, str) and _ARCHITECTURE.fullmatch(n))]
    if wrong or not names:
        got = repr(wrong[0]) if wrong else "an empty list"
        remedy = "write compute capability 8.9 as 'sm_89'"
        raise invalid("gpu_architectures", "names such as 'sm_89'", got, remedy)
    able = {package: buildable(package, gpu) for package in installed_packages()}
    return {name: _builder_of(name, able) for name in dict.fromkeys(names)}


def _builder_of(architecture: str, able: dict[str, list[str]]) -> str:
    for package, architectures in able.items():
        if architecture in architectures:
            return package
    known = sorted({name for names in able.values() for name in names}, key=lambda n: int(n[3:]))
    raise BackendNotAvailable(
        f"gpu_architectures: expected some of {', '.join(known) or 'none'}, which the TensorRT "
        f"packages here build for, got {architecture!r}; for another GPU compile on a machine that "
        "has it, with the package tensorrt"
    )
