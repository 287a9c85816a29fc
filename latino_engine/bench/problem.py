"""The measurement that a benchmark restores: its content is arbitrary, its sizes are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latino_engine.bench.options import BenchOptions
from latino_engine.errors import InvalidArgument, invalid
from latino_engine.operators.protocol import Operator
from latino_engine.operators.spec import parse_operator
from latino_engine.priors.prior import PriorSpec
from latino_engine.system.memory import available_bytes

if TYPE_CHECKING:
    from latino_engine.engine import Engine


def make_measurement(spec: PriorSpec, options: BenchOptions, batch: int) -> tuple[Tensor, Operator]:
    """A measurement of `batch` random images and its operator, public units.

    Raises:
        InvalidArgument: an operator or a size that the prior cannot serve.
    """
    check_size(spec, options.size)
    level, seed = options.noise_std, options.sampling.seed
    op = parse_operator(options.operator, level, options.size, seed, spec.channels)
    generator = torch.Generator().manual_seed(0)
    low, high = spec.data_range
    x = low + (high - low) * torch.rand(batch, spec.channels, *options.size, generator=generator)
    if spec.channels == 1:
        op = op.for_grey()
    return op.measure(x, seed=seed), op


def check_size(spec: PriorSpec, size: tuple[int, int]) -> None:
    """Raises `InvalidArgument` if a side is below the prior's multiple."""
    if min(size) < spec.size_multiple:
        expected = f"sides of at least {spec.size_multiple}, the multiple of {spec.name!r}"
        raise invalid("size", expected, "x".join(map(str, size)), "choose a larger size")


def check_plans(record: dict[str, Any], spec: PriorSpec, size: tuple[int, int]) -> None:
    """Raises `InvalidArgument` if no plan of the engine was built for these sides.

    Args:
        record: of the runtime in the manifest; one without plans serves every size.
        size: (height, width).
    """
    profiles = [p for plan in record.get("plans", {}).values() for p in plan["profiles"]]
    padded = [side + -side % spec.size_multiple for side in size]
    sides = ("height", "width")

    def serves(profile: dict[str, Any]) -> bool:
        ranges = (profile[name] for name in sides)
        return all(r[0] <= side <= r[2] for r, side in zip(ranges, padded, strict=True))

    if profiles and not any(serves(profile) for profile in profiles):
        low, high = (
            "x".join(str(pick(p[name][end] for p in profiles)) for name in sides)
            for pick, end in ((min, 0), (max, 2))
        )
        remedy = "compile the engine with this --image-size"
        got = "x".join(map(str, size))
        raise invalid(
            "size", f"{low} to {high}, what the engine's plans were built for", got, remedy
        )


def check_memory(engine: Engine, options: BenchOptions) -> None:
    """Raises `InvalidArgument` if an image, or a batch of them, does not fit into the free memory.

    Of every image there are at least itself, its measurement, mean, squares and samples.
    """
    size = options.size
    try:
        engine.network.chunk_size(*size)
    except InvalidArgument:
        expected = "an image that fits into the free memory"
        raise invalid("size", expected, "x".join(map(str, size)), "choose a smaller one") from None
    batch, samples = max(options.batches), max(options.num_samples)
    needed = 4 * engine.spec.channels * size[0] * size[1] * batch * (4 + samples)
    free = available_bytes()
    if needed > free:
        got = f"{batch} with num_samples {samples}, which take {1e-9 * needed:.1f} GB or more"
        expected = f"images that fit into the free memory ({1e-9 * free:.1f} GB)"
        raise invalid("batch", expected, got, "choose fewer")
