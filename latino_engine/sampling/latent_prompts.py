"""LATINO-PRO's search of the prompt: stochastic approximation proximal gradient.

The prompt embedding c of each image climbs the marginal likelihood p(y | c): between two updates a
chain of LATINO draws latents from p(z | y, c), and the gradient of log p(z_next | z0_hat(c)) = -
||z_next - z0_hat(c)||^2 / (2 sigma_next^2) with respect to c, normalised token by token, is added
up (Fisher's identity). An update is a step along that sum, projected on a ball around the first c.

Source: LATINO (arXiv:2503.12615), Alg. 2, with the step sizes of the authors' public code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.latent_engine import LatentEngine
from latino_engine.operators.protocol import Operator
from latino_engine.ops.philox import search_position
from latino_engine.priors.latent.latent_schedule import (
    PRO_DELTAS,
    DeltaRule,
    PromptSearch,
    problem_name,
)
from latino_engine.priors.latent.prior import Conditioning
from latino_engine.runtimes.latent import TorchLatentRuntime
from latino_engine.sampler import sample_posterior
from latino_engine.sampling.checks import check_image_ids
from latino_engine.sampling.latent_chunks import decode, encode, latent_data_step, z0_hat
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.sampling.problem import Init, Measurement, Problem, make_problem
from latino_engine.sampling.threads import torch_threads
from latino_engine.schedule import Scalar

_SMALLEST_NORM = 1e-12  # a token without any gradient stays


@dataclass(frozen=True)
class FoundPrompts:
    """What the search found.

    Attributes:
        conditioning: one prompt for each image.
        start: the last image of each chain, (B, C, H, W), public units.
        operator: what y was measured by; a physics of deepinv as an operator of this package.
        time_ms: of the whole search.
    """

    conditioning: Conditioning
    start: Tensor
    operator: Operator
    time_ms: float


def search_prompts(
    engine: LatentEngine,
    y: Measurement,
    op: Operator | torch.nn.Module,
    seed: int,
    init: Init,
    image_ids: Sequence[int] | Tensor | None,
    search: PromptSearch,
    checkpoint_gradients: bool,
) -> FoundPrompts:
    """The prompt embedding of each image, image by image, so that memory is that of one.

    Args:
        engine: on the torch runtime; its conditioning is where the search begins.
        y, op, seed, init, image_ids: as in `LatentEngine.sample`.
        search: the step sizes.
        checkpoint_gradients: as in `LatentEngine.sample`.
    """
    begin = time.perf_counter()
    seed = ops.check_seed(seed)
    with (
        torch.no_grad(),
        torch_threads(engine.threads),
        _checkpointing(engine, checkpoint_gradients),
    ):
        problem = make_problem(y, op, engine.spec, init, engine.device)
        if engine.delta is None:
            engine = engine.with_delta(PRO_DELTAS[problem_name(problem.operator, pro=True)][0])
        ids = check_image_ids(image_ids, problem.y.shape[0])
        found = [
            _search_one(engine, problem, torch.tensor([b]), ids, seed, search)
            for b in range(len(ids))
        ]
    prompts = torch.cat([prompt for prompt, _ in found]).cpu()
    x = torch.cat([image for _, image in found])
    pooled = engine.conditioning.take(torch.arange(len(ids))).pooled
    start = (x - engine.spec.offset) / engine.spec.scale
    elapsed = 1e3 * (time.perf_counter() - begin)
    return FoundPrompts(Conditioning(prompts, pooled), start, problem.operator, elapsed)


def _search_one(
    engine: LatentEngine,
    problem: Problem,
    index: Tensor,
    image_ids: Tensor,
    seed: int,
    search: PromptSearch,
) -> tuple[Tensor, Tensor]:
    """(prompt (1, tokens, width), last image (1, C, H, W) in internal units) of one image."""
    rule = engine.rule(problem.operator)
    by_residual = isinstance(rule, DeltaRule) and rule.by_residual
    data_step = latent_data_step(problem, index, by_residual)
    schedule = engine.builder(problem.operator, search.times)(problem.sigma_of(index))
    first = engine.conditioning.take(index)
    chain = _Chain(engine, first, NoiseStream(seed, image_ids[index], torch.zeros_like(index)))
    x = problem.x_init[index]
    chain.size = (x.shape[-2], x.shape[-1])
    for update in range(search.updates):
        chain.begin(search_position(update))
        x = sample_posterior(x, schedule, data_step, chain.denoise, chain)
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


class _Chain:
    """Noise and denoiser of one chain, which add up the gradient of the prompt on the way."""

    def __init__(self, engine: LatentEngine, first: Conditioning, stream: NoiseStream) -> None:
        self._engine = engine
        self._pooled = first.pooled
        self._stream = stream
        self._offset = 0
        self._expected: Tensor | None = None  # z0_hat with its graph
        self._leaf: Tensor | None = None
        self.size = (0, 0)
        self.prompt = first.prompt.to(engine.device).clone()
        self.total = torch.zeros_like(self.prompt)

    def begin(self, offset: int) -> None:
        """Start a chain whose noises begin at a position of the stream."""
        self._offset, self._expected = offset, None

    def denoise(self, z: Tensor, sigma: Scalar) -> Tensor:
        """D(z0_hat(c)), remembering how z0_hat depends on c."""
        engine = self._engine
        with torch.enable_grad():
            self._leaf = self.prompt.detach().requires_grad_(True)
            told = Conditioning(self._leaf, self._pooled)
            self._expected = z0_hat(engine.networks, engine.spec, z, sigma, told)
        return decode(engine.networks, self._expected.detach(), *self.size)

    def langevin(self, z: Tensor, scale: Scalar, step: int) -> Tensor:
        """E(z) + scale * eps; with a z0_hat before it, its gradient is added up."""
        clean = encode(self._engine.networks, self._engine.spec, z)
        noisy = self._stream.langevin(clean.contiguous(), scale, self._offset + step)
        if self._expected is not None and self._leaf is not None:
            with torch.enable_grad():
                misfit = (noisy - self._expected).square().sum()
                objective = -0.5 * misfit / float(torch.as_tensor(scale).max()) ** 2
                gradient = torch.autograd.grad(objective, self._leaf)[0]
            norm = gradient.norm(dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
            self.total = self.total + gradient / norm
        return noisy

    def inner(self, *_: object) -> Tensor:
        """Never called: the data step takes no noise along."""
        raise AssertionError

    def reverse(self, *_: object) -> Tensor:
        """Never called: LATINO has no x_t."""
        raise AssertionError


@contextmanager
def _checkpointing(engine: LatentEngine, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing in the U-Net for the length of the block."""
    assert isinstance(engine.networks, TorchLatentRuntime)
    unet = engine.networks.model.unet
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
