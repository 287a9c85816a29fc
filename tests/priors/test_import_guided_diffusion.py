"""guided-diffusion and DDPM checkpoints: what is read, what must be stated, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_layouts import adm_layout, ddpm_layout, fill

import latino_engine as le
from latino_engine.errors import InvalidArgument, PriorInvalid
from latino_engine.priors.importers.guided_diffusion import PRESETS
from latino_engine.priors.preconditioning import TimeIndex
from latino_engine.priors.sigma_tables import cosine_sigmas
from latino_engine.schedule import linear_beta_sigmas

STATED = {"head_channels": 32, "attention_order": "legacy", "schedule": "linear"}


@pytest.fixture
def adm(tmp_path):
    def write(**layout):
        path = tmp_path / "net.pt"
        torch.save(fill(adm_layout(**layout)), path)
        return path

    return write


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"learn_sigma": False, "scale_shift": False, "updown": False, "blocks": 2},
        {"multiples": (0.5, 1, 1), "model_channels": 64, "attention": (1, 2), "channels": 1},
    ],
    ids=["updown", "convolutions", "half-width"],
)
def test_the_architecture_is_read_from_names_and_shapes(adm, layout):
    prior = le.import_guided_diffusion(adm(**layout), **STATED)
    about = prior.spec.architecture
    wanted = {"model_channels": 32, "multiples": (1, 1, 2), "blocks": 1, "attention": (2,)} | layout
    assert about["widths"] == [int(wanted["model_channels"] * m) for m in wanted["multiples"]]
    assert about["blocks_per_level"] == wanted["blocks"]
    assert about["attention_levels"] == list(wanted["attention"])
    for name, key in (("learn_sigma",) * 2, ("scale_shift",) * 2, ("resblock_updown", "updown")):
        assert about[name] is wanted.get(key, True), name
    assert prior.channels == wanted.get("channels", 3)
    assert prior.spec.size_multiple == 4
    assert prior.data_range == (0.0, 1.0)
    x = torch.randn(2, prior.channels, 18, 16)
    assert prior.denoise(x, torch.tensor([0.3, 20.0])).shape == x.shape


def test_eps_under_linear_betas_meets_the_denoiser_contract(adm):
    prior = le.import_guided_diffusion(adm(), **STATED)
    network, x = prior.denoiser.network, torch.randn(1, 3, 16, 16)
    for t in (3, 500, 999):
        sigma = float(linear_beta_sigmas()[t])
        eps = network(x / (1 + sigma**2) ** 0.5, torch.tensor([float(t)]))[:, :3]
        expected = x - sigma * eps
        found = prior.denoise(x, sigma)
        assert torch.allclose(found, expected, rtol=0, atol=3e-4 * (1 + sigma))
    assert (prior.spec.sigma_min, prior.spec.sigma_max) == pytest.approx((0.01, 157.407), rel=1e-4)


def test_noise_levels_between_two_times_have_fractional_ones():
    table = linear_beta_sigmas()
    index = TimeIndex(table.tolist())
    at = [0, 1, 499, 998, 999]
    assert torch.allclose(
        index(torch.tensor(table[at]).float()), torch.tensor(at).float(), atol=1e-3
    )
    between = torch.tensor((0.25 * table[:-1] + 0.75 * table[1:])[at[:4]]).float()
    assert torch.allclose(index(between), torch.tensor(at[:4]) + 0.75, atol=1e-3)
    levels = index(torch.linspace(0.001, 300, 5000))
    assert bool((levels.diff() >= 0).all()) and float(levels[0]) == 0 and float(levels[-1]) == 999


def test_the_cosine_table_is_the_one_of_its_paper():
    sigmas = cosine_sigmas(1000)
    u = np.arange(1, 1001) / 1000
    bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert np.allclose(sigmas[:-1], np.sqrt((1 - bar) / bar)[:-1], rtol=1e-9)
    assert np.isfinite(sigmas[-1])  # the last beta is held at 0.999


def test_published_presets_state_heads_order_and_schedule(tmp_path):
    layout = {"multiples": (1, 2, 3, 4), "model_channels": 64, "attention": (1, 2, 3)}
    torch.save(fill(adm_layout(classes=10, **layout)), tmp_path / "64x64_diffusion.pt")
    prior = le.import_guided_diffusion(tmp_path / "64x64_diffusion.pt", "imagenet-64", label=7)
    about = prior.spec.architecture
    assert (about["head_channels"], about["attention_order"]) == (64, "new")
    assert (about["num_classes"], about["label"]) == (10, 7)
    assert prior.name == "64x64_diffusion"
    assert np.allclose(prior.spec.sigma_table, cosine_sigmas(1000))
    with pytest.raises(InvalidArgument, match=r"label: expected a class in 0\.\.9 of this"):
        le.import_guided_diffusion(tmp_path / "64x64_diffusion.pt", "imagenet-64")
    other = le.import_guided_diffusion(tmp_path / "64x64_diffusion.pt", "imagenet-64", label=2)
    x = torch.randn(1, 3, 16, 16)
    assert not torch.equal(prior.denoise(x, 1.0), other.denoise(x, 1.0))
    with pytest.raises(InvalidArgument, match=r"preset: expected one for 4 levels, class-cond"):
        le.import_guided_diffusion(tmp_path / "64x64_diffusion.pt", "ffhq-10m", label=1)
    assert {p.levels for p in PRESETS.values()} == {4, 5, 6, 7}


def test_what_the_weights_do_not_tell_is_asked_for(adm):
    path = adm()
    with pytest.raises(InvalidArgument, match=r"num_heads or head_channels, attention_order, sch"):
        le.import_guided_diffusion(path)
    with pytest.raises(InvalidArgument, match="schedule: expected what the network was trained"):
        le.import_guided_diffusion(path, head_channels=32, attention_order="new")
    with pytest.raises(InvalidArgument, match="head_channels: expected a divisor of the attention"):
        le.import_guided_diffusion(path, **STATED | {"head_channels": 48})
    with pytest.raises(InvalidArgument, match="num_heads, head_channels: expected one of the two"):
        le.import_guided_diffusion(path, num_heads=2, **STATED)
    with pytest.raises(InvalidArgument, match="attention_order: expected 'legacy' or 'new'"):
        le.import_guided_diffusion(path, **STATED | {"attention_order": "old"})
    with pytest.raises(InvalidArgument, match="schedule: expected 'linear' or 'cosine'"):
        le.import_guided_diffusion(path, **STATED | {"schedule": "quad"})
    with pytest.raises(InvalidArgument, match="preset: expected one of imagenet-64"):
        le.import_guided_diffusion(path, "imagenet")
    with pytest.raises(InvalidArgument, match="label: expected None for an unconditional"):
        le.import_guided_diffusion(path, label=1, **STATED)


def test_heads_and_their_order_matter(adm):
    path, x = adm(), torch.randn(1, 3, 16, 16)
    one = {"head_channels": 32, "attention_order": "legacy", "schedule": "linear"}
    outs = [
        le.import_guided_diffusion(path, **choice).denoise(x, 1.0)
        for choice in (
            one,
            one | {"attention_order": "new"},
            {"num_heads": 4, "attention_order": "legacy", "schedule": "linear"},
            {"num_heads": 2, "attention_order": "legacy", "schedule": "linear"},
        )
    ]
    assert torch.equal(outs[0], outs[3])  # 64 channels: two heads of 32
    assert all(not torch.equal(outs[0], out) for out in outs[1:3])


def test_missing_and_unexpected_weights_are_listed_with_the_nearest_names(tmp_path):
    weights = fill(adm_layout())
    weights["middle_block.1.norm.wait"] = weights.pop("middle_block.1.norm.weight")
    torch.save(weights, tmp_path / "net.pt")
    expected = r"missing middle_block\.1\.norm\.weight \(nearest: middle_block\.1\.norm\.wait\)"
    with pytest.raises(PriorInvalid, match=expected + r"; unexpected middle_block\.1\.norm\.wait"):
        le.import_guided_diffusion(tmp_path / "net.pt", **STATED)
    torch.save(fill(ddpm_layout()), tmp_path / "net.pt")
    with pytest.raises(PriorInvalid, match="expected a guided-diffusion U-Net with time_embed"):
        le.import_guided_diffusion(tmp_path / "net.pt", **STATED)
    shapes = adm_layout(channels=6, learn_sigma=False)
    torch.save(fill(shapes), tmp_path / "net.pt")
    with pytest.raises(PriorInvalid, match="an upsampler or a classifier is no prior"):
        le.import_guided_diffusion(tmp_path / "net.pt", **STATED)


def test_the_ddpm_network_is_read_from_its_names(tmp_path):
    torch.save(fill(ddpm_layout()), tmp_path / "model-2388000.ckpt")
    prior = le.import_ddpm(tmp_path / "model-2388000.ckpt", name="lsun-bedroom")
    assert prior.spec.architecture == {
        "name": "ddpm-unet",
        "model_channels": 32,
        "widths": [32, 64, 64],
        "blocks_per_level": 2,
        "attention_levels": [2],
    }
    x, sigma = torch.randn(2, 3, 16, 24), float(linear_beta_sigmas()[700])
    eps = prior.denoiser.network(x / (1 + sigma**2) ** 0.5, torch.full((2,), 700.0))
    assert torch.allclose(prior.denoise(x, sigma), x - sigma * eps, atol=1e-2)
    torch.save(fill(adm_layout()), tmp_path / "adm.pt")
    with pytest.raises(PriorInvalid, match="expected a DDPM U-Net with temb, conv_in, down"):
        le.import_ddpm(tmp_path / "adm.pt")


def test_the_ddpm_network_pads_at_the_end_only():
    from latino_engine.priors.networks.ddpm_network import Downsample

    layer, x = Downsample(1), torch.randn(1, 1, 6, 6)
    whole = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight, layer.conv.bias)
    torch.testing.assert_close(layer(x), whole[..., ::2, ::2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["guided-diffusion", "ddpm"])
def test_an_imported_prior_is_saved_compiled_and_sampled(tmp_path, kind):
    if kind == "ddpm":
        torch.save(fill(ddpm_layout(multiples=(1, 1, 1), blocks=1)), tmp_path / "net.ckpt")
        prior = le.import_ddpm(tmp_path / "net.ckpt")
    else:
        torch.save(fill(adm_layout(multiples=(1, 1, 1))), tmp_path / "net.pt")
        prior = le.import_guided_diffusion(tmp_path / "net.pt", **STATED)
    le.save_prior(prior, tmp_path / "prior")
    assert {p.name for p in (tmp_path / "prior").iterdir()} == {"prior.json", "model.safetensors"}
    again = le.load_prior(tmp_path / "prior")
    assert again.content_hash() == prior.content_hash()
    x = torch.randn(1, 3, 20, 16)
    assert torch.equal(again.denoise(x, 0.3), prior.denoise(x, 0.3))
    engine = le.compile(tmp_path / "prior", tmp_path / "a.engine", image_size=32)
    assert {name for name in engine.manifest["runtimes"] if name != "tensorrt"} == {
        "onnxruntime",
        "openvino",
        "torch",
    }
    assert all("refused" not in r for r in engine.manifest["runtimes"].values())
    op = le.Blur.gaussian(1.0, 0.05)
    post = engine.sample(torch.rand(1, 3, 22, 18), op, num_samples=2, steps=2)
    assert post.samples.shape == (2, 1, 3, 22, 18) and bool(torch.isfinite(post.samples).all())
    noisy = torch.randn(3, 3, 36, 20)
    expected = prior.denoise(noisy, 0.5)
    error = (engine.denoise(noisy, 0.5) - expected).norm() / expected.norm()
    assert float(error) < 1e-5
