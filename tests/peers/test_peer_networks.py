"""Imported networks against deepinv's implementations, on random weights."""

from __future__ import annotations

import pytest
import torch

import latino_engine as le
from latino_engine.priors.networks.guided_diffusion_network import AttentionBlock, ResBlock

dinv = pytest.importorskip("deepinv", reason="peers: run make test-peers")
from deepinv.models import diffunet  # noqa: E402

pytestmark = pytest.mark.peers
SAME = 2e-6  # float32, relative; worst measured 4e-7


def test_the_weights_of_lpips_have_the_name_that_torchvision_looks_for():
    from torchvision.models import AlexNet_Weights

    from latino_engine.evaluation.perceptual import BACKBONE

    assert AlexNet_Weights.IMAGENET1K_V1.url.endswith(f"/{BACKBONE}")


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights of unit gain; the zero-initialised layers too, or nothing is compared."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data = noise / max(1, parameter[0].numel()) ** 0.5
        else:
            parameter.data = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    return module.eval()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def diff_unet():
    return randomise(dinv.models.DiffUNet(pretrained=None))


@torch.no_grad()
def test_the_guided_diffusion_network_equals_deepinvs(diff_unet, tmp_path):
    buffers = ("sqrt_1m_alphas_cumprod", "sqrt_alphas_cumprod")
    published = {k: v for k, v in diff_unet.state_dict().items() if k not in buffers}
    torch.save(published, tmp_path / "diffusion_ffhq_10m.pt")
    prior = le.import_guided_diffusion(tmp_path / "diffusion_ffhq_10m.pt", "ffhq-10m")
    assert prior.spec.architecture["attention_levels"] == [4]
    x, t = torch.randn(2, 3, 32, 64), torch.tensor([3.0, 977.0])
    expected = diff_unet.forward_diffusion(x, t)
    assert relative(prior.denoiser.network(x, t), expected) < SAME
    assert relative(prior.denoiser.network(x, t + 5), expected) > 100 * SAME
    # its denoiser rounds to whole times and clamps, so at a time of the table, away from clamping
    sigma = prior.spec.sigma_table[300]
    inside = 0.05 * torch.randn(1, 3, 32, 32)
    image = le.from_deepinv(diff_unet).denoise(inside, sigma)
    assert relative(prior.denoise(inside, sigma), image) < SAME
    peer = 2 * diff_unet(0.5 * inside + 0.5, torch.tensor([0.5 * sigma])) - 1
    kept = image.abs() < 0.9
    assert int(kept.sum()) > 500
    assert float((image - peer)[kept].abs().max()) < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("change", ["", "up", "down"])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_residual_blocks_equal_deepinvs(change, scale_shift):
    ends = {"up": change == "up", "down": change == "down"}
    outside = 64 if change else 96
    peer = randomise(
        diffunet.ResBlock(64, 128, 0.1, outside, use_scale_shift_norm=scale_shift, **ends)
    )
    own = ResBlock(64, outside, 128, scale_shift, change)
    own.load_state_dict(peer.state_dict(), strict=True)
    x, e = torch.randn(2, 64, 8, 12), torch.randn(2, 128)
    assert relative(own(x, e), peer(x, e)) < SAME


@torch.no_grad()
@pytest.mark.parametrize("order", ["legacy", "new"])
@pytest.mark.parametrize(("heads", "head_channels"), [(4, -1), (1, 32)])
def test_attention_equals_deepinvs(order, heads, head_channels):
    peer = randomise(diffunet.AttentionBlock(96, heads, head_channels, False, order == "new"))
    own = AttentionBlock(96, 96 // 32 if head_channels > 0 else heads, order)
    state = {k: v[..., None] if v.ndim == 3 else v for k, v in peer.state_dict().items()}
    own.load_state_dict(state, strict=True)
    x = torch.randn(2, 96, 6, 10)
    assert relative(own(x), peer(x)) < SAME


SMALL = {"model_channels": 64, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (16,)}


def small_denoisers():
    half = {"img_resolution": 32, "pretrained": None, "_was_trained_on_minus_one_one": True}
    return {
        "DRUNet": lambda: dinv.models.DRUNet(pretrained=None, nc=(16, 16, 16, 16), nb=1),
        "ADMUNet": lambda: dinv.models.ADMUNet(pixel_std=0.5, **SMALL, **half),
        "NCSNpp": lambda: dinv.models.NCSNpp(pixel_std=0.5, **SMALL, **half),
        "NCSNpp-ve": lambda: dinv.models.NCSNpp(
            pixel_std=0.5, precondition_type="ve-baseline", **SMALL, **half
        ),
    }


@torch.no_grad()
@pytest.mark.parametrize("kind", list(small_denoisers()))
def test_a_denoiser_of_deepinv_becomes_a_prior(kind, tmp_path):
    denoiser = randomise(small_denoisers()[kind]())
    prior = le.from_deepinv(denoiser)
    x, public = torch.rand(2, 3, 32, 64), 0.1
    peer = denoiser(x, torch.tensor([public, public]))
    found = prior.denoise(2 * x - 1, 2 * public) / 2 + 0.5
    assert relative(found, peer) < 10 * SAME
    le.save_prior(prior, tmp_path / "prior")
    with pytest.raises(ValueError, match=r"module: expected an instance of \w+, the network"):
        le.load_prior(tmp_path / "prior")
    fresh = small_denoisers()[kind]()
    again = le.load_prior(tmp_path / "prior", module=fresh)
    assert torch.equal(again.denoise(2 * x - 1, 0.2), prior.denoise(2 * x - 1, 0.2))
    engine = le.compile(prior, tmp_path / "a.engine", backend="onnxruntime", image_size=32)
    assert relative(engine.denoise(2 * x - 1, 0.2), prior.denoise(2 * x - 1, 0.2)) < 1e-5
    post = engine.sample(x[:1, :, :, :48], le.Denoising(0.1), num_samples=1, steps=2)
    assert bool(torch.isfinite(post.samples).all())


def test_another_denoiser_is_refused():
    with pytest.raises(ValueError, match="denoiser: expected one of DiffUNet, DRUNet, ADMUNet"):
        le.from_deepinv(dinv.models.MedianFilter())
