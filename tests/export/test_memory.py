"""What is free: of a GPU, by torch's own figures."""

from __future__ import annotations

import pytest
import torch

from latino_engine.system.memory import available_bytes, is_out_of_memory


@pytest.mark.parametrize(
    "share, expected",
    [
        (1.0, 500 + 200 - 150),  # free on the device, and held unused
        (0.5, 550),  # 1000 of 2000, less what is used, would be 850
        (0.3, 600 - 150),
        (0.05, 0),
    ],
)
def test_the_free_memory_of_a_gpu(monkeypatch, share, expected):
    figures = {
        "mem_get_info": (500, 2000),
        "memory_reserved": 200,
        "memory_allocated": 150,
        "get_per_process_memory_fraction": share,
    }
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert available_bytes("cuda") == expected


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "TensorRT could not allocate an execution context",
        "std::bad_alloc",
    ],
)
def test_memory_that_ran_out_is_told_from_its_text(text):
    assert is_out_of_memory(RuntimeError(text))
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError:
            raise RuntimeError("capture failed")  # noqa: B904
    except RuntimeError as error:
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("an illegal memory access was encountered"))
