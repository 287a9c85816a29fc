"""Builds the native extensions; everything that is known beforehand stands in pyproject.toml.

A machine without a C++ compiler installs the package all the same: everything then runs in torch.

`_cuda` is built with nvcc where there is one that works, and otherwise, on Linux, without: NVRTC
then compiles its kernels at run time. LATINO_CUDA=auto|0|1: 0 leaves it out, 1 insists on nvcc.
LATINO_CPU=auto|0: 0 leaves `_cpu` out.
LATINO_CUDA_ARCHS="80;90;100;120": compute capabilities, the oldest as PTX too; unset, those of
these that nvcc knows. CUDA_HOME: where the toolkit is, if nvcc is not on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import find_packages, setup
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
ARCHITECTURES = ["80", "90", "100", "120"]
# No contraction to fused multiply-adds: the noise then has the bits of the CPU's.
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden"]


def wanted_cuda():
    """LATINO_CUDA: "auto", "0" or "1"."""
    wanted = os.environ.get("LATINO_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"LATINO_CUDA: expected auto, 0 or 1, got {wanted}; unset it for auto")
    if wanted == "1" and sys.platform != "linux":
        raise SystemExit(f"LATINO_CUDA: expected auto or 0 on {sys.platform}, got 1; use Linux")
    return wanted


def wanted_cpu():
    """LATINO_CPU: whether the extension for the CPU is built."""
    wanted = os.environ.get("LATINO_CPU", "auto")
    if wanted not in ("auto", "0"):
        raise SystemExit(f"LATINO_CPU: expected auto or 0, got {wanted}; unset it for auto")
    return wanted != "0"


def wanted_architectures():
    """LATINO_CUDA_ARCHS as a list, or None where it is unset."""
    text = os.environ.get("LATINO_CUDA_ARCHS", "").strip()
    if not text:
        return None
    wanted = [part.strip() for part in text.split(";")]
    if not all(re.fullmatch(r"\d{2,3}", part) for part in wanted):
        raise SystemExit(
            "LATINO_CUDA_ARCHS: expected compute capabilities without a dot, such as "
            f'"80;90", got "{text}"; unset it for {";".join(ARCHITECTURES)}'
        )
    return wanted


def architectures_for(nvcc):
    """What to compile for: what was asked, else those of ARCHITECTURES that this nvcc knows."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    known = re.findall(r"compute_(\d+)\b", listed)  # empty if nvcc is too old to tell
    wanted = wanted_architectures()
    if wanted is None:
        return [one for one in ARCHITECTURES if one in known] or ARCHITECTURES
    if known and not set(wanted) <= set(known):
        raise SystemExit(
            f"LATINO_CUDA_ARCHS: expected some of {';'.join(known)}, which {nvcc} knows, got "
            f"{';'.join(wanted)}; install another CUDA toolkit, or leave out what is missing"
        )
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


#: What is told before an extension is compiled, and how long it takes; pip shows it with -v.
ABOUT = {
    "latino_engine._cpu": "C++ for data steps and noise on the CPU, up to a minute on two cores; "
    "LATINO_CPU=0 leaves it out, and torch takes its place",
    "latino_engine._cuda": "kernels for NVIDIA GPUs, up to a minute on two cores; "
    "LATINO_CUDA=0 leaves them out",
}


class OptionalBuild(build_ext):
    """Compiles what it can: a failure is one warning, never a failed installation."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or True  # both extensions at a time

    def compile_kernels(self, nvcc, architectures):
        """The objects of csrc/cuda/*.cu for every architecture, as many at a time as there are
        cores.
        """
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
        if nvcc is None and wanted_cuda() == "1":
            raise SystemExit("LATINO_CUDA=1 needs nvcc; put it on the path or set CUDA_HOME")
        problem = "no nvcc" if nvcc is None else self.add_kernels(ext, nvcc)
        if problem is not None:
            self.warn(
                f"{problem}: latino_engine._cuda will compile its kernels at run time by NVRTC"
            )
            self.add_launchers(ext)

    def add_kernels(self, ext, nvcc):
        """Compiles the kernels into the extension; gives what went wrong, or None."""
        try:
            architectures = architectures_for(nvcc)
            objects = self.compile_kernels(nvcc, architectures)
        except (OSError, subprocess.CalledProcessError) as error:
            if wanted_cuda() == "1":
                raise SystemExit(f"LATINO_CUDA=1: {nvcc} failed, its messages are above") from error
            return f"{nvcc} failed"
        includes, libraries = toolkit_folders(nvcc)
        ext.extra_objects += objects
        ext.define_macros.append(("LATINO_OLDEST_ARCHITECTURE", min(architectures, key=int)))
        ext.include_dirs += includes
        ext.library_dirs += libraries
        ext.libraries += ["cudart_static", "dl", "rt", "pthread"]
        return None

    def add_launchers(self, ext):
        """The launchers as plain C++; they ask the driver for a kernel by its name."""
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

    def build_extension(self, ext):
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args += MSVC_FLAGS
        else:
            ext.extra_compile_args += GNU_FLAGS
            if sys.platform != "darwin":  # Apple's compiler has no OpenMP
                ext.extra_compile_args.append("-fopenmp")
                ext.extra_link_args.append("-fopenmp")
        print(f"compiling {ext.name}: {ABOUT[ext.name]}", flush=True)
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


has_cuda = wanted_cuda() != "0" and sys.platform == "linux"
if has_cuda:
    wanted_architectures()  # a wrong value is refused, nvcc or not
ParallelCompile(default=0).install()  # as many files at a time as there are cores
setup(
    packages=[
        *find_packages(include=["latino_engine", "latino_engine.*"]),
        "latino_engine.kernels",
    ],
    ext_modules=[cpu] * wanted_cpu() + [cuda] * has_cuda,
    cmdclass={"build_ext": OptionalBuild, "build_py": BuildWithSources},
)
