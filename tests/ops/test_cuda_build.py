"""What can be known of the CUDA code without a GPU, besides its results.

The shim notices faulty kernels and missing barriers, AddressSanitizer finds no stray access, and
nvcc and NVRTC compile every kernel, without spills and with the registers on record.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cuda_shim import build, cases, mutate
from cuda_shim.fixtures import compiled_shim, shim_as_device, shim_folder  # noqa: F401  (fixtures)
from test_noise import KNOWN_ANSWERS

from latino_engine.ops import cuda_nvrtc
from latino_engine.ops.cuda_extension import recorded_launches

sys.path.insert(0, str(build.SHIM))
import resources

needs_shim = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
needs_nvcc = pytest.mark.skipif(resources.missing() is not None, reason=str(resources.missing()))
needs_nvrtc = pytest.mark.skipif(
    cuda_nvrtc.missing() is not None, reason=f"needs {cuda_nvrtc.missing()}"
)
KERNELS_WITHOUT_SHARED_BOUND = 48 * 1024  # above it a launch would need an attribute of its own


# ---- the shim ---------------------------------------------------------------------------------

FAULTS = {
    "different_barriers": "threads wait at different __syncthreads()",
    "missing_threads": "deadlock: some threads never come to a barrier",
    "early_return": "__syncthreads() after some threads returned",
    "shared_overrun": "dynamic shared memory overrun",
    "mask_names_others": "a *_sync mask names a lane that returned",
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_the_shim_notices_faults(shim: ModuleType, name: str) -> None:
    shim.set_order(2, 1)
    with pytest.raises(RuntimeError) as caught:
        shim.run_fault(name)
    assert str(caught.value) == f"cucpu: {FAULTS[name]} in block (0, 0, 0)"


def test_faults_that_show_in_the_numbers(shim: ModuleType) -> None:
    shim.set_order(2, 1)
    assert all(math.isnan(value) for value in shim.run_fault("unwritten_shared"))
    assert set(shim.run_fault("lockstep_sum")) != {32.0}
    assert set(shim.run_fault("barrier_sum")) == {32.0}
    assert shim.run_fault("half_warps") == [128.0] * 16 + [384.0] * 16


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(
    shim: ModuleType, counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The integers behind the kernels' noise, as Random123 publishes them."""
    assert shim.philox4x32(counter, key) == expected


@needs_shim
@pytest.mark.cuda_compile
def test_a_missing_barrier_is_noticed(request: pytest.FixtureRequest) -> None:
    """One mutant, to prove the mechanism; mutate.py tries them all."""
    folder = shim_folder(request.config)
    changed = mutate.mutants()["rows-unpack"]
    assert mutate.num_failures(build.build_library(folder, changed)) > 0


@needs_shim
@pytest.mark.cuda_compile
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_missing_barrier_is_noticed(request: pytest.FixtureRequest) -> None:
    folder = shim_folder(request.config)
    assert mutate.num_failures(build.build_library(folder)) == 0
    for name, changed in mutate.mutants().items():
        assert mutate.num_failures(build.build_library(folder, changed)) > 0, name


@needs_shim
@pytest.mark.cuda_compile
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_stray_access(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """AddressSanitizer and UBSan on the launchers; a buffer that is too short is noticed."""
    flags = ("-O1", "-g1", "-ffp-contract=off", "-Wno-unknown-pragmas")
    flags += ("-fsanitize=address,undefined", "-DCUCPU_STACK_BYTES=262144")
    sources = (*build.KERNEL_SOURCES, build.CSRC / "cuda" / "launch_log.cpp")
    sources += (build.SHIM / "sanitized.cpp",)
    objects = build.compile_objects(sources, shim_folder(request.config), flags)
    program = str(tmp_path / "sanitized")
    command = [build.compiler(), "-fsanitize=address,undefined", "-o", program, *map(str, objects)]
    subprocess.run(command, check=True)
    clean = subprocess.run([program], capture_output=True, text=True)
    assert clean.returncode == 0 and not clean.stderr, clean.stderr[-4000:]
    assert len(clean.stdout.splitlines()) == 3
    stray = subprocess.run([program, "short"], capture_output=True, text=True)
    assert stray.returncode != 0
    assert "heap-buffer-overflow" in stray.stderr and ".cuh" in stray.stderr


# ---- nvcc -------------------------------------------------------------------------------------


def kernel_names() -> list[str]:
    """Every kernel as the launchers name it, e.g. "alias_columns<256, 4>"."""
    sides = (64, 128, 256, 512, 1024, 2048)
    of_a_side = ("fourier_rows_forward", "fourier_rows_inverse", "fourier_columns")
    of_a_side += ("kspace_rows_forward", "kspace_rows_inverse", "kspace_columns")
    names = [f"{kernel}<{side}>" for kernel in of_a_side for side in sides]
    for factor in (2, 4, 8):
        names += [f"alias_columns<{h}, {factor}>" for h in sides[: 4 if factor == 8 else 5]]
    for kernel in ("gaussian_noise", "langevin_noise", "masked_prox_noise", "reverse_step"):
        names += [f"{kernel}<{run}>" for run in (1, 4)]
    return [*names, "combine_anchors", "fourier_combine", "alias_combine", "kspace_combine"]


def compare_resources(architectures: tuple[str, ...], folder: Path) -> None:
    """Fails where a kernel needs more than is on record."""
    recorded = json.loads(resources.TABLE.read_text())["kernels"]
    measured = resources.measure(architectures, folder)
    worse = []
    for architecture in architectures:
        assert sorted(measured[architecture]) == sorted(kernel_names())
        for kernel, values in measured[architecture].items():
            bounds = recorded[f"{architecture} {kernel}"]
            for what, value in values.items():
                if value > bounds[what]:
                    worse.append(f"{architecture} {kernel}: {what} {value}, was {bounds[what]}")
    remedy = "if that is meant, run tests/cuda_shim/resources.py"
    assert not worse, "\n".join([*worse, remedy])


@needs_nvcc
@pytest.mark.cuda_compile
def test_resources_of_one_architecture(request: pytest.FixtureRequest) -> None:
    compare_resources(("sm_90",), shim_folder(request.config))


@needs_nvcc
@pytest.mark.cuda_compile
@pytest.mark.slow
def test_resources(request: pytest.FixtureRequest) -> None:
    compare_resources(resources.ARCHITECTURES, shim_folder(request.config))


def test_nothing_on_record_spills() -> None:
    recorded = json.loads(resources.TABLE.read_text())["kernels"]
    kernels = kernel_names()
    assert len(kernels) == 62 and len(recorded) == 62 * len(resources.ARCHITECTURES)
    for name, values in recorded.items():
        assert values["spill_bytes"] == 0 and values["static_shared"] == 0, name


def test_every_launch_fits_its_registers_and_shared_memory(device: str) -> None:
    """65,536 registers and 48 KB for each block, on the blocks that are really launched."""
    recorded = json.loads(resources.TABLE.read_text())["kernels"]
    sides = (64, 128, 256, 512, 1024, 2048)
    with recorded_launches() as launches:
        for side in sides:
            cases.fourier_case((1, 1, side, 64), shared=True, device=device).run("cuda")
            cases.fourier_case((1, 1, 64, side), shared=True, device=device).run("cuda")
            cases.kspace_case((1, 2, side, 64), shared=True, device=device).run("cuda")
            cases.kspace_case((1, 2, 64, side), shared=True, device=device).run("cuda")
            for factor in (2, 4, 8):
                cases.alias_case((1, 1, side, 64), factor, device=device).run("cuda")
        for width in (8, 3):
            cases.masked_case((1, 1, 2, width), device=device).run("cuda")
    seen = {launch.kernel: launch for launch in launches}
    for architecture in resources.ARCHITECTURES:
        for kernel, launch in seen.items():
            threads = launch.block[0] * launch.block[1]
            row = recorded[f"{architecture} {kernel}"]
            assert threads <= 1024 and row["registers"] * threads <= 65536, (architecture, kernel)
            assert launch.shared_bytes <= KERNELS_WITHOUT_SHARED_BOUND
            assert row["dynamic_shared"] == launch.shared_bytes, kernel
    fourier = {name for name in kernel_names() if name.split("_")[0] in ("fourier",)}
    assert {name for name in fourier if "<" in name} <= set(seen)


# ---- NVRTC ------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.cuda_compile
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90", "sm_100"))
def test_nvrtc_compiles_the_kernels(architecture: str) -> None:
    """One kernel of every file."""
    names = ["fourier_rows_forward<256>", "fourier_columns<64>", "alias_columns<64, 4>"]
    names += ["kspace_columns<128>", "masked_prox_noise<4>", "alias_combine"]
    image, symbols = cuda_nvrtc.compile_kernels(names, architecture)
    assert image[:4] == b"\x7fELF" and sorted(symbols) == sorted(names)
    assert all(symbol.encode() in image for symbol in symbols.values())


@needs_nvrtc
@pytest.mark.cuda_compile
@pytest.mark.slow
def test_nvrtc_compiles_every_kernel() -> None:
    names = kernel_names()
    assert len(names) == 62
    image, symbols = cuda_nvrtc.compile_kernels(names, "sm_90")
    assert list(symbols) == names and all(s.encode() in image for s in symbols.values())


@needs_nvrtc
@pytest.mark.cuda_compile
def test_nvrtc_finds_its_second_library() -> None:
    """Some versions ask for it by name alone: it must be loaded before."""
    path = cuda_nvrtc.library_path()
    if path is None:
        pytest.skip("needs `pip install nvidia-cuda-nvrtc`")
    code = """
import sys, ctypes
from latino_engine.ops import cuda_nvrtc
assert cuda_nvrtc.missing() is None
for name in sys.argv[1:]:
    ctypes.CDLL(name)
"""
    names = [library.name for library in path.parent.glob("libnvrtc-builtins.so.*")]
    assert names
    subprocess.run([sys.executable, "-c", code, *names], check=True)


@needs_nvrtc
@pytest.mark.cuda_compile
def test_nvrtc_says_what_is_wrong() -> None:
    with pytest.raises(RuntimeError, match="nope"):
        cuda_nvrtc.compile_kernels(["fourier_columns<nope>"], "sm_90")


@needs_shim
@pytest.mark.cuda_compile
def test_the_binding_without_nvcc(request: pytest.FixtureRequest) -> None:
    """Compiled by g++ alone it launches by name: the same checks, the same shapes of blocks."""
    python = build.pybind_folder()
    assert python is not None
    folder = shim_folder(request.config)
    library = build.build_driver_library(folder)
    code = f"""
import sys; sys.path.insert(0, {str(library.parent)!r})
import importlib.util
spec = importlib.util.spec_from_file_location("_cuda", {str(library)!r})
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
print(module.LAUNCHES_BY_NAME, module.DEVICE_TYPE, module.has_fourier_kernels(64, 2048))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "cuda", "True"]


def test_torch_is_not_included() -> None:
    """No torch headers: one build serves every version."""
    for path in build.CSRC.rglob("*"):
        if path.suffix in (".h", ".cuh", ".cu", ".cpp"):
            assert "torch/" not in path.read_text(), path
    assert torch.__version__
