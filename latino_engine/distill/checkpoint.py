"""A checkpoint says where a run stands, in one file of safetensors that is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from latino_engine.atomic import atomic_file
from latino_engine.errors import PriorInvalid

_FORMAT = 1


def write_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    facts: dict[str, Any],
) -> None:
    """Write modules, optimizer states and facts (JSON types) to `path`."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": torch.as_tensor(v) for key, v in state.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"format": _FORMAT, **facts})
    with atomic_file(path) as file:
        file.write(save(plain, metadata={"checkpoint": header}))


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint, without its tensors.

    Raises:
        PriorInvalid: the file is no checkpoint of this format.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["checkpoint"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise PriorInvalid(
            f"{path}: expected the checkpoint of a training run, got a file that cannot be read as "
            f"one ({error}); delete its folder to start anew"
        ) from error
    if facts.get("format") != _FORMAT:
        raise PriorInvalid(
            f"{path}: expected a checkpoint of format {_FORMAT}, got {facts.get('format')!r}; use "
            "the release that wrote it, or delete its folder to start anew"
        )
    found: dict[str, Any] = facts
    return found


def read_tensors(
    path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> None:
    """Put modules and optimizers back where the checkpoint left them; no two share a name."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
        )
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(f"{name}."):
                _, index, entry = key.split(".")
                state.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for parameter, kept in optimizer.state.items():
            # A fused optimizer reads moments in the parameter's own order of memory.
            same = {k: v for k, v in kept.items() if v.shape == parameter.shape}
            kept |= {
                k: torch.empty_like(parameter, dtype=v.dtype).copy_(v) for k, v in same.items()
            }
