"""DiffPIR, DDRM and DPS of deepinv, drawing samples of many images at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from deepinv.optim.data_fidelity import L2
from deepinv.sampling import DDRM, DPS, DiffPIR
from torch import Tensor

from benchmarks.peers.denoiser import PriorDenoiser
from benchmarks.peers.physics import make_decomposable, make_physics
from latino_engine.errors import invalid
from latino_engine.operators.protocol import Operator

Value: TypeAlias = "str | float | bool"
Parameters: TypeAlias = Mapping[str, Value]
#: (y, generator seed) -> one sample for every measurement, public units.
Draw: TypeAlias = Callable[[Tensor, int], Tensor]

_LAST_SIGMA = 0.005  # of DDRM's geometric levels, before the 0 that ends them; [0, 1] units


def sample(
    method: str,
    denoiser: PriorDenoiser,
    op: Operator,
    y: Tensor,
    img_size: tuple[int, int, int],
    steps: int,
    parameters: Parameters,
    num_samples: int,
    seed: int = 0,
    batch: int = 128,
) -> tuple[Tensor, int]:
    """Draw samples.

    Args:
        method: "diffpir", "ddrm" or "dps".
        denoiser: the prior.
        op: the operator, the same for all images.
        y: (B, ...) its measurements, public units.
        img_size: (C, H, W) of the images.
        steps: network evaluations per sample.
        parameters: of the method, as in `grid.GRIDS`.
        num_samples: S.
        seed: a sample depends on (seed, sample index, first image of its batch, batch).
        batch: images at a time.

    Returns:
        (S, B, C, H, W) public units, not clamped, and the evaluations of the network that one
        sample took, counted.

    Raises:
        InvalidArgument, InvalidType: an unknown method, too few steps, an operator that the peers
            do not know.
    """
    if method not in METHODS:
        raise invalid("method", f"one of {', '.join(METHODS)}", repr(method), "choose one of them")
    if steps < 2:
        raise invalid("steps", "at least 2 network evaluations", steps, "take more")
    draw = METHODS[method](denoiser, op, img_size, steps, parameters)
    denoiser.evaluations, drawn, runs = 0, [], 0
    for number in range(num_samples):
        parts = []
        for first in range(0, len(y), batch):
            # A hash: of a seed, torch's generator on the CPU uses the lowest 32 bits alone.
            own = int(np.random.SeedSequence((seed, number, first)).generate_state(1)[0])
            parts.append(_seeded(draw, y[first : first + batch].clone(), own))
            runs += 1
        drawn.append(torch.cat(parts))
    return torch.stack(drawn), round(denoiser.evaluations / runs)


def _seeded(draw: Draw, y: Tensor, seed: int) -> Tensor:
    """One draw; torch's global generator, which deepinv uses, is put back afterwards.

    deepinv is handed a clone of y, as DDRM divides in place, and no seed, as it takes 0 for none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return draw(y, seed).detach().float()


def _diffpir(
    denoiser: PriorDenoiser,
    op: Operator,
    img_size: tuple[int, int, int],
    steps: int,
    parameters: Parameters,
) -> Draw:
    """Parameters lambda_, zeta."""
    physics = make_physics(op, img_size)
    sampler = DiffPIR(
        denoiser,
        L2(),
        sigma=float(physics.noise_model.sigma),
        max_iter=steps,
        lambda_=float(parameters["lambda_"]),
        zeta=float(parameters["zeta"]),
    )
    return lambda y, _: sampler(y, physics)


def _ddrm(
    denoiser: PriorDenoiser,
    op: Operator,
    img_size: tuple[int, int, int],
    steps: int,
    parameters: Parameters,
) -> Draw:
    """Parameters start (first sigma, [0, 1] units), spacing ("linear", deepinv's, or "geometric"),
    eta, etab, half_variance (see `physics.make_decomposable`).
    """
    physics = make_decomposable(op, img_size, bool(parameters["half_variance"]))
    start = float(parameters["start"])
    if parameters["spacing"] == "linear":
        sigmas = np.linspace(start, 0.0, steps)
    else:
        sigmas = np.append(np.geomspace(start, _LAST_SIGMA, steps - 1), 0.0)
    sampler = DDRM(denoiser, sigmas, eta=float(parameters["eta"]), etab=float(parameters["etab"]))
    return lambda y, _: sampler(y, physics)


def _dps(
    denoiser: PriorDenoiser,
    op: Operator,
    img_size: tuple[int, int, int],
    steps: int,
    parameters: Parameters,
) -> Draw:
    """Parameters guidance ("annealed" or "norm") and weight."""
    physics = make_physics(op, img_size)

    def draw(y: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        sampler = DPS(
            denoiser,
            num_steps=steps + 1,  # time points: the last evaluates no network
            weight=float(parameters["weight"]),
            guidance=str(parameters["guidance"]),
            rng=generator,
        )
        found: Tensor = sampler(y, physics, x_init=(len(y), *img_size))
        return found

    return draw


METHODS: dict[
    str, Callable[[PriorDenoiser, Operator, tuple[int, int, int], int, Parameters], Draw]
] = {"diffpir": _diffpir, "ddrm": _ddrm, "dps": _dps}
