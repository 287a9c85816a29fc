"""The torch runtime: digits of float32, and torch.compile."""

from __future__ import annotations

import threading

import torch
from torch import nn

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
