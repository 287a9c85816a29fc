"""The tests of test_cuda_kernels.py on a GPU: `pytest -m gpu`.

For races and stray accesses run tests/cuda_shim/sanitize.sh beside it.
"""

from __future__ import annotations

import pytest
import torch
from test_cuda_kernels import *  # noqa: F403  (the tests)

from latino_engine import ops
from latino_engine.ops import cuda_extension
from latino_engine.ops.step_table import StepTable

pytestmark = pytest.mark.gpu

if cuda_extension.missing() is not None:
    pytest.skip(str(cuda_extension.missing()), allow_module_level=True)


@pytest.fixture
def device() -> str:
    """The device of tensors."""
    return "cuda"


def test_a_captured_graph_serves_every_step(device: str) -> None:
    """One capture of one step, replayed: each replay takes the next row of the table."""
    x, x_t = torch.randn(2, 2, 3, 256, 128, device=device).unbind(0)
    power = torch.rand(1, 1, 256, 65, device=device)
    columns, noise_steps = torch.rand(3, 4, 2, device=device), [5, 6, 9, 2**32 - 1]
    who = (3, torch.arange(2, device=device), torch.arange(2, device=device))

    def run(steps: StepTable, out: torch.Tensor) -> None:
        ops.launch_fourier_prox_noise(x, x_t, power, power + 0j, steps, who, out=out)

    steps, out = StepTable.of(list(columns), noise_steps), torch.empty_like(x)
    expected = []
    for _ in noise_steps:
        run(steps, out)
        expected.append(out.clone())
    steps.rewind()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(steps, out)
    for wanted in expected:
        graph.replay()
        assert torch.equal(out, wanted)
    steps.check()
    graph.replay()
    with pytest.raises(IndexError):
        steps.check()


def test_chains_on_two_streams(device: str) -> None:
    """A table each: side by side they give what they give alone."""
    images = torch.randn(2, 2, 4, 3, 256, 256, device=device)  # (chain, anchor, P, C, H, W)
    power = torch.rand(1, 1, 256, 129, device=device)
    columns, noise_steps = torch.rand(3, 50, 1, device=device), list(range(50))
    who = (3, torch.arange(4, device=device), torch.arange(4, device=device))

    def chain(steps: StepTable, x: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        for _ in noise_steps:
            x = ops.launch_fourier_prox_noise(x, x_t, power, power + 0j, steps, who)
        return x

    tables = [StepTable.of(list(columns), noise_steps) for _ in images]
    alone = [chain(table, *pair) for table, pair in zip(tables, images, strict=True)]
    streams = [torch.cuda.Stream() for _ in images]
    torch.cuda.synchronize()
    together = []
    for table, pair, stream in zip(tables, images, streams, strict=True):
        table.rewind()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            together.append(chain(table, *pair))
    torch.cuda.synchronize()
    for table, one, other in zip(tables, alone, together, strict=True):
        table.check()
        assert torch.equal(one, other)
