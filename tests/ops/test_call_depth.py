"""How many frames of Python lie between an operator's prox and the compiled function it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest
import torch

import latino_engine as le
from latino_engine.ops import cpu_extension

pytestmark = pytest.mark.skipif(
    cpu_extension.missing() is not None, reason=str(cpu_extension.missing())
)

#: Operator method, operation of `ops`, launch wrapper; a data step that is kept is one more.
MOST_FRAMES = 4


def depth(call: Callable[[], Any], code: CodeType, function: str) -> int:
    """Frames of Python from the one that runs `code` to the call of this compiled function."""
    found: list[int] = []

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or getattr(called, "__module__", "") != "latino_engine._cpu":
            return
        if called.__name__ != function:
            return
        frames, at = 1, frame
        while at.f_code is not code:
            assert at.f_back is not None
            frames, at = frames + 1, at.f_back
        found.append(frames)

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    assert len(found) == 1, f"{function} ran {len(found)} times"
    return found[0]


def _mask() -> torch.Tensor:
    return (torch.rand(32, 32, generator=torch.Generator().manual_seed(1)) < 0.5).float()


@pytest.mark.parametrize(
    ("operator", "channels", "function"),
    [
        (lambda: le.Blur.gaussian(1.5, 0.05), 3, "fourier_prox_noise"),
        (lambda: le.SuperResolution(2, 0.05), 3, "alias_prox_noise"),
        (lambda: le.Inpainting(_mask(), 0.05), 3, "masked_prox"),
        (lambda: le.MRI(_mask(), 0.05), 2, "kspace_prox_noise"),
    ],
    ids=["blur", "super-resolution", "inpainting", "MRI"],
)
def test_a_prox_is_few_frames_from_its_kernel(
    operator: Callable[[], Any], channels: int, function: str
) -> None:
    op = operator()
    x = torch.rand(1, channels, 32, 32, generator=torch.Generator().manual_seed(2))
    y = op.measure(x)
    assert depth(lambda: op.prox(x, y, 2.0), type(op).prox.__code__, function) <= MOST_FRAMES
