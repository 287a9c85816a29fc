"""Options of the benchmark session, and its rows at the end of the table of measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.operations.grid import GRIDS
from latino_engine.atomic import atomic_file
from latino_engine.bench import table
from latino_engine.bench.peaks import machine_peaks
from latino_engine.system import machine

RESULTS = Path(__file__).parents[1] / "results" / "measurements.csv"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which sizes, on which device, and where the rows go."""
    group = parser.getgroup("latino-engine")
    group.addoption("--grid", choices=sorted(GRIDS), default="curated", help="which sizes")
    group.addoption("--on", choices=("cpu", "cuda"), default="cpu", help="device")
    group.addoption("--torch-threads", type=int, default=None, help="threads of torch")
    group.addoption("--rows", type=Path, default=RESULTS, help="table of measurements")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where the operations run."""
    wanted = str(request.config.getoption("--on"))
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.exit("--on: expected a device that torch can use, got 'cuda'; use --on cpu", 2)
    return wanted


@pytest.fixture(scope="session")
def peaks(request: pytest.FixtureRequest, device: str) -> dict[str, float]:
    """Matrix rate and copy bandwidth, measured at the start of the same session."""
    threads = request.config.getoption("--torch-threads")
    if threads is not None:
        torch.set_num_threads(threads)
    return machine_peaks(device, threads)


@pytest.fixture(scope="session")
def recorded(
    request: pytest.FixtureRequest, device: str, peaks: dict[str, float]
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the session; what is in it at the end is added to the table."""
    rows: list[dict[str, Any]] = []
    path = request.config.getoption("--rows")
    table.appended(path, ())  # a file of someone else is refused before the work
    yield rows
    about = {"suite": "machine", "name": "peak", "provider": "torch"}
    for metric, value in peaks.items():
        unit = "GFLOP/s" if metric == "matrix_gflops" else "GB/s"
        threads = torch.get_num_threads()
        rows.append({**about, "threads": threads, "metric": metric, "unit": unit, "value": value})
    facts = (machine.commit(), machine.machine_facts(device), machine.software_versions())
    stamped = table.stamp(rows, *facts)
    with atomic_file(path, argument="rows") as file:
        table.append_rows(file, path, stamped)
