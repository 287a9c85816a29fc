"""compile, load, sample: seeds, batches, chunks, runtimes, units, and what a posterior holds."""

from __future__ import annotations

import json
import shutil
import threading
import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_prior
from tolerances import OTHER_RUNTIME, SAME_RUNTIME

import latino_engine as le
from latino_engine.sampling import network as network_module


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=32)
    return path


@pytest.fixture(scope="session")
def engine(folder):
    return le.load(folder, backend="onnxruntime")


def photo(batch=1, height=24, width=20, channels=3):
    generator = torch.Generator().manual_seed(11)
    return torch.rand(batch, channels, height, width, generator=generator)


def blur(noise_std=0.05):
    return le.Blur.gaussian(1.0, noise_std, size=5)


def close(a, b, tolerance):
    return float((a - b).norm()) <= tolerance * float(b.norm())


OPERATORS = {
    "blur": lambda: blur(),
    "sr": lambda: le.SuperResolution(2, 0.05),
    "inpainting": lambda: le.Inpainting(
        (np.arange(480).reshape(24, 20) % 3 > 0).astype(float), 0.05
    ),
    "denoising": lambda: le.Denoising(0.1),
    "jpeg": lambda: le.JPEG(30),
    "linear": lambda: le.LinearOperator(lambda x: 2.0 * x, lambda y: 2.0 * y, 0.05),
}


@pytest.mark.parametrize("sampler", ["latino", "ud2m"])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_samples(engine, name, sampler):
    op = OPERATORS[name]()
    y = op.measure(photo(2), seed=3)
    steps = {"latino": {"steps": 3}, "ud2m": {"steps": 2, "unfold": 2}}[sampler]
    post = engine.sample(y, op, num_samples=3, sampler=sampler, **steps)
    assert post.samples.shape == (3, 2, 3, 24, 20)
    assert post.samples.dtype == torch.float32
    assert torch.isfinite(post.samples).all()
    assert post.nfe == {"latino": 3, "ud2m": 4}[sampler]
    assert post.residual_chi2.shape == (3, 2)
    assert not torch.equal(post.samples[0], post.samples[1])


def test_mri_complex_and_real(tmp_path):
    mask = (torch.rand(24, 20, generator=torch.Generator().manual_seed(0)) < 0.6).double()
    for channels in (1, 2):
        engine = le.compile(tiny_prior(channels), tmp_path / f"{channels}.engine", image_size=16)
        op = le.MRI(mask, 0.05, real_image=channels == 1)
        y = op.measure(photo(1, channels=channels), seed=1)
        post = engine.sample(y, le.MRI(mask, 0.05), num_samples=2, steps=2)
        assert post.samples.shape == (2, 1, channels, 24, 20)


def test_the_same_seed_gives_the_same_samples(engine):
    op = blur()
    y = op.measure(photo(), seed=3)
    first, again = (engine.sample(y, op, num_samples=2, seed=7, steps=2).samples for _ in "ab")
    assert torch.equal(first, again)
    other = engine.sample(y, op, num_samples=2, seed=8, steps=2).samples
    difference = (other - first).flatten()
    assert float(difference.norm() / (first - y).norm()) > 0.01


def test_torchs_generator_is_untouched(engine):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    engine.sample(photo(), blur(), num_samples=1, steps=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sampler", ["latino", "ud2m"])
def test_a_sample_is_itself_whatever_travels_with_it(engine, monkeypatch, sampler):
    """num_samples, the batch, the chunk: the same tensor, to the runtime's rounding."""
    op = blur()
    y = op.measure(photo(3), seed=3)
    whole = engine.sample(y, op, num_samples=4, seed=2, sampler=sampler, steps=2).samples
    fewer = engine.sample(y, op, num_samples=2, seed=2, sampler=sampler, steps=2).samples
    assert close(fewer, whole[:2], SAME_RUNTIME)
    alone = engine.sample(
        y[1:2], op, num_samples=4, seed=2, sampler=sampler, steps=2, image_ids=[1]
    )
    assert close(alone.samples[:, 0], whole[:, 1], SAME_RUNTIME)
    for size in (1, 5, 100):
        monkeypatch.setattr(network_module.Network, "chunk_size", lambda self, h, w, n=size: n)
        cut = engine.sample(y, op, num_samples=4, seed=2, sampler=sampler, steps=2)
        assert close(cut.samples, whole, SAME_RUNTIME)
        assert close(cut.residual_chi2, engine.sample(y, op, 4, 2, sampler, 2).residual_chi2, 1e-4)


def test_another_image_id_is_another_draw(engine):
    op = blur()
    y = op.measure(photo(), seed=3)
    zero = engine.sample(y, op, num_samples=1, steps=2).samples
    one = engine.sample(y, op, num_samples=1, steps=2, image_ids=[1]).samples
    assert not close(one, zero, 1e-3)


@pytest.mark.parametrize("sampler", ["latino", "ud2m"])
def test_both_runtimes_draw_the_same_sample(folder, sampler):
    op = blur()
    y = op.measure(photo(), seed=3)
    found = [
        le.load(folder, backend=name).sample(y, op, num_samples=2, sampler=sampler).samples
        for name in ("onnxruntime", "torch")
    ]
    assert close(found[1], found[0], OTHER_RUNTIME)


def test_per_image_parameters_go_with_their_image(engine, monkeypatch):
    """Kernels, masks and noise levels per image, cut into chunks that mix them."""
    y = photo(2)
    kernels = torch.rand(2, 1, 3, 3, dtype=torch.float64) + 0.1
    kernels /= kernels.sum((-1, -2), keepdim=True)
    levels = torch.tensor([0.05, 0.2], dtype=torch.float64)
    monkeypatch.setattr(network_module.Network, "chunk_size", lambda self, h, w: 3)
    both = engine.sample(y, le.Blur(kernels, levels), num_samples=3, sampler="ud2m", steps=2)
    for i in range(2):
        op = le.Blur(kernels[i : i + 1], float(levels[i]))
        alone = engine.sample(
            y[i : i + 1], op, num_samples=3, sampler="ud2m", steps=2, image_ids=[i]
        )
        assert close(alone.samples[:, 0], both.samples[:, i], SAME_RUNTIME)
        assert torch.allclose(alone.residual_chi2[:, 0], both.residual_chi2[:, i], rtol=1e-4)


def test_a_chunk_that_does_not_fit_is_halved(engine, monkeypatch):
    op = blur()
    y = op.measure(photo(2), seed=3)
    expected = engine.sample(y, op, num_samples=4, steps=2)
    real, sizes = type(engine.network.runtime).__call__, []

    def small_machine(self, x, sigma):
        sizes.append(len(x))
        if len(x) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, x, sigma)

    monkeypatch.setattr(type(engine.network.runtime), "__call__", small_machine)
    told = []
    post = engine.sample(y, op, num_samples=4, steps=2, progress=lambda *a: told.append(a))
    assert sizes[0] == 8 and max(sizes[3:]) <= 2
    assert close(post.samples, expected.samples, SAME_RUNTIME)
    assert told[-1] == (16, 16) and told == sorted(told)


def test_another_error_of_the_runtime_is_not_swallowed(engine, monkeypatch):
    def broken(self, x, sigma):
        raise RuntimeError("broken kernel")

    monkeypatch.setattr(type(engine.network.runtime), "__call__", broken)
    with pytest.raises(RuntimeError, match="broken kernel"):
        engine.sample(photo(), blur(), steps=1)


def test_the_chunk_follows_the_free_memory(engine, monkeypatch):
    one = engine.manifest["memory"]["per_pixel"] * 64 * 64 + 12 * 4 * 3 * 64 * 64
    one += engine.manifest["memory"]["per_pixel_squared"] * 64.0**4
    for free, expected in ((2.2 * one, 1), (7.0 * one, 3), (1000 * one, 8)):
        monkeypatch.setattr(network_module, "available_bytes", lambda device, free=free: free)
        assert engine.network.chunk_size(64, 64) == expected
    monkeypatch.setattr(network_module, "available_bytes", lambda device: 0.5 * one)
    with pytest.raises(
        ValueError, match=r"y: expected an image that fits into the free memory .*tile=256"
    ):
        engine.network.chunk_size(64, 64)


def test_units_are_public(engine):
    """Denoising with a huge gamma returns y; the sample is in [0, 1], chi-square in units of
    noise_std.
    """
    y = photo()
    post = engine.sample(y, le.Denoising(1e-4), num_samples=1, steps=1)
    assert float((post.samples[0] - y).abs().max()) < 1e-3
    op = le.Blur(np.array([[2.0]]), 0.05)  # a gain: A(1) = 2
    post = engine.sample(2.0 * y, op, num_samples=1, steps=4)
    assert float((post.samples[0] - y).abs().mean()) < 0.05


def test_a_prior_with_another_public_range(tmp_path):
    y = photo()
    engines = {
        span: le.compile(tiny_prior(3, span), tmp_path / f"{span[1]}.engine", image_size=16)
        for span in ((0.0, 1.0), (-1.0, 1.0))
    }
    unit = engines[0.0, 1.0].sample(y, blur(0.05), num_samples=1, steps=2, init="measurement")
    # noise levels of the default schedule are stated in public units, hence the factor
    wide = engines[-1.0, 1.0]
    wide.spec.sampler.update(sigma_max=0.6, sigma_min=0.04)
    double = wide.sample(2 * y - 1, blur(0.1), num_samples=1, steps=2, init="measurement")
    assert close((double.samples + 1) / 2, unit.samples, 1e-4)
    assert torch.allclose(double.residual_chi2, unit.residual_chi2, rtol=1e-3)


def test_chi_square_is_about_one_for_the_truth(engine):
    from latino_engine.sampling.problem import make_problem

    for op in (blur(0.05), OPERATORS["inpainting"](), le.SuperResolution(2, 0.05)):
        truth = photo(1, 96, 80) if not isinstance(op, le.Inpainting) else photo()
        problem = make_problem(op.measure(truth, seed=1), op, engine.spec, None, "cpu")
        chi2 = float(problem.residual_chi2(truth, torch.tensor([0])))
        assert chi2 == pytest.approx(1.0, abs=0.15)


def test_what_stands_behind_a_mask_is_ignored(engine):
    op = OPERATORS["inpainting"]()
    y = op.measure(photo(), seed=3)
    spoiled = torch.where(op.observed(torch.ones_like(y)) > 0, y, torch.nan)
    expected = engine.sample(y, op, num_samples=1, steps=2)
    found = engine.sample(spoiled, op, num_samples=1, steps=2)
    assert torch.equal(found.samples, expected.samples)
    assert torch.equal(found.residual_chi2, expected.residual_chi2)


def test_the_start_may_be_given(engine):
    op = blur()
    y = op.measure(photo(), seed=3)
    default = engine.sample(y, op, num_samples=1, steps=1).samples
    assert torch.equal(
        engine.sample(y, op, num_samples=1, steps=1, init=op.initial_estimate(y)).samples, default
    )
    assert torch.equal(
        engine.sample(
            y, op, num_samples=1, steps=1, init=lambda y, op: op.initial_estimate(y)
        ).samples,
        default,
    )
    other = engine.sample(y, op, num_samples=1, steps=1, init="measurement").samples
    assert not close(other, default, 1e-4)
    assert torch.equal(engine.sample(y, op, num_samples=1, steps=1, init=y.numpy()).samples, other)


def test_numpy_in_tensors_out(engine):
    op = blur()
    y = op.measure(photo(), seed=3)
    a = engine.sample(y, op, num_samples=1, steps=1).samples
    b = engine.sample(y.double().numpy(), op, num_samples=1, steps=1).samples
    assert torch.equal(a, b)


def test_a_strided_measurement_is_the_same_measurement(engine):
    op = blur()
    y = op.measure(photo(), seed=3)
    strided = y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    one = engine.sample(strided, op, num_samples=1, steps=1).samples
    other = engine.sample(y, op, num_samples=1, steps=1).samples
    # An FFT may round by where its input begins in memory.
    assert close(one, other, SAME_RUNTIME)


def test_moments_without_samples(engine):
    op = blur()
    y = op.measure(photo(2), seed=3)
    kept = engine.sample(y, op, num_samples=9, steps=2)
    lean = engine.sample(y, op, num_samples=9, steps=2, keep_samples=False)
    assert torch.allclose(lean.mean, kept.mean, atol=1e-5)
    assert torch.allclose(lean.std, kept.std, atol=1e-5)
    assert torch.equal(lean.residual_chi2, kept.residual_chi2)
    with pytest.raises(ValueError) as caught:
        _ = lean.samples
    assert str(caught.value) == (
        "samples: expected a posterior with its samples, got one that kept only mean and std; "
        "call sample(..., keep_samples=True)"
    )


def test_mean_std_and_quantiles(engine):
    op = blur()
    post = engine.sample(op.measure(photo(), seed=3), op, num_samples=7, steps=1)
    samples = post.samples.numpy()
    assert np.allclose(post.mean, samples.mean(0), atol=1e-6)
    assert np.allclose(post.std, samples.std(0, ddof=1), atol=1e-6)
    for q in (0.0, 0.1, 0.5, 0.73, 1.0):
        assert np.allclose(post.quantile(q), np.quantile(samples, q, axis=0), atol=1e-6)
    assert post.quantile([0.1, 0.9]).shape == (2, *post.mean.shape)
    with pytest.raises(
        ValueError, match=r"q: expected one number, or a list, in \[0, 1\], got 1.5"
    ):
        post.quantile(1.5)
    single = engine.sample(op.measure(photo(), seed=3), op, num_samples=1, steps=1)
    assert torch.isnan(single.std).all()


def test_time_is_split_into_stages(engine):
    op = blur()
    post = engine.sample(op.measure(photo(), seed=3), op, num_samples=2)
    assert set(post.stages_ms) == {"prox", "noise", "denoise", "other"}
    assert sum(post.stages_ms.values()) == pytest.approx(post.time_ms)
    # LATINO draws noise in its inner steps alone, and that time is the data step's.
    assert post.stages_ms["noise"] == 0.0
    assert all(value > 0 for name, value in post.stages_ms.items() if name != "noise")
    assert "2 samples of (1, 3, 24, 20)" in repr(post) and "nfe=8" in repr(post)


def test_sample_from_several_threads(engine):
    op = blur()
    y = op.measure(photo(), seed=3)
    expected = [engine.sample(y, op, num_samples=1, seed=s, steps=2).samples for s in range(6)]
    found: dict[int, torch.Tensor] = {}

    def work(seed):
        found[seed] = engine.sample(y, op, num_samples=1, seed=seed, steps=2).samples

    workers = [threading.Thread(target=work, args=(s,)) for s in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed, samples in enumerate(expected):
        assert close(found[seed], samples, SAME_RUNTIME)


def test_threads_are_set_for_the_call_and_put_back(folder):
    op = blur()
    y = op.measure(photo(), seed=3)
    before = torch.get_num_threads()
    seen = []
    le.load(folder, threads=1).sample(
        y, op, num_samples=1, steps=1, progress=lambda *_: seen.append(torch.get_num_threads())
    )
    assert seen == [1] and torch.get_num_threads() == before


def test_no_noise_is_taken_as_a_thousandth_with_a_warning(engine):
    y = photo()
    with pytest.warns(UserWarning, match="noise_std: 0 is taken as 0.001") as caught:
        zero = engine.sample(y, le.Denoising(0.0), num_samples=1, steps=1).samples
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = engine.sample(y, le.Denoising(0.001), num_samples=1, steps=1).samples
    assert torch.equal(zero, small)


def test_progress_as_a_bar_goes_to_stderr(engine, capsys):
    engine.sample(photo(), blur(), num_samples=1, steps=1, progress=True)
    assert capsys.readouterr().out == ""


def test_save_writes_all_or_nothing(engine, tmp_path):
    op = blur()
    post = engine.sample(op.measure(photo(2), seed=3), op, num_samples=2, steps=1)
    post.save(tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"samples.npy", "mean.npy", "std.npy", "posterior.json"} <= names
    assert {"sample_000_image000.png", "sample_001_image001.png", "mean_image001.png"} <= names
    assert np.array_equal(np.load(tmp_path / "out" / "samples.npy"), post.samples.numpy())
    assert np.array_equal(np.load(tmp_path / "out" / "std.npy"), post.std.numpy())
    facts = json.loads((tmp_path / "out" / "posterior.json").read_text())
    assert facts["nfe"] == 1 and len(facts["residual_chi2"]) == 2
    post.save(tmp_path / "out")  # an earlier result is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OSError, match="mine"):
        post.save(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert {p.name for p in tmp_path.iterdir()} == {"out", "mine"}


def test_an_engine_moves(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere.engine")
    y = photo()
    a = le.load(folder).sample(y, blur(), num_samples=1, steps=1).samples
    assert torch.equal(a, le.load(moved).sample(y, blur(), num_samples=1, steps=1).samples)
