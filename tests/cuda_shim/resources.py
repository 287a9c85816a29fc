"""Registers, shared memory and spills of every kernel, as ptxas reports them. No GPU is needed.

`python tests/cuda_shim/resources.py` writes its rows of tests/data/kernel_resources.json anew.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from build import CSRC, KERNEL_SOURCES, ROOT, dependencies
from resources_table import write_table

TABLE = ROOT / "tests" / "data" / "kernel_resources.json"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
FLAGS = ("-std=c++17", "-O3", "-fmad=false", "-Xptxas", "-v")  # those of setup.py
_ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\s+"
    r"ptxas info\s+: Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)


def missing() -> str | None:
    """None where nvcc is, else what is missing."""
    if shutil.which("nvcc") is None:
        return "the table of kernel resources needs nvcc, which is not on the path"
    return None


def kernel_of(symbol: str) -> str:
    """_ZN6latino4cuda13alias_columnsILi64ELi2EEE... -> alias_columns<64, 2>."""
    name, rest = "", symbol.removeprefix("_ZN")
    while match := re.match(r"\d+", rest):  # the last part of the qualified name
        end = match.end() + int(match[0])
        name, rest = rest[match.end() : end], rest[end:]
    arguments = re.findall(r"Li(\d+)E", rest.split("EEE")[0] + "E") if rest[0] == "I" else []
    return f"{name}<{', '.join(arguments)}>" if arguments else name


def parse(log: str) -> dict[str, dict[str, dict[str, int]]]:
    """{architecture: {kernel: {registers, static_shared, spill_bytes}}} of ptxas's log."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for match in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        table.setdefault(match["architecture"], {})[kernel_of(match["symbol"])] = {
            "registers": int(match["registers"]),
            "static_shared": int(shared[1]) if shared else 0,
            "spill_bytes": int(match["stores"]) + int(match["loads"]),
        }
    return table


def compile_log(source: Path, architectures: Sequence[str], cache: Path) -> str:
    """ptxas's log of one file, kept by the hash of all that goes into it."""
    digest = hashlib.sha256(repr((FLAGS, tuple(architectures))).encode())
    digest.update(subprocess.run(["nvcc", "--version"], capture_output=True, check=True).stdout)
    for path in dependencies(source, [CSRC, CSRC / "include"]):
        digest.update(path.read_bytes())
    target = cache / f"{source.stem}-{digest.hexdigest()[:16]}.log"
    if not target.exists():
        codes = f"-gencode=arch=compute_80,code=[{','.join(architectures)}]"
        command = ["nvcc", *FLAGS, codes, f"-I{CSRC}", f"-I{CSRC / 'include'}", "-cubin"]
        if len(architectures) > 1:
            command[-1] = "-fatbin"
        with tempfile.TemporaryDirectory() as folder:
            command += [str(source), "-o", f"{folder}/{source.stem}.out"]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        target.write_text(done.stdout + done.stderr)
    return target.read_text()


def measure(architectures: Sequence[str], cache: Path) -> dict[str, dict[str, dict[str, int]]]:
    """The table of these architectures."""
    cache.mkdir(parents=True, exist_ok=True)
    logs = "\n".join(compile_log(source, architectures, cache) for source in KERNEL_SOURCES)
    return parse(logs)


def dynamic_shared(kernel: str) -> int:
    """Bytes that its launcher asks for; a test compares them with real launches."""
    name, _, rest = kernel.partition("<")
    size = [int(number) for number in re.findall(r"\d+", rest)]
    if name.endswith(("_rows_forward", "_rows_inverse")):
        rows = 1 if size[0] >= 1024 else 8 if size[0] <= 128 else 1024 // size[0]
        return 8 * rows * (72 if size[0] == 64 else size[0])
    if name in ("fourier_columns", "kspace_columns"):
        height = size[0]
        columns = 2 if height >= 2048 else 4 if height >= 1024 else 8 if height >= 256 else 16
        return 8 * columns * height
    if name == "alias_columns":
        columns = 4 if size[0] >= 1024 else 8 if size[0] >= 512 else 16
        return 8 * max(columns, size[1]) * size[0]
    return 0


def main() -> None:
    """Writes the table, with the compiler's version."""
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    release = re.search(r"release ([\d.]+)", version.stdout)
    with tempfile.TemporaryDirectory() as folder:
        table = measure(ARCHITECTURES, Path(folder))
    rows = {
        f"{architecture} {kernel}": {**values, "dynamic_shared": dynamic_shared(kernel)}
        for architecture in ARCHITECTURES
        for kernel, values in sorted(table[architecture].items())
    }
    write_table(TABLE, {"nvcc": release[1] if release else "unknown", "kernels": rows})
    print(f"{len(rows)} rows in {TABLE}", file=sys.stderr)


if __name__ == "__main__":
    main()
