"""The objectives of distillation against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from blobs import blob_images, distillation
from tiny import tiny_prior

import latino_engine as le
from latino_engine.distill.objectives import EnergyObjective, energy_loss
from latino_engine.distill.operator_draws import draw_operator, parse_draws
from latino_engine.distill.option_checks import check_options
from latino_engine.distill.paper_objective import Discriminator, PaperObjective, outer_times
from latino_engine.distill.unfolded import TrainingBatch, TrainingStream, Unfolded
from latino_engine.errors import BackendNotAvailable, InvalidArgument, TrainingStopped
from latino_engine.evaluation import perceptual
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.sampling.problem import make_problem


def unfolded(prior=None, sigmas=(2.0, 0.4), unfold=2, **more):
    fixed = {"targets": "all-conv", "rank": 2, "alpha": 2.0, "seed": 0, "c": 1.0, "zeta": 0.9}
    kinds = ("Blur", "Inpainting")
    prior = prior or tiny_prior(1)
    return Unfolded(prior, sigmas, unfold, kinds, **{**fixed, "checkpointing": False, **more})


def batch_of(count=3, noise_std=0.1, seed=4):
    x = torch.from_numpy(blob_images(count)).float() / 127.5 - 1.0
    op = le.Blur.uniform(3, noise_std)
    problem = make_problem(op.measure((x + 1) / 2), op, tiny_prior(1).spec, None, "cpu")
    return TrainingBatch(x, problem, torch.arange(count), seed, 0)


def test_energy_loss_by_hand():
    samples = torch.tensor([0.0, 4.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2)
    x = torch.ones(1, 1, 2, 2)
    # Distances over four pixels to 1: 2 and 6; between the two: 8; divided by sqrt(4).
    whole = (0.5 * (2 + 6) - 0.5 * 8) / 2
    pixel = 0.5 * (1 + 3) - 0.5 * 4
    assert float(energy_loss(samples, x, ())) == pytest.approx(whole, abs=1e-3)
    assert float(energy_loss(samples, x, (1, 9))) == pytest.approx((whole + pixel) / 2, abs=1e-3)
    shifted = samples + 1.0
    assert float(energy_loss(shifted, x, ())) == pytest.approx((0.5 * (0 + 8) - 4) / 2, abs=1e-3)


def test_the_exponent_by_hand():
    samples = torch.tensor([0.0, 4.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2)
    x = torch.ones(1, 1, 2, 2)
    # Distances over four pixels to 1: 2 and 6; between the two: 8; their roots by that of sqrt(4).
    whole = (0.5 * (2**0.5 + 6**0.5) - 0.5 * 8**0.5) / 2**0.5
    assert float(energy_loss(samples, x, (), 0.5)) == pytest.approx(whole, abs=1e-3)
    plain = (0.5 * (2 + 6) - 0.5 * 8) / 2
    assert float(energy_loss(samples, x, (), 0.5, 1.0)) == pytest.approx(plain, abs=1e-3)
    pixel = 0.5 * (1 + 3**0.5) - 0.5 * 4**0.5
    both = float(energy_loss(samples, x, (1,), 0.5, 1.0))
    assert both == pytest.approx((plain + pixel) / 2, abs=1e-3)


@pytest.mark.parametrize("name", ["exponent", "image_exponent"])
def test_an_exponent_of_a_proper_score(name):
    with pytest.raises(InvalidArgument) as caught:
        check_options(distillation("images", **{name: 2.0}), None)
    assert str(caught.value) == (
        f"{name}: expected a number above 0 and below 2, got 2.0; 1 is the energy score"
    )


@pytest.mark.parametrize(
    "exponent, image_exponent", [(0.5, None), (1.0, None), (1.5, None), (0.5, 1.0)]
)
def test_energy_loss_is_lowest_at_the_posterior(exponent, image_exponent):
    generator = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(20000, 1, 2, 2, generator=generator)

    def loss(mean, std):
        own = torch.Generator().manual_seed(1)
        samples = mean + std * torch.randn(2, *x.shape, generator=own)
        return float(energy_loss(samples, x, (1, 2), exponent, image_exponent))

    right = loss(0.0, 0.5)
    assert all(right < loss(*wrong) - 1e-3 for wrong in [(0, 0.3), (0, 0.8), (0.2, 0.5)])


def test_the_patches_see_every_pixel():
    x = torch.zeros(1, 2, 8, 8)
    for row, column in [(0, 0), (7, 7), (3, 5)]:
        samples = torch.zeros(2, 1, 2, 8, 8)
        samples[:, 0, 1, row, column] = 1.0
        alone = energy_loss(samples, x, (4,)) * 2 - energy_loss(samples, x, ())
        assert float(alone) > 0.01


def test_training_runs_the_sampler_of_inference(tmp_path):
    prior = tiny_prior(1)
    from latino_engine.priors.adapters import Adapter

    model, batch = unfolded(prior), batch_of()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape).to(parameter.dtype)
        index = torch.arange(3)
        trained = model(batch, index, 0 * index)
    schedule, weights = model.learned_schedule(), model.adapter_weights()
    adapter = Adapter("a", "tiny", prior.content_hash(), schedule, weights, 1.0)
    engine = le.compile(prior, tmp_path / "e.engine", "torch", adapter=adapter)
    op, y = batch.problem.operator, batch.problem.y
    post = engine.sample(y, op, num_samples=1, seed=batch.seed)
    found = 2.0 * post.samples[0] - 1.0
    assert float((found - trained).norm() / trained.norm()) < 1e-4


def test_the_stream_of_training_is_the_stream_of_inference():
    z, scale = torch.randn(2, 1, 6, 5), torch.tensor([0.3, 2.0], dtype=torch.float64)
    ids = (torch.tensor([3, 9]), torch.tensor([0, 1]))
    expected = NoiseStream(7, *ids).langevin(z, scale, 5)
    assert torch.allclose(TrainingStream(7, *ids).langevin(z, scale, 5), expected, atol=1e-6)


def test_step_sizes_receive_gradients():
    model, batch = unfolded(), batch_of()
    index = torch.arange(3)

    def value():
        drawn = model(batch, index, 0 * index)
        return (drawn * torch.linspace(-1, 1, 16)).mean()

    value().backward()
    sizes = model.steps["Blur"]
    for parameter in (sizes.log_r, sizes.log_d, sizes.log_lam):
        for n, k in [(0, 1), (1, 0)]:
            moved = []
            for change in (1e-2, -1e-2):
                with torch.no_grad():
                    parameter[n, k] += change
                    moved.append(float(value()))
                    parameter[n, k] -= change
            slope = (moved[0] - moved[1]) / 2e-2
            assert float(parameter.grad[n, k]) == pytest.approx(slope, rel=0.05, abs=2e-6)
    assert model.steps["Inpainting"].log_r.grad is None


def test_checkpointing_changes_no_gradient():
    grads = []
    for checkpointing in (False, True):
        model, batch = unfolded(checkpointing=checkpointing), batch_of()
        EnergyObjective(2, (1,)).loss(model, batch).backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 10
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*grads, strict=True))


def test_autocast_is_close_to_float32():
    losses = [
        float(EnergyObjective(2, (1,)).loss(unfolded(autocast=on), batch_of()).detach())
        for on in (False, True)
    ]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


class Options:
    adversarial, noise_mse, noise_mse_cutoff, perceptual = 0.0, 1.0, 3.0, 0.0
    perceptual_network, gradient_penalty, discriminator_rate, seed = "pyramid", 1.0, 1e-3, 0

    def __init__(self, **more):
        self.__dict__.update(more)


def paper(**more):
    return PaperObjective(Options(**more), 1, torch.device("cpu"), lambda parameters: None)


def test_noise_mse_is_cut_off_at_small_times():
    model, batch = unfolded(), batch_of(8)
    objective = paper()
    loss = float(objective.loss(model, batch).detach())
    levels = outer_times(batch, 2)
    assert set(levels.tolist()) == {0, 1}  # one time per image
    error = (objective._drawn - batch.x).square().flatten(1).mean(dim=1)
    weights = torch.tensor([min(1 / 2.0**2, 3.0), min(1 / 0.4**2, 3.0)])[levels]
    assert weights.unique().tolist() == [0.25, 3.0]
    assert loss == pytest.approx(float((weights * error).mean()), rel=1e-5)


def test_outer_times_do_not_depend_on_the_company():
    whole = batch_of(8)
    part = TrainingBatch(whole.x[2:5], whole.problem, torch.arange(2, 5), whole.seed, 0)
    assert torch.equal(outer_times(whole, 3)[2:5], outer_times(part, 3))


def test_the_discriminator_learns_and_its_penalty_pulls_to_zero():
    batch = batch_of(8)

    def slope_after(penalty):
        objective = paper(adversarial=1.0, gradient_penalty=penalty, discriminator_rate=3e-3)
        objective._drawn = torch.zeros_like(batch.x)
        for _ in range(40):
            objective.update(batch)
        true = batch.x.clone().requires_grad_(True)
        real = objective.discriminator(true, batch.problem.x_init)
        fake = objective.discriminator(objective._drawn, batch.problem.x_init)
        (slope,) = torch.autograd.grad(real.mean(), true)
        return float((real.mean() - fake.mean()).detach()), float(slope.norm())

    free, held = slope_after(0.0), slope_after(300.0)
    assert free[0] > 2.0  # logits apart: no sigmoid holds them in (0, 1)
    assert held[1] < 0.3 * free[1]


def test_the_discriminator_judges_the_pair():
    discriminator = Discriminator(1)
    x, start = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)
    assert discriminator(x, start).shape == (2, 1, 2, 2)
    assert not torch.allclose(discriminator(x, start), discriminator(x, start.flip(0)))


def test_every_term_of_the_paper_counts():
    model, batch = unfolded(), batch_of(4)
    base = float(paper().loss(model, batch).detach())
    for more in ({"perceptual": 1.0}, {"adversarial": 1.0}, {"noise_mse": 2.0}):
        assert abs(float(paper(**more).loss(model, batch).detach()) - base) > 1e-3
    with pytest.raises(InvalidArgument, match="perceptual: expected a weight of at least 0"):
        paper(perceptual=-1.0)


def test_pyramid_distance():
    a = torch.rand(2, 3, 24, 20)
    assert float(perceptual.pyramid_distance(a, a)) == 0.0
    assert float(perceptual.pyramid_distance(a, a + 0.5)) == pytest.approx(0.5, rel=1e-5)
    noise = 0.1 * torch.randn(a.shape)
    fine = perceptual.pyramid_distance(a, a + noise)
    assert float(fine) > float(noise.abs().mean())  # detail counts besides the mean
    assert perceptual.perceptual_distance("pyramid")[0] == "pyramid"
    with pytest.raises(InvalidArgument, match="perceptual_network"):
        perceptual.perceptual_distance("vgg")


def test_lpips_is_never_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(perceptual.util, "find_spec", lambda name: object())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-of-another-release.pth").touch()
    assert perceptual.perceptual_distance("auto")[0] == "pyramid"
    with pytest.raises(BackendNotAvailable, match=r"weights alexnet.*got none.*'pyramid'"):
        perceptual.perceptual_distance("lpips")
    monkeypatch.setattr(perceptual.util, "find_spec", lambda name: None)
    with pytest.raises(BackendNotAvailable, match="expected the package lpips"):
        perceptual.perceptual_distance("lpips")


@pytest.mark.parametrize("text", ["sr:factor=2..4", "sr:factor=0..2", "inpaint:random=0.5..1.5"])
def test_no_value_of_a_range_stops_a_run_later(text):
    with pytest.raises(InvalidArgument):
        parse_draws([text], "0.1").kinds(16, 1)


def test_a_range_of_whole_numbers_is_tried_with_each():
    assert parse_draws(["sr:factor=1..2", "jpeg:quality=5..95"], "0.1").kinds(16, 1) == (
        "SuperResolution",
        "JPEG",
    )


def test_a_discriminator_that_is_not_finite_is_refused_and_stays_as_it_was():
    objective, batch = paper(adversarial=0.1), batch_of()
    objective.loss(unfolded(), batch)
    before = [p.detach().clone() for p in objective.discriminator.parameters()]
    objective._drawn = objective._drawn * torch.nan
    with pytest.raises(TrainingStopped, match="discriminator: expected a finite loss"):
        objective.update(batch)
    assert all(map(torch.equal, before, objective.discriminator.parameters()))


def test_operators_are_drawn_from_ranges():
    draws = parse_draws(["blur:std=0.8..3,size=9", "sr:factor=2|4"], "0.01..0.1")
    assert draws.kinds(16, 1) == ("Blur", "SuperResolution")
    seen = [draws.draw(4, 16, seed=1, step=step) for step in range(60)]
    assert {type(op).__name__ for op in seen} == {"Blur", "SuperResolution"}
    assert {op.factor for op in seen if isinstance(op, le.SuperResolution)} == {2, 4}
    peaks = {round(float(op.kernel.max()), 6) for op in seen if isinstance(op, le.Blur)}
    assert len(peaks) > 10
    levels = torch.cat([op.noise_std for op in seen])
    assert 0.01 <= float(levels.min()) < 0.02 and 0.09 < float(levels.max()) <= 0.1
    again = draws.draw(4, 16, seed=1, step=7)
    assert torch.equal(again.noise_std, seen[7].noise_std) and repr(again) == repr(seen[7])
    assert not torch.equal(draws.draw(4, 16, seed=2, step=7).noise_std, seen[7].noise_std)


def test_masks_differ_from_image_to_image():
    random = np.random.default_rng(0)
    for text in ("inpaint:random=0.2..0.8", "inpaint:box"):
        masks = draw_operator(text, 0.1, 6, 16, random).mask
        assert masks.shape == (6, 1, 16, 16)
        assert len({mask.numpy().tobytes() for mask in masks}) == 6
    shares = 1 - masks.mean(dim=(1, 2, 3))
    assert float(shares.min()) >= 0.25**2 and float(shares.max()) <= 0.5**2
    fixed = draw_operator("inpaint:box=8", 0.1, 6, 16, random).mask
    assert fixed.shape == (1, 1, 16, 16) and float(fixed.sum()) == 256 - 64


@pytest.mark.parametrize(
    ("operators", "noise_std", "sentence"),
    [
        ([], "0.1", "operator: expected at least one forward model"),
        (["blur:std=1"], "0.1..0.01", "noise_std: expected a number above 0"),
        (["blur:std=1"], "none", "noise_std: expected a number above 0"),
        (["blur:std=3..1"], "0.1", "operator blur, std: expected a range low..high"),
        (["blurr:std=1"], "0.1", "did you mean 'blur'"),
        (["sr:factor=2|x"], "0.1", "operator sr, factor"),
    ],
)
def test_descriptions_that_cannot_be_read(operators, noise_std, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        draws = parse_draws(operators, noise_std)
        for step in range(20):
            draws.draw(2, 16, seed=0, step=step)


def test_options_have_the_defaults_of_the_documentation():
    options = distillation("x.npy")
    assert (options.objective, options.c, options.num_samples) == ("energy", 1.0, 2)
    assert math.isclose(options.zeta, 0.9)
