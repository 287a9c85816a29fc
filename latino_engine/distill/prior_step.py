"""One step of training a prior, at the speed of the machine: bfloat16, channels last, compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

_TRIED = 3  # calls of each precision that are timed; the first is left out

#: (denoiser, x, eps, sigma) -> the loss
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def denoising_loss(model: nn.Module, x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """E[w(sigma) ||D(x + sigma eps, sigma) - x||^2], w = (sigma^2 + s^2) / (sigma s)^2, s = 0.5.

    Shapes: x, eps (B, C, H, W) in [-1, 1] units; sigma (B,).
    Source: Karras et al. (2022), section 5.
    """
    level = sigma[:, None, None, None]
    weight = (level**2 + 0.25) / (0.5 * level) ** 2
    squared: Tensor = (model(x + level * eps, sigma) - x) ** 2
    return (weight * squared).mean()


class Step:
    """Loss and gradients of a batch.

    Args:
        model: the denoiser that is trained.
        precision: "fp32", "bf16" (autocast), or "auto": the faster of the two on this machine,
            timed on a batch of `example`'s shape.
        compiled: compile the loss and its gradient by `torch.compile`; this takes a minute and a
            C++ compiler.
        example: a batch.
    """

    def __init__(self, model: nn.Module, precision: str, compiled: bool, example: Tensor) -> None:
        self.model = model
        self.loss: Loss = cast(Loss, torch.compile(denoising_loss)) if compiled else denoising_loss
        self.precision = faster(model, example) if precision == "auto" else precision

    def __call__(self, x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
        """The loss; the gradients are added to those of the weights."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.loss(self.model, x, eps, sigma)
        torch.autograd.backward(loss)
        return loss.detach()


def faster(model: nn.Module, x: Tensor) -> str:
    """ "fp32" or "bf16": in which the gradient of a batch takes less time on this machine."""
    sigma = torch.ones(len(x), device=x.device)
    spent = {}
    for precision in ("fp32", "bf16"):
        step, times = Step(model, precision, False, x), []
        for _ in range(_TRIED):
            begin = time.perf_counter()
            step(x, x, sigma)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            times.append(time.perf_counter() - begin)
        spent[precision] = min(times[1:])
    model.zero_grad(set_to_none=True)
    return min(spent, key=lambda name: spent[name])
