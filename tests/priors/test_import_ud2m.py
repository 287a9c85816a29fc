"""UD2M checkpoints in the authors' layout: merged, scheduled, sampled; their own data step."""

from __future__ import annotations

import math

import pytest
import torch
from published_layouts import adm_layout, fill

import latino_engine as le
from latino_engine.errors import AdapterInvalid, InvalidArgument
from latino_engine.schedule import few_step_sigmas, shifted_sigma, ud2m_schedule

RANK = 5
SCALARS = {"SP_Param": 0.3, "LambdaSIG": -0.5, "TAUG": 0.004, "TLAT": -0.001}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    path = tmp_path_factory.mktemp("adm") / "diffusion_ffhq_10m.pt"
    torch.save(fill(adm_layout(multiples=(1, 1, 1))), path)
    return le.import_guided_diffusion(
        path, head_channels=32, attention_order="legacy", schedule="linear"
    )


def layout(prior, ram=False, scalars=SCALARS, count=1):
    """What the authors' Lightning module writes: trainable entries only, and the optimisers."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, weight in prior.denoiser.network.state_dict().items():
        if name.endswith(("qkv.weight", "proj_out.weight")):
            layer, (out, inside) = name.removesuffix(".weight"), weight.shape[:2]
            stem = f"{layer}.parametrizations.weight.0"
            for side, shape in (("A", (out, RANK)), ("B", (RANK, inside))):
                normal = torch.randn(shape, generator=generator)
                state[f"{stem}.lora_{side}"] = normal * (2 / sum(shape)) ** 0.5  # as they start
        elif name.startswith("out."):
            state[name] = weight + 0.1
    hqs = {f"{k}.{i}": torch.tensor(v + 0.01 * i) for k, v in scalars.items() for i in range(count)}
    return {
        "epoch": 12,
        "global_step": 999,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "HQS_state_dict": hqs | {f"model.{k}": v for k, v in state.items()},
        "RAM_state_dict": {"m_head.weight": torch.randn(4, 3)} if ram else {},
        "Discriminator_state_dict": {"a.weight": torch.zeros(2)},
        "opt_g_state_dict": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"lr": 1e-4}],
        },
        "beta_std": 1,
        "is_valid": 0,
    }


@pytest.fixture
def file(tmp_path, prior):
    torch.save(layout(prior), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_low_rank_changes_are_merged_with_alpha_over_rank(file, prior):
    adapter = le.import_ud2m(file, prior, "deblur").adapter
    assert adapter.scale == pytest.approx(1.5 / 5)
    before = prior.denoiser.network.state_dict()
    after = adapter.merge(prior).denoiser.network.state_dict()
    stored = torch.load(file, weights_only=True)["state_dict"]
    for name, weight in before.items():
        stem = f"{name.removesuffix('.weight')}.parametrizations.weight.0"
        if f"{stem}.lora_A" in stored:
            update = stored[f"{stem}.lora_A"] @ stored[f"{stem}.lora_B"]
            expected = weight + 1.5 / 5 * update.view(weight.shape)
            assert torch.allclose(after[name], expected, atol=1e-5)
        else:
            assert torch.equal(after[name], stored.get(name, weight))


def test_log_domain_scalars_become_the_schedule(file, prior):
    schedule = le.import_ud2m(file, prior, "deblur").adapter.schedule
    assert (len(schedule.sigmas), schedule.unfold, schedule.zeta) == (3, 3, 0.9)
    assert list(schedule.sigmas) == few_step_sigmas(3)
    tables = schedule.steps["Blur"]
    assert tables["r"][2][1] == pytest.approx(math.exp(0.3))
    assert tables["lam"][0][0] == pytest.approx(math.exp(-0.5))
    assert schedule.time_shift[1][2] == pytest.approx(3.0)
    step = schedule.builder(le.Blur.uniform(3, 0.05))(0.1).outer[1].inner[0]
    sigma_n, table = schedule.sigmas[1], prior.spec.sigma_table
    rho = 0.1 * sigma_n / (0.1**2 + sigma_n**2) ** 0.5
    at = next(t for t in range(1000) if table[t] >= rho)
    assert table[at + 2] < step.sigma_delta < table[at + 3]
    plain = ud2m_schedule(0.1, schedule.sigmas, 3, r=math.exp(0.3), lam=math.exp(-0.5))
    assert step.gamma == pytest.approx(plain.outer[1].inner[0].gamma)


def test_scalars_of_every_iteration_are_read(tmp_path, prior):
    torch.save(layout(prior, count=3), tmp_path / "a.ckpt")
    tables = le.import_ud2m(tmp_path / "a.ckpt", prior, "inp").adapter.schedule.steps["Inpainting"]
    assert tables["r"][0] == pytest.approx([math.exp(0.3), math.exp(0.31), math.exp(0.32)])
    with pytest.raises(AdapterInvalid, match="one or 2 of each, got 3 of LambdaSIG, 3 of SP_Param"):
        le.import_ud2m(tmp_path / "a.ckpt", prior, "inp", unfold=2)


def test_times_are_shifted_along_the_table_and_stay_in_it(prior):
    table = prior.spec.sigma_table
    assert shifted_sigma(table[400], 0.0, table) == pytest.approx(table[400])
    assert shifted_sigma(table[400], -20.0, table) == pytest.approx(table[380])
    assert shifted_sigma(table[400], 1e5, table) == pytest.approx(table[999])
    assert shifted_sigma(table[400], -1e5, table) == pytest.approx(table[1])
    both = shifted_sigma(torch.tensor([table[5], table[900]], dtype=torch.float64), 3.0, table)
    assert both.tolist() == pytest.approx([table[8], table[903]])


def test_a_restoration_network_is_kept_beside_the_adapter(tmp_path, prior, file):
    torch.save(layout(prior, ram=True), tmp_path / "ram.ckpt")
    found = le.import_ud2m(tmp_path / "ram.ckpt", prior, "sr")
    assert found.adapter.init == "network" and list(found.restoration) == ["m_head.weight"]
    found.save(tmp_path / "adapter")
    names = {"adapter.json", "adapter.safetensors", "init.safetensors"}
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == names
    again = le.load_adapter(tmp_path / "adapter")
    assert again.content_hash() == found.adapter.content_hash()
    assert again.schedule == found.adapter.schedule
    assert le.import_ud2m(file, prior, "sr").adapter.init == "regularised"
    assert le.import_ud2m(file, prior, "inp").adapter.init == "measurement"


def test_entries_that_do_not_fit_are_named(tmp_path, prior, file):
    def refused(change, match, error=AdapterInvalid):
        broken = layout(prior)
        change(broken)
        torch.save(broken, tmp_path / "b.ckpt")
        with pytest.raises(error, match=match):
            le.import_ud2m(tmp_path / "b.ckpt", prior, "deblur")

    first = "middle_block.1.qkv.parametrizations.weight.0.lora_A"
    refused(lambda c: c["state_dict"].pop(first), r"got one half for middle_block\.1\.qkv")
    refused(lambda c: c.pop("HQS_state_dict"), "a Lightning file of UD2M with HQS_state_dict, got")
    refused(
        lambda c: c["HQS_state_dict"].update({"Gain.0": torch.tensor(1.0)}),
        "expected SP_Param, LambdaSIG, TAUG and TLAT, one or 3 of each, got Gain.0",
    )
    refused(
        lambda c: c["state_dict"].update({"out.2.wait": c["state_dict"].pop("out.2.weight")}),
        r"unexpected out\.2\.wait",
        ValueError,
    )
    with pytest.raises(InvalidArgument, match="task: expected one of 'deblur', 'sr', 'inp'"):
        le.import_ud2m(file, prior, "blur")


@pytest.mark.slow
def test_an_engine_samples_by_the_imported_schedule(tmp_path, prior, file):
    le.import_ud2m(file, prior, "inp").save(tmp_path / "adapter")
    engine = le.compile(
        prior, tmp_path / "a.engine", adapter=tmp_path / "adapter", image_size=32, backend="torch"
    )
    mask = (torch.rand(16, 20) > 0.5).float()
    op = le.Inpainting(mask, 0.05)
    post = engine.sample(op.measure(torch.rand(1, 3, 16, 20)), op, num_samples=1)
    assert post.nfe == 9 and bool(torch.isfinite(post.samples).all())


def published_surrogate(v, y, h, factor, gamma):
    """The authors' formula for images in [0, 1], one full FFT after the other."""
    big = torch.nn.functional.interpolate(y, scale_factor=factor, mode="bilinear")
    weight = 4 * gamma
    top = torch.fft.fft2(v) + weight * h.conj() * torch.fft.fft2(big)
    return torch.fft.ifft2(top / (weight * h.pow(2) + 1)).real


def test_the_surrogate_of_super_resolution_is_taken_only_on_request():
    y, v = (
        torch.rand(2, 3, 8, 8, dtype=torch.float64),
        torch.rand(2, 3, 32, 32, dtype=torch.float64),
    )
    exact, compatible = (le.SuperResolution(4, 0.05, compat=c) for c in (None, "ud2m"))
    taps = exact.kernel[0, 0]
    padded = torch.zeros(32, 32, dtype=torch.float64)
    padded[:16, :16] = taps
    h = torch.fft.fft2(torch.roll(padded, (-8, -8), (0, 1)))
    expected = published_surrogate(v, y, h, 4, 0.7)
    found = compatible.prox(v, y, 0.7)
    assert float((found - expected).norm() / expected.norm()) < 1e-12
    assert float((exact.prox(v, y, 0.7) - expected).norm() / expected.norm()) > 1e-2
    assert torch.equal(exact.A(v), compatible.A(v))
    assert "compat='ud2m'" in repr(compatible) and "compat" not in repr(exact)
    picked = compatible.take(torch.tensor([1]))
    assert torch.allclose(picked.prox(v[1:], y[1:], 0.7), found[1:])
    # affine in the range: constants map to themselves, so that [-1, 1] and [0, 1] agree
    scaled = compatible.prox(2 * v - 1, 2 * y - 1, 0.7)
    assert torch.allclose(scaled, 2 * found - 1, atol=1e-10)
    with pytest.raises(InvalidArgument, match="compat: expected None or 'ud2m', got 'ud'"):
        le.SuperResolution(4, 0.05, compat="ud")


def test_the_published_gaussian_takes_half_a_variance_as_its_std():
    kernel = le.Blur.gaussian(3.0, 0.05, compat="ud2m").kernel[0, 0]
    assert kernel.shape == (26, 26) and float(kernel.sum()) == pytest.approx(1.0)
    n = torch.arange(26, dtype=torch.float64) - 13
    assert float((kernel.sum(0) * n**2).sum()) == pytest.approx(2 * 3.0, rel=1e-3)
    plain = le.Blur.gaussian(3.0, 0.05).kernel[0, 0]
    m = torch.arange(len(plain), dtype=torch.float64) - len(plain) // 2
    assert float((plain.sum(0) * m**2).sum()) == pytest.approx(3.0**2, rel=2e-2)
    with pytest.raises(InvalidArgument, match="compat: expected None or 'ud2m'"):
        le.Blur.gaussian(3.0, 0.05, compat="paper")
