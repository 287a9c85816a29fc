"""Adapters: files, merging, what they refuse, and engines that are compiled with one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_prior
from tiny_adapters import learned, make_adapter, table, trained

import latino_engine as le
from latino_engine.cli import program
from latino_engine.distill.lora import adapt, output_layer, trained_weights
from latino_engine.errors import AdapterInvalid, InvalidArgument, InvalidType, OutputNotWritable
from latino_engine.priors.adapters import low_rank_change


@pytest.mark.parametrize("targets", ["attention", "all-conv", "full"])
def test_merged_weights_are_the_network_that_was_trained(targets):
    weights, network = trained(tiny_prior(), targets)
    prior = tiny_prior()
    before = {k: v.clone() for k, v in prior.denoiser.state_dict().items()}
    merged = make_adapter(prior, weights).merge(prior)
    x, noise = torch.randn(2, 12, 8, 8)[:, :3], torch.tensor([0.1, -0.7])
    with torch.no_grad():
        expected, found = network(x, noise), merged.denoiser.network(x, noise)
        untouched = prior.denoiser.network(x, noise)
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert float((untouched - expected).norm() / expected.norm()) > 1e-3
    assert all(torch.equal(v, before[k]) for k, v in prior.denoiser.state_dict().items())


def test_what_each_target_trains():
    weights, _ = trained(tiny_prior(), "attention")
    layers = {"mid.attention.qkv", "mid.attention.proj"}
    expected = {f"lora_{side}.{name}" for side in "AB" for name in layers}
    assert set(weights) == expected | {"full.conv_out.weight", "full.conv_out.bias"}
    more, _ = trained(tiny_prior(), "all-conv")
    assert {"lora_A.down.0.blocks.0.conv1", "lora_A.time_embed.0"} < set(more) > set(weights)
    whole, network = trained(tiny_prior(), "full")
    assert set(whole) == {f"full.{name}" for name, _ in network.named_parameters()}
    assert output_layer(tiny_prior().denoiser.network) == "conv_out"


def test_the_largest_rank_is_that_of_the_largest_layer():
    """For layers W (out, in, ...) the rank of W as a matrix is at most min(out, in * ...)."""
    network = tiny_prior().denoiser.network
    layers = dict(network.named_modules())
    names = [n for n, m in layers.items() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    sizes = {n: tuple(layers[n].weight.shape) for n in names if n != output_layer(network)}
    largest = max(min(shape[0], int(np.prod(shape[1:]))) for shape in sizes.values())
    assert largest > min(min(shape[0], int(np.prod(shape[1:]))) for shape in sizes.values())
    with pytest.raises(InvalidArgument, match=f"^rank: expected a rank of at most {largest}, that"):
        adapt(network, "all-conv", rank=largest + 1, alpha=1.0, seed=0)
    adapt(network, "all-conv", rank=largest, alpha=1.0, seed=0)


def test_low_rank_change_against_a_loop():
    a, b = torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1)
    change = low_rank_change(a, b)
    for out in range(5):
        expected = sum(b[out, r, 0, 0] * a[r] for r in range(2))
        assert torch.allclose(change[out], expected, atol=1e-6)


def test_an_untrained_adapter_changes_nothing():
    prior = tiny_prior()
    network = tiny_prior().denoiser.network
    adapt(network, "all-conv", rank=2, alpha=3.0, seed=0)
    merged = make_adapter(prior, trained_weights(network)).merge(prior)
    state = prior.denoiser.state_dict()
    for name, weight in merged.denoiser.state_dict().items():
        assert torch.allclose(weight, state[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("half", [False, True])
def test_files(half, tmp_path):
    adapter = make_adapter(tiny_prior(), init="measurement", training={"rank": 2, "patches": (1,)})
    le.save_adapter(adapter, tmp_path / "a", half=half)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"adapter.json", "adapter.safetensors"}
    again = le.load_adapter(tmp_path / "a")
    assert again.schedule == adapter.schedule and again.init == "measurement"
    assert again.training == {"rank": 2, "patches": [1]}
    if not half:
        assert again.content_hash() == adapter.content_hash()
    for name, weight in adapter.weights.items():
        assert torch.allclose(again.weights[name], weight, rtol=1e-3 if half else 0, atol=1e-6)
    with pytest.raises(OutputNotWritable, match="out: expected"):
        le.save_adapter(adapter, tmp_path / "a")


def test_step_sizes_by_operator_class():
    schedule = learned()
    blur, other = le.Blur.uniform(3, 0.1), le.SuperResolution(2, 0.1)
    assert schedule.step_sizes(blur)["r"] == table(1.0)
    expected = (np.array(table(1.0)) * np.array(table(4.0))) ** 0.5
    assert np.allclose(schedule.step_sizes(other)["r"], expected)
    rows = schedule.builder(blur)(0.2)
    assert rows.nfe == schedule.nfe == 4 and rows.outer[1].sigma_n == 0.5
    rho = 1.0 * 0.2 * 20.0 / (0.2**2 + 20.0**2) ** 0.5
    assert rows.outer[0].inner[0].sigma_delta == pytest.approx(2.0 * rho)


def test_an_engine_with_an_adapter_runs_its_schedule(tmp_path):
    prior = tiny_prior()
    adapter = make_adapter(prior)
    le.save_adapter(adapter, tmp_path / "a")
    engine = le.compile(prior, tmp_path / "e.engine", backend="torch", adapter=tmp_path / "a")
    assert engine.manifest["prior_sha256"] == prior.content_hash()
    assert engine.manifest["adapter_sha256"] == adapter.content_hash()
    assert engine.manifest["sampler"] == {"name": "adapter", "nfe": 4}
    assert "adapter='a'" in repr(engine)
    probed = [float(s) for s in engine.manifest["runtimes"]["torch"]["error_by_sigma"]]
    levels = adapter.schedule.builder(le.Blur.uniform(3, 0.05))(0.1).denoiser_sigmas()
    assert all(any(abs(s - level) < 1e-4 * level for s in probed) for level in levels)
    op = le.Blur.uniform(3, 0.05)
    y = op.measure(torch.rand(1, 3, 16, 16))
    post = engine.sample(y, op, num_samples=1)
    assert post.nfe == 4 and post.about["sampler"] == "adapter"
    merged = le.compile(adapter.merge(prior), tmp_path / "m.engine", backend="torch")
    same = merged.sample(y, op, num_samples=1, sampler="latino", steps=4)
    assert torch.equal(same.samples, engine.sample(y, op, 1, sampler="latino", steps=4).samples)
    assert not torch.equal(same.samples, post.samples)
    again = engine.sample(y, op, num_samples=1, steps=2, unfold=2)
    assert torch.equal(again.samples, post.samples)
    other = engine.sample(y, op, num_samples=1, steps=4)
    assert torch.equal(other.samples, same.samples) and other.about["sampler"] == "latino"
    with pytest.raises(InvalidArgument, match="unfold: expected None or 2"):
        engine.sample(y, op, unfold=5)


def test_the_start_of_an_adapter(tmp_path):
    prior = tiny_prior()
    op = le.Blur.uniform(3, 0.05)
    y = op.measure(torch.rand(1, 3, 16, 16))
    measured = le.compile(
        prior, tmp_path / "m.engine", "torch", adapter=make_adapter(prior, init="measurement")
    )
    plain = le.compile(prior, tmp_path / "p.engine", "torch", adapter=make_adapter(prior))
    by_default = measured.sample(y, op, 1).samples
    assert torch.equal(by_default, plain.sample(y, op, 1, init="measurement").samples)
    assert not torch.equal(by_default, plain.sample(y, op, 1).samples)
    network = le.compile(
        prior, tmp_path / "n.engine", "torch", adapter=make_adapter(prior, init="network")
    )
    with pytest.raises(InvalidArgument, match="init: expected the restoration network"):
        network.sample(y, op)
    network.sample(y, op, 1, init=lambda y, op: y)


def test_refused_with_one_sentence(tmp_path, capsys):
    prior = tiny_prior()
    adapter = make_adapter(prior)
    other = tiny_prior(data_range=(-1.0, 1.0))
    with pytest.raises(AdapterInvalid, match=r"adapter: expected one of the prior 'tiny'.*use the"):
        adapter.merge(other)
    with pytest.raises(AdapterInvalid, match="neither"):
        le.load_adapter(tmp_path / "none")
    with pytest.raises(InvalidType, match="adapter: expected 'auto', 'none', an adapter, its name"):
        le.compile(prior, tmp_path / "e.engine", adapter=3)
    assert not (tmp_path / "e.engine").exists()
    le.save_adapter(adapter, tmp_path / "a")
    le.save_prior(other, tmp_path / "other")
    out = str(tmp_path / "e.engine")
    arguments = ["compile", str(tmp_path / "other"), "-o", out, "--adapter", str(tmp_path / "a")]
    assert program.run(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "use the prior that it was distilled from" in err


def test_damaged_folders(tmp_path):
    prior = tiny_prior()
    adapter = make_adapter(prior)

    def fresh(name):
        le.save_adapter(adapter, tmp_path / name)
        return tmp_path / name

    folder = fresh("missing")
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(AdapterInvalid, match=r"expected adapter\.safetensors in 'missing'"):
        le.load_adapter(folder)
    folder = fresh("cut")
    data = (folder / "adapter.safetensors").read_bytes()
    (folder / "adapter.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(AdapterInvalid, match="files that can be read in 'cut'"):
        le.load_adapter(folder)
    folder = fresh("nan")
    weights = load_file(folder / "adapter.safetensors")
    weights["full.conv_out.bias"] = weights["full.conv_out.bias"] * float("nan")
    save_file(weights, folder / "adapter.safetensors")
    with pytest.raises(AdapterInvalid, match="expected finite weights"):
        le.load_adapter(folder)

    def edited(name, change):
        folder = fresh(name)
        facts = json.loads((folder / "adapter.json").read_text())
        change(facts)
        (folder / "adapter.json").write_text(json.dumps(facts))
        return folder

    with pytest.raises(AdapterInvalid, match="expected format 1, got 9"):
        le.load_adapter(edited("format", lambda f: f.update(format=9)))
    with pytest.raises(AdapterInvalid, match="2 x 2 positive step sizes"):
        le.load_adapter(edited("short", lambda f: f["sampler"]["steps"]["Blur"]["r"].pop()))
    with pytest.raises(AdapterInvalid, match="the field sampler, got none"):
        le.load_adapter(edited("none", lambda f: f.pop("sampler")))
    with pytest.raises(AdapterInvalid, match="the field name, got none"):
        le.load_adapter(edited("noname", lambda f: f.pop("name")))
    with pytest.raises(AdapterInvalid, match="as init, got invalid enum value 'zeros'"):
        le.load_adapter(edited("init", lambda f: f.update(init="zeros")))


def test_weights_that_do_not_fit():
    prior = tiny_prior()
    weights = dict(trained(tiny_prior())[0])
    adapter = make_adapter(prior, weights)
    stray = {**weights, "lora_A.nowhere": torch.ones(2, 3)}
    with pytest.raises(AdapterInvalid, match=r"'lora_A\.nowhere', which has no place"):
        replace(adapter, weights=stray).merge(prior)
    alone = {k: v for k, v in weights.items() if k != "lora_B.mid.attention.qkv"}
    with pytest.raises(AdapterInvalid, match="no partner"):
        replace(adapter, weights=alone).merge(prior)
    misshapen = {**weights, "full.conv_out.bias": torch.zeros(5)}
    with pytest.raises(AdapterInvalid, match=r"weight of shape \(12,\), got one for \(5,\)"):
        replace(adapter, weights=misshapen).merge(prior)
