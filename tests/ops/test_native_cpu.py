"""The compiled CPU extension: equal to the reference, and the same in threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import BackendNotAvailable, InvalidArgument
from latino_engine.ops import cpu_extension

needs_extension = pytest.mark.skipif(
    cpu_extension.missing() is not None, reason=str(cpu_extension.missing())
)
SHAPES = (
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (3, 1, 28, 28),
    (1, 3, 129, 257),
    (2, 2, 64, 1),
    (1, 1, 1, 1030),
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture
def cpu() -> Any:
    """The extension itself."""
    if cpu_extension.missing():
        pytest.skip(str(cpu_extension.missing()))
    from latino_engine import _cpu

    return _cpu


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts another module, or None for none at all, in the extension's place."""

    def replace(module: Any) -> None:
        monkeypatch.setitem(sys.modules, "latino_engine._cpu", module)
        cpu_extension._load.cache_clear()
        cpu_extension.missing.cache_clear()

    yield replace
    monkeypatch.undo()
    cpu_extension._load.cache_clear()
    cpu_extension.missing.cache_clear()


def ids(pairs: int) -> tuple[Tensor, Tensor]:
    return torch.arange(pairs) * 7 % 5, torch.arange(pairs) + 2**31


def close(found: Tensor, expected: Tensor, bound: float = 1e-6) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert (found - expected).abs().max() <= bound * max(1.0, float(expected.abs().max()))


@needs_extension
@every_shape
def test_noise_is_the_reference(shape: tuple[int, int, int, int]) -> None:
    images, samples = ids(shape[0])
    z, scale = torch.randn(shape), torch.rand(shape[0])
    identity = (5, images, samples, 3)
    for run, *rest in (
        (ops.langevin_noise, z, scale),
        (ops.reverse_step, z, z.flip(0), 0.7, 0.4, 0.9),
    ):
        found = run(*rest, *identity, backend="cpu")
        close(found, run(*rest, *identity, backend="torch"))


@needs_extension
@every_shape
def test_masked_prox_and_noise_in_one_pass(shape: tuple[int, int, int, int]) -> None:
    v, y, gamma = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])
    mask = (torch.rand(1, 1, *shape[2:]) < 0.5).float()
    identity = (5, *ids(shape[0]), 3)
    found = ops.masked_prox_noise(v, None, 1.0, mask, y, gamma, 0.3, *identity, backend="cpu")
    z = ops.masked_prox(v, mask, y, gamma)
    assert torch.equal(found, ops.langevin_noise(z, 0.3, *identity, backend="cpu"))


@needs_extension
@every_shape
def test_running_moments(shape: tuple[int, ...]) -> None:
    x, x_t, eps = torch.randn(shape), torch.randn(shape), torch.randn(shape)
    for count in (1, 3):
        found_pair = ops.running_moments(x, x_t.abs(), count, eps, backend="cpu")
        expected = ops.running_moments(x, x_t.abs(), count, eps, backend="torch")
        close(found_pair[0], expected[0])
        close(found_pair[1], expected[1])


@needs_extension
def test_running_moments_of_many_values() -> None:
    values = torch.randn(50, 2, 3, 4, 5) + 10
    mean, m2 = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    for count, x in enumerate(values, start=1):
        mean, m2 = ops.running_moments(mean, m2, count, x, backend="cpu")
    assert torch.allclose(mean, values.mean(0), rtol=1e-6)
    assert torch.allclose(m2 / 49, values.var(0), rtol=1e-4)


@needs_extension
def test_threads_do_not_change_bits() -> None:
    shape, before = (2, 3, 253, 255), torch.get_num_threads()
    images, samples = ids(2)
    z, y, mask = torch.randn(shape), torch.randn(shape), (torch.rand(shape) < 0.5).float()

    def everything() -> list[Tensor]:
        return [
            ops.gaussian_noise(5, images, samples, 3, shape, backend="cpu"),
            ops.langevin_noise(z, 0.3, 5, images, samples, 3, backend="cpu"),
            ops.reverse_step(z, y, 0.7, 0.4, 0.9, 5, images, samples, 3, backend="cpu"),
            ops.masked_prox(z, mask, y, 1.5, backend="cpu"),
            *ops.running_moments(z, mask, 3, y, backend="cpu"),
        ]

    try:
        torch.set_num_threads(1)
        alone = everything()
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, alone, everything()))
    finally:
        torch.set_num_threads(before)


@needs_extension
def test_callers_in_many_threads() -> None:
    expected = [ops.gaussian_noise(seed, [0], [0], 0, (1, 3, 96, 96)) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        draws = pool.map(lambda s: ops.gaussian_noise(s, [0], [0], 0, (1, 3, 96, 96)), range(8))
        assert all(map(torch.equal, draws, expected))


def test_the_interpreter_runs_on_meanwhile(cpu: Any) -> None:
    out, zero = np.empty((8, 3, 512, 512), np.float32), np.zeros(8, np.int64)
    ticks, stop, interval = [0], threading.Event(), sys.getswitchinterval()

    def tick() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0.0005)

    ticker = threading.Thread(target=tick)
    sys.setswitchinterval(30.0)  # now only a released lock lets the ticker in
    try:
        ticker.start()
        before = ticks[0]
        cpu.gaussian_noise(1, zero, zero, 0, out, 1)
        after = ticks[0]
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        ticker.join()
    assert after > before


def test_strided_inputs(cpu: Any) -> None:
    z = torch.randn(2, 3, 16, 12).to(memory_format=torch.channels_last)[..., :9]
    expected = ops.langevin_noise(z, 0.5, 1, [0, 1], [0, 1], 2, backend="torch")
    close(ops.langevin_noise(z, 0.5, 1, [0, 1], [0, 1], 2, backend="cpu"), expected)
    y, mask = z.flip(0), torch.ones(2, 9, 16).transpose(1, 2)[:1].expand(2, 3, 16, 9)
    assert torch.equal(
        ops.masked_prox(z, mask, y, 1.0, backend="cpu"),
        ops.masked_prox(z, mask, y, 1.0, backend="torch"),
    )


# ---- which backend runs ----------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends of masked_prox, in the order in which they ran."""
    ran: list[str] = []

    def recorder(name: str) -> Callable[..., Tensor]:
        def run(v: Tensor, mask: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
            ran.append(name)
            return (gamma * mask * y + v) / (gamma * mask + 1.0)

        return run

    for name in ("torch", "cpu"):
        monkeypatch.setitem(ops.TABLES["masked_prox"], name, recorder(name))  # type: ignore[arg-type]
    return ran


@needs_extension
def test_auto_takes_the_extension_where_it_can(chosen: list[str]) -> None:
    v, mask = torch.randn(2, 3, 4, 4), torch.ones(4, 4)
    ops.masked_prox(v, mask, v, 1.0)
    assert chosen == ["cpu"]
    learned = v.clone().requires_grad_()
    with torch.no_grad():
        ops.masked_prox(learned, mask, v, 1.0)
    assert chosen == ["cpu", "cpu"]
    assert ops.backend_of("cpu") == "cpu" and ops.backend_of("cuda") == "torch"


@needs_extension
def test_auto_leaves_the_rest_to_torch(chosen: list[str]) -> None:
    v, mask = torch.randn(2, 3, 4, 4), torch.ones(4, 4)
    ops.masked_prox(v.clone().requires_grad_(), mask, v, 1.0)
    ops.masked_prox(v, mask, v, torch.tensor(1.0, requires_grad=True))
    ops.masked_prox(v.double(), mask.double(), v.double(), 1.0)
    ops.masked_prox(v + 0j, mask, v + 0j, 1.0)
    ops.masked_prox(v, mask.bool(), v, 1.0)
    ops.masked_prox(v, torch.ones(1, 1), v, 1.0)
    ops.masked_prox(v[:1], mask, v, 1.0)
    torch.func.jvp(lambda x: ops.masked_prox(x, mask, v, 1.0), (v,), (v,))
    assert chosen == ["torch"] * 8


@needs_extension
def test_a_named_backend_that_cannot_serve() -> None:
    v, mask = torch.randn(2, 3, 4, 4), torch.ones(4, 4)
    text = (
        "backend: expected float32 tensors on the CPU, without gradients, for 'cpu', got {}; "
        "use backend='torch'"
    )
    cases = (
        ((v.double(), mask, v, 1.0), "torch.float64"),
        ((v.clone().requires_grad_(), mask, v, 1.0), "a tensor that requires a gradient"),
        ((v, mask[:1, :1], v, 1.0), "mask or y that is not (B|1, C|1, H, W)"),
        ((*(t.to("meta") for t in (v, mask, v)), 1.0), "a torch.strided tensor on meta"),
    )
    for arguments, got in cases:
        with pytest.raises(InvalidArgument) as caught:
            ops.masked_prox(*arguments, backend="cpu")
        assert str(caught.value) == text.format(got)
    with pytest.raises(InvalidArgument) as caught:
        ops.gaussian_noise(1, [0], [0], 0, (1, 1, 2, 2), backend="gpu")  # type: ignore[arg-type]
    expected = "one of 'auto', 'torch', 'cpu', 'triton', 'cuda', got 'gpu'; choose one of these"
    assert str(caught.value) == f"backend: expected {expected}"


def test_without_the_extension(hidden: Callable[[Any], None]) -> None:
    hidden(None)
    v, mask = torch.randn(1, 1, 4, 4), torch.ones(4, 4)
    assert torch.equal(ops.masked_prox(v, mask, v, 1.0), v)
    found = ops.gaussian_noise(1, [0], [0], 0, (1, 1, 4, 4))
    assert torch.equal(found, ops.gaussian_noise(1, [0], [0], 0, (1, 1, 4, 4), backend="torch"))
    assert ops.backend_of("cpu") == "torch"
    with pytest.raises(BackendNotAvailable) as caught:
        ops.gaussian_noise(1, [0], [0], 0, (1, 1, 4, 4), backend="cpu")
    assert str(caught.value) == (
        "backend 'cpu' needs the compiled extension latino_engine._cpu, which is not built here; "
        "with a C++17 compiler on the path run "
        "`python -m pip install --force-reinstall --no-deps .` in the source folder"
    )


def test_an_extension_of_another_version(hidden: Callable[[Any], None]) -> None:
    hidden(SimpleNamespace(INTERFACE_VERSION=0))
    assert ops.backend_of("cpu") == "torch"
    with pytest.raises(BackendNotAvailable, match="with interface 6, but the one built here has 0"):
        ops.gaussian_noise(1, [0], [0], 0, (1, 1, 4, 4), backend="cpu")


def test_importing_the_package_loads_no_extension() -> None:
    code = "import sys, latino_engine.ops; print('latino_engine._cpu' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
