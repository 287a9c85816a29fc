"""What the launch wrappers share: a launch's shape, the device, planes that are broadcast."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Integers whose value must not make another binary of a kernel.
UNSPECIALISED = (
    *("channels", "height", "width", "across", "tiles", "kept_height", "kept_width", "num_quads"),
    *("noise_step", "key_low", "key_high", "num_steps", "table_pairs", "noise_stride"),
    *("scale_step", "gamma_step", "mask_per_pair", "mask_per_channel", "y_per_pair"),
    *("y_per_channel", "power_per_pair", "power_per_channel", "back_per_pair", "back_per_channel"),
    *("h_per_pair", "h_per_channel"),
)


@dataclass(frozen=True)
class Config:
    """`block` entries (quads, for noise) a program, by `num_warps` warps."""

    block: int
    num_warps: int

    def options(self) -> dict[str, Any]:
        """What a launch is given beside its arguments."""
        # A fused multiply-add would change the bits of the noise, and Triton's default for it has
        # changed between versions.
        return {"num_warps": self.num_warps, "enable_fp_fusion": False}


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The tensor's device as the current one: that is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def plane_steps(planes: Tensor) -> tuple[int, int]:
    """Planes to move on by per pair and per channel, for (P|1, C|1, ...) read as (P, C, ...)."""
    pairs, channels = planes.shape[:2]
    return (0 if pairs == 1 else channels), (0 if channels == 1 else 1)


def scalar_step(scalars: Tensor) -> int:
    """Entries to move on by per pair, for (P|1,) in any shape read as (P,)."""
    return 0 if scalars.numel() == 1 else 1


def blocks_for(count: int, block: int) -> int:
    """ceil(count / block)."""
    return -(-count // block)
