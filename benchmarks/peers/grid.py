"""The best of a small grid of each method's own parameters, by the CRPS on validation images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.peers.samplers import Parameters, Value
from latino_engine.errors import invalid
from latino_engine.evaluation import scores


def product(**values: tuple[Value, ...]) -> tuple[dict[str, Value], ...]:
    """All combinations of the values of each parameter."""
    combinations = itertools.product(*values.values())
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in combinations)


#: What is tried for each method. DiffPIR: the authors take lambda from 3 to 25. DDRM: deepinv's
#: levels fall linearly from 1; its defaults are eta = 0.85, etab = 1. DPS: with fewer than 1000
#: steps the weight of "norm" has to be well above its default of 1.
GRIDS: dict[str, tuple[dict[str, Value], ...]] = {
    "diffpir": product(lambda_=(1.0, 3.0, 7.0, 20.0), zeta=(0.1, 0.4, 1.0)),
    "ddrm": tuple(
        {**levels, **rest}
        for levels in (
            *product(start=(1.0,), spacing=("linear",)),
            *product(start=(1.0, 5.0, 20.0), spacing=("geometric",)),
        )
        for rest in product(eta=(0.85, 1.0), etab=(1.0,), half_variance=(False, True))
    ),
    "dps": (
        *product(guidance=("norm",), weight=(20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)),
        *product(guidance=("annealed",), weight=(3.0, 10.0, 30.0)),
    ),
}


def choose(
    draw: Callable[[Parameters], Tensor],
    truth: Tensor,
    grid: tuple[Parameters, ...],
    report: Callable[[int, int], None] | None = None,
) -> tuple[Parameters, list[dict[str, Any]]]:
    """The parameters of the lowest mean CRPS, and all that were tried.

    Args:
        draw: parameters -> samples (S, B, C, H, W) for the validation measurements.
        truth: (B, C, H, W) their images.
        grid: what to try.
        report: function (tried, in all).

    Returns:
        The chosen parameters, and a list of {"parameters", "crps"}; crps is None where the sampler
        ran away to values that are not finite.

    Raises:
        InvalidArgument: samples that are not finite at every point of the grid.
    """
    tried: list[dict[str, Any]] = []
    best, lowest = grid[0], float("inf")
    for parameters in grid:
        crps = float(scores.crps(draw(parameters), truth).mean())
        finite = crps < float("inf")  # False for NaN too
        tried.append({"parameters": dict(parameters), "crps": crps if finite else None})
        if finite and crps < lowest:
            best, lowest = parameters, crps
        if report is not None:
            report(len(tried), len(grid))
    if lowest == float("inf"):
        expected = "parameters with which the method stays finite"
        raise invalid("method", expected, f"none among {len(grid)}", "take more steps")
    return best, tried


def recall(report: str | Path, like: dict[str, Any]) -> tuple[Parameters, dict[str, Any]] | None:
    """What an earlier report chose from the present grid for the same problem.

    Args:
        report: JSON file of `benchmarks.peers.run`.
        like: fields that the report must have with these values, "method" among them.

    Returns:
        The chosen parameters and the report's "grid"; None where the report is of another problem,
        prior or grid.

    Raises:
        InvalidArgument: a file that is no report.
    """
    try:
        found = json.loads(Path(report).read_text())
        tried = [point["parameters"] for point in found["grid"]["tried"]]
        parameters = found["parameters"]
    except (OSError, ValueError, TypeError, KeyError):
        expected = "a JSON report of benchmarks.peers.run"
        raise invalid("known", expected, str(report), "name such a file or none") from None
    same = all(found.get(name) == value for name, value in like.items())
    if not same or tried != list(GRIDS[like["method"]]):
        return None
    return parameters, found["grid"]
