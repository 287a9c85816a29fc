"""Which TensorRT is installed, which GPUs it builds for, and which GPU is here."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from latino_engine.errors import BackendNotAvailable, invalid, invalid_type, whole_number

#: One Python interface, two packages: TensorRT for RTX builds for every GPU of its list on any
#: machine, TensorRT for the GPU of this machine only.
PACKAGES = ("tensorrt_rtx", "tensorrt")

_ARCHITECTURE = re.compile(r"sm_[0-9]{2,3}")
_DRIVER = Path("/sys/module/nvidia/version")


@dataclass(frozen=True)
class PlanOptions:
    """What a user may ask of plans, besides their GPUs.

    Attributes:
        package: one of `PACKAGES`; None takes the first that is installed and builds for the GPU.
        tf32: let float32 products round their factors to 10 bits (relative error about 1e-3).
        workspace_mib: most scratch memory of a layer, in MiB; None leaves it to TensorRT.

    Raises:
        ValueError, TypeError: a value that is none of these.
    """

    package: str | None = None
    tf32: bool = False
    workspace_mib: int | None = None

    def __post_init__(self) -> None:
        if self.package not in (None, *PACKAGES):
            known = "None, 'tensorrt_rtx' or 'tensorrt'"
            raise invalid("tensorrt_package", known, repr(self.package), "choose one of these")
        if not isinstance(self.tf32, bool):
            got = type(self.tf32).__name__
            raise invalid_type("tf32", "True or False", got, "give a boolean")
        if self.workspace_mib is None:
            return
        number = whole_number("workspace_mib", self.workspace_mib)
        object.__setattr__(self, "workspace_mib", number)  # numpy's integers are no JSON
        if number < 1:
            remedy = "leave it out for TensorRT's own limit"
            raise invalid("workspace_mib", "at least 1", number, remedy)

    def check(self, precision: str) -> None:
        """Raises `InvalidArgument` if TF32 would change nothing."""
        if self.tf32 and precision != "fp32":
            remedy = "its products are rounded further already; leave it out"
            raise invalid("tf32", f"False for the precision {precision!r}", True, remedy)

    @property
    def workspace_bytes(self) -> int | None:
        """The limit in the unit of TensorRT."""
        return None if self.workspace_mib is None else self.workspace_mib << 20


@dataclass(frozen=True)
class Gpu:
    """The GPU of a machine: architecture such as "sm_89", its name, its driver."""

    architecture: str
    name: str = ""
    driver: str = ""


def local_gpu() -> Gpu | None:
    """The GPU that torch uses here, None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return Gpu(f"sm_{major}{minor}", torch.cuda.get_device_name(), _driver())


def _driver() -> str:
    """Version of the driver, such as "580.65.06, CUDA 13.0"."""
    import torch

    tell = getattr(torch._C, "_cuda_getDriverVersion")  # noqa: B009 (only CUDA builds have it)
    number = int(tell())  # 13000 means CUDA 13.0
    cuda = f"CUDA {number // 1000}.{number % 1000 // 10}"
    try:
        return f"{_DRIVER.read_text().strip()}, {cuda}"
    except OSError:  # not Linux
        return cuda


def installed_packages() -> list[str]:
    """Those of `PACKAGES` that are installed here, TensorRT for RTX first."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is not None]


def package_version(package: str) -> str | None:
    """Version of an installed package, None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # perhaps installed under a name such as tensorrt-cu13
        here = package in installed_packages()
    return str(load_package(package).__version__) if here else None


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


def resolve_architectures(
    asked: Sequence[str] | None, gpu: Gpu | None, package: str | None = None
) -> dict[str, str]:
    """The package that builds for each architecture asked for; None asks for the GPU here.

    Args:
        asked: such as ["sm_89", "sm_120"].
        gpu: the one of this machine.
        package: the only one that may build; None: those that are installed, in their order.

    Raises:
        ValueError: a name that is none, none named and no GPU here, no package that builds for it,
            a named package that is not installed.
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
    able = {package: buildable(package, gpu) for package in _candidates(package)}
    return {name: _builder_of(name, able) for name in dict.fromkeys(names)}


def _candidates(package: str | None) -> list[str]:
    here = installed_packages()
    if package is None:
        return here
    if package not in here:
        raise BackendNotAvailable(
            f"tensorrt_package: expected one that is installed here ({', '.join(here) or 'none'}), "
            f"got {package!r}; install it with: pip install {package.replace('_', '-')}"
        )
    return [package]


def _builder_of(architecture: str, able: dict[str, list[str]]) -> str:
    for package, architectures in able.items():
        if architecture in architectures:
            return package
    known = sorted({name for names in able.values() for name in names}, key=lambda n: int(n[3:]))
    if not known:  # TensorRT proper alone, and no GPU
        raise BackendNotAvailable(
            "gpu_architectures: expected the GPU of this machine, for which alone the package "
            f"tensorrt builds, got {architecture!r} on a machine without one; compile on a machine "
            "that has it, or with TensorRT for RTX (pip install tensorrt-rtx), which needs no GPU"
        )
    builds = "the TensorRT packages here build" if len(able) > 1 else f"{next(iter(able))} builds"
    raise BackendNotAvailable(
        f"gpu_architectures: expected some of {', '.join(known)}, which {builds} for, got "
        f"{architecture!r}; for another GPU compile on a machine that has it, with the package "
        "tensorrt (pip install tensorrt)"
    )
