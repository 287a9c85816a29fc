"""An engine as a reconstructor of deepinv."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latino_engine.errors import invalid, invalid_type
from latino_engine.interop.conversion import to_physics
from latino_engine.sampling.options import Sampling

# isort: split
# Behind the import that says in one sentence that deepinv is missing.
from deepinv.models import Reconstructor as _Base

if TYPE_CHECKING:
    from latino_engine.engine import Engine
    from latino_engine.sampling.problem import Init

__all__ = ["Reconstructor", "to_physics"]

ESTIMATES = ("mean", "sample")


class Reconstructor(_Base):  # type: ignore[misc]
    """model(y, physics) -> x_hat for deepinv: its evaluation, metrics and training of others.

    x_hat is the posterior mean, estimated by `num_samples` draws, which has the smallest expected
    squared error, or one draw. It has no parameters and no gradient. The same y, physics and seed
    give the same x_hat.

    Args:
        engine: a loaded engine; its data range is the one of the images, deepinv's is [0, 1].
        num_samples: draws to average.
        estimate: "mean", or "sample" for the first draw alone.
        seed, sampler, steps, unfold, init, tile, overlap: as in `Engine.sample`.

    Raises:
        InvalidType, InvalidArgument: an engine that is none, an unknown estimate; on use, whatever
            `Engine.sample` refuses.
    """

    def __init__(
        self,
        engine: Engine,
        num_samples: int = 4,
        estimate: str = "mean",
        seed: int = 0,
        sampler: str = "auto",
        steps: int | None = None,
        unfold: int | None = None,
        init: Init = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(engine, "sample"):
            remedy = "load one: latino_engine.load(folder)"
            raise invalid_type("engine", "an engine", type(engine).__name__, remedy)
        if estimate not in ESTIMATES:
            expected = f"one of {', '.join(repr(name) for name in ESTIMATES)}"
            raise invalid("estimate", expected, repr(estimate), "choose one of these")
        self.engine = engine
        self.sampling = Sampling(
            num_samples=num_samples if estimate == "mean" else 1,
            seed=seed,
            sampler=sampler,
            steps=steps,
            unfold=unfold,
            keep_samples=False,
            tile=tile,
            overlap=overlap,
        )
        # A network of deepinv must not become a child of this module: its parameters are its own.
        self._start = [init]

    def forward(self, y: Tensor, physics: torch.nn.Module) -> Tensor:
        """x_hat, (B, C, H, W), on the device of y and of its dtype, real for a complex y.

        Args:
            y: measurement, as physics(x) gives it.
            physics: linear, with Gaussian or Poisson noise, or stacked; see
                `interop.physics.from_physics`.
        """
        post = self.engine.sample(y, physics, init=self._start[0], **self.sampling.arguments())
        first = y if isinstance(y, Tensor) else y[0]
        return post.mean.to(first.device, first.real.dtype)
