"""The objective of [UD2M]: adversarial + noise prediction + perceptual, one outer time per image.

For the outer time n_i of image i, x_t = x + sigma_n eps and x_hat = the K unfolded iterations from
there; the start of the inner chain is what the sampler itself reaches before time n_i.

    loss = a softplus(-D(x_hat, x0)) + m min(1 / sigma_n^2, cutoff) mean (x_hat - x)^2
           + p distance(x_hat, x)

x0 is the start of the chain, the regularised inverse of y or y itself: D judges the pair.
(eps - eps_hat)^2 = (x_hat - x)^2 / sigma_n^2 is the squared error of the predicted noise; the
cutoff keeps small times from drowning the rest. D gives logits and is trained by
softplus(-D(x, x0)) + softplus(D(x_hat, x0)) with the zero-centred penalty
g/2 ||grad_x D(x, x0)||^2.

Source: arXiv:2507.02686, section 4; the penalty: Mescheder et al. (2018), arXiv:1801.04406.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latino_engine import ops
from latino_engine.distill.runs import all_finite, stopped
from latino_engine.distill.unfolded import TrainingBatch, Unfolded
from latino_engine.errors import invalid
from latino_engine.evaluation.perceptual import perceptual_distance

if TYPE_CHECKING:
    from latino_engine.distill.options import Distillation


class Discriminator(nn.Module):
    """D(x, x0): logits (B, 1, H/8, W/8), one for each patch of the pair.

    Args:
        channels: image channels C.
        width: channels of the first layer.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 2 * channels
        for wide in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(before, wide, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(wide, wide, 4, stride=2, padding=1), nn.SiLU()]
            before = wide
        self.body = nn.Sequential(*layers, nn.Conv2d(before, 1, 3, padding=1))

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        return cast(Tensor, self.body(torch.cat((x, start), dim=1)))


class PaperObjective:
    """The loss of this module; it holds the discriminator and its optimizer.

    Args:
        options: weights, rates, seed.
        channels: image channels.
        device: of the training.
        average: replaces gradients by their mean over the processes.
    """

    def __init__(
        self,
        options: Distillation,
        channels: int,
        device: torch.device,
        average: Callable[[Sequence[nn.Parameter]], None],
    ) -> None:
        weights = ("adversarial", "noise_mse", "perceptual", "gradient_penalty")
        for name in weights:
            if not 0.0 <= getattr(options, name) < float("inf"):
                got = getattr(options, name)
                raise invalid(name, "a weight of at least 0", got, "0 leaves the term out")
        self.options = options
        self.distance_name, self.distance = perceptual_distance(options.perceptual_network)
        self.discriminator = _discriminator(channels, options.seed).to(device)
        self._optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=options.discriminator_rate, betas=(0.0, 0.99)
        )
        self._average = average
        self._channels = channels
        self._drawn: Tensor | None = None

    def loss(self, model: Unfolded, batch: TrainingBatch) -> Tensor:
        """The loss of the module's text for one outer time per image."""
        o, x, problem = self.options, batch.x, batch.problem
        levels = outer_times(batch, len(model.sigmas))
        sigma_n = torch.tensor(model.sigmas, dtype=torch.float64)[levels]
        starts = self._starts(model, batch)[levels, torch.arange(len(x))]
        if model.init_network is not None:  # where it is the start, it is trained
            first = (levels == 0).to(x.device)[:, None, None, None]
            starts = torch.where(first, model.start(problem), starts)
        x_hat = model.estimate_at(levels, starts, batch)
        inverse = 1.0 / sigma_n.square()
        weight = inverse.clamp(max=o.noise_mse_cutoff).to(x.device, x.dtype)
        loss = o.noise_mse * (weight * (x_hat - x).square().flatten(1).mean(dim=1)).mean()
        if o.perceptual > 0.0:
            loss = loss + o.perceptual * self.distance(x_hat, x)
        if o.adversarial > 0.0:
            logits = self.discriminator(x_hat, problem.x_init)
            loss = loss + o.adversarial * F.softplus(-logits).mean()
        self._drawn = x_hat.detach()
        return loss

    def _starts(self, model: Unfolded, batch: TrainingBatch) -> Tensor:
        """Where the sampler stands before each outer time, without gradients: (N, B, C, H, W)."""
        with torch.no_grad():
            return model.starts(batch)

    def update(self, batch: TrainingBatch) -> None:
        """One step of the discriminator on the images that `loss` drew.

        Raises:
            TrainingStopped: its loss or gradients are not finite; it is as it was.
        """
        o, drawn, start = self.options, self._drawn, batch.problem.x_init
        if drawn is None or o.adversarial == 0.0:
            return
        true = batch.x.detach().requires_grad_(True)
        real, fake = self.discriminator(true, start), self.discriminator(drawn, start)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        if o.gradient_penalty > 0.0:
            (slope,) = torch.autograd.grad(real.mean(dim=(1, 2, 3)).sum(), true, create_graph=True)
            penalty = slope.square().flatten(1).sum(dim=1).mean()
            loss = loss + 0.5 * o.gradient_penalty * penalty
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        weights = list(self.discriminator.parameters())
        self._average(weights)
        value = float(loss.detach())
        finite = all_finite(w.grad for w in weights if w.grad is not None)
        if not (math.isfinite(value) and finite):
            expected, got = "a finite loss with finite gradients", f"{value} at step {batch.step}"
            raise stopped("discriminator", expected, got, "lower the discriminator_rate")
        self._optimizer.step()

    def restart(self) -> None:
        """The discriminator as the run began with it: a bad one would stop the next step too."""
        fresh = _discriminator(self._channels, self.options.seed)
        self.discriminator.load_state_dict(fresh.state_dict())

    def modules(self) -> dict[str, nn.Module]:
        """The discriminator."""
        return {"discriminator": self.discriminator}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The discriminator's."""
        return {"discriminator_optimizer": self._optimizer}


def _discriminator(channels: int, seed: int) -> Discriminator:
    """The one of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(channels)


def outer_times(batch: TrainingBatch, num_outer: int) -> Tensor:
    """The outer time of every image, an index in [0, N), the same whichever process asks."""
    normals = ops.gaussian_noise(
        batch.seed, batch.image_ids, [2] * len(batch.x), 0, (len(batch.x), 1, 1, 1)
    )
    uniform = 0.5 * (1.0 + torch.erf(normals.flatten() / 2**0.5))
    return (uniform * num_outer).long().clamp(max=num_outer - 1)
