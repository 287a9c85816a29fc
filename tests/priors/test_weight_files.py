"""Shards, half precision and `.bin` in folders of diffusers, as diffusers writes them."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import latino_engine as le
from latino_engine.errors import PriorInvalid

diffusers = pytest.importorskip("diffusers")
NAME = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def saved(folder, unet, **options):
    unet.save_pretrained(folder / "unet", **options)
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


def expected(unet, x, index=500):
    sigma = float(torch.tensor(diffusers.DDPMScheduler().alphas_cumprod[index]))
    sigma = ((1 - sigma) / sigma) ** 0.5
    with torch.no_grad():
        return x - sigma * unet(x / (1 + sigma**2) ** 0.5, index).sample, sigma


FORMS = {
    "shards": {"max_shard_size": "200KB"},
    "shards of bin": {"max_shard_size": "200KB", "safe_serialization": False},
    "fp16": {"variant": "fp16"},
    "fp16 bin": {"variant": "fp16", "safe_serialization": False},
    "fp16 shards": {"variant": "fp16", "max_shard_size": "200KB"},
    "non_ema": {"variant": "non_ema"},
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_diffusers_writes(tmp_path, unet, form):
    folder = saved(tmp_path / "p", unet, **FORMS[form])
    names = sorted(os.listdir(folder / "unet"))
    assert f"{NAME}.safetensors" not in names and f"{NAME}.bin" not in names
    assert ("shards" in form) == any("index" in name for name in names)
    x = torch.randn(1, 3, 16, 16)
    out, sigma = expected(unet, x)
    assert torch.allclose(le.load_prior(folder).denoise(x, sigma), out, atol=1e-3)


def test_half_precision_on_file_is_taken_where_nothing_else_is(tmp_path, unet):
    folder = saved(tmp_path / "p", unet)
    whole = folder / "unet" / f"{NAME}.safetensors"
    half = {name: weight.half() for name, weight in load_file(whole).items()}
    save_file(half, folder / "unet" / f"{NAME}.fp16.safetensors")
    x = torch.randn(1, 3, 16, 16)
    full = le.load_prior(folder).denoise(x, 1.0)
    whole.unlink()
    rounded = le.load_prior(folder).denoise(x, 1.0)
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - full).abs().max()) < 0.02


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"conv_in.weight": "../secret.safetensors"}, "expected safetensors files of its own fol"),
        ({"conv_in.weight": "/etc/passwd"}, "expected safetensors files of its own folder, got"),
        ({"conv_in.weight": "lost.safetensors"}, "got 'lost.safetensors', which is not there"),
        (None, "expected a weight_map of names to shards"),
        ({}, "expected shards, got an empty weight_map"),
    ],
)
def test_an_index_names_files_of_its_own_folder(tmp_path, unet, change, sentence):
    folder = saved(tmp_path / "p", unet, max_shard_size="200KB")
    index = folder / "unet" / f"{NAME}.safetensors.index.json"
    shutil.copy(index, tmp_path / "p" / "secret.safetensors")
    index.write_text(json.dumps({"weight_map": change}))
    with pytest.raises(PriorInvalid, match=sentence):
        le.load_prior(folder)


def test_shards_that_do_not_belong_together(tmp_path, unet):
    folder = saved(tmp_path / "p", unet, max_shard_size="200KB")
    shards = sorted((folder / "unet").glob("*.safetensors"))
    total = sum(shard.stat().st_size for shard in shards)
    with pytest.raises(PriorInvalid, match=r"expected at most .* GB"):
        le.import_diffusers(folder, max_bytes=total - 1)
    shutil.copy(shards[0], shards[1])
    with pytest.raises(PriorInvalid, match=r"expected each weight in one shard, got .* in two"):
        le.load_prior(folder)
    (folder / "unet" / f"{NAME}.safetensors.index.json").unlink()
    with pytest.raises(PriorInvalid, match=r"with their index.json, in 'unet', got .* alone"):
        le.load_prior(folder)
