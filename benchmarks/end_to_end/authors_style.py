"""The same samplers in eager PyTorch, as research code runs them: the baseline of `end_to_end`.

Low-rank layers stay beside the weights that they change (peft), transforms are complex over the
whole plane, and the step sizes are tensors that the host reads back by `.item()` at every step.
What does not change from step to step, the kernel's spectrum and that of y, is computed once per
call, as such code does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from benchmarks.operations import eager
from latino_engine.operators import Blur, Inpainting, SuperResolution
from latino_engine.priors import Prior
from latino_engine.priors.adapters import Adapter
from latino_engine.schedule import Schedule

Prox: TypeAlias = Callable[[Tensor, float], Tensor]
#: (like, noise step) -> standard normals
Noise: TypeAlias = Callable[[Tensor, int], Tensor]


def unmerged(prior: Prior, adapter: Adapter) -> Prior:
    """The prior with the adapter's low-rank changes as layers of their own, W x + s B A x."""
    import peft

    denoiser = copy.deepcopy(prior.denoiser)
    network = cast(nn.Module, denoiser.network)
    weights = adapter.weights
    layers = [key.removeprefix("lora_A.") for key in weights if key.startswith("lora_A.")]
    rank = weights[f"lora_A.{layers[0]}"].shape[0]
    config = peft.LoraConfig(r=rank, lora_alpha=adapter.scale * rank, target_modules=layers)
    peft.inject_adapter_in_model(config, network)
    with torch.no_grad():
        for layer in layers:
            module: Any = network.get_submodule(layer)
            module.lora_A["default"].weight.copy_(weights[f"lora_A.{layer}"])
            module.lora_B["default"].weight.copy_(weights[f"lora_B.{layer}"])
        for key, value in weights.items():
            if key.startswith("full."):
                network.get_parameter(key.removeprefix("full.")).copy_(value)
    return Prior(prior.spec, denoiser.eval().requires_grad_(False))


@torch.no_grad()
def sample(
    prior: Prior,
    op: Blur | SuperResolution | Inpainting,
    y: Tensor,
    x: Tensor,
    schedule: Schedule,
    noise: Noise = lambda like, step: torch.randn_like(like),
) -> Tensor:
    """One draw for each measurement: the unfolded sampler or zero-shot LATINO.

    Args:
        prior: its denoiser runs as it is.
        op: the operator.
        y: measurement, (B, C, ...), [0, 1].
        x: the start, (B, C, H, W), [0, 1].
        schedule: rows of the sampler.
        noise: the random numbers.

    Returns:
        (B, C, H, W), [0, 1], not clamped.
    """
    x = 2.0 * x - 1.0
    prox = _prox(op, 2.0 * y - op.A(torch.ones_like(x)), x.shape[-2:])
    start = schedule.sigma_start
    x_t = None if start is None else start * noise(x, 0)
    for outer in schedule.outer:
        for step in outer.inner:
            gamma, weight, sigma, scale = (
                torch.as_tensor(number, device=x.device).item()
                for number in (step.gamma, step.x_weight, step.sigma_delta, step.noise_scale)
            )
            v = x if x_t is None else weight * x + (1.0 - weight) * x_t
            z = prox(v, gamma) if gamma > 0.0 else v
            x = prior.denoise(z + scale * noise(z, step.noise_step), sigma)
        if x_t is not None and outer.sigma_next is not None:
            eps_hat = (x_t - x) / outer.sigma_n
            eps = noise(x, outer.noise_step)
            fresh, kept = outer.zeta**0.5, (1.0 - outer.zeta) ** 0.5
            x_t = x + outer.sigma_next * (kept * eps_hat + fresh * eps)
    if schedule.final_gamma is not None:
        x = prox(x, torch.as_tensor(schedule.final_gamma).item())
    return (x + 1.0) / 2.0


def _prox(
    op: Blur | SuperResolution | Inpainting, y: Tensor, size: tuple[int, int] | torch.Size
) -> Prox:
    """argmin gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2, what belongs to y and h computed once."""
    if isinstance(op, Inpainting):
        mask = op.mask.to(y)
        return lambda v, gamma: eager.masked_prox(v, y, mask, gamma)
    h = eager.spectrum(op.kernel.to(y), (size[0], size[1]))
    power = h.abs() ** 2
    if isinstance(op, Blur):
        back = h.conj() * torch.fft.fft2(y)

        def blur(v: Tensor, gamma: float) -> Tensor:
            X = (gamma * back + torch.fft.fft2(v)) / (gamma * power + 1.0)
            return torch.fft.ifft2(X).real

        return blur
    factor = op.factor
    blocks = (factor, size[0] // factor, factor, size[1] // factor)
    folded = power.reshape(*power.shape[:-2], *blocks).mean(dim=(-4, -2))
    back = h.conj() * torch.fft.fft2(y).repeat(1, 1, factor, factor)

    def higher(v: Tensor, gamma: float) -> Tensor:
        b = torch.fft.fft2(v) + gamma * back
        inner = (h * b).reshape(*b.shape[:-2], *blocks).mean(dim=(-4, -2))
        inner = inner / (1.0 + gamma * folded)
        return torch.fft.ifft2(b - gamma * h.conj() * inner.repeat(1, 1, factor, factor)).real

    return higher
