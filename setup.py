"""Builds the native CPU extension; everything that is known beforehand stands in pyproject.toml.

A machine without a C++ compiler installs the package all the same: everything then runs in torch.
"""

from __future__ import annotations

import sys

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

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


class OptionalBuild(build_ext):
    """Compiles what it can: a failure is one warning, never a failed installation."""

    def build_extension(self, ext):
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args += MSVC_FLAGS
        else:
            ext.extra_compile_args += GNU_FLAGS
            if sys.platform != "darwin":  # Apple's compiler has no OpenMP
                ext.extra_compile_args.append("-fopenmp")
                ext.extra_link_args.append("-fopenmp")
        try:
            super().build_extension(ext)
        except Exception as error:  # distutils' errors have no common public base
            self.warn(
                f"{ext.name} was not built ({error}): latino_engine works without it, in torch; "
                "for the faster native path install a C++17 compiler and install the package again"
            )


cpu = Pybind11Extension(
    "latino_engine._cpu",
    [
        "csrc/bindings_cpu.cpp",
        "csrc/cpu/noise.cpp",
        "csrc/cpu/pointwise.cpp",
        "csrc/cpu/rows.cpp",
    ],
    include_dirs=["csrc", "csrc/include"],
    cxx_std=17,
    depends=[
        "csrc/array_checks.h",
        "csrc/cpu/clones.h",
        "csrc/cpu/kernels.h",
        "csrc/cpu/parallel.h",
        "csrc/cpu/rows.h",
        "csrc/include/latino/host_device.h",
        "csrc/include/latino/normal.h",
        "csrc/include/latino/philox.h",
        "csrc/include/latino/pointwise.h",
    ],
    optional=True,
)

setup(ext_modules=[cpu], cmdclass={"build_ext": OptionalBuild})
