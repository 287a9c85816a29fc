"""Builds the native extensions; everything that is known beforehand stands in pyproject.toml.

A machine without a C++ compiler installs the package all the same: everything then runs in torch.

`_cuda` is built with nvcc where there is one, and otherwise, on Linux, without: NVRTC then compiles
its kernels at run time. LATINO_CUDA=auto|0|1: 0 leaves it out, 1 insists on nvcc.
LATINO_CUDA_ARCHS="80;90;100;120": compute capabilities, the oldest as PTX too. CUDA_HOME: where
the toolkit is, if nvcc is not on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.build_py import build_py

# Contraction to fused multiply-adds would make the bits depend on the instruction set. The other
# two -f flags let sqrt and selects vectorise; they change no result.
GNU_FLAGS = [
    "-O3",
    "-g0",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-unknown-pragmas",
]
MSVC_FLAGS = ["/O2", "/fp:precise", "/openmp"]


KERNELS = [
    f"csrc/cuda/{name}.cu" for name in ("fourier", "alias", "kspace", "quads", "elementwise")
]
# No contraction to fused multiply-adds: the noise then has the bits of the CPU's.
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden"]


def wanted_cuda():
    """LATINO_CUDA: "auto", "0" or "1"."""
    wanted = os.environ.get("LATINO_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"LATINO_CUDA: expected auto, 0 or 1, got {wanted}; unset it for auto")
    return wanted


def find_nvcc():
    """The path of nvcc, or None."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    for home in [*filter(None, homes), "/usr/local/cuda"]:
        if (nvcc := Path(home) / "bin" / "nvcc").is_file():
            return str(nvcc)
    return shutil.which("nvcc")


def toolkit_folders(nvcc):
    """(include folders, library folders) as nvcc says: it may be a wrapper script."""
    command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull]
    text = subprocess.run(command, capture_output=True, text=True).stderr

    def folders(variable, flag):
        line = re.search(rf"^#\$ {variable}=(.*)$", text, re.M)
        return re.findall(rf'{flag}"?([^"\s]+)', line[1]) if line else []

    return folders("INCLUDES", "-I"), folders("LIBRARIES", "-L")


class OptionalBuild(build_ext):
    """Compiles what it can: a failure is one warning, never a failed installation."""

    def compile_kernels(self, nvcc):
        """The objects of csrc/cuda/*.cu for every architecture, as many at a time as there are
        cores.
        """
        architectures = os.environ.get("LATINO_CUDA_ARCHS", "80;90;100;120").split(";")
        # One PTX for the oldest, assembled for each: the kernels use nothing that is newer.
        oldest = min(architectures, key=int)
        codes = ",".join([f"sm_{a}" for a in architectures] + [f"compute_{oldest}"])
        target_flag = f"-gencode=arch=compute_{oldest},code=[{codes}]"
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(source):
            target = str(folder / f"{Path(source).stem}.cu.o")
            command = [nvcc, *NVCC_FLAGS, target_flag, "-Icsrc", "-Icsrc/include"]
            command += ["-c", source, "-o", target]
            subprocess.run(command, check=True)
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(compile_one, KERNELS))

    def prepare_cuda(self, ext):
        """With nvcc: its objects and cudart. Without: the driver's launcher in their place."""
        nvcc = find_nvcc()
        if nvcc is None:
            if wanted_cuda() == "1":
                raise SystemExit("LATINO_CUDA=1 needs nvcc; put it on the path or set CUDA_HOME")
            self.warn("no nvcc: latino_engine._cuda will compile its kernels at run time by NVRTC")
            ext.sources += ["csrc/driver/driver_launch.cpp"]
            # A copy with the name of its language: distutils does not know .cu.
            folder = Path(self.build_temp) / "launchers"
            folder.mkdir(parents=True, exist_ok=True)
            for source in KERNELS:
                target = folder / f"{Path(source).stem}.cpp"
                shutil.copyfile(source, target)
                ext.sources.append(str(target))
            ext.include_dirs.insert(0, "csrc/driver")
            ext.libraries.append("dl")
            return
        includes, libraries = toolkit_folders(nvcc)
        ext.extra_objects += self.compile_kernels(nvcc)
        ext.include_dirs += includes
        ext.library_dirs += libraries
        ext.libraries += ["cudart_static", "dl", "rt", "pthread"]

    def build_extension(self, ext):
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args += MSVC_FLAGS
        else:
            ext.extra_compile_args += GNU_FLAGS
            if sys.platform != "darwin":  # Apple's compiler has no OpenMP
                ext.extra_compile_args.append("-fopenmp")
                ext.extra_link_args.append("-fopenmp")
        try:
            if ext is cuda:
                self.prepare_cuda(ext)
            super().build_extension(ext)
        except Exception as error:  # distutils' errors have no common public base
            if ext is cuda and wanted_cuda() == "1":
                raise
            self.warn(
                f"{ext.name} was not built ({error}): latino_engine works without it, in torch; "
                "for the faster native path install a C++17 compiler and install the package again"
            )


cpu = Pybind11Extension(
    "latino_engine._cpu",
    [
        "csrc/bindings_cpu.cpp",
        "csrc/bindings_cpu_operators.cpp",
        "csrc/cpu/noise.cpp",
        "csrc/cpu/operators.cpp",
        "csrc/cpu/pointwise.cpp",
        "csrc/cpu/rows.cpp",
    ],
    include_dirs=["csrc", "csrc/include"],
    cxx_std=17,
    depends=[*map(str, Path("csrc").glob("**/*.h"))],
    optional=True,
)

cuda = Pybind11Extension(
    "latino_engine._cuda",
    ["csrc/bindings_cuda.cpp", "csrc/cuda/launch_log.cpp"],
    include_dirs=["csrc", "csrc/include"],
    cxx_std=17,
    depends=[*map(str, Path("csrc").glob("**/*.h")), *map(str, Path("csrc").glob("cuda/*.cu*"))],
    optional=True,
)


class BuildWithSources(build_py):
    """Puts the kernels' sources into the package, for NVRTC."""

    def run(self):
        super().run()
        if self.editable_mode:  # they are found beside the package
            return
        target = Path(self.build_lib) / "latino_engine" / "csrc"
        for pattern in ("cuda/*.h", "cuda/*.cuh", "include/latino/*.h"):
            for source in Path("csrc").glob(pattern):
                copy = target / source.relative_to("csrc")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)


has_cuda = sys.platform == "linux" and wanted_cuda() != "0"
setup(
    ext_modules=[cpu, cuda] if has_cuda else [cpu],
    cmdclass={"build_ext": OptionalBuild, "build_py": BuildWithSources},
)
