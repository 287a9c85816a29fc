"""Begin a distillation where an adapter of the same prior stands."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from latino_engine.distill.lora import ADAPTER_NAME
from latino_engine.distill.unfolded import StepSizes, Unfolded
from latino_engine.errors import AdapterInvalid
from latino_engine.learned_schedule import LearnedSchedule
from latino_engine.priors.adapters import Adapter
from latino_engine.priors.prior import Prior


def start_from(model: Unfolded, prior: Prior, adapter: Adapter) -> None:
    """Give the model the weights and the step sizes of an adapter, in place.

    The sampler is then that of the adapter, to rounding: low-rank changes are embedded into a
    larger rank exactly, or merged where every weight is trained. An operator class that the adapter
    has not seen starts at the geometric mean of its step sizes.

    Args:
        model: as it is before the first step.
        prior: the one that the model was made from.
        adapter: where to begin.

    Raises:
        AdapterInvalid: an adapter of another prior, of another N, K, c or zeta, or with changes
            that the chosen targets and rank cannot hold.
    """
    merged = adapter.merge(prior)  # refuses another prior
    _check_schedule(model, adapter.schedule)
    if any(not p.requires_grad for p in model.network.parameters()):
        _embed(model.network, adapter)
    else:
        network = cast(nn.Module, merged.denoiser.network)
        model.network.load_state_dict(network.state_dict())
    for kind, sizes in model.steps.items():
        _set_steps(cast(StepSizes, sizes), kind, adapter.schedule)


def _check_schedule(model: Unfolded, schedule: LearnedSchedule) -> None:
    mine = (len(model.sigmas), model.unfold, model.c, model.zeta)
    theirs = (len(schedule.sigmas), schedule.unfold, schedule.c, schedule.zeta)
    near = mine == theirs and all(
        math.isclose(a, b, rel_tol=1e-6) for a, b in zip(model.sigmas, schedule.sigmas, strict=True)
    )
    if not near:
        raise AdapterInvalid(
            f"start: expected an adapter of {_words(*mine)}, as this run, got one of "
            f"{_words(*theirs)}; choose the same steps and unfold, or another adapter"
        )


def _words(outer: int, unfold: int, c: float, zeta: float) -> str:
    return f"{outer} x {unfold} steps with c = {c:g} and zeta = {zeta:g}"


def _embed(network: nn.Module, adapter: Adapter) -> None:
    """Low-rank changes into layers of the same or a larger rank, whole weights as they are."""
    layers = {n: cast(Any, m) for n, m in network.named_modules() if hasattr(m, "lora_A")}
    whole = {n: p for n, p in network.named_parameters() if p.requires_grad and "lora_" not in n}
    with torch.no_grad():
        for key, weight in adapter.weights.items():
            kind, _, name = key.partition(".")
            if kind == "full" and name in whole:
                whole[name].copy_(weight)
            elif kind == "lora_A" and name in layers:
                _embed_layer(layers[name], weight, adapter.weights[f"lora_B.{name}"], adapter)
            elif kind != "lora_B":
                raise AdapterInvalid(
                    f"start: expected an adapter that changes only what this run trains, got "
                    f"{adapter.name!r}, which changes {name!r} too; choose its targets, or "
                    "targets='full'"
                )


def _embed_layer(layer: Any, a: Tensor, b: Tensor, adapter: Adapter) -> None:
    mine_a, mine_b = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
    rank = a.shape[0]
    if rank > mine_a.shape[0]:
        raise AdapterInvalid(
            f"start: expected an adapter of rank {mine_a.shape[0]} or less, got {adapter.name!r} "
            f"of rank {rank}; choose rank {rank} or more, or targets='full'"
        )
    mine_a[:rank] = a
    mine_b[:, :rank] = b * (adapter.scale / layer.scaling[ADAPTER_NAME])


def _set_steps(sizes: StepSizes, kind: str, schedule: LearnedSchedule) -> None:
    tables = schedule.step_sizes_of(kind)
    with torch.no_grad():
        for name, parameter in (
            ("r", sizes.log_r),
            ("d", sizes.log_d),
            ("lam", sizes.log_lam),
        ):
            parameter.copy_(torch.tensor(tables[name], dtype=torch.float64).log())
