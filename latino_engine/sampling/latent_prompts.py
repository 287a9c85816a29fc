"""LATINO-PRO's search of the prompt: stochastic approximation proximal gradient.

The prompt embedding c of each image climbs the marginal likelihood p(y | c): between two updates a
chain of LATINO draws latents from p(z | y, c), and the gradient of log p(z_next | z0_hat(c)) = -
||z_next - z0_hat(c)||^2 / (2 sigma_next^2) with respect to c, normalised token by token, is added
up (Fisher's identity). An update is a step along that sum, projected on a ball around the first c.

Source: LATINO (arXiv:2503.12615), Alg. 2, with the step sizes of the authors' public code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine.operators.protocol import DataStep
from latino_engine.ops.philox import search_position
from latino_engine.priors.latent.latent_schedule import PromptSearch
from latino_engine.priors.latent.prior import Conditioning
from latino_engine.runtimes.latent import TorchLatentRuntime
from latino_engine.sampler import sample_posterior
from latino_engine.sampling.call import Call
from latino_engine.sampling.eager_steps import PlainSteps
from latino_engine.sampling.latent_network import LatentNetwork
from latino_engine.sampling.latent_steps import latent_data_step
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.schedule import InnerStep, Scalar

_SMALLEST_NORM = 1e-12  # a token without any gradient stays


@dataclass(frozen=True)
class FoundPrompts:
    """What the search found.

    Attributes:
        conditioning: one prompt for each image.
        x_last: the last image of each chain, (B, C, H, W), public units.
    """

    conditioning: Conditioning
    x_last: Tensor


def search_prompts(
    network: LatentNetwork,
    call: Call,
    first: Conditioning,
    by_residual: bool,
    search: PromptSearch,
    checkpoint_gradients: bool,
) -> FoundPrompts:
    """The prompt embedding of each image, image by image, so that memory is that of one.

    Args:
        network: on the torch runtime.
        call: the posterior, with the schedule of the search; its random stream.
        first: where the search begins.
        by_residual: as in `latent_data_step`.
        search: the step sizes.
        checkpoint_gradients: as in `LatentEngine.sample`.
    """
    images = torch.arange(len(call.image_ids))
    with _checkpointing(network, checkpoint_gradients):
        found = [
            _search_one(network, call, index, first.take(index), by_residual, search)
            for index in images[:, None]
        ]
    prompts = torch.cat([prompt for prompt, _ in found]).cpu()
    x = torch.cat([image for _, image in found])
    spec = network.spec
    return FoundPrompts(
        Conditioning(prompts, first.take(images).pooled), (x - spec.offset) / spec.scale
    )


def _search_one(
    network: LatentNetwork,
    call: Call,
    index: Tensor,
    first: Conditioning,
    by_residual: bool,
    search: PromptSearch,
) -> tuple[Tensor, Tensor]:
    """(prompt (1, tokens, width), last image (1, C, H, W) in internal units) of one image."""
    x = call.problem.x_init[index]
    data_step = latent_data_step(call.problem, index, by_residual)
    stream = call.stream(index, torch.zeros_like(index))
    chain = _Chain(data_step, stream, network, first, (x.shape[-2], x.shape[-1]))
    schedule = call.schedule(index)
    for update in range(search.updates):
        chain.begin(search_position(update))
        x = sample_posterior(chain, chain.denoise, schedule, x)
        chain.total[:, : search.kept_tokens] = 0.0
        moved = chain.prompt + search.step_size(update) * chain.total
        chain.prompt = project_on_ball(moved, first.prompt.to(moved.device), search.radius)
    return chain.prompt, x


def project_on_ball(prompt: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The nearest prompt whose tokens are within `radius` of the centre's, (B, tokens, width)."""
    away = prompt - centre
    norm = away.norm(dim=-1, keepdim=True)
    projected: Tensor = centre + away * (radius / norm.clamp_min(radius))
    return projected


class _Chain(PlainSteps):
    """Steps and denoiser of one chain, which add up the gradient of the prompt on the way.

    Args:
        data_step, noise: as in `PlainSteps`.
        network: on the torch runtime.
        first: the prompt that the search begins with.
        sides: height and width of the image.

    Attributes:
        prompt: where the search stands, (1, tokens, width).
        total: its gradient, normalised token by token, over all chains so far.
    """

    def __init__(
        self,
        data_step: DataStep,
        noise: NoiseStream,
        network: LatentNetwork,
        first: Conditioning,
        sides: tuple[int, int],
    ) -> None:
        super().__init__(data_step, noise)
        self.prompt = first.prompt.to(network.device).clone()
        self.total = torch.zeros_like(self.prompt)
        self._network = network
        self._pooled = first.pooled
        self._sides = sides
        self._offset = 0
        self._expected: Tensor | None = None  # z0_hat with its graph
        self._leaf: Tensor | None = None

    def begin(self, offset: int) -> None:
        """Start a chain whose noises begin at a position of the stream."""
        self._offset, self._expected = offset, None

    def denoise(self, z: Tensor, sigma: Scalar) -> Tensor:
        """D(z0_hat(c)), remembering how z0_hat depends on c."""
        with torch.enable_grad():
            self._leaf = self.prompt.detach().requires_grad_(True)
            told = Conditioning(self._leaf, self._pooled)
            self._expected = self._network.z0_hat(z, sigma, told)
        return self._network.decode(self._expected.detach(), *self._sides)

    def propose(self, x: Tensor, x_t: Tensor | None, inner: InnerStep) -> Tensor:
        """E(z) + sigma_k eps, z the prox; with a z0_hat before it, its gradient is added up."""
        clean, scale = self._network.encode(self.prox_of(x, x_t, inner)), inner.noise_scale
        noisy = self.noise.langevin(clean, scale, self._offset + inner.noise_step)
        if self._expected is not None and self._leaf is not None:
            with torch.enable_grad():
                misfit = (noisy - self._expected).square().sum()
                objective = -0.5 * misfit / float(torch.as_tensor(scale).max()) ** 2
                gradient = torch.autograd.grad(objective, self._leaf)[0]
            norm = gradient.norm(dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
            self.total = self.total + gradient / norm
        return noisy


@contextmanager
def _checkpointing(network: LatentNetwork, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing in the U-Net for the length of the block."""
    assert isinstance(network.runtime, TorchLatentRuntime)
    unet = network.runtime.model.unet
    if not wanted:
        yield
        return
    unet.enable_gradient_checkpointing()  # type: ignore[operator]
    unet.train()  # diffusers checkpoints in training mode alone; it has no dropout here
    try:
        yield
    finally:
        unet.eval()
        unet.disable_gradient_checkpointing()  # type: ignore[operator]
