"""Every test starts from the same random state."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve their neighbours
if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side share the cores: before torch
    _affinity = getattr(os, "sched_getaffinity", None)  # Linux alone; a container may own fewer
    _cores = len(_affinity(0)) if _affinity else os.cpu_count() or 1
    _share = _cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _share)))

import pytest
import torch

_ALONE = "LATINO_TEST_ALONE"


def _compiles_cuda(item: pytest.Item) -> bool:
    """Whether a test runs on the shim, which is compiled from the .cu files."""
    names = getattr(item, "fixturenames", ())
    call = getattr(item, "callspec", None)
    return "shim" in names or (call is not None and call.params.get("ran") == "cuda")


# First of all, so that `-m` sees the marks that are added here.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what compiles CUDA, and refuse names that differ between processes side by side."""
    for item in items:
        if _compiles_cuda(item):
            item.add_marker("cuda_compile")
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(
                f"{item.nodeid}: a test's name holds an address; give its parametrize other ids"
            )
    # Long files first: begun last, one of them would leave the other processes idle.
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


class _Told:
    """A run that is stopped prints no summary: a line for what failed or took long, at once."""

    def __init__(self, config: pytest.Config):
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and (report.failed or report.duration > 60):
            what = f"{report.when} {report.outcome} after {report.duration:.0f} s"
            terminal.write_line(f"\n{report.nodeid}: {what}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the process that prints
        config.pluginmanager.register(_Told(config))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that sends signals to itself runs in a process of its own, whose end ends no other."""
    if not pyfuncitem.get_closest_marker("own_process") or _ALONE in os.environ:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        env=environment | {_ALONE: "1"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    return True


@pytest.fixture(autouse=True, scope="session")
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exports are shared by the tests of one run, and never with the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATINO_ENGINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seed_torch() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests on tiny tensors: threads that wait for each other cost more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
