"""Priors of discrete-time networks: what the importers of such checkpoints share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latino_engine.priors.assembly import build_network, build_prior, check_weights
from latino_engine.priors.prior import Prior, PriorSpec
from latino_engine.priors.sigma_tables import named_sigmas


def eps_prior(
    kind: str,
    weights: Mapping[str, Tensor],
    channels: int,
    architecture: Mapping[str, Any],
    schedule: str,
    name: str,
    data_range: tuple[float, float],
) -> Prior:
    """The prior of a U-Net that predicts eps at the times of a named schedule.

    Args:
        kind: name of the architecture, with `architecture` its arguments and `channels`.
        weights: the network's own, by its names.
        schedule: "linear" or "cosine", T = 1000.
        name, data_range: of the prior.

    Raises:
        PriorInvalid: weights of another network, with the names.
    """
    table = named_sigmas(schedule)
    spec = PriorSpec(
        name=name,
        channels=channels,
        size_multiple=2 ** (len(architecture["widths"]) - 1),
        data_range=data_range,
        sigma_min=table[0],
        sigma_max=table[-1],
        architecture={"name": kind, **architecture},
        preconditioning={
            "name": "prediction",
            "prediction": "eps",
            "scaling": "vp",
            "time": "index",
        },
        sigma_table=table,
    )
    check_weights(
        build_network(spec).state_dict(),
        weights,
        f"checkpoint: expected the weights of the architecture {kind!r}",
        "use a checkpoint of that network",
    )
    return build_prior(spec, weights)
