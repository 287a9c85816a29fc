"""Compiles the CUDA sources, unmodified, against the shim into a Python module.

Objects are kept by the hash of everything that goes into them, so that a second run compiles
nothing and a changed header only what includes it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

SHIM = Path(__file__).resolve().parent
ROOT = SHIM.parents[1]
CSRC = ROOT / "csrc"
KERNEL_SOURCES = tuple(sorted((CSRC / "cuda").glob("*.cu")))
SOURCES = (
    *KERNEL_SOURCES,
    CSRC / "cuda" / "launch_log.cpp",
    CSRC / "bindings_cuda.cpp",
    SHIM / "faults.cu",
    SHIM / "module.cpp",
)
# Contraction is off, as under nvcc: noise has the same bits everywhere.
FLAGS = ("-O1", "-g0", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


def missing() -> str | None:
    """None where the shim can be compiled, else what is missing."""
    if sys.platform != "linux":
        return "the shim needs Linux"
    if shutil.which(compiler()) is None:
        return f"the shim needs a C++17 compiler; {compiler()} is not on the path"
    if pybind_folder() is None:
        return "the shim needs pybind11's headers; `pip install pybind11`"
    return None


def compiler() -> str:
    """The C++ compiler."""
    return os.environ.get("CXX", "g++")


@functools.cache
def pybind_folder() -> Path | None:
    """An include folder with pybind11: the package's own, or the copy that torch ships."""
    for package in ("pybind11", "torch"):
        spec = importlib.util.find_spec(package)
        for folder in [] if spec is None else spec.submodule_search_locations or []:
            if (Path(folder) / "include" / "pybind11" / "pybind11.h").is_file():
                return Path(folder) / "include"
    return None


def dependencies(source: Path, roots: Sequence[Path]) -> list[Path]:
    """The source and the headers of ours that it includes, directly or not."""
    found, waiting = [source], [source]
    while waiting:
        for name in re.findall(r'^#include ["<](.+)[">]', waiting.pop().read_text(), re.M):
            for root in roots:
                if (root / name).is_file():
                    if root / name not in found:
                        found.append(root / name)
                        waiting.append(root / name)
                    break
    return found


def _compile(
    source: Path, folder: Path, flags: Sequence[str], runtime: Path, overlay: Path | None = None
) -> Path:
    roots = [runtime, CSRC, CSRC / "include"]
    if overlay is not None:
        roots.insert(0, overlay)
    if source.suffix == ".cpp":  # bindings: nothing in them is worth optimising
        flags = [flag for flag in flags if flag != "-O1"]
    digest = hashlib.sha256(repr((flags, sys.version, compiler())).encode())
    for path in dependencies(source, roots):
        digest.update(path.read_bytes())
    target = folder / f"{source.stem}-{digest.hexdigest()[:16]}.o"
    if target.exists():
        return target
    python = sysconfig.get_paths()["include"]
    include = [f"-I{root}" for root in roots] + [f"-isystem{pybind_folder()}", f"-isystem{python}"]
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    command = [compiler(), "-x", "c++", "-std=c++17", "-fPIC", "-fvisibility=hidden", *flags]
    command += [*include, "-c", str(source), "-o", str(temporary)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    temporary.replace(target)
    return target


def compile_objects(
    sources: Sequence[Path],
    folder: Path,
    flags: Sequence[str] = FLAGS,
    changed: Mapping[str, str] | None = None,
) -> list[Path]:
    """The objects of the sources; `changed` gives other texts for headers below csrc."""
    folder.mkdir(parents=True, exist_ok=True)
    overlay = None
    if changed:
        overlay = folder / f"overlay-{os.getpid()}"
        for name, text in changed.items():
            (overlay / name).parent.mkdir(parents=True, exist_ok=True)
            (overlay / name).write_text(text)
    try:
        return [_compile(source, folder, flags, SHIM, overlay) for source in sources]
    finally:
        if overlay is not None:
            shutil.rmtree(overlay)


def _link(objects: Sequence[Path], target: Path, libraries: Sequence[str] = ()) -> Path:
    digest = hashlib.sha256(" ".join(path.name for path in objects).encode()).hexdigest()[:16]
    library = target.with_name(f"{target.stem}-{digest}.so")
    if not library.exists():
        temporary = library.with_suffix(f".{os.getpid()}.tmp")
        command = [compiler(), "-shared", "-o", str(temporary), *map(str, objects), *libraries]
        subprocess.run(command, check=True, capture_output=True)
        temporary.replace(library)
    return library


def build_library(folder: Path, changed: Mapping[str, str] | None = None) -> Path:
    """The file of the module cuda_on_cpu: the functions of latino_engine._cuda, on host memory."""
    return _link(compile_objects(SOURCES, folder, changed=changed), folder / "cuda_on_cpu")


def build_driver_library(folder: Path) -> Path:
    """latino_engine._cuda as it is built where there is no nvcc."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [source for source in SOURCES if source.parent != SHIM]
    sources.append(CSRC / "driver" / "driver_launch.cpp")
    flags = [flag for flag in FLAGS if flag != "-O1"]
    objects = [_compile(source, folder, flags, CSRC / "driver") for source in sources]
    return _link(objects, folder / "_cuda", ["-ldl"])


def load(library: Path) -> ModuleType:
    """The module; a process can load one only, whatever its file."""
    spec = importlib.util.spec_from_file_location("cuda_on_cpu", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
