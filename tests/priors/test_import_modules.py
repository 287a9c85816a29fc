"""Priors from torch modules: every parametrisation meets the contract of one Gaussian world."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import latino_engine as le
from latino_engine.errors import InvalidArgument, InvalidType, PriorInvalid
from latino_engine.schedule import linear_beta_sigmas

VARIANCE = 0.3  # of images whose pixels are independent and normal
TABLE = torch.tensor(linear_beta_sigmas(), dtype=torch.float64)


class Exact(nn.Module):
    """The exact network of that world, in any parametrisation and time."""

    def __init__(self, parametrization, time=None, scaling="vp"):
        super().__init__()
        self.kind, self.time, self.scaling = parametrization, time, scaling
        self.variance = nn.Parameter(torch.tensor(VARIANCE))

    def sigma(self, t):
        if self.kind == "edm":
            return (4 * t).exp()
        if self.time == "log_sigma":
            return t.exp()
        if self.time != "index":
            return t
        low = t.floor().long().clamp(max=998)
        return (TABLE[low] + (t - low) * (TABLE[low + 1] - TABLE[low])).float()

    def forward(self, x, t):
        s = self.sigma(t)[:, None, None, None]
        if self.kind == "denoiser":  # of images in [0, 1]
            centred, level = 2 * x - 1, 2 * s
            return 0.5 + 0.5 * centred * self.variance / (self.variance + level**2)
        if self.kind == "edm":
            noisy = x * (s**2 + 0.25).sqrt()
            clean = noisy * self.variance / (self.variance + s**2)
            skip = 0.25 / (s**2 + 0.25)
            return (clean - skip * noisy) * (s**2 + 0.25).sqrt() / (0.5 * s)
        alpha = (1 + s**2).rsqrt()
        noisy = x / alpha if self.scaling == "vp" else x
        clean = noisy * self.variance / (self.variance + s**2)
        eps = (noisy - clean) / s
        v = alpha * eps - s * alpha * clean
        return {"eps": eps, "score": -eps, "v": v, "x0": clean}[self.kind]


CASES = [
    (kind, time, scaling)
    for kind in ("eps", "score", "v", "x0")
    for time in ("index", "sigma", "log_sigma")
    for scaling in ("vp", "ve")
] + [("edm", None, "vp"), ("denoiser", None, "vp")]


def made(kind, time, scaling="vp", **more):
    options = {"sigma_min": 0.02, "sigma_max": 50.0, "channels": 1, "size_multiple": 4}
    options |= {"time": time, "sigma_table": "linear"} if time else {}
    options |= {"sigma_data": 0.5} if kind == "edm" else {}
    options |= {"input_range": (0.0, 1.0)} if kind == "denoiser" else {}
    module = Exact(kind, time, scaling)
    return le.from_module(module, parametrization=kind, scaling=scaling, **options | more)


@pytest.mark.parametrize(("kind", "time", "scaling"), CASES)
def test_every_parametrisation_gives_the_posterior_mean(kind, time, scaling):
    prior = made(kind, time, scaling)
    x = torch.randn(3, 1, 8, 6)
    for sigma in (0.05, 0.7, 20.0):
        expected = x * VARIANCE / (VARIANCE + sigma**2)
        error = (prior.denoise(x, sigma) - expected).norm() / x.norm()
        assert float(error) < 3e-5


def test_it_is_saved_without_its_code_and_loaded_into_a_module(tmp_path):
    prior = made("eps", "index")
    prior.denoiser.network.module.variance.data.fill_(0.5)
    le.save_prior(prior, tmp_path / "prior")
    with pytest.raises(PriorInvalid, match=r"an instance of Exact, .* load_prior\(folder, module="):
        le.load_prior(tmp_path / "prior")
    with pytest.raises(PriorInvalid, match=r"an instance of Exact, .* got Identity"):
        le.load_prior(tmp_path / "prior", module=nn.Identity())
    again = le.load_prior(tmp_path / "prior", module=Exact("eps", "index"))
    assert again.content_hash() == prior.content_hash()
    with pytest.raises(PriorInvalid, match=r"module: expected None, as prior\.json names the"):
        le.load_prior("photo-small", module=nn.Identity())


@pytest.mark.slow
def test_it_is_compiled_and_sampled(tmp_path):
    engine = le.compile(made("eps", "index"), tmp_path / "a.engine", image_size=16)
    assert engine.backend == "onnxruntime"
    assert "load_prior(folder, module=...)" in engine.manifest["runtimes"]["torch"]["refused"]
    op = le.Denoising(0.1)
    post = engine.sample(torch.rand(1, 1, 9, 12), op, num_samples=2, steps=3)
    assert bool(torch.isfinite(post.samples).all())


def test_the_graph_is_made_anew_where_only_the_code_changes(tmp_path, monkeypatch):
    from latino_engine.export import denoiser

    calls = []
    monkeypatch.setattr(
        denoiser, "_export", lambda d, p, target: calls.append(target.write_text("x"))
    )
    for _ in range(2):
        denoiser.export_denoiser(made("eps", "index"), "fp32", tmp_path / "denoiser.onnx")
    assert len(calls) == 2


class Wrong(nn.Module):
    def forward(self, x):
        return x


def test_statements_that_are_missing_or_contradict_are_refused():
    def refused(match, error=InvalidArgument, module=None, **options):
        given = {"parametrization": "eps", "channels": 1, "time": "sigma"}
        given |= {"sigma_min": 0.1, "sigma_max": 10.0}
        with pytest.raises(error, match=match):
            le.from_module(module or Exact("eps", "sigma"), **given | options)

    refused("module: expected a torch.nn.Module, got function", InvalidType, lambda x, t: x)
    refused("parametrization: expected one of 'eps', 'v', 'x0'", parametrization="noise")
    refused("time: expected one of 'index', 'sigma', 'log_sigma', got None", time=None)
    refused("time: expected None, as 'edm' defines it", parametrization="edm", sigma_data=0.5)
    refused("sigma_data: expected a number above 0", parametrization="edm", time=None)
    refused("sigma_table: expected the noise level of every training time", time="index")
    refused("sigma_min, sigma_max: expected 0 < sigma_min < sigma_max", sigma_min=None)
    refused("scaling: expected 'vp' or 've', got 'vv'", scaling="vv")
    refused(r"module: expected module\(x, t\) with x \(2, 1, 16, 16\)", module=Wrong())
    refused(
        r"expected an output of shape \(2, 3, 16, 16\)",
        parametrization="x0",
        channels=3,
        module=nn_grey(),
    )
    refused(
        "sigma_table: expected three or more increasing noise levels",
        PriorInvalid,
        time="index",
        sigma_table=[1.0, 0.5, 2.0],
    )


def nn_grey():
    class Grey(nn.Module):
        def forward(self, x, t):
            return x[:, :1]

    return Grey()
