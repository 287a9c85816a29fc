"""The random stream of one call of the sampler: whose noise it is, told once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from latino_engine import ops
from latino_engine.schedule import OuterStep, Scalar


@dataclass(frozen=True, eq=False)
class NoiseStream:
    """Noise that depends on (seed, image id, sample id, step) alone.

    Attributes:
        seed: 0 <= seed < 2^64.
        image_ids, sample_ids: (P,) int64, paired.
        in_place: write the next state into the memory of the last one, which must be the chain's
            own: an inner step then allocates nothing.
    """

    seed: int
    image_ids: Tensor
    sample_ids: Tensor
    in_place: bool = False

    def langevin(self, z: Tensor, scale: Scalar, step: int) -> Tensor:
        """z + scale * eps_step; z (P, C, H, W), scale a number or (P,)."""
        return ops.langevin_noise(z, scale, self.seed, self.image_ids, self.sample_ids, step)

    def reverse(self, x0_hat: Tensor, x_t: Tensor, outer: OuterStep) -> Tensor:
        """The reverse step of `outer` from x_t, towards x0_hat [UD2M, Alg. 1]."""
        assert outer.sigma_n is not None and outer.sigma_next is not None
        return ops.reverse_step(
            x0_hat,
            x_t,
            outer.sigma_n,
            outer.sigma_next,
            outer.zeta,
            self.seed,
            self.image_ids,
            self.sample_ids,
            outer.noise_step,
            out=self.memory_of(x_t),
        )

    def memory_of(self, state: Tensor) -> Tensor | None:
        """Where the state that follows may be written; None where that is new memory."""
        return state if self.in_place and state.is_contiguous() else None
