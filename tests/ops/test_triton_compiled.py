"""What the Triton wrappers launch, compiled for three GPUs without one.

The wrappers run as they are; only the last step, loading a binary and starting it, is left out. So
the binaries looked at here are those that a GPU would run. Their registers stand in
data/kernel_resources.json beside those of the CUDA kernels; after a change to a kernel write it
anew and look at the difference:

    python tests/ops/test_triton_compiled.py
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs Triton: python -m pip install triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

RESOURCES = Path(__file__).parents[1] / "data" / "kernel_resources.json"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARCHITECTURES = (80, 90, 100)
SEED = 2**63 + 5
OPS = (
    "gaussian_noise",
    "langevin_noise",
    "reverse_step",
    "masked_prox_noise",
    "fourier_prox",
    "alias_prox",
    "fourier_mask_prox",
    "philox_integers",
)


@functools.cache
def module(op: str) -> Any:
    found = importlib.import_module(f"latino_engine.kernels.{op}")
    if not isinstance(getattr(found, f"_{op}_kernel"), JITFunction):
        pytest.skip("the kernels were imported under TRITON_INTERPRET=1")
    return found


# ---- launches without a GPU --------------------------------------------------------------------


class NoDriver:
    """Stands in for a GPU of one architecture; device numbers are architectures."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel's name, its grid, its constants, and the binary."""

    name: str
    grid: tuple[int, ...]
    constants: dict[str, Any]
    binary: Any


@contextmanager
def recorded_launches(architecture: int) -> Iterator[list[Launch]]:
    """Compiles what is launched, and does not start it."""
    launches: list[Launch] = []
    run = JITFunction.run

    def record(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        binary = run(self, *arguments, grid=grid, warmup=True, **options)
        constants = {name: value for name, value in options.items() if name.isupper()}
        launches.append(Launch(self.__name__, grid, constants, binary))
        return binary

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", record)
        # set_active() cannot be undone without a GPU. Before Triton 3.5 `active` is no property.
        attribute = "_active" if hasattr(driver, "_active") else "active"
        patch.setattr(driver, attribute, NoDriver(architecture))
        yield launches


@pytest.fixture(scope="module", autouse=True)
def cache_of_binaries(request: pytest.FixtureRequest) -> Iterator[None]:
    """Binaries are kept between the tests of one checkout, apart from the user's own."""
    assert request.config.cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(request.config.cache.mkdir("triton")))
        yield


@dataclass(frozen=True)
class Case:
    """A launch of one operation on images of a size and a dtype."""

    op: str
    size: tuple[int, int] = (256, 256)
    dtype: torch.dtype = torch.float32
    factor: int = 2

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        factor = f" by {self.factor}" if self.op == "alias_prox" else ""
        return f"{self.op} {self.size[0]}x{self.size[1]} {dtype}{factor}"

    def run(self, **options: Any) -> Any:
        wrapper = getattr(module(self.op), f"launch_{self.op}")
        return wrapper(*self.arguments(), **options)

    def arguments(self) -> tuple[Any, ...]:
        shape, pairs = (2, 3, *self.size), 2
        image = torch.zeros(shape, dtype=self.dtype)
        ids, scalars = torch.zeros(pairs, dtype=torch.int64), torch.zeros(pairs)
        identity = (SEED, ids, ids)
        if self.op in ("gaussian_noise", "philox_integers"):
            return (*identity, 7, shape)
        if self.op == "langevin_noise":
            return (image, scalars, *identity, 7)
        if self.op == "reverse_step":
            return (image, image, 0.4, 0.5, 0.9, *identity, 7)
        if self.op == "masked_prox_noise":
            plane, y = torch.zeros(1, 1, *self.size), torch.zeros(shape)
            table = (torch.zeros(3, pairs, 4), torch.zeros(3, dtype=torch.int64))
            counter = torch.zeros(3, dtype=torch.int32)
            return (image, image, plane, y, *table, counter, *identity)
        if self.op == "fourier_prox":
            half = torch.zeros(*shape[:3], shape[3] // 2 + 1, dtype=torch.complex64)
            return (half, half.real.contiguous(), half, scalars)
        full = image.to(torch.complex64)
        if self.op == "fourier_mask_prox":
            return (full[:, :1].contiguous(), image[:1, :1], image[:1, :2], scalars, 256.0)
        kept = torch.zeros(1, 1, shape[2] // self.factor, shape[3] // self.factor)
        return (full, full, kept, full, scalars, self.factor)


ODD = (255, 253)
CASES = (
    *(Case(op) for op in OPS[:-1]),
    *(Case(op, ODD) for op in ("langevin_noise", "masked_prox_noise", "fourier_prox")),
    Case("alias_prox", factor=8),
    Case("gaussian_noise", dtype=torch.float16),
    Case("langevin_noise", dtype=torch.bfloat16),
    Case("masked_prox_noise", dtype=torch.float16),
)
every_case = pytest.mark.parametrize("case", CASES, ids=str)


# ---- binaries ----------------------------------------------------------------------------------


@functools.cache
def binary_of(case: Case, architecture: int) -> Any:
    options = {}
    if case.op == "gaussian_noise":
        options["out"] = torch.zeros(2, 3, *case.size, dtype=case.dtype)
    with recorded_launches(architecture) as launches:
        case.run(**options)
    (launch,) = launches
    assert launch.name == f"_{case.op}_kernel"
    return launch.binary


def inspect(tool: str, *options: str, binary: Any) -> str:
    """The output of a tool that comes with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary.asm["cubin"])
        command = [str(TOOLS / tool), *options, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def resources(case: Case) -> dict[str, dict[str, int]]:
    """Registers of a thread, and the bytes that it spills, by architecture."""
    table = {}
    for architecture in ARCHITECTURES:
        text = inspect("cuobjdump", "-res-usage", binary=binary_of(case, architecture))
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
        assert found is not None, text
        registers, stack, local = map(int, found.groups())
        table[f"sm_{architecture}"] = {"registers": registers, "spilled_bytes": stack + local}
    return table


@every_case
def test_resources(case: Case) -> None:
    recorded = json.loads(RESOURCES.read_text())
    found = resources(case)
    assert all(row["spilled_bytes"] == 0 for row in found.values())
    if recorded["triton"] != triton.__version__:
        pytest.skip(f"registers were recorded with Triton {recorded['triton']}")
    for architecture, row in recorded["triton_kernels"][str(case)].items():
        assert found[architecture]["registers"] <= row["registers"], architecture


def test_the_table_has_no_other_rows() -> None:
    recorded = json.loads(RESOURCES.read_text())["triton_kernels"]
    assert sorted(recorded) == sorted(map(str, CASES))
    assert all(row["spilled_bytes"] == 0 for rows in recorded.values() for row in rows.values())


def accesses(case: Case) -> dict[str, int]:
    """How often each width of a global access stands in the machine code for sm_90."""
    code = inspect("nvdisasm", "-c", binary=binary_of(case, 90))
    counts: dict[str, int] = {}
    for kind, width in re.findall(r"\b(LDG|STG)\.E(?:\.\w+)*?\.?(128|64)?[ .]", code):
        counts[kind + width] = counts.get(kind + width, 0) + 1
    return counts


# Images a pixel of which is read, written: one vector each for four lanes, or for two tiles.
VECTORS = {
    Case("gaussian_noise"): {"STG128": 4},
    Case("langevin_noise"): {"LDG128": 4, "STG128": 4},
    Case("reverse_step"): {"LDG128": 8, "STG128": 4},
    Case("masked_prox_noise"): {"LDG128": 16, "STG128": 4},
    Case("fourier_prox"): {"LDG128": 4, "STG128": 2},
    Case("alias_prox"): {"LDG64": 24, "STG64": 4},
    Case("fourier_mask_prox"): {"LDG64": 2, "STG64": 2},
    Case("langevin_noise", dtype=torch.bfloat16): {"LDG64": 4, "STG64": 4},
}


@pytest.mark.parametrize("case", VECTORS, ids=str)
def test_accesses_are_vectors(case: Case) -> None:
    found = accesses(case)
    assert {width: found.get(width, 0) for width in VECTORS[case]} == VECTORS[case]


def test_odd_sizes_have_no_vectors() -> None:
    assert not [kind for kind in accesses(Case("langevin_noise", ODD)) if kind.endswith("128")]


@every_case
def test_arithmetic(case: Case) -> None:
    """float32 alone, no contraction, and offsets of images in 64 bits."""
    binary = binary_of(case, 90)
    assert not re.search(r"\.f64\b", binary.asm["ptx"])
    assert not re.search(r"\bfma\.", binary.asm["ptx"])
    assert binary.metadata.enable_fp_fusion is False
    image = r"tt\.addptr %(?:out|x|z|x_t|x0_hat|mean|spectrum)\w*, %\w+ : !tt\.ptr<\w+>, (\w+)"
    widths = set(re.findall(image, binary.asm["ttir"]))
    assert widths <= {"i64"}
    recorded = json.loads(RESOURCES.read_text())["triton"]  # other versions name values otherwise
    assert widths or triton.__version__ != recorded


# ---- wrappers ----------------------------------------------------------------------------------

SCALARS = torch.zeros(1, dtype=torch.int64)
BRANCHES = (
    (Case("gaussian_noise", (8, 16)), {}, {"VECTOR": 4, "STEP_ON_DEVICE": False}),
    (Case("gaussian_noise", (8, 12)), {}, {"VECTOR": 1, "STEP_ON_DEVICE": False}),
    (Case("langevin_noise", (7, 8)), {}, {"VECTOR": 4, "STEP_ON_DEVICE": False}),
    (Case("langevin_noise", (8, 7)), {}, {"VECTOR": 1, "STEP_ON_DEVICE": False}),
    (Case("reverse_step", (8, 16)), {}, {"VECTOR": 4}),
    (Case("reverse_step", (8, 15)), {}, {"VECTOR": 1}),
    (Case("masked_prox_noise", (8, 16)), {}, {"VECTOR": 4, "HAS_STATE": True}),
    (Case("masked_prox_noise", (8, 15)), {}, {"VECTOR": 1, "HAS_STATE": True}),
    (Case("alias_prox", (8, 16), factor=4), {}, {"FACTOR": 4}),
)


@pytest.mark.parametrize(("case", "options", "constants"), BRANCHES, ids=str)
def test_branches(case: Case, options: dict[str, Any], constants: dict[str, Any]) -> None:
    with recorded_launches(90) as launches:
        case.run(**options)
    assert [launch.name for launch in launches] == [f"_{case.op}_kernel"]
    assert constants.items() <= launches[0].constants.items()


def test_a_step_on_the_device_and_no_state() -> None:
    langevin, masked = Case("langevin_noise", (8, 16)), Case("masked_prox_noise", (8, 16))
    with recorded_launches(90) as launches:
        module("langevin_noise").launch_langevin_noise(*langevin.arguments()[:-1], SCALARS)
        x, _, *rest = masked.arguments()
        module("masked_prox_noise").launch_masked_prox_noise(x, None, *rest)
    assert launches[0].constants["STEP_ON_DEVICE"] is True
    assert launches[1].constants["HAS_STATE"] is False


def test_a_binary_serves_all_seeds_steps_and_sizes() -> None:
    """Compilation would stall a chain, and break the capture of a graph."""
    image = torch.zeros(2, 3, 8, 16)
    launch = module("langevin_noise").launch_langevin_noise
    with recorded_launches(90) as launches:
        for seed, step, shape in (
            (0, 0, (2, 3, 8, 16)),
            (1, 1, (3, 1, 33, 24)),
            (SEED, 2**31, (1, 2, 1, 8)),
        ):
            ids = torch.zeros(shape[0], dtype=torch.int64)
            launch(torch.zeros(shape), image[0, 0, 0, :1], seed, ids, ids, step)
    assert len({id(launch.binary) for launch in launches}) == 1


@pytest.mark.parametrize("op", OPS)
def test_nothing_is_tuned_at_a_launch(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper is one lookup and one launch of a plain kernel, the second time like the first."""
    for function in ("do_bench", "do_bench_cudagraph"):
        monkeypatch.setattr(triton.testing, function, lambda *_, **__: pytest.fail("timed"))
    assert type(getattr(module(op), f"_{op}_kernel")) is JITFunction  # no Autotuner around it
    with recorded_launches(90) as launches:
        for _ in range(2):
            Case(op, (8, 16)).run()
    first, second = launches
    assert first.binary is second.binary and first.grid == second.grid
    assert first.binary.metadata.num_warps == module(op).CONFIG.num_warps
    assert first.constants["BLOCK"] == module(op).CONFIG.block


def test_the_package_imports_without_triton() -> None:
    code = "import sys, latino_engine.kernels; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


if __name__ == "__main__":
    from cuda_shim.resources_table import write_table

    rows = {str(case): resources(case) for case in CASES}
    write_table(RESOURCES, {"triton": triton.__version__, "triton_kernels": rows})
