"""The CUDA kernels without nvcc: compiled at run time by NVRTC, loaded by the driver.

Needs the CUDA driver and NVRTC's library, which torch's CUDA builds bring along (or
`pip install nvidia-cuda-nvrtc`). The sources are the package's own copy of csrc.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import torch

# Which file of csrc/cuda defines which kernels.
_KERNELS = {
    "fourier_rows": ("fourier_rows_forward", "fourier_rows_inverse"),
    "fourier_columns": ("fourier_columns",),
    "alias_columns": ("alias_columns",),
    "kspace_planes": ("kspace_rows_forward", "kspace_rows_inverse", "kspace_columns"),
    "quads": ("gaussian_noise", "langevin_noise", "masked_prox_noise", "reverse_step"),
    "elementwise": ("combine_anchors", "fourier_combine", "alias_combine", "kspace_combine"),
}
_SOURCE_OF = {kernel: source for source, kernels in _KERNELS.items() for kernel in kernels}

# NVRTC has no standard headers; these are the few names that ours take from them.
_STANDARD_HEADERS = {
    "cuda_runtime.h": "",
    "cstdint": (
        "#pragma once\nnamespace std {\n"
        "typedef int int32_t; typedef long long int64_t;\n"
        "typedef unsigned short uint16_t; typedef unsigned int uint32_t;\n"
        "typedef unsigned long long uint64_t;\n}\n"
    ),
    "cstring": "#pragma once\nnamespace std { using ::memcpy; }\n",
    "cmath": (
        "#pragma once\nnamespace std { __device__ inline float sqrt(float x) "
        "{ return ::sqrtf(x); } }\n"
    ),
}


def source_folder() -> Path | None:
    """Where the kernels' sources lie: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "cuda" / "fft.cuh").is_file():
            return folder
    return None


def library_path() -> Path | None:
    """NVRTC's library in the nvidia packages of pip, or None."""
    spec = importlib.util.find_spec("nvidia")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        found = sorted(Path(folder).glob("**/libnvrtc.so.1*"))
        if found:
            return found[0]
    return None


@functools.cache
def _library() -> ctypes.CDLL | None:
    path = library_path()
    try:
        if path is None:
            return _system_library()
        # NVRTC asks for its second library by name alone: it is found once it is loaded.
        for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins))
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _system_library() -> ctypes.CDLL | None:
    """The toolkit's, or the one that torch has loaded from elsewhere."""
    for name in ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def missing() -> str | None:
    """None where NVRTC and the sources are there, else what is missing."""
    if source_folder() is None:
        return "the kernels' sources (csrc), which are not installed here"
    if _library() is None:
        return "nvcc, or NVRTC's library, which `pip install nvidia-cuda-nvrtc` brings"
    return None


def _headers(folder: Path) -> dict[str, str]:
    headers = dict(_STANDARD_HEADERS)
    for path in (*folder.glob("cuda/*.cuh"), *folder.glob("cuda/*.h")):
        headers[f"cuda/{path.name}"] = path.read_text()
    for path in folder.glob("include/latino/*.h"):
        headers[f"latino/{path.name}"] = path.read_text()
    return headers


def _expression(name: str) -> bytes:
    """The C++ name of a kernel."""
    return re.sub(r"^(\w+)", r"&latino::cuda::\1", name).encode()


def compile_kernels(names: Sequence[str], architecture: str) -> tuple[bytes, dict[str, str]]:
    """The kernels as a cubin for e.g. "sm_90", and the symbol of each. No GPU is needed.

    Raises:
        RuntimeError: NVRTC refuses the sources; its log is the text.
    """
    library, folder = _library(), source_folder()
    assert library is not None and folder is not None, missing()
    sources = dict.fromkeys(_SOURCE_OF[name.split("<")[0]] for name in names)
    main = "".join(f'#include "cuda/{source}.cuh"\n' for source in sources)
    headers = _headers(folder)
    texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
    paths = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    program = ctypes.c_void_p()
    count = len(headers)
    _check(
        library.nvrtcCreateProgram(
            ctypes.byref(program), main.encode(), b"latino.cu", count, texts, paths
        )
    )
    try:
        for name in names:
            _check(library.nvrtcAddNameExpression(program, _expression(name)))
        options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--fmad=false"]
        options += [b"--device-as-default-execution-space"]  # lambdas have no annotation
        array = (ctypes.c_char_p * len(options))(*options)
        if library.nvrtcCompileProgram(program, len(options), array):
            raise RuntimeError(_log(library, program))
        symbols = {name: _symbol(library, program, name) for name in names}
        return _cubin(library, program), symbols
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC failed with status {status}")


def _log(library: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, text)
    return text.value.decode(errors="replace")


def _symbol(library: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> str:
    lowered = ctypes.c_char_p()
    _check(library.nvrtcGetLoweredName(program, _expression(name), ctypes.byref(lowered)))
    assert lowered.value is not None
    return lowered.value.decode()


def _cubin(library: ctypes.CDLL, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(library.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    image = ctypes.create_string_buffer(size.value)
    _check(library.nvrtcGetCUBIN(program, image))
    return image.raw


@functools.cache
def _function(device: int, name: str) -> int:
    """The CUfunction of one kernel, compiled when it is first launched on this device."""
    driver = ctypes.CDLL("libcuda.so.1")
    major, minor = torch.cuda.get_device_capability(device)
    image, symbols = compile_kernels([name], f"sm_{major}{minor}")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    status = driver.cuModuleLoadData(ctypes.byref(module), image)
    status = status or driver.cuModuleGetFunction(
        ctypes.byref(function), module, symbols[name].encode()
    )
    if status or function.value is None:
        raise RuntimeError(f"the CUDA driver refused {name} with status {status}")
    return function.value


def function_handle(name: str) -> int:
    """The CUfunction of a kernel on the current device, as an integer."""
    return _function(torch.cuda.current_device(), name)
