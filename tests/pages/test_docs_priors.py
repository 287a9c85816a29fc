"""The Python of docs/priors.md and docs/ud2m.md runs; the table's figures are right."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path

import pytest
import torch
from published_layouts import adm_layout, ddpm_layout, fill

import latino_engine as le
from latino_engine.cli import program
from latino_engine.priors.importers.guided_diffusion import PRESETS

DOCS = Path(__file__).parents[2] / "docs"
MULTIPLES = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def rows():
    table = (DOCS / "priors.md").read_text().split("## The published files")[1]
    return [line for line in table.splitlines() if line.startswith("| `")]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Small files under the names that the pages use."""
    monkeypatch.chdir(tmp_path)
    small = adm_layout(model_channels=32, multiples=(1, 1, 1, 1, 2, 2), attention=(4,))
    torch.save(fill(small), "diffusion_ffhq_10m.pt")
    return tmp_path


def test_the_page_on_priors_runs(files):
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained("ddpm-pipeline")
    names = {}
    for code in blocks("priors.md"):
        exec(compile(code, "docs/priors.md", "exec"), names)
    expected = names["x_noisy"] * 0.3 / (0.3 + 0.25)
    assert torch.allclose(names["x0_hat"], expected, atol=1e-6)


def test_the_page_on_ud2m_runs(files, capsys):
    prior = le.import_guided_diffusion("diffusion_ffhq_10m.pt", "ffhq-10m")
    le.save_prior(prior, "ffhq")
    layer = "middle_block.1.qkv.parametrizations.weight.0"
    state = {f"{layer}.lora_A": torch.randn(192, 5), f"{layer}.lora_B": torch.randn(5, 64)}
    scalars = {k: torch.tensor(0.0) for k in ("SP_Param.0", "LambdaSIG.0", "TAUG.0", "TLAT.0")}
    torch.save({"state_dict": state, "HQS_state_dict": scalars}, "last.ckpt")
    names = {}
    for code in blocks("ud2m.md"):
        exec(compile(code, "docs/ud2m.md", "exec"), names)
    assert "compat='ud2m'" in capsys.readouterr().out
    assert (files / "ffhq-deblur" / "adapter.json").is_file()


@pytest.mark.parametrize(
    ("row", "size", "channels", "blocks_", "resolutions", "classes"),
    [
        (0, 64, 192, 3, (32, 16, 8), 1000),
        (1, 128, 256, 2, (32, 16, 8), 1000),
        (2, 256, 256, 2, (32, 16, 8), 1000),
        (3, 256, 256, 2, (32, 16, 8), None),
        (4, 512, 256, 2, (32, 16, 8), 1000),
        (6, 256, 128, 1, (16,), None),
    ],
)
def test_the_table_of_guided_diffusion(row, size, channels, blocks_, resolutions, classes):
    multiples = MULTIPLES[size]
    attention = [i for i in range(len(multiples)) if size // 2**i in resolutions]
    shapes = adm_layout(3, channels, multiples, blocks_, attention, classes=classes)
    millions = sum(prod(shape) for shape in shapes.values()) / 1e6
    assert f"| {millions:.1f} M |" in rows()[row]
    (preset,) = re.findall(r"--preset ([\w-]+)", rows()[row])
    chosen = PRESETS[preset]
    assert (chosen.levels, chosen.conditional) == (len(multiples), classes is not None)
    assert f"| {chosen.schedule} |" in rows()[row] and chosen.attention_order in rows()[row]
    widths = ", ".join(str(int(channels * m)) for m in multiples)
    assert f"| {widths} |" in rows()[row] or row == 3


def test_the_table_of_ddpm_and_its_presets():
    for multiples, level, row in (((1, 1, 2, 2, 4, 4), 4, 7), ((1, 2, 2, 2), 1, 8)):
        shapes = ddpm_layout(ch=128, multiples=multiples, attention=(level,))
        assert f"| {sum(map(prod, shapes.values())) / 1e6:.1f} M |" in rows()[row]
    text = (DOCS / "priors.md").read_text()
    assert all(name in text or name.split("-")[0] == "lsun" for name in PRESETS)


def run(capsys, *arguments):
    status = program.run([str(a) for a in arguments])
    return status, *capsys.readouterr()


def test_the_commands(files, capsys):
    status, out, _ = run(
        capsys, "import", "diffusion_ffhq_10m.pt", "-o", "ffhq",
        "--format", "guided-diffusion", "--preset", "ffhq-10m", "--json",
    )  # fmt: skip
    assert status == 0 and '"architecture": "adm-unet"' in out and '"times": 1000' in out
    status, out, _ = run(capsys, "info", "ffhq")
    assert status == 0 and "diffusion_ffhq_10m" in out and "parametrisation" in out
    for arguments, sentence in (
        (["--format", "guided-diffusion"], "error: num_heads or head_channels, attention_order, s"),
        (["--format", "ddpm"], "error: checkpoint: expected a DDPM U-Net with temb"),
        (
            ["--format", "tf"],
            "error: format: expected one of guided-diffusion, ddpm, diffusers, ud",
        ),
        (
            ["--format", "ddpm", "--max-gb", "-1"],
            "error: max_gb: expected a number above 0, got -1",
        ),
        (["--format", "ud2m"], "error: prior, task: expected both for --format ud2m, got None"),
        (
            ["--format", "ddpm", "--max-gb", "0.0001"],
            "error: checkpoint: expected at most 0.0001 G",
        ),
    ):
        status, out, err = run(capsys, "import", "diffusion_ffhq_10m.pt", "-o", "new", *arguments)
        assert (status, out) == (2, "") and err.startswith(sentence) and err.count("\n") == 1
        assert not (files / "new").exists()


def test_the_commands_for_ddpm_and_diffusers(files, capsys):
    """What the command writes is the prior that Python imports."""
    torch.save(fill(ddpm_layout()), "ema_diffusion_lsun_bedroom_model-2388000.ckpt")
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained("pipeline")
    x = torch.randn(1, 3, 16, 16)
    for kind, source, imported in (
        ("ddpm", "ema_diffusion_lsun_bedroom_model-2388000.ckpt", le.import_ddpm),
        ("diffusers", "pipeline", le.import_diffusers),
    ):
        status, out, _ = run(capsys, "import", source, "-o", kind, "--format", kind, "--json")
        facts = json.loads(out)
        assert status == 0 and (facts["channels"], facts["times"]) == (3, 1000)
        found = le.load_prior(kind)
        assert torch.equal(found.denoise(x, 0.7), imported(source).denoise(x, 0.7))
    for source, kind, sentence in (
        ("pipeline/unet", "ddpm", "checkpoint: expected a file of weights, got 'pipeline/unet', a"),
        ("none", "diffusers", "folder: expected a folder that diffusers saved, got 'none', which"),
        ("pipeline/unet", "diffusers", "scheduler: expected"),
        ("none.pt", "ddpm", "checkpoint: expected a file of weights, got 'none.pt', "),
    ):
        status, out, err = run(capsys, "import", source, "-o", "new", "--format", kind)
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert err.startswith(f"error: {sentence}"), err
        assert not (files / "new").exists()
