"""What is shipped: small enough, loads by name, and the adapters belong to their priors."""

from __future__ import annotations

from importlib import resources

import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.priors import adapters, loading

ASSETS = resources.files("latino_engine") / "assets"
PRIOR_OF = {
    "photo-small": "photo-small",
    "digits-32-2x2": "digits-32",
    "digits-32-3x3": "digits-32",
}
LIMIT_MB = {"digits-32": 2.0, "photo-small": 10.0}


def size_mb(path):
    return sum(len(file.read_bytes()) for file in path.iterdir()) / 1e6


@pytest.mark.parametrize("name", loading.SHIPPED)
def test_priors(name):
    prior = le.load_prior(name)
    assert prior.name == name and prior.spec.licence
    assert size_mb(ASSETS / name) <= LIMIT_MB[name]


@pytest.mark.parametrize("name", adapters.SHIPPED)
def test_adapters(name):
    adapter = le.load_adapter(name)
    prior = le.load_prior(PRIOR_OF[name])
    merged = adapter.merge(prior)
    assert adapter.name == name and size_mb(ASSETS / "adapters" / name) <= 4.0
    assert set(adapter.schedule.steps) == {"Blur", "Inpainting", "SuperResolution"}
    assert adapter.training["operators"] and "/" not in adapter.training["source"]
    x = torch.zeros(1, prior.channels, 32, 32)
    assert float((merged.denoise(x, 0.3) - prior.denoise(x, 0.3)).abs().max()) > 1e-3


@pytest.mark.parametrize("name", loading.SHIPPED)
def test_a_shipped_prior_takes_its_adapter(name):
    prior = le.load_prior(name)
    chosen = adapters.adapter_for("auto", prior)
    assert chosen is not None and PRIOR_OF[chosen.name] == name
    assert chosen.prior_sha256 == prior.content_hash()
    assert adapters.adapter_for("none", prior) is adapters.adapter_for(None, prior) is None


def test_another_prior_takes_none(tmp_path, capsys):
    prior = tiny_prior()
    assert adapters.adapter_for("auto", prior) is None
    le.save_prior(prior, tmp_path / "tiny")
    out = str(tmp_path / "a.engine")
    assert program.run(["compile", str(tmp_path / "tiny"), "-o", out, "--backend", "torch"]) == 0
    engine = le.load(out)
    assert engine.manifest["adapter"] is None and "adapter=None" in repr(engine)
    assert program.run(["info", out]) == 0
    assert "none, zero-shot" in capsys.readouterr().out


def test_a_digit_that_a_box_hides(tmp_path):
    """Samples agree with what was measured and differ where nothing was."""
    engine = le.compile("digits-32", tmp_path / "d.engine", "torch")
    assert "adapter='digits-32-2x2'" in repr(engine)
    x = torch.zeros(1, 1, 32, 32)
    x[..., 6:26, 14:18] = 1.0  # a stroke like that of a 1
    mask = torch.ones(32, 32)
    mask[8:24, 8:24] = 0.0
    op = le.Inpainting(mask, noise_std=0.05)
    post = engine.sample(op.measure(x), op, num_samples=8)
    hidden = mask[None, None] == 0
    assert post.nfe == 4
    assert float(post.std[hidden].mean()) > 2.0 * float(post.std[~hidden].mean())
    error = (post.mean - x)[~hidden].square().mean().sqrt()
    assert float(error) < 0.08
