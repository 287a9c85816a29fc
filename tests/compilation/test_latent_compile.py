"""Latent engines on disk: three graphs, both runtimes, the command line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import save_sdxl, save_stable_diffusion

import latino_engine as le
from latino_engine.bench.options import BenchOptions
from latino_engine.bench.runner import bench_engine
from latino_engine.cli.program import run
from latino_engine.errors import EngineInvalid
from latino_engine.export import latent
from latino_engine.image_io import write_image
from latino_engine.latent_engine import LatentEngine
from latino_engine.sampling.options import Sampling

pytestmark = pytest.mark.slow

FILES = {"encoder.onnx", "decoder.onnx", "denoiser.onnx", "prior.json", "model.safetensors"}


def test_sdxl_compiles_and_both_runtimes_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = le.load_prior(save_sdxl(tmp_path / "sdxl"), prompt="a photo of a dog")
    engine = le.compile(prior, tmp_path / "a.engine", backend="onnxruntime", image_size=32)
    assert isinstance(engine, LatentEngine)
    assert FILES | {"prompt.safetensors"} == set(engine.manifest["files"])
    for record in engine.manifest["runtimes"].values():
        assert set(record["error_by_network"]) == {"encoder", "decoder", "denoiser"}
        assert record["relative_error"] <= record["bound"] == 1e-5
    op = le.Inpainting((torch.rand(22, 18) < 0.5).float(), 0.05)
    y = op.measure(torch.rand(1, 3, 22, 18), seed=2)
    found = engine.sample(y, op, num_samples=1, steps=2).samples
    other = le.load(tmp_path / "a.engine", backend="torch")
    expected = other.sample(y, op, num_samples=1, steps=2).samples
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    options = BenchOptions(
        size=(20, 16), repeats=2, warmup=0, sampling=Sampling(steps=2), threads=1, cold=False
    )
    report = bench_engine(tmp_path / "a.engine", options).report
    assert report["nfe"] == 2 and report["against_peak"]["denoise"] is None
    networks = report["stages_ms"]["denoise"]
    assert abs(report["denoise_call_ms"]["p50"] - networks / 2) < 0.2 * networks
    with pytest.raises(ValueError, match="load it with backend='torch'"):
        engine.sample(y, op, sampler="latino-pro")
    before = engine.manifest
    capsys.readouterr()
    assert run(["rebuild", str(tmp_path / "a.engine"), "--gpu", "sm_89"]) == 2
    assert capsys.readouterr().err == (
        "error: engine: expected one whose prior denoises images, for a plan, got the latent "
        "'a.engine'; load it with backend='onnxruntime' or 'torch'\n"
    )
    assert le.load(tmp_path / "a.engine").manifest == before
    monkeypatch.setattr("latino_engine.runtimes._present", lambda package: True)
    with pytest.raises(EngineInvalid) as caught:
        le.load(tmp_path / "a.engine", backend="tensorrt")
    assert str(caught.value) == (
        "backend: expected one that the engine 'a.engine' serves, got 'tensorrt'; it was not "
        "compiled for it; use one of those that it was compiled for"
    )


def test_the_page_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "latent.md").read_text()
    save_stable_diffusion(tmp_path / "sd-lcm")
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"```console\n(.*?)```", text, re.S)
    for line in commands.splitlines():
        assert run(shlex.split(line)[1:]) == 0
    assert "StableDiffusionPipeline" in capsys.readouterr().out
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(code, "docs/latent.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("8 torch.Size([1, 16,")
    write_image("x.png", torch.rand(3, 24, 24))
    arguments = ["sample", "sd.engine", "x.png", "--operator", "denoise", "--steps", "2"]
    assert run([*arguments, "-o", "result", "--num-samples", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nfe"] == 2
    for delta in ("sr16", "0.3", "0.3,0.1"):
        assert run([*arguments, "-o", "result", "--num-samples", "1", "--delta", delta]) == 0
    pro = ["--sampler", "latino-pro", "--backend", "torch", "--prompt-updates", "1", "--json"]
    capsys.readouterr()
    assert run([*arguments, "-o", "result", "--num-samples", "1", *pro]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_updates"] == 1
    for wrong, sentence in (
        (["--delta", "sr17"], "delta: expected one of sr16, sr32, gaussian, "),
        (["--delta", "1,2,3"], "delta: expected a number, or one for each of the 2 steps"),
        (["--delta", "-1"], "delta: expected finite numbers >= 0, got -1.0; 0 leaves the data"),
        (["--prompt-updates", "2"], "prompt_updates: expected None, got 2; leave it out, or use"),
    ):
        assert run([*arguments, "-o", "other", *wrong]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {sentence}") and error.count("\n") == 1
        assert not Path("other").exists()


def test_a_lora_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's U-Net is the merged one; a file of another network is refused."""
    monkeypatch.chdir(tmp_path)
    save_stable_diffusion(tmp_path / "sd")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    weight = le.load_latent_prior("sd").model.unet.get_submodule(layer).weight
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    names = (f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight")
    save_file(dict(zip(names, (down, up), strict=True)), "lora.safetensors")
    command = ["compile", "sd", "-o", "a.engine", "--backend", "torch", "--image-size", "16"]
    assert run([*command, "--lora", "lora.safetensors"]) == 0
    stored = le.load_prior("a.engine")
    found = stored.model.unet.get_submodule(layer).weight
    assert torch.allclose(found, weight + up @ down, atol=1e-6)
    capsys.readouterr()
    for path, sentence in (("none.safetensors", "none.safetensors"), ("x.pt", "x.pt")):
        other = ["compile", "sd", "-o", "b.engine", "--lora", path]
        assert run(other) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.startswith("error: ") and error.count("\n") == 1
        assert not Path("b.engine").exists()


def test_half_precision_with_weights_beside_the_graph_and_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs above protobuf's limit, here one of a kilobyte; the second export comes from disk."""
    monkeypatch.setenv("LATINO_ENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(latent, "_LARGEST_GRAPH", 1000)
    prior = le.load_prior(save_stable_diffusion(tmp_path / "sd"))
    folder = tmp_path / "a.engine"
    engine = le.compile(prior, folder, backend="torch", precision="fp16", image_size=16)
    record = engine.manifest["runtimes"]["torch"]
    assert 1e-5 < record["relative_error"] <= record["bound"]
    weights = {f"{name}.data" for name in ("encoder.onnx", "decoder.onnx", "denoiser.onnx")}
    assert FILES | weights <= set(engine.manifest["files"])
    graph = onnx.load(str(folder / "denoiser.onnx"), load_external_data=False).graph
    places = {entry.value for t in graph.initializer for entry in t.external_data[:1]}
    assert places == {"denoiser.onnx.data"}

    def fail(*_: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(latent, "_export", fail)
    again = tmp_path / "again"
    again.mkdir()
    latent.export_latent(prior, prior.model, again, engine.manifest["export_key"])
    for path in again.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert {path.name for path in again.iterdir()} == weights | {n[:-5] for n in weights}
    (folder / "denoiser.onnx.data").write_bytes(b"cut")
    with pytest.raises(EngineInvalid, match=r"denoiser\.onnx\.data"):
        le.load(folder)


def test_a_prompt_for_pixels_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", "photo-small", "-o", "a.engine", "--prompt", "a cat"]) == 2
    assert "prompt: expected None" in capsys.readouterr().err
