"""Score a peer on the prior, the measurements and the scores of `latino-engine evaluate`.

    python -m benchmarks.peers.run PRIOR SOURCE --operator sr:factor=4 --noise-std 0.05 \\
        --size 32 --pad 2 --limit 512 --num-samples 8 --method diffpir --steps 100 -o out.json

The evaluated images are the first ones of SOURCE, with the measurements that `evaluate` makes of
them; the method's parameters are the best of `grid.GRIDS` on the last ones. `make peers` sets up
the environment that this needs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.peers import grid
from benchmarks.peers.denoiser import PriorDenoiser
from benchmarks.peers.samplers import METHODS, Parameters, sample
from latino_engine.atomic import atomic_file
from latino_engine.errors import UserError, invalid
from latino_engine.evaluation.evaluator import (
    Evaluation,
    central_squares,
    markdown,
    measure_each,
    score,
)
from latino_engine.evaluation.learned_scores import learned_scores
from latino_engine.image_io.datasets import ImageSource, open_images
from latino_engine.operators.spec import parse_operator
from latino_engine.priors import Prior, load_prior
from latino_engine.sampling.problem import make_problem
from latino_engine.system.progress import progress_bar

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class PeerRun:
    """What to run.

    Attributes:
        method: "diffpir", "ddrm" or "dps".
        steps: network evaluations per sample.
        grid_limit: validation images, the last ones of the source.
        grid_samples: samples of each, >= 2.
        batch: images at a time.
        grid_source: other true images for the grid, its first ones, instead of the last ones.
        grid_size: side of their central squares, None for that of the evaluated images.
        known: report of an earlier run; where it chose from the same grid for the same problem,
            its parameters are taken and nothing is tried again.
    """

    method: str
    steps: int
    grid_limit: int = 16
    grid_samples: int = 4
    batch: int = 128
    grid_source: str | None = None
    grid_size: int | None = None
    known: str | None = None


def evaluate_peer(
    prior: Prior,
    options: Evaluation,
    peer: PeerRun,
    report: Report | None = None,
) -> dict[str, Any]:
    """Choose the parameters on validation images, sample the evaluated ones, score them.

    Args:
        prior: the prior.
        options: images, operator, noise and number of samples, as for `evaluate`; its sampler,
            steps and unfold are not used.
        peer: the method.
        report: function (grid points tried, grid points in all).

    Returns:
        The fields of evaluation.json, and: method, steps, seconds, parameters, grid, versions.

    Raises:
        ValueError, TypeError: what cannot be used, in one sentence.
    """
    _check(options, peer)
    source = open_images(options.source, options.size, options.pad)
    setting = _Setting(prior, options, peer, source)
    identity = {
        "prior_sha256": prior.content_hash(),
        "method": peer.method,
        "steps": peer.steps,
        "operator": options.operator,
        "noise_std": options.noise_std,
    }
    evaluated, validation, others = _images(setting)
    known = None if peer.known is None else grid.recall(peer.known, identity)
    parameters, chosen_on = known or _choose(others, validation, report)
    start = time.perf_counter()
    drawn, nfe = setting.draw(evaluated, options.num_samples, parameters)
    seconds = time.perf_counter() - start
    truth = setting.truth(evaluated)
    return {
        "prior": prior.name,
        **identity,
        "num_images": len(evaluated),
        "num_samples": options.num_samples,
        "seed": options.seed,
        "nfe": nfe,
        "seconds": seconds,
        "ms_per_sample": 1e3 * seconds / (len(evaluated) * options.num_samples),
        "parameters": dict(parameters),
        "grid": chosen_on,
        "versions": {name: version(name) for name in ("deepinv", "torch", "latino-engine")},
        "residual_chi2": setting.residual_chi2(drawn, evaluated),
        **score(drawn, truth),
        **({} if len(truth) < 2 else learned_scores(drawn[0], truth)),
    }


class _Setting:
    """One prior, method and operator, for any images of the source."""

    def __init__(
        self, prior: Prior, options: Evaluation, peer: PeerRun, source: ImageSource
    ) -> None:
        size = (options.size, options.size)
        level, seed = options.noise_std, options.seed
        self._op = parse_operator(options.operator, level, size, seed, prior.channels)
        self._denoiser = PriorDenoiser(prior)
        self._prior, self.options, self.peer, self.source = prior, options, peer, source

    def on(self, source: ImageSource, side: int) -> _Setting:
        """The same on central squares of other images."""
        return _Setting(self._prior, replace(self.options, size=side), self.peer, source)

    def truth(self, ids: range) -> Tensor:
        """The images themselves."""
        return central_squares(self.source, ids, self.options.size)

    def measurements(self, ids: range) -> Tensor:
        """What `evaluate` measures of them."""
        return measure_each(self._op, self.truth(ids), ids, self.options.seed)

    def draw(self, ids: range, num_samples: int, parameters: Parameters) -> tuple[Tensor, int]:
        """Samples (S, B, C, H, W) and the network evaluations of one."""
        return sample(
            self.peer.method,
            self._denoiser,
            self._op,
            self.measurements(ids),
            (self._prior.channels, self.options.size, self.options.size),
            self.peer.steps,
            parameters,
            num_samples,
            self.options.seed,
            self.peer.batch,
        )

    def residual_chi2(self, drawn: Tensor, ids: range) -> float:
        """The mean over samples and images, as `evaluate` has it."""
        problem = make_problem(self.measurements(ids), self._op, self._prior.spec, None, "cpu")
        index = torch.arange(len(ids))
        return float(torch.stack([problem.residual_chi2(x, index) for x in drawn]).mean())


def _images(setting: _Setting) -> tuple[range, range, _Setting]:
    """The images to evaluate, and those that choose the parameters, with their setting."""
    options, peer = setting.options, setting.peer
    side = peer.grid_size or options.size
    grid = peer.grid_source or options.source
    others = open_images(grid, side, 0 if Path(grid).is_dir() else options.pad)
    chooser = setting.on(others, side)
    if peer.grid_source is None:
        return *_split(setting.source, options.limit, peer.grid_limit), chooser
    evaluated = range(min(options.limit, len(setting.source)))
    return evaluated, range(min(peer.grid_limit, len(others))), chooser


def _choose(
    setting: _Setting, validation: range, report: Report | None
) -> tuple[Parameters, dict[str, Any]]:
    """The best parameters on these images, and what was tried."""
    peer = setting.peer
    parameters, tried = grid.choose(
        lambda candidate: setting.draw(validation, peer.grid_samples, candidate)[0],
        setting.truth(validation),
        grid.GRIDS[peer.method],
        report,
    )
    chosen_on = {"num_images": len(validation), "num_samples": peer.grid_samples}
    return parameters, {**chosen_on, "size": setting.options.size, "tried": tried}


def _check(options: Evaluation, peer: PeerRun) -> None:
    if peer.method not in METHODS:
        expected = f"one of {', '.join(METHODS)}"
        raise invalid("method", expected, repr(peer.method), "choose one of them")
    for name, count in (("num_samples", options.num_samples), ("grid_samples", peer.grid_samples)):
        if count < 2:
            raise invalid(name, "at least 2", count, "scores compare samples")
    for name, count in (("limit", options.limit), ("grid_limit", peer.grid_limit)):
        if count < 1:
            raise invalid(name, "at least 1", count, "say how many images")
    if peer.batch < 1:
        raise invalid("batch", "at least 1", peer.batch, "say how many images at a time")


def _split(source: ImageSource, limit: int, grid_limit: int) -> tuple[range, range]:
    """The first `limit` images, and the last `grid_limit` ones, none of them in both."""
    count = len(source)
    if count < limit + grid_limit:
        expected = f"at most {max(count - grid_limit, 0)} of the {count} images of the source"
        remedy = "the last ones choose the parameters (--grid-limit)"
        raise invalid("limit", expected, limit, remedy)
    return range(limit), range(count - grid_limit, count)


def command(
    prior: Annotated[str, typer.Argument(help="Shipped name or folder of a prior.")],
    source: Annotated[Path, typer.Argument(help="True images: folder, idx or npy file.")],
    operator: Annotated[str, typer.Option(help="For example sr:factor=4, blur:std=2.")],
    method: Annotated[str, typer.Option(help="diffpir, ddrm or dps.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    steps: Annotated[int, typer.Option(help="Network evaluations per sample.")] = 100,
    noise_std: Annotated[float, typer.Option(help="Noise level, image range 0 to 1.")] = 0.05,
    size: Annotated[int, typer.Option(help="Side of the central square of every image.")] = 64,
    pad: Annotated[int, typer.Option(help="Black pixels around the images of an array file.")] = 0,
    limit: Annotated[int, typer.Option(help="So many images, the first ones.")] = 64,
    num_samples: Annotated[int, typer.Option(help="Draws per image.")] = 16,
    grid_limit: Annotated[int, typer.Option(help="Images that choose the parameters.")] = 16,
    grid_samples: Annotated[int, typer.Option(help="Draws of each of these.")] = 4,
    grid_source: Annotated[
        str | None, typer.Option(help="Other true images that choose the parameters.")
    ] = None,
    grid_size: Annotated[
        int | None, typer.Option(help="Side of their central squares, as --size by default.")
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(help="An earlier report: its parameters where the problem is the same."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the measurements and of the samples.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
) -> None:
    """Score DiffPIR, DDRM or DPS of deepinv on a prior of this package."""
    if threads is not None:
        torch.set_num_threads(threads)
    options = Evaluation(
        source=str(source),
        operator=operator,
        noise_std=noise_std,
        size=size,
        pad=pad,
        limit=limit,
        num_samples=num_samples,
        seed=seed,
    )
    peer = PeerRun(method, steps, grid_limit, grid_samples, batch, grid_source, grid_size, known)
    with progress_bar("choosing parameters") as update:
        found = evaluate_peer(load_prior(prior), options, peer, update)
    with atomic_file(out, argument="output") as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
    print(f"{method} {json.dumps(found['parameters'])}\n{markdown(found)}", end="")


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and status 2."""
    try:
        typer.run(command)
    except UserError as error:
        print(f"benchmarks.peers.run: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
