"""LATINO in a latent space, against plain loops of diffusers with the same noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deepinv_stand_in import Halved, Pair, Photons
from latent_cases import TIMES, PlainLoop, torch_engine
from tiny_pipelines import save_sdxl, save_stable_diffusion

import latino_engine as le
from latino_engine.compilation.accuracy import BOUNDS
from latino_engine.compilation.latent import latent_errors
from latino_engine.priors.latent.latent_schedule import (
    DELTAS,
    PRO_DELTAS,
    PromptSearch,
    latent_times,
    problem_name,
)
from latino_engine.priors.latent.prior import LatentPrior, latent_in_precision, time_of
from latino_engine.runtimes.latent import TorchLatentRuntime, open_latent
from latino_engine.sampling.latent_prompts import project_on_ball

pytestmark = pytest.mark.usefixtures("one_thread")  # tiny tensors

PROMPT = "a photo of a cat"
LOOP = 1e-4  # relative, over a whole chain of 8 evaluations


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    return {"sd": save_stable_diffusion(folder / "sd"), "sdxl": save_sdxl(folder / "sdxl")}


@pytest.fixture(scope="module")
def priors(pipelines: dict[str, Path]) -> dict[str, LatentPrior]:
    found = {name: le.load_prior(path, prompt=PROMPT) for name, path in pipelines.items()}
    assert all(isinstance(prior, LatentPrior) for prior in found.values())
    return found  # type: ignore[return-value]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_samples_equal_the_published_loop(priors: dict[str, LatentPrior], name: str) -> None:
    x = torch.rand(1, 3, 24, 32)
    op = le.Blur.gaussian(1.2, 0.05)
    y = op.measure(x, seed=3)

    def delta(time: int, residual: torch.Tensor) -> torch.Tensor:
        return (5e-4 if time > 400 else 2e-4) * residual

    loop = PlainLoop(priors[name], op, y, delta)
    post = torch_engine(priors[name]).sample(y, op, num_samples=2, seed=5)
    prompt = priors[name].conditioning.prompt
    for sample in range(2):
        expected = loop.sample(op.initial_estimate(y), prompt, 5, sample)
        assert relative(post.samples[sample], expected) < LOOP
    assert post.nfe == 8
    assert relative(post.samples[0], post.samples[1]) > 100 * LOOP


def test_inpainting_takes_delta_as_it_is(priors: dict[str, LatentPrior]) -> None:
    mask = (torch.rand(24, 24) < 0.5).float()
    op = le.Inpainting(mask, 0.02)
    y = op.measure(torch.rand(1, 3, 24, 24), seed=1)
    loop = PlainLoop(priors["sd"], op, y, lambda t, r: torch.tensor(1.0 if t > 500 else 0.5))
    post = torch_engine(priors["sd"]).sample(y, op, num_samples=1, seed=9)
    expected = loop.sample(op.initial_estimate(y), priors["sd"].conditioning.prompt, 9, 0)
    assert relative(post.samples[0], expected) < LOOP


def test_a_sample_depends_on_its_identity_alone(priors: dict[str, LatentPrior]) -> None:
    engine, op = torch_engine(priors["sd"]), le.Denoising(0.1)
    y = op.measure(torch.rand(2, 3, 22, 18), seed=1)  # sides that are padded
    both = engine.sample(y, op, num_samples=2, seed=4)
    alone = engine.sample(y[1:], op, num_samples=1, seed=4, image_ids=[1])
    assert relative(alone.samples[0, 0], both.samples[0, 1]) < 2e-5
    assert both.samples.shape == (2, 2, 3, 22, 18)


def test_the_prompt_matters(pipelines: dict[str, Path], priors: dict[str, LatentPrior]) -> None:
    empty = le.load_prior(pipelines["sd"])
    z = torch.randn(1, 4, 8, 8)
    told = priors["sd"].denoise_latent(z, 2.0)
    assert relative(empty.denoise_latent(z, 2.0), told) > 1e-4
    assert empty.content_hash() != priors["sd"].content_hash()


def test_predictions_agree_with_the_scheduler(priors: dict[str, LatentPrior]) -> None:
    from diffusers import LCMScheduler

    prior = priors["sd"]
    table = prior.spec.sigma_table
    assert table is not None
    z = torch.randn(1, 4, 8, 8)
    for kind in ("epsilon", "v_prediction", "sample"):
        scheduler = LCMScheduler(prediction_type=kind)
        scheduler.set_timesteps(timesteps=list(TIMES))
        model = prior.model
        before = model.facts
        model.facts = {**before, "prediction_type": kind}
        try:
            found = prior.denoise_latent(z, table[374])
        finally:
            model.facts = before
        scaled = z * scheduler.alphas_cumprod[374].sqrt()
        with torch.no_grad():
            out = model.unet(scaled, 374, encoder_hidden_states=prior.conditioning.prompt).sample
        assert relative(found, scheduler.step(out, 374, scaled).denoised) < 1e-5


def test_times_and_step_sizes_are_the_published_ones(priors: dict[str, LatentPrior]) -> None:
    assert latent_times(None) == TIMES and latent_times(4) == (999, 749, 499, 249)
    table = torch.tensor(priors["sd"].spec.sigma_table, dtype=torch.float64)
    assert time_of(priors["sd"].spec, table[list(TIMES)]).tolist() == list(TIMES)
    assert DELTAS["sr16"].factor(374) == 0.3 and DELTAS["sr16"].factor(249) == 0.2
    assert DELTAS["inpainting"].factor(499) == 0.5
    assert problem_name(le.SuperResolution(16, 0.01)) == "sr16"
    assert problem_name(le.SuperResolution(32, 0.1), pro=True) == "sr32-noisy"
    assert problem_name(le.Blur.gaussian(3.0, 0.01)) == "gaussian"
    assert problem_name(le.Blur.gaussian(12.0, 0.01, size=101)) == "gaussian-wide"
    assert problem_name(le.Inpainting(torch.ones(4, 4), 0.1), pro=True) == "other"
    search = PromptSearch()
    assert search.updates == 15 and search.step_size(0) == 0.08 == search.step_size(10)
    assert search.step_size(12) == pytest.approx(0.08 * 0.81)


def test_delta_may_be_given(priors: dict[str, LatentPrior]) -> None:
    engine, op = torch_engine(priors["sd"]), le.Denoising(0.1)
    y = op.measure(torch.rand(1, 3, 16, 16), seed=1)
    one = engine.sample(y, op, num_samples=1, steps=2, delta=0.3).samples
    row = engine.sample(y, op, num_samples=1, steps=2, delta=[0.3, 0.3]).samples
    assert torch.equal(one, row)
    named = engine.sample(y, op, num_samples=1, steps=2, delta="inpainting").samples
    assert not torch.equal(one, named)


def _one_update(prior: LatentPrior, op: le.Blur, y: torch.Tensor, seed: int) -> torch.Tensor:
    """The prompt after one update of the search, by diffusers and autograd alone."""
    rule = PRO_DELTAS["gaussian-noisy"][0]
    loop = PlainLoop(prior, op, y, lambda t, r: rule.factor(t) * r)
    scheduler, times = loop.scheduler, PromptSearch().times
    scheduler.set_timesteps(timesteps=list(times))
    first = prior.conditioning.prompt
    total = torch.zeros_like(first)
    x = loop.start(op.initial_estimate(y))
    expected, leaf = None, first
    for k, time in enumerate(times):
        with torch.no_grad():
            mean = loop.encode(x)
        eps = loop.noise(mean, seed, 0, 0, 2**16 + 1 + k)
        z = scheduler.add_noise(mean, eps, torch.tensor([time]))
        if expected is not None:
            abar = scheduler.alphas_cumprod[time]
            loss = -0.5 / (1 - abar) * (z - abar.sqrt() * expected).square().sum()
            gradient = torch.autograd.grad(loss, leaf)[0]
            total += gradient / gradient.norm(dim=-1, keepdim=True)
        leaf = first.clone().requires_grad_(True)
        expected = loop.z0(z, time, leaf, tuple(x.shape[-2:]))
        with torch.no_grad():
            x = loop.data_step(expected, time)
    total[:, :4] = 0.0
    return first + 0.08 * total


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_prompt_search_equals_a_plain_update(priors: dict[str, LatentPrior], name: str) -> None:
    op = le.Blur.gaussian(1.2, 0.06)
    y = op.measure(torch.rand(1, 3, 16, 16), seed=3)
    engine = torch_engine(priors[name])
    options = {"num_samples": 1, "seed": 6, "sampler": "latino-pro", "steps": 2}
    post = engine.sample(y, op, **options, prompt_updates=1)
    expected = _one_update(priors[name], op, y, 6)
    first = priors[name].conditioning.prompt
    assert post.prompt_embedding is not None
    assert relative(post.prompt_embedding - first, expected - first) < 1e-3
    assert torch.equal(post.prompt_embedding[:, :4], first[:, :4])
    saved = engine.sample(y, op, **options, prompt_updates=1, checkpoint_gradients=True)
    assert relative(saved.samples, post.samples) < 1e-4
    assert post.about["prompt_updates"] == 1 and post.about["prompt_nfe"] == 4
    assert "prompt_embedding" not in post.summary()


def test_each_image_has_its_own_prompt(priors: dict[str, LatentPrior]) -> None:
    op = le.Denoising(0.1)
    y = op.measure(torch.rand(2, 3, 16, 16), seed=3)
    engine = torch_engine(priors["sd"])
    options = {"num_samples": 1, "sampler": "latino-pro", "steps": 2, "prompt_updates": 2}
    both = engine.sample(y, op, **options)
    alone = engine.sample(y[1:], op, image_ids=[1], **options)
    assert both.prompt_embedding is not None and alone.prompt_embedding is not None
    assert not torch.equal(both.prompt_embedding[0], both.prompt_embedding[1])
    assert relative(alone.prompt_embedding[0], both.prompt_embedding[1]) < 1e-4


def test_prompt_search_keeps_the_engines_delta(priors: dict[str, LatentPrior]) -> None:
    op = le.Denoising(0.1)
    y = op.measure(torch.rand(1, 3, 16, 16), seed=3)
    engine = torch_engine(priors["sd"])
    options = {"num_samples": 1, "sampler": "latino-pro", "steps": 2, "prompt_updates": 1}
    given = engine.sample(y, op, **options, delta=0.3).samples
    assert torch.equal(engine.with_delta(0.3).sample(y, op, **options).samples, given)
    assert not torch.equal(engine.sample(y, op, **options).samples, given)


def _halved(noise_std: float) -> le.LinearOperator:
    return le.LinearOperator(lambda x: 0.5 * x, lambda y: 0.5 * y, noise_std)


@pytest.mark.parametrize("sampler", ["latino", "latino-pro"])
@pytest.mark.parametrize("kind", ["counts", "stacked"])
def test_physics_of_deepinv(priors: dict[str, LatentPrior], sampler: str, kind: str) -> None:
    """Counts and stacked measurements as deepinv gives them, and the same by our own operators."""
    engine = torch_engine(priors["sd"])
    options = {"num_samples": 1, "steps": 2, "sampler": sampler}
    if sampler == "latino-pro":
        options["prompt_updates"] = 2
    x = torch.rand(2, 3, 16, 16)
    if kind == "counts":
        op = le.PoissonNoise(_halved(0.0), peak=10.0)
        y = op.measure(x, seed=3)
        found = engine.sample(10.0 * y, Photons(), **options)
        expected = engine.sample(y, op, **options)
    else:
        op = le.Stack([_halved(0.1), _halved(0.1)], (3, 16, 16))
        parts = op.split(op.measure(x, seed=3))
        found = engine.sample(parts, Pair(), **options)
        expected = engine.sample(parts, op, **options)
    assert relative(found.samples, expected.samples) < LOOP
    assert bool(torch.isfinite(found.samples).all())
    if sampler == "latino-pro":
        assert found.prompt_embedding is not None and expected.prompt_embedding is not None
        assert relative(found.prompt_embedding, expected.prompt_embedding) < LOOP


def test_prompt_search_takes_any_linear_physics(priors: dict[str, LatentPrior]) -> None:
    engine = torch_engine(priors["sdxl"])
    options = {"num_samples": 1, "steps": 2, "sampler": "latino-pro", "prompt_updates": 1}
    y = _halved(0.1).measure(torch.rand(1, 3, 16, 16), seed=3)
    found = engine.sample(y, Halved(), **options)
    expected = engine.sample(y, _halved(0.1), **options)
    assert relative(found.samples, expected.samples) < LOOP


def test_projection_keeps_every_token_in_its_ball() -> None:
    centre = torch.randn(1, 5, 8)
    far = centre + 10.0 * torch.randn(1, 5, 8)
    found = project_on_ball(far, centre, 2.0)
    assert (found - centre).norm(dim=-1).max() <= 2.0 + 1e-5
    near = centre + 0.01
    assert torch.allclose(project_on_ball(near, centre, 2.0), near)


def test_a_latent_prior_is_saved_and_read(priors: dict[str, LatentPrior], tmp_path: Path) -> None:
    for name, prior in priors.items():
        le.save_prior(prior, tmp_path / name)
        again = le.load_prior(tmp_path / name)
        assert isinstance(again, LatentPrior)
        assert again.content_hash() == prior.content_hash()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_weights_stay_as_they_are(
    pipelines: dict[str, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(pipelines["sd"], safety_checker=None)
    pipeline.to(dtype=dtype).save_pretrained(tmp_path / "half")
    kept = le.load_latent_prior(tmp_path / "half", keep_half=True)
    assert {p.dtype for p in kept.denoiser.parameters()} == {dtype}
    le.save_prior(kept, tmp_path / "ours")
    again = le.load_prior(tmp_path / "ours")
    assert {p.dtype for p in again.denoiser.parameters()} == {dtype}
    assert again.content_hash() == kept.content_hash()
    full = le.load_latent_prior(tmp_path / "half")
    assert {p.dtype for p in full.denoiser.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_within_its_bound(pipelines: dict[str, Path], precision: str) -> None:
    prior = le.load_latent_prior(pipelines["sd"], PROMPT)
    whole = prior.model
    kept = latent_in_precision(whole, precision)
    assert kept.vae.dtype == torch.float32  # it says force_upcast, as SDXL's
    whole.vae.register_to_config(force_upcast=False)
    half = latent_in_precision(whole, precision)
    assert half.unet.dtype == half.vae.dtype != torch.float32
    errors = latent_errors(TorchLatentRuntime(half, "cpu"), prior, whole)
    assert all(1e-5 < error <= BOUNDS[precision] for error in errors.values()), errors
    y = torch.rand(1, 3, 16, 16)
    engine = torch_engine(prior)
    engine.network.runtime = TorchLatentRuntime(half, "cpu")
    post = engine.sample(y, le.Denoising(0.1), num_samples=1, steps=2)
    assert post.samples.dtype == torch.float32 and bool(torch.isfinite(post.samples).all())


def test_onnxruntime_has_no_bfloat16(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^precision: expected one of fp32, fp16 for the backend"):
        open_latent("onnxruntime", tmp_path, "bf16", None, None)
