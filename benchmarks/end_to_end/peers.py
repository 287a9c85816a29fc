"""deepinv's methods with parameters that were chosen on other photographs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine.atomic import atomic_file
from latino_engine.errors import invalid
from latino_engine.evaluation.evaluator import central_squares, measure_each
from latino_engine.image_io.datasets import open_images
from latino_engine.operators.spec import parse_operator
from latino_engine.priors import Prior

PARAMETERS = Path(__file__).parents[1] / "results" / "peer_parameters.json"
_GRID_SIDE, _GRID_SAMPLES = 96, 2
_GRID_IMAGES = {"diffpir": 4, "ddrm": 4, "dps": 2}  # DPS differentiates the network


@dataclass(frozen=True)
class Peer:
    """A method of deepinv with its number of network evaluations."""

    method: str
    steps: int

    @property
    def name(self) -> str:
        """The name of its row."""
        return f"deepinv {_TITLES[self.method]}, {self.steps}"


_TITLES = {"diffpir": "DiffPIR", "ddrm": "DDRM", "dps": "DPS"}
PEERS = (Peer("diffpir", 20), Peer("ddrm", 20), Peer("dps", 50))


def parameters_of(
    peer: Peer, prior: Prior, operator: str, noise_std: float, others: Path | None
) -> dict[str, Any]:
    """The best parameters by CRPS, from the file, or chosen now on the photographs in `others`.

    Raises:
        InvalidArgument: none on file for this prior, and no folder to choose them on.
    """
    key = f"{peer.method}-{peer.steps} {operator} {noise_std:g}"
    known = json.loads(PARAMETERS.read_text()) if PARAMETERS.is_file() else {}
    identity = prior.content_hash()
    if key in known and known[key]["prior_sha256"] == identity:
        return dict(known[key]["parameters"])
    if others is None:
        expected = f"a folder of other photographs to choose the parameters of {peer.name!r} on"
        raise invalid("grid", expected, None, "give it by --grid")
    print(f"{operator}: choosing the parameters of {peer.name}", file=sys.stderr)
    found = {"prior_sha256": identity, **_choose(peer, prior, operator, noise_std, others)}
    known = json.loads(PARAMETERS.read_text()) if PARAMETERS.is_file() else {}
    with atomic_file(PARAMETERS) as file:
        text = json.dumps(known | {key: found}, indent=1, sort_keys=True)
        file.write((text + "\n").encode())
    return dict(found["parameters"])


def _choose(
    peer: Peer, prior: Prior, operator: str, noise_std: float, others: Path
) -> dict[str, Any]:
    from benchmarks.peers import grid
    from benchmarks.peers.denoiser import PriorDenoiser
    from benchmarks.peers.samplers import Parameters, sample

    side, source = _GRID_SIDE, open_images(str(others), _GRID_SIDE, 0)
    count = _GRID_IMAGES[peer.method]
    ids = range(0, len(source), max(1, len(source) // count))[:count]
    truth = central_squares(source, ids, side)
    op = parse_operator(operator, noise_std, (side, side))
    y, denoiser, shape = measure_each(op, truth, ids, 0), PriorDenoiser(prior), truth.shape[1:]

    def draw(parameters: Parameters) -> Tensor:
        size = (shape[0], shape[1], shape[2])
        method, steps = peer.method, peer.steps
        return sample(method, denoiser, op, y, size, steps, parameters, _GRID_SAMPLES)[0]

    parameters, tried = grid.choose(draw, truth, grid.GRIDS[peer.method])
    about = {"images": len(truth), "side": side, "samples": _GRID_SAMPLES, "tried": tried}
    return {"parameters": dict(parameters), "grid": about, "deepinv": version("deepinv"),
            "torch": torch.__version__}  # fmt: skip
