"""How a kernel is launched: a pure lookup in committed tables, so that latencies are reproducible.

Nothing is ever timed here, least of all while a graph is captured. A table is
``tuned/<gpu>.json``, the GPU's name in lower case with dashes; ``tuned/default.json`` stands for
every other GPU:

    {"gpu": "NVIDIA H100 80GB HBM3",
     "configs": {"langevin_noise": {"float32 large": {"block": 1024, "num_warps": 8}}}}

A key is the dtype of the images and their size class, "small" below 2^20 entries. Where a table has
no entry, the first of the kernel's own CONFIGS is taken.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TABLES = Path(__file__).parent / "tuned"
_LARGE = 2**20


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


def config_for(op: str, configs: tuple[Config, ...], image: Tensor) -> Config:
    """The committed winner for this GPU, dtype and size, else the first of `configs`."""
    dtype = str(image.dtype).removeprefix("torch.")
    key = f"{dtype} {'large' if image.numel() >= _LARGE else 'small'}"
    return _table(_gpu_of(image.device)).get((op, key), configs[0])


@functools.cache
def _gpu_of(device: torch.device) -> str:
    """The file name of the device's table; "default" without a GPU (Triton's interpreter)."""
    if device.type != "cuda":
        return "default"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")


@functools.cache
def _table(gpu: str) -> dict[tuple[str, str], Config]:
    """{(op, key): config} of a GPU."""
    path = TABLES / f"{gpu}.json"
    if not path.is_file():
        return {} if gpu == "default" else _table("default")
    tables = json.loads(path.read_text(encoding="utf-8"))["configs"]
    return {(op, key): Config(**c) for op, rows in tables.items() for key, c in rows.items()}
