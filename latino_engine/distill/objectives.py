"""What the unfolded sampler is trained for: the energy score, or the terms of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from latino_engine.distill.unfolded import TrainingBatch, Unfolded

_SMALL = 1e-6  # inside the power, so that its slope stays finite at 0; the score stays proper


class Objective(Protocol):
    """A loss of the sampler, and what must be trained beside it."""

    def loss(self, model: Unfolded, batch: TrainingBatch) -> Tensor:
        """The number to lower, with gradients to the model."""

    def update(self, batch: TrainingBatch) -> None:
        """Train what the loss needs (a discriminator), before the model's step."""

    def restart(self) -> None:
        """Begin anew with what it trains: the training was stopped by numbers not finite."""

    def modules(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint must hold besides the model."""

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Their optimizers."""


class _Alone:
    """What an objective has that trains no second network."""

    def update(self, batch: TrainingBatch) -> None:
        """Nothing."""

    def restart(self) -> None:
        """Nothing."""

    def modules(self) -> dict[str, torch.nn.Module]:
        """None."""
        return {}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """None."""
        return {}


@dataclass(frozen=True)
class EnergyObjective(_Alone):
    """The energy score of whole samples and of their patches.

    Attributes:
        num_samples: S >= 2 per measurement.
        patches: sides of the patches, in pixels; each scale and the whole image count alike.
        exponent, image_exponent: beta of `energy_loss`, of all distances and of whole images.
    """

    num_samples: int = 2
    patches: tuple[int, ...] = (1, 4, 8)
    exponent: float = 1.0
    image_exponent: float | None = None

    def loss(self, model: Unfolded, batch: TrainingBatch) -> Tensor:
        """`energy_loss` of S samples for each measurement of the batch."""
        count = len(batch.x)
        index = torch.arange(count).repeat(self.num_samples)
        sample_ids = torch.arange(self.num_samples).repeat_interleave(count)
        drawn = model(batch, index, sample_ids)
        samples = drawn.reshape(self.num_samples, *batch.x.shape)
        return energy_loss(samples, batch.x, self.patches, self.exponent, self.image_exponent)


@dataclass(frozen=True)
class MeanObjective(_Alone):
    """The squared error of one draw, lowest where every draw is the posterior mean E[x | y].

    Not a sampler: it shows the PSNR that a network and its training images can reach at most.
    """

    def loss(self, model: Unfolded, batch: TrainingBatch) -> Tensor:
        """mean (x_hat - x)^2 over the batch."""
        index = torch.arange(len(batch.x))
        return F.mse_loss(model(batch, index, torch.zeros_like(index)), batch.x)


def energy_loss(
    samples: Tensor,
    x: Tensor,
    patches: Sequence[int],
    exponent: float = 1.0,
    image_exponent: float | None = None,
) -> Tensor:
    """Energy scores of images and patches, each divided by (number of entries)^(beta / 2).

    For one image: mean_s ||x_s - x||^beta - 1/2 mean_{s != t} ||x_s - x_t||^beta, for
    0 < beta < 2 a proper score: its expectation is lowest when the samples follow p(x | y).
    A smaller beta counts small errors more, beside large ones: where x is nearly certain, the
    samples are drawn closer to it. Patches overlap by half.

    Args:
        samples: (S, B, C, H, W), S >= 2.
        x: (B, C, H, W), the truth.
        patches: sides in pixels; those larger than the image are left out.
        exponent: beta.
        image_exponent: beta of the whole images, where it is another one.

    Source: Gneiting & Raftery (2007), section 4.3; De Bortoli et al. (2025), arXiv:2502.02483.
    """
    whole = exponent if image_exponent is None else image_exponent
    total = _energy(samples.flatten(2), x.flatten(1), whole)
    used = [side for side in patches if side <= min(x.shape[-2:])]
    for side in used:
        total = total + _energy(_patches(samples, side), _patches(x[None], side)[0], exponent)
    return total / (1 + len(used))


def _energy(samples: Tensor, x: Tensor, exponent: float) -> Tensor:
    """samples (S, ..., D), x (..., D) -> a number, in root-mean-square units to the exponent."""
    count, size = samples.shape[0], samples.shape[-1]
    to_truth = _distance(samples, x[None], exponent).mean()
    first, second = torch.triu_indices(count, count, offset=1).unbind()
    apart = _distance(samples[first], samples[second], exponent).mean()
    score: Tensor = (to_truth - 0.5 * apart) / size ** (0.5 * exponent)
    return score


def _distance(a: Tensor, b: Tensor, exponent: float) -> Tensor:
    return ((a - b).square().sum(dim=-1) + _SMALL) ** (0.5 * exponent)


def _patches(images: Tensor, side: int) -> Tensor:
    """(S, B, C, H, W) -> (S, B, patches, C side side)."""
    count, batch = images.shape[:2]
    if side == 1:
        return images.flatten(3).transpose(2, 3)
    cut = F.unfold(images.flatten(0, 1), side, stride=max(1, side // 2))
    return cut.transpose(1, 2).reshape(count, batch, -1, cut.shape[1])
