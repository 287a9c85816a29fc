"""The torch runtime: digits of float32, and torch.compile."""

from __future__ import annotations

import threading

import pytest
import torch
from tolerances import SAME_RUNTIME
from torch import nn

from latino_engine.errors import BackendNotAvailable
from latino_engine.runtimes import torch as runtime


def precision_of_convolutions():
    backend = torch.backends.cudnn
    return backend.conv.fp32_precision if hasattr(backend, "conv") else backend.allow_tf32


class Spy(nn.Module):
    """Notes the precision of cuDNN's float32 convolutions, and waits for the others."""

    def __init__(self, barrier=None):
        super().__init__()
        self.seen, self.barrier = [], barrier

    def forward(self, x, sigma):
        self.seen.append(precision_of_convolutions())
        if self.barrier is not None:
            self.barrier.wait(timeout=60)
        self.seen.append(precision_of_convolutions())
        return x


def test_float32_is_not_rounded_to_tf32():
    before, spy = precision_of_convolutions(), Spy()
    runtime.TorchDenoiser(spy, "cpu")(torch.zeros(1, 3, 4, 4), torch.ones(1))
    assert set(spy.seen) <= {"ieee", False}
    assert precision_of_convolutions() == before


def test_the_setting_is_put_back_by_the_last_of_several_threads():
    before = precision_of_convolutions()
    spy = Spy(threading.Barrier(3))
    denoiser = runtime.TorchDenoiser(spy, "cpu")
    call = (torch.zeros(1, 3, 4, 4), torch.ones(1))
    threads = [threading.Thread(target=denoiser, args=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spy.seen) == 6 and set(spy.seen) <= {"ieee", False}
    assert precision_of_convolutions() == before


def test_a_network_that_fails_leaves_the_setting_as_it_was():
    class Broken(nn.Module):
        def forward(self, x, sigma):
            raise RuntimeError("broken")

    before = precision_of_convolutions()
    try:
        runtime.TorchDenoiser(Broken(), "cpu")(torch.zeros(1, 3, 4, 4), torch.ones(1))
    except RuntimeError as error:
        assert str(error) == "broken"
    assert precision_of_convolutions() == before


class Small(nn.Module):
    """Compiled in seconds, where the smallest prior takes a minute."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, x, sigma):
        return x - torch.tanh(self.scale * x / sigma[:, None, None, None])


@pytest.fixture
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_torch_compile_gives_what_the_eager_network_gives(fresh):
    eager = runtime.TorchDenoiser(Small(), "cpu")
    compiled = eager.compiled()
    x, sigma = torch.randn(2, 3, 8, 12), torch.rand(2) + 0.1
    found, expected = compiled(x, sigma), eager(x, sigma)
    assert not found.requires_grad and found.is_contiguous()
    assert (found - expected).norm() <= SAME_RUNTIME * expected.norm()
    assert compiled.capturable and isinstance(compiled._denoiser, runtime._Compiled)


def test_a_compiler_that_is_missing_is_one_sentence(fresh, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nowhere/g++"))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(BackendNotAvailable) as caught:
        runtime.TorchDenoiser(Small(), "cpu").compiled()(torch.zeros(1, 3, 4, 4), torch.ones(1))
    text = str(caught.value)
    assert text.startswith(
        "torch_compile: expected a network that torch.compile can build here, got (InvalidCxxC"
    )
    assert text.endswith("); install a C++ compiler and Python's headers, or leave it out")
    assert "\n" not in text


def test_errors_of_the_network_are_its_own(fresh):
    with pytest.raises(RuntimeError, match="broadcast") as caught:
        runtime.TorchDenoiser(Small(), "cpu").compiled()(torch.zeros(1, 5, 4, 4), torch.ones(1))
    assert not isinstance(caught.value, BackendNotAvailable)
