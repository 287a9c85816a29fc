"""What a user can do wrong with a latent prior, and LoRA files of every layout."""

from __future__ import annotations

import copyreg
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from latent_cases import torch_engine
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_stable_diffusion

import latino_engine as le
from latino_engine import loading
from latino_engine.cli.program import run
from latino_engine.errors import AdapterInvalid, BackendNotAvailable, PriorInvalid
from latino_engine.latent_engine import LatentEngine
from latino_engine.priors.latent.prior import LatentPrior

pytestmark = pytest.mark.usefixtures("one_thread")  # tiny tensors

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
RANK = 2


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture(scope="module")
def prior(pipeline: Path) -> LatentPrior:
    return le.load_latent_prior(pipeline)


@pytest.fixture
def copied(pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline, tmp_path / "sd"))


def test_missing_part(copied: Path) -> None:
    shutil.rmtree(copied / "vae")
    with pytest.raises(PriorInvalid, match="expected the folder vae in 'sd', got none"):
        le.load_prior(copied)


def test_pickled_weights(copied: Path) -> None:
    next((copied / "unet").glob("*.safetensors")).rename(copied / "unet" / "weights.bin")
    with pytest.raises(PriorInvalid, match=r"unet, got none \(only the pickled 'weights.bin'"):
        le.load_prior(copied)


def test_weights_of_another_network(copied: Path) -> None:
    path = copied / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    with pytest.raises(PriorInvalid, match=r"unet: expected a network .* expected shape"):
        le.load_prior(copied)


def test_truncated_weights(copied: Path) -> None:
    path = next((copied / "vae").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PriorInvalid, match="vae: expected a network that diffusers can read"):
        le.load_prior(copied)


def test_text_encoder_without_a_weight(copied: Path) -> None:
    path = next((copied / "text_encoder").glob("*.safetensors"))
    weights = load_file(path)
    lost = next(key for key in weights if key.endswith("fc1.weight"))
    save_file({k: v for k, v in weights.items() if k != lost}, path, metadata={"format": "pt"})
    with pytest.raises(PriorInvalid, match=r"text_encoder: .*1 missing such as .*fc1\.weight"):
        le.load_prior(copied)
    ids = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    save_file(weights | ids, path, metadata={"format": "pt"})
    assert isinstance(le.load_prior(copied), LatentPrior)


def test_a_size_limit_holds_for_the_whole_folder_and_for_the_lora(
    copied: Path, prior: LatentPrior, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    size = sum(
        file.stat().st_size
        for part in parts
        for file in (copied / part).iterdir()
        if file.suffix == ".safetensors" or part in ("tokenizer", "scheduler")
    )
    assert size > max(file.stat().st_size for file in copied.rglob("*.safetensors"))
    got = f"got 'sd' of {1e-9 * size:.3g} GB; raise max_bytes (--max-gb) if you trust it"
    for read in (le.load_prior, le.load_latent_prior):
        assert isinstance(read(copied, max_bytes=size), LatentPrior)
        with pytest.raises(PriorInvalid, match=r"^prior: expected at most .*" + re.escape(got)):
            read(copied, max_bytes=size - 1)
    assert run(["compile", str(copied), "-o", "a.engine", "--max-gb", f"{1e-9 * size / 2}"]) == 2
    error = capsys.readouterr().err
    assert got in error and error.startswith("error: prior: ") and error.count("\n") == 1
    assert run(["compile", str(copied), "-o", "a.engine", "--max-gb", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: max_gb: expected a number above 0, got 0;")
    lora = tmp_path / "lora.safetensors"
    save_file({"a": torch.zeros(2 * size // 4)}, lora)
    with pytest.raises(PriorInvalid, match=r"^lora: expected at most .* got 'lora\.safetensors'"):
        le.load_latent_prior(copied, lora=lora, max_bytes=size)
    le.save_prior(prior, tmp_path / "ours")
    with pytest.raises(PriorInvalid, match=r"^model\.safetensors: expected at most 1e-06 GB, got"):
        le.load_prior(tmp_path / "ours", max_bytes=1000)


def test_a_part_from_the_folders_own_code_is_refused_and_not_run(copied: Path) -> None:
    trap = copied / "trap"
    (copied / "scheduler" / "evil.py").write_text(f"import os; os.mkdir({str(trap)!r})\n")
    path = copied / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"scheduler": ["evil", "LCMScheduler"]}))
    with pytest.raises(PriorInvalid) as caught:
        le.load_prior(copied)
    assert str(caught.value) == (
        "model_index.json: expected scheduler from diffusers or transformers, got 'evil'; nothing "
        "of it was run: save the pipeline by diffusers' save_pretrained"
    )
    assert not trap.exists()
    path.write_text(json.dumps({k: v for k, v in index.items() if k != "vae"}))
    with pytest.raises(PriorInvalid, match=r"^model_index\.json: expected vae from .*, got None;"):
        le.load_prior(copied)


def test_the_variants_of_a_network_on_file(copied: Path, prior: LatentPrior) -> None:
    """Files of half precision alone are read; beside full ones they are for keep_half."""
    parts = ("unet", "vae", "text_encoder")
    full = {part: next((copied / part).glob("*.safetensors")) for part in parts}
    weights = {part: load_file(path) for part, path in full.items()}
    for part, path in full.items():
        half = {k: v.half() if v.is_floating_point() else v for k, v in weights[part].items()}
        name = path.name.replace(".safetensors", ".fp16.safetensors")
        save_file(half, path.with_name(name), metadata={"format": "pt"})
    both = le.load_latent_prior(copied)
    assert both.content_hash() == prior.content_hash()
    kept = le.load_latent_prior(copied, keep_half=True)
    assert {p.dtype for p in kept.denoiser.parameters()} == {torch.float16}
    assert torch.equal(kept.conditioning.prompt, prior.conditioning.prompt)
    for path in full.values():
        path.unlink()
    only = le.load_latent_prior(copied)
    assert {p.dtype for p in only.denoiser.parameters()} == {torch.float32}
    name = "conv_in.weight"
    expected = weights["unet"][name].half().float()
    assert torch.equal(only.model.unet.get_parameter(name), expected)
    gap = (only.conditioning.prompt - prior.conditioning.prompt).norm()
    assert 0 < float(gap / prior.conditioning.prompt.norm()) < 1e-2  # the text encoder's halves


def test_unknown_pipeline(copied: Path) -> None:
    path = copied / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "FluxPipeline"}))
    with pytest.raises(PriorInvalid, match=r"expected a pipeline of Stable.*, got 'FluxPipeline'"):
        le.load_prior(copied)


def test_diffusers_is_not_installed(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    without: Any = lambda name: None if name == "diffusers" else found(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(
        BackendNotAvailable, match=re.escape("pip install 'latino-engine[diffusers]")
    ):
        le.load_prior(pipeline)


def test_prompt_and_lora_for_a_prior_of_pixels() -> None:
    with pytest.raises(ValueError, match="prompt: expected None for a prior without a text"):
        le.load_prior("photo-small", prompt="a cat")
    with pytest.raises(ValueError, match="lora: expected None for a prior without a text"):
        le.load_prior("photo-small", lora="a.safetensors")


def test_arguments_of_sample(prior: LatentPrior) -> None:
    engine, op = torch_engine(prior), le.Denoising(0.1)
    y = torch.rand(1, 3, 16, 16)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sampler": "ud2m"}, "sampler: expected one of 'auto', 'latino', 'latino-pro'"),
        ({"unfold": 2}, "unfold: expected None for a latent prior, got 2"),
        ({"tile": 64}, "tile: expected None for a latent prior, got 64"),
        ({"steps": 0}, "steps: expected 1 to 1000, got 0"),
        ({"delta": "sr3"}, "delta: expected one of sr16, .*, got 'sr3'"),
        ({"delta": [1.0, 2.0]}, "delta: expected a number, or one for each of the 8 steps"),
        ({"delta": -1.0}, "delta: expected finite numbers >= 0, got -1.0"),
        ({"prompt_updates": 3}, "prompt_updates: expected None, got 3"),
        ({"prompt_updates": 0, "sampler": "latino-pro"}, "prompt_updates: expected at least 1"),
    ]
    for arguments, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            engine.sample(y, op, **arguments)
    with pytest.raises(ValueError, match="y: expected sides of at least 4"):
        engine.sample(y[..., :2, :], op)
    with pytest.raises(ValueError, match="wrap the operator: Luminance"):
        engine.sample(y[:, :1], op)
    with pytest.raises(
        ValueError,
        match=r"'latino-pro', got the backend 'onnxruntime'; load it "
        r"with backend='torch'",
    ):
        torch_engine(prior, "onnxruntime").sample(y, op, sampler="latino-pro")
    with pytest.raises(ValueError, match="one that denoises images"):
        engine.denoise(y, 0.1)
    with pytest.raises(ValueError, match="one that denoises images"):
        prior.denoise(y, 0.1)


def test_another_delta_is_no_reload(prior: LatentPrior) -> None:
    copyreg.pickle(LatentEngine, loading._reduce_latent)  # as the first load of one does
    engine = torch_engine(prior)
    other = engine.with_delta(0.5)
    assert other.network is engine.network and (other.delta, engine.delta) == (0.5, None)
    assert engine.with_conditioning(prior.conditioning).network is engine.network


def test_what_wants_a_denoiser_of_images(prior: LatentPrior, pipeline: Path) -> None:
    from latino_engine.priors.loading import pixel_prior

    for source in (prior, pipeline):
        with pytest.raises(ValueError, match="prior: expected one that denoises images, got the"):
            pixel_prior(source)
    arguments = ["export", str(pipeline), "-o", "a.onnx"]
    assert run(arguments) == 2


def test_compile_takes_no_adapter(prior: LatentPrior, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter: expected None for a latent prior"):
        le.compile(prior, tmp_path / "a.engine", adapter="photo-small")


def test_compile_takes_no_options_of_plans(prior: LatentPrior, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^gpu_architectures: expected None, got \['sm_89'\]; nei"
    ):
        le.compile(prior, tmp_path / "a.engine", gpu_architectures=["sm_89"])
    with pytest.raises(ValueError, match=r"^tf32: expected False, got True; neither onnxruntime"):
        le.compile(prior, tmp_path / "a.engine", "torch", tf32=True)
    assert not (tmp_path / "a.engine").exists()


def _factors(prior: LatentPrior) -> tuple[torch.Tensor, torch.Tensor]:
    out, inner = prior.model.unet.get_submodule(LAYER).weight.shape
    return torch.randn(RANK, inner), torch.randn(out, RANK)


@pytest.mark.parametrize("layout", ["kohya", "peft", "diffusers"])
def test_lora_is_merged(pipeline: Path, prior: LatentPrior, tmp_path: Path, layout: str) -> None:
    down, up = _factors(prior)
    flat, old = LAYER.replace(".", "_"), LAYER.replace("attn1.to_out.0", "attn1.processor.to_out")
    files = {
        "kohya": {
            f"lora_unet_{flat}.lora_down.weight": down,
            f"lora_unet_{flat}.lora_up.weight": up,
            f"lora_unet_{flat}.alpha": torch.tensor(1.0),
        },
        "peft": {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up},
        "diffusers": {f"unet.{old}_lora.down.weight": down, f"unet.{old}_lora.up.weight": up},
    }
    path = tmp_path / "lora.safetensors"
    save_file(files[layout], path)
    merged = le.load_latent_prior(pipeline, lora=path)
    scale = 1.0 / RANK if layout == "kohya" else 1.0
    before = prior.model.unet.get_submodule(LAYER).weight
    after = merged.model.unet.get_submodule(LAYER).weight
    assert torch.allclose(after, before + scale * up @ down, atol=1e-6)


def test_lora_of_convolutions(pipeline: Path, prior: LatentPrior, tmp_path: Path) -> None:
    down, up = torch.randn(RANK, 4, 3, 3), torch.randn(16, RANK, 1, 1)
    path = tmp_path / "lora.safetensors"
    save_file({"conv_in.lora_A.weight": down, "conv_in.lora_B.weight": up}, path)
    merged = le.load_latent_prior(pipeline, lora=path).model.unet.get_submodule("conv_in").weight
    change = torch.einsum("or,rihw->oihw", up[..., 0, 0], down)
    before = prior.model.unet.get_submodule("conv_in").weight
    assert torch.allclose(merged, before + change, atol=1e-5)


def test_lora_of_another_model(pipeline: Path, prior: LatentPrior, tmp_path: Path) -> None:
    down, up = _factors(prior)
    path = tmp_path / "lora.safetensors"
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        (
            {f"unet.{LAYER}x.lora_A.weight": down},
            rf"no place there \(nearest: {re.escape(LAYER)}\)",
        ),
        ({f"unet.{LAYER}.lora_A.weight": down}, r"both factors .* got none named up \(B\)"),
        (
            {f"unet.{LAYER}.lora_A.weight": down[:, 1:], f"unet.{LAYER}.lora_B.weight": up},
            r"expected a change of shape \(32, 32\)",
        ),
        (
            {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up * torch.nan},
            "finite factors",
        ),
    ]
    for content, sentence in cases:
        save_file({k: v.contiguous() for k, v in content.items()}, path)
        with pytest.raises(AdapterInvalid, match=sentence):
            le.load_latent_prior(pipeline, lora=path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(AdapterInvalid, match="lora: expected a safetensors file"):
        le.load_latent_prior(pipeline, lora=path)
