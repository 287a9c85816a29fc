"""Folders of diffusers: every schedule and prediction against diffusers' own numbers."""

from __future__ import annotations

import json
import os

import pytest
import torch

import latino_engine as le
from latino_engine.errors import InvalidArgument, PriorInvalid

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


def saved(tmp_path, unet, scheduler, layout="parts", **weights):
    folder = tmp_path / "pipeline"
    if layout == "index":
        diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder, **weights)
    elif layout == "parts":
        unet.save_pretrained(folder / "unet", **weights)
        scheduler.save_pretrained(folder / "scheduler")
    else:
        unet.save_pretrained(folder, **weights)
        scheduler.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", ["index", "parts", "bare"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_folder_with_or_without_an_index_or_a_bare_model(tmp_path, unet, layout, safe):
    folder = saved(tmp_path, unet, diffusers.DDPMScheduler(), layout, safe_serialization=safe)
    prior = le.load_prior(folder)
    assert (prior.channels, prior.spec.size_multiple, prior.name) == (3, 2, "pipeline")
    x, sigma = torch.randn(2, 3, 16, 12), prior.spec.sigma_table[640]
    with torch.no_grad():
        eps = unet(x / (1 + sigma**2) ** 0.5, 640).sample
    assert torch.allclose(prior.denoise(x, sigma), x - sigma * eps, atol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200},
        {"trained_betas": [0.01 * (i + 1) for i in range(20)]},
    ],
    ids=["linear", "scaled", "cosine", "trained"],
)
def test_schedules_and_predictions_are_those_of_diffusers(tmp_path, unet, prediction, options):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, clip_sample=False, set_alpha_to_one=True, **options
    )
    prior = le.import_diffusers(saved(tmp_path, unet, scheduler))
    bar = scheduler.alphas_cumprod.double()
    table = torch.tensor(prior.spec.sigma_table, dtype=torch.float64)
    assert torch.allclose(table, ((1 - bar) / bar).sqrt(), rtol=1e-3)
    t = len(bar) // 2
    sigma, alpha = float(table[t]), float(bar[t].sqrt())
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        out = unet(alpha * x, t).sample
    scheduler.set_timesteps(len(bar))
    expected = scheduler.step(out, t, alpha * x).pred_original_sample
    found = prior.denoise(x, sigma)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_preconditioning_of_edm_is_that_of_diffusers(tmp_path, unet, prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_max=50.0)
    prior = le.import_diffusers(saved(tmp_path, unet, scheduler))
    assert (prior.spec.sigma_min, prior.spec.sigma_max) == (0.002, 50.0)
    x, sigma = torch.randn(1, 3, 16, 16), torch.tensor(0.7)
    with torch.no_grad():
        seen = scheduler.precondition_inputs(x, sigma)
        out = unet(seen, scheduler.precondition_noise(sigma)).sample
    expected = scheduler.precondition_outputs(x, out, sigma)
    found = prior.denoise(x, 0.7)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.slow
def test_it_is_saved_compiled_and_sampled(tmp_path, unet):
    folder = saved(tmp_path, unet, diffusers.DDPMScheduler(), "index")
    prior = le.load_prior(folder)
    le.save_prior(prior, tmp_path / "prior")
    again = le.load_prior(tmp_path / "prior")
    assert again.content_hash() == prior.content_hash()
    engine = le.compile(tmp_path / "prior", tmp_path / "a.engine", image_size=32)
    assert all("refused" not in r for r in engine.manifest["runtimes"].values())
    x = torch.randn(3, 3, 22, 18)
    expected = prior.denoise(x, 0.5)
    assert float((engine.denoise(x, 0.5) - expected).norm() / expected.norm()) < 1e-5
    post = engine.sample(torch.rand(1, 3, 21, 16), le.Denoising(0.1), num_samples=1, steps=2)
    assert post.samples.shape == (1, 1, 3, 21, 16)


def test_old_names_of_the_attention_are_read(tmp_path, unet):
    folder = saved(tmp_path, unet, diffusers.DDPMScheduler(), safe_serialization=False)
    new = le.import_diffusers(folder)
    path = folder / "unet" / "diffusion_pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    for old, name in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ):
        for key in [key for key in state if f".{name}." in key]:
            state[key.replace(f".{name}.", f".{old}.")] = state.pop(key)
    torch.save(state, path)
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(le.import_diffusers(folder).denoise(x, 1.0), new.denoise(x, 1.0))


class Poison:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_what_is_refused(tmp_path, unet):
    folder = saved(tmp_path, unet, diffusers.DDPMScheduler(), safe_serialization=False)
    plan, config = folder / "scheduler" / "scheduler_config.json", folder / "unet" / "config.json"
    whole = plan.read_text()

    def sentence():
        with pytest.raises(PriorInvalid) as caught:
            le.load_prior(folder)
        return str(caught.value)

    (folder / "model_index.json").write_text(
        json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]})
    )
    assert "expected a UNet2DModel, got UNet2DConditionModel; a network with text" in sentence()
    (folder / "model_index.json").unlink()
    plan.write_text(json.dumps(json.loads(whole) | {"beta_schedule": "sigmoid"}))
    assert "got beta_schedule 'sigmoid'; use the scheduler that the model was tr" in sentence()
    plan.write_text(json.dumps(json.loads(whole) | {"rescale_betas_zero_snr": True}))
    assert "whose last noise level is infinite" in sentence()
    plan.write_text(json.dumps({"_class_name": "ScoreSdeVeScheduler"}))
    assert "expected a ScoreSdeVeScheduler with betas" in sentence()
    (folder / "empty").mkdir()
    with pytest.raises(PriorInvalid) as caught:
        le.import_diffusers(folder / "empty")
    assert "config.json: expected it in the folder 'empty', as save_pretrained wri" in str(
        caught.value
    )
    plan.write_text("{")
    assert "scheduler_config.json: expected the JSON file that diffusers writes" in sentence()
    plan.unlink()
    assert "the noise schedule cannot be told from the weights: name its file" in sentence()
    (tmp_path / "other.json").write_text(whole)
    assert le.import_diffusers(folder, scheduler=tmp_path / "other.json").channels == 3
    with pytest.raises(InvalidArgument, match="label: expected None for an unconditional"):
        le.import_diffusers(folder, scheduler=tmp_path / "other.json", label=2)
    plan.write_text(whole)
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"block_out_channels": [16, 64]}))
    assert "expected the weights of the model in config.json, got " in sentence()
    config.write_text(json.dumps(fields))
    torch.save(
        {"conv_in.weight": Poison(tmp_path / "trap")},
        folder / "unet" / "diffusion_pytorch_model.bin",
    )
    assert "nothing of it was run" in sentence() and not (tmp_path / "trap").exists()
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    assert "got none; save the model by save_pretrained" in sentence()
