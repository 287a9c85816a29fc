"""A checkpoint says where a run stands, in one file of safetensors that is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from latino_engine.atomic import atomic_file
from latino_engine.errors import PriorInvalid
from latino_engine.system.described import Finite, NotAsDescribed, described, parse_json

_FORMAT = 1
_ANEW = "delete its folder to start anew"


class _CheckpointFacts(Struct):
    """What a checkpoint says beside its tensors: `RunState`, options and the marks of files."""

    step: Annotated[int, Meta(ge=0, le=1 << 53)]
    seconds: Annotated[float, Meta(ge=0.0, le=1e12)]
    losses: list[Finite]
    options: dict[str, Any]
    marks: dict[str, str | None] = {}
    origin: dict[str, Any] | None = None
    perceptual: str | None = None


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
        if not path.is_file():  # a pipe would be waited for
            raise NotAsDescribed("a regular file, got another kind")
        with safe_open(path, "pt") as file:
            facts = parse_json((file.metadata() or {})["checkpoint"])
            if not isinstance(facts, dict):
                raise NotAsDescribed(f"an object, got {type(facts).__name__}")
    except (SafetensorError, OSError, KeyError, NotAsDescribed) as error:
        raise PriorInvalid(
            f"{path}: expected the checkpoint of a training run, got a file that cannot be read as "
            f"one ({error}); {_ANEW}"
        ) from error
    version = facts.get("format")
    if version != _FORMAT:
        raise PriorInvalid(
            f"{path}: expected a checkpoint of format {_FORMAT}, got {repr(version)[:40]}; use "
            f"the release that wrote it, or {_ANEW}"
        )
    try:
        described(facts, _CheckpointFacts)
    except NotAsDescribed as error:
        raise PriorInvalid(f"{path}: expected {error}; {_ANEW}") from error
    found: dict[str, Any] = facts
    return found


def read_tensors(
    path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> None:
    """Put modules and optimizers back where the checkpoint left them; no two share a name.

    Raises:
        PriorInvalid: tensors that are damaged, or of another network.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _put_back(tensors, modules, optimizers)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise PriorInvalid(
            f"{path}: expected the tensors of this run, got others ({first_line(error)}); {_ANEW}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of a library's message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(":.;")


def _put_back(
    tensors: dict[str, Tensor],
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
) -> None:
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
