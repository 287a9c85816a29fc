"""Checkpoints of the authors' UD2M code, as adapters of the prior that they were trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from latino_engine.atomic import atomic_file, atomic_folder
from latino_engine.errors import AdapterInvalid, invalid, whole_number
from latino_engine.learned_schedule import LearnedSchedule, Table
from latino_engine.priors.adapters import Adapter, write_adapter
from latino_engine.priors.assembly import check_weights
from latino_engine.priors.importers.checkpoint import MAX_BYTES, read_checkpoint
from latino_engine.priors.importers.guided_diffusion import as_convolutions
from latino_engine.priors.loading import pixel_prior
from latino_engine.priors.prior import Prior
from latino_engine.schedule import few_step_sigmas

#: The authors' tasks, and the operator of each.
TASKS = {"deblur": "Blur", "sr": "SuperResolution", "inp": "Inpainting"}
ALPHA = 1.5  # of their low-rank changes; the rank is read from the file

_LORA = re.compile(r"(?P<layer>.+)\.parametrizations\.weight\.0\.lora_(?P<side>[AB])$")
_KEPT = re.compile(r".+\.parametrizations\.weight\.original$")
_SCALAR = re.compile(r"(SP_Param|LambdaSIG|TAUG|TLAT)\.(\d+)$")
_TIMES = 1000.0  # their offsets in time are learned in units of all training times
_ELSEWHERE = ("model.", "RAM.", "RAM_physics.")  # of the loop's own entries, stored once more


@dataclass(frozen=True, eq=False)
class UD2MCheckpoint:
    """What a checkpoint holds.

    Attributes:
        adapter: low-rank changes, output layer and learned schedule.
        restoration: weights of the fine-tuned restoration network (RAM) that starts the chain,
            under its own names; empty where the chain starts from the measurement.
    """

    adapter: Adapter
    restoration: Mapping[str, Tensor]

    def save(self, folder: str | Path) -> None:
        """Write the adapter, and init.safetensors where there is a restoration network.

        Raises:
            OutputNotWritable: the folder exists already or cannot be written.
        """
        with atomic_folder(Path(folder)) as partial:
            write_adapter(self.adapter, partial)
            if self.restoration:
                weights = {k: v.detach().clone().contiguous() for k, v in self.restoration.items()}
                with atomic_file(partial / "init.safetensors") as file:
                    file.write(save(weights))


def import_ud2m(
    checkpoint: str | Path,
    prior: Prior | str | Path,
    task: str,
    *,
    steps: int = 3,
    unfold: int = 3,
    name: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> UD2MCheckpoint:
    """The adapter in a Lightning file of the authors' UD2M code.

    Its `state_dict` holds `<layer>.parametrizations.weight.0.lora_A` (out, r) and `lora_B` (r, in),
    W' = W + (1.5 / r) lora_A lora_B, and the output layer as a whole. Its `HQS_state_dict` holds,
    once or for each inner iteration, r = exp(SP_Param), lambda = exp(LambdaSIG), and the offsets
    1000 (TAUG + TLAT) in training times of the denoiser's noise level. `RAM_state_dict` holds a
    restoration network that starts the chain.

    Args:
        checkpoint: the file.
        prior: the imported guided-diffusion prior that it was trained on, or its folder.
        task: "deblur", "sr" or "inp": what it was trained for, which the file does not tell.
        steps, unfold: outer steps and inner iterations, 3 and 3 as published; the file tells the
            latter where it has scalars for each.
        name: of the adapter; the file's name by default.
        max_bytes: largest size that is read.

    Raises:
        PriorInvalid: a file that cannot be read; nothing in it is ever run.
        AdapterInvalid: entries that are missing or unknown, or layers that the prior lacks.
        ValueError: a task or a number that cannot be used.

    Source: Mbakam et al., arXiv:2507.02686, and its published code.
    """
    if task not in TASKS:
        known = ", ".join(map(repr, TASKS))
        raise invalid("task", f"one of {known}", repr(task), "state what it was trained for")
    for argument, number in (("steps", steps), ("unfold", unfold)):
        if whole_number(argument, number) < 1:
            raise invalid(argument, "at least 1", number, "3 and 3 are the published numbers")
    prior = pixel_prior(prior)
    found = read_checkpoint(checkpoint, max_bytes)
    network = prior.denoiser.network
    assert isinstance(network, nn.Module)
    weights, rank = _changes(_entry(found, "state_dict"), network.state_dict())
    scalars = _scalars(_entry(found, "HQS_state_dict"), unfold)
    table = prior.spec.sigma_table
    if table is None:
        raise AdapterInvalid(
            f"prior: expected one with training times, as guided-diffusion has, got {prior.name!r};"
            " give the prior that the checkpoint was trained on"
        )
    restoration = dict(found.get("RAM_state_dict") or {})
    start = "regularised" if task == "sr" else "measurement"
    adapter = Adapter(
        name=name or Path(checkpoint).stem,
        prior_name=prior.name,
        prior_sha256=prior.content_hash(),
        schedule=_schedule(scalars, task, steps, table),
        weights=weights,
        scale=ALPHA / rank,
        init="network" if restoration else start,
        training={"source": "UD2M checkpoint", "task": task, "rank": rank, "alpha": ALPHA},
    )
    adapter.merge(prior)  # every change has its place and shape, or this tells which has not
    return UD2MCheckpoint(adapter, restoration)


def _entry(found: Mapping[str, Any], key: str) -> Mapping[str, Tensor]:
    value = found.get(key)
    if not isinstance(value, Mapping) or not all(isinstance(v, Tensor) for v in value.values()):
        raise AdapterInvalid(
            f"checkpoint: expected a Lightning file of UD2M with {key}, got one with "
            f"{', '.join(map(str, found)) or 'nothing'}; choose the format that wrote this file"
        )
    return value


def _changes(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], int]:
    """The adapter's weights, and the rank of the low-rank ones."""
    names = {k.removeprefix("model."): v.detach().float() for k, v in state.items()}
    pairs: dict[str, dict[str, Tensor]] = {}
    full: dict[str, Tensor] = {}
    for key, value in names.items():
        match = _LORA.fullmatch(key)
        if match is not None:
            pairs.setdefault(match["layer"], {})[match["side"]] = value
        elif not _KEPT.fullmatch(key):  # the frozen weight itself, which the prior has
            full[key] = value
    halves = sorted(layer for layer, sides in pairs.items() if len(sides) != 2)
    if not pairs or halves:
        got = f"one half for {', '.join(halves[:4])}" if halves else "none"
        raise AdapterInvalid(
            "checkpoint: expected lora_A and lora_B of every changed layer, got "
            f"{got}; copy the file again from its source"
        )
    ranks = {sides["A"].shape[-1] for sides in pairs.values()}
    if len(ranks) != 1:
        raise AdapterInvalid(
            f"checkpoint: expected one rank for all layers, got {sorted(ranks)}; "
            "copy the file again from its source"
        )
    places = {f"{layer}.weight": torch.empty(0) for layer in pairs}
    changed = as_convolutions(full)
    merged = places | changed
    check_weights(
        {k: expected[k] if k in changed else places[k] for k in merged if k in expected},
        merged,
        "checkpoint: expected changes of the prior's own layers",
        "give the prior that the checkpoint was trained on",
    )
    out = {f"full.{k}": v for k, v in changed.items()}
    for layer, sides in pairs.items():  # their A is (out, r), their B (r, in)
        out[f"lora_A.{layer}"] = sides["B"][..., None, None].contiguous()
        out[f"lora_B.{layer}"] = sides["A"][..., None, None].contiguous()
    return out, int(ranks.pop())


def _scalars(state: Mapping[str, Tensor], unfold: int) -> dict[str, list[float]]:
    """SP_Param, LambdaSIG, TAUG and TLAT of every inner iteration, 0 where not trained."""
    found: dict[str, dict[int, float]] = {}
    unknown = []
    for key, value in state.items():
        match = _SCALAR.fullmatch(key)
        if match is not None and value.numel() == 1:
            found.setdefault(match[1], {})[int(match[2])] = float(value)
        elif not key.startswith(_ELSEWHERE):
            unknown.append(key)
    counts = {len(values) for values in found.values()}
    if unknown or "SP_Param" not in found or not counts <= {1, unfold}:
        got = ", ".join(unknown[:4]) or ", ".join(
            f"{len(values)} of {name}" for name, values in sorted(found.items())
        )
        raise AdapterInvalid(
            f"HQS_state_dict: expected SP_Param, LambdaSIG, TAUG and TLAT, one or {unfold} of each,"
            f" got {got or 'none of them'}; state unfold as it was trained"
        )
    every = range(unfold)
    return {
        name: [found.get(name, {}).get(k, found.get(name, {}).get(0, 0.0)) for k in every]
        for name in ("SP_Param", "LambdaSIG", "TAUG", "TLAT")
    }


def _schedule(
    scalars: Mapping[str, list[float]], task: str, steps: int, table: tuple[float, ...]
) -> LearnedSchedule:
    def rows(values: Any) -> Table:
        return tuple(tuple(float(v) for v in values) for _ in range(steps))

    exp = {key: torch.tensor(scalars[key], dtype=torch.float64).exp() for key in scalars}
    offsets = [_TIMES * (a + b) for a, b in zip(scalars["TAUG"], scalars["TLAT"], strict=True)]
    unfold = len(offsets)
    return LearnedSchedule(
        sigmas=tuple(few_step_sigmas(steps, table)),
        unfold=unfold,
        steps={
            TASKS[task]: {
                "r": rows(exp["SP_Param"]),
                "d": rows([1.0] * unfold),
                "lam": rows(exp["LambdaSIG"]),
            }
        },
        time_shift=rows(offsets),
        sigma_table=table,
    )
