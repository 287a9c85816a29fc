"""How samples are drawn, said once: the engine, the commands and the ways around them share it.

Nothing in this file imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The arguments of `Engine.sample` that are plain values; the engine checks them.

    Attributes:
        num_samples: how many draws.
        seed: 0 <= seed < 2^64; the same seed gives the same samples.
        sampler: which one: auto, latino, ud2m, or latino-pro of a text-to-image prior.
        steps: LATINO: evaluations; UD2M: outer steps.
        unfold: UD2M: inner iterations.
        keep_samples: keep every sample, not mean and standard deviation alone.
        tile: large images: side of the pieces that the network sees, e.g. 256.
        overlap: pixels that tiles share; a quarter of the tile by default.
    """

    num_samples: int = 4
    seed: int = 0
    sampler: str = "auto"
    steps: int | None = None
    unfold: int | None = None
    keep_samples: bool = True
    tile: int | None = None
    overlap: int | None = None

    def arguments(self) -> dict[str, Any]:
        """What `Engine.sample` takes by name; the fields of a subclass are not among them."""
        return {field.name: getattr(self, field.name) for field in fields(Sampling)}
