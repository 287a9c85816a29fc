"""What the command `bench` is asked to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latino_engine.errors import invalid, invalid_type, whole_number
from latino_engine.sampling.options import Sampling


@dataclass(frozen=True)
class BenchOptions:
    """What to measure; checked when it is made.

    Attributes:
        operator: description such as "blur:std=1.6"; see `latino_engine.operators.spec`.
        noise_std: noise level of the measurement, public units.
        size: (height, width) of the images.
        batches, num_samples: throughput is measured at all combinations, latency at the
            first of them.
        backends: runtimes, the engine's own choice where empty, ("all",) for all it serves here.
        sampling: which sampler runs, with which seed; num_samples comes from above.
        repeats: timed calls of each runtime.
        warmup: untimed calls before them.
        device, threads, rebuild, torch_compile: as in `latino_engine.load`.
        cold: also time a process's first sample.
        neighbour: also measure the latency beside a process that keeps one core busy.
        any_machine: also measure an engine that was compiled on another machine.

    Raises:
        ValueError, TypeError: a count below 1, a side below 1, an empty list.
    """

    operator: str = "blur:std=1.6"
    noise_std: float = 0.02
    size: tuple[int, int] = (256, 256)
    batches: Sequence[int] = (1,)
    num_samples: Sequence[int] = (1,)
    backends: Sequence[str] = ()
    sampling: Sampling = field(default_factory=Sampling)
    repeats: int = 20
    warmup: int = 2
    device: str | None = None
    threads: int | None = None
    cold: bool = True
    neighbour: bool = False
    any_machine: bool = False
    rebuild: bool = False
    torch_compile: bool = False

    def __post_init__(self) -> None:
        for name, low in (("repeats", 1), ("warmup", 0)):
            if whole_number(name, getattr(self, name)) < low:
                got = getattr(self, name)
                raise invalid(name, f"at least {low}", got, "choose how often to measure")
        for name, values in (("batch", self.batches), ("num_samples", self.num_samples)):
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise invalid_type(name, "a list of counts", repr(values), "give e.g. (1, 4)")
            for value in values:
                if whole_number(name, value) < 1:
                    raise invalid(name, "counts of at least 1", value, "give e.g. 1,4")
        if min(self.size) < 1:
            got = "x".join(str(side) for side in self.size)
            raise invalid("size", "sides of at least 1", got, "give e.g. 256 or 256x320")

    def loading(self) -> dict[str, Any]:
        """The arguments of `latino_engine.load` that every process gives."""
        names = ("device", "threads", "torch_compile")
        return {name: getattr(self, name) for name in names}
