"""A posterior is kept whole: figures, samples, measurement and operator, and draws again."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.errors import InvalidArgument, PosteriorInvalid

Y = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return le.load(folder, backend="torch")


REQUESTS = {
    "latino": {"sampler": "latino", "steps": 3, "num_samples": 2, "seed": 2**63 + 1},
    "ud2m": {"sampler": "ud2m", "steps": 2, "unfold": 2, "num_samples": 3},
    "moments": {"num_samples": 3, "steps": 2, "keep_samples": False},
    "identities": {"num_samples": 1, "steps": 2, "image_ids": [7, 3]},
    "start": {"num_samples": 2, "steps": 2, "init": 0.5 * torch.ones(2, 3, 16, 20)},
    "tiles": {"num_samples": 1, "steps": 2, "tile": 8},
}
OPERATORS = {
    "blur": le.Blur.gaussian(1.0, 0.05, size=5),
    "mask": le.Inpainting((torch.rand(16, 20) > 0.4).float(), 0.03),
    "levels": le.Denoising([0.05, 0.2]),
}


@pytest.mark.parametrize("form", ["result.npz", "result"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_what_was_saved_comes_back_and_draws_again(engine, tmp_path, form, request_name):
    op = OPERATORS["mask" if request_name == "ud2m" else "blur"]
    post = engine.sample(Y, op, **REQUESTS[request_name])
    post.save(tmp_path / form)
    loaded = le.Posterior.load(tmp_path / form)
    assert torch.equal(loaded.mean, post.mean)
    assert torch.equal(loaded.std, post.std) or post.num_samples == 1
    assert torch.equal(loaded.residual_chi2, post.residual_chi2)
    assert (loaded.nfe, loaded.num_samples) == (post.nfe, post.num_samples)
    assert loaded.about == json.loads(json.dumps(post.about))
    again = loaded.repeat(engine)
    assert torch.equal(again.mean, post.mean)
    if post.kept is not None:
        assert torch.equal(again.samples, post.samples)
        assert torch.equal(loaded.samples, post.samples)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operator_of_a_saved_posterior_by_its_string(engine, tmp_path, name):
    engine.sample(Y, OPERATORS[name], 1, steps=2).save(tmp_path / "result.npz")
    op = le.operator(f"saved:file={tmp_path / 'result.npz'}")
    assert torch.equal(op.measure(Y, seed=1), OPERATORS[name].measure(Y, seed=1))


def test_numpy_alone_reads_the_file(engine, tmp_path):
    post = engine.sample(Y, OPERATORS["blur"], 2, steps=2, seed=9)
    post.save(tmp_path / "result.npz")
    with np.load(tmp_path / "result.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["samples"], post.samples.numpy())
        np.testing.assert_array_equal(stored["measurement"], Y.numpy())
        kernel = stored["operator.kernel"]
        about = json.loads(str(stored["about"]))
    np.testing.assert_array_equal(kernel, OPERATORS["blur"].kernel.numpy())
    assert about["seed"] == 9
    assert about["versions"]["numpy"] == np.__version__


def test_the_hash_is_that_of_the_manifest(engine, folder, tmp_path):
    fields = json.loads((folder / "engine.json").read_text())
    recorded = fields.pop("sha256")
    text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
    assert recorded == hashlib.sha256(text.encode()).hexdigest()
    post = engine.sample(Y, OPERATORS["blur"], 1, steps=2)
    assert post.about["engine_sha256"] == recorded


def test_the_schedule_has_the_numbers_of_latino(engine):
    post = engine.sample(Y, le.Denoising(0.1), 1, steps=2, sampler="latino")
    rows = [row for outer in post.about["schedule"]["outer"] for row in outer["inner"]]
    assert [row["gamma"] == 0.0 for row in rows] == [True, False]
    # gamma_k = sigma_k^2 / sigma_y^2 with sigma_y in the internal range, twice the public one.
    wanted = rows[1]["sigma_delta"] ** 2 / 0.2**2
    assert post.about["schedule"]["final_gamma"] == pytest.approx(wanted)


def test_another_engine_and_functions_are_refused(engine, tmp_path_factory, tmp_path):
    post = engine.sample(Y, OPERATORS["blur"], 1, steps=2)
    other = tmp_path_factory.mktemp("other") / "other.engine"
    le.compile(tiny_prior(), other, image_size=16, max_batch=2)
    with pytest.raises(InvalidArgument, match=r"engine: expected the engine \w{12} that drew"):
        post.repeat(le.load(other, backend="torch"))
    functions = le.LinearOperator(lambda x: 0.5 * x, lambda y: 0.5 * y, 0.1)
    made = engine.sample(Y, functions, 1, steps=2)
    made.save(tmp_path / "made.npz")
    loaded = le.Posterior.load(tmp_path / "made.npz")
    assert torch.equal(loaded.samples, made.samples)
    with pytest.raises(InvalidArgument, match="a model of functions"):
        loaded.repeat(engine)
    network = engine.sample(Y, OPERATORS["blur"], 1, steps=2, init=lambda y, op: 0.5 * y)
    assert torch.equal(network.repeat(engine).samples, network.samples)  # still in memory
    network.save(tmp_path / "network")
    with pytest.raises(InvalidArgument, match="a network"):
        le.Posterior.load(tmp_path / "network").repeat(engine)


def test_files_that_are_none(tmp_path, engine):
    with pytest.raises(PosteriorInvalid, match="no such file"):
        le.Posterior.load(tmp_path / "none.npz")
    post = engine.sample(Y, OPERATORS["blur"], 1, steps=2)
    post.save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(PosteriorInvalid, match="damaged"):
            le.Posterior.load(tmp_path / "cut.npz")
    post.save(tmp_path / "folder")
    text = (tmp_path / "folder" / "posterior.json").read_text()
    newer = text.replace('"format_version": 1', '"format_version": 2')
    (tmp_path / "folder" / "posterior.json").write_text(newer)
    with pytest.raises(PosteriorInvalid, match="format version 1, got 2; update"):
        le.Posterior.load(tmp_path / "folder")


def test_the_command_writes_what_load_reads(folder, engine, tmp_path):
    np.save(tmp_path / "y.npy", Y[0].numpy())
    out = tmp_path / "out"
    options = [
        "--operator",
        "blur:std=1,size=5,border=wrap",
        "--num-samples",
        "2",
        "--steps",
        "2",
        "--noise-std",
        "0.05",
    ]
    files = [str(folder), str(tmp_path / "y.npy"), "-o", str(out)]
    assert program.run(["sample", *files, *options]) == 0
    loaded = le.Posterior.load(out)
    expected = le.load(folder).sample(Y[:1], OPERATORS["blur"], 2, steps=2)
    assert torch.equal(loaded.samples, expected.samples)
    assert torch.equal(loaded.repeat(le.load(folder)).samples, expected.samples)
