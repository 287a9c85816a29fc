"""The sizes that are measured."""

from __future__ import annotations

from typing import Literal, TypeAlias

#: (B, H, W)
Size: TypeAlias = tuple[int, int, int]
Grid: TypeAlias = Literal["curated", "full", "smoke"]

_SIDES = ((64, 64), (128, 128), (256, 256), (240, 320), (512, 512), (512, 768), (1024, 1024))
GRIDS: dict[Grid, tuple[Size, ...]] = {
    "smoke": ((2, 16, 24),),
    "curated": (
        (1, 64, 64), (1, 256, 256), (16, 256, 256), (1, 240, 320), (1, 512, 768), (1, 1024, 1024)
    ),
    "full": tuple((batch, *sides) for batch in (1, 2, 4, 8, 16) for sides in _SIDES),
}  # fmt: skip

#: What of the curated grid is measured at fewer sizes: conjugate gradients in plain torch are slow.
FEWER: dict[Grid, dict[str, tuple[Size, ...]]] = {
    "smoke": {},
    "curated": {"sensors": ((1, 64, 64), (1, 256, 256), (1, 240, 320))},
    "full": {},
}

#: torch.compile takes some ten seconds for every operation and size.
COMPILED: dict[Grid, tuple[Size, ...]] = {
    "smoke": (),
    "curated": ((1, 256, 256),),
    "full": ((1, 64, 64), (1, 256, 256), (8, 256, 256), (1, 1024, 1024)),
}

_COMPILED_STEPS = ("Blur.prox", "SuperResolution.prox", "Inpainting.prox", "MRI.prox")


def sizes(grid: Grid, suite: str) -> tuple[Size, ...]:
    """At which the cases of a suite are measured."""
    return FEWER[grid].get(suite, GRIDS[grid])


def is_compiled(grid: Grid, suite: str, name: str, size: Size) -> bool:
    """Whether torch.compile is among the baselines of this case."""
    chosen = grid != "curated" or suite in ("fused", "calls") or name in _COMPILED_STEPS
    return chosen and size in COMPILED[grid]


#: Seconds of timed calls for one operation at one size.
BUDGET_S: dict[Grid, float] = {"smoke": 0.0, "curated": 0.5, "full": 3.0}
