"""The command line as a user meets it: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.image_io import read_image

PHOTO = resources.files("latino_engine") / "assets" / "coffee.png"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return str(path)


@pytest.fixture
def image(tmp_path):
    pixels = np.asarray(Image.open(str(PHOTO)))[:32, :40]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = program.run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def sample(engine, image, out, *more, operator="blur:std=1.2,size=5"):
    fixed = ["--operator", operator, "-o", out, "--num-samples", 2, "--steps", 2]
    return ["sample", engine, image, *fixed, *more]


def test_version_and_help_do_not_import_torch():
    code = (
        "import sys; from latino_engine.cli import program; status = program.run(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; assert 'onnxruntime' not in sys.modules; "
        "sys.exit(status)"
    )
    for argument, expected in (("--version", "latino-engine 0.1.0"), ("--help", "compile")):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True
        )
        assert expected in done.stdout


def test_importing_the_package_does_not_import_torch():
    code = (
        "import sys, latino_engine; dir(latino_engine); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; latino_engine.Blur; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Blurr'"):
        _ = le.Blurr


def test_python_m_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "latino_engine", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "latino-engine 0.1.0\n")


@pytest.mark.parametrize("command", ["compile", "sample", "demo", "info"])
def test_every_command_has_help(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0 and "--json" in out


def test_sample_writes_what_it_says(run, engine, image, tmp_path):
    status, out, _ = run(*sample(engine, image, tmp_path / "out", "--simulate"))
    assert status == 0
    assert "PSNR" in out and "SSIM" in out and str(tmp_path / "out")[:20] in out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "measurement.npy",
        "measurement.png",
        "samples.npy",
        "sample_000.png",
        "sample_001.png",
        "mean.npy",
        "operator.npz",
        "residual_chi2.npy",
        "mean.png",
        "std.npy",
        "std.png",
        "posterior.json",
        "restoration.png",
    }
    assert np.load(tmp_path / "out" / "samples.npy").shape == (2, 1, 3, 32, 40)
    assert Image.open(tmp_path / "out" / "restoration.png").size[0] == 1800


def test_sample_as_json(run, engine, image, tmp_path):
    status, out, _ = run(*sample(engine, image, tmp_path / "out", "--simulate", "--json"))
    report = json.loads(out)
    assert status == 0
    assert report["nfe"] == 2 and report["num_samples"] == 2
    assert set(report["quality"]) == {"measured", "start", "one sample", "mean"}
    assert report == json.loads((tmp_path / "out" / "posterior.json").read_text())


def test_sample_is_the_library(run, engine, image, tmp_path):
    """A measurement from a file gives the very samples of `Engine.sample`."""
    more = ["--noise-std", 0.07, "--seed", 9, "--sampler", "ud2m", "--unfold", 1]
    assert run(*sample(engine, image, tmp_path / "out", *more))[0] == 0
    op = le.BorderedBlur(le.Blur.gaussian(1.2, 0.0, size=5).kernel, 0.07)
    post = le.load(engine).sample(
        read_image(image), op, num_samples=2, seed=9, sampler="ud2m", steps=2, unfold=1
    )
    assert np.array_equal(np.load(tmp_path / "out" / "samples.npy"), post.samples.numpy())


def test_simulate_measures_with_the_seed(run, engine, image, tmp_path):
    assert run(*sample(engine, image, tmp_path / "out", "--simulate", "--seed", 4))[0] == 0
    y = le.Blur.gaussian(1.2, 0.02, size=5).measure(read_image(image), seed=4)
    assert np.array_equal(np.load(tmp_path / "out" / "measurement.npy"), y.numpy())


@pytest.mark.parametrize(
    "operator",
    [
        "sr:factor=2",
        "inpaint:random=0.3",
        "inpaint:box=8",
        "jpeg:quality=30",
        "denoise",
        "motion:size=7",
    ],
)
def test_other_operators(run, engine, image, tmp_path, operator):
    arguments = sample(engine, image, tmp_path / "out", "--simulate", operator=operator)
    assert run(*arguments)[0] == 0
    assert (tmp_path / "out" / "restoration.png").exists()


def test_a_mask_from_a_file(run, engine, image, tmp_path):
    mask = np.zeros((32, 40), np.uint8)
    mask[::2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    operator = f"inpaint:mask={tmp_path / 'mask.png'}"
    arguments = sample(engine, image, tmp_path / "out", "--simulate", operator=operator)
    assert run(*arguments)[0] == 0
    y = np.load(tmp_path / "out" / "measurement.npy")
    assert (y[0, :, 1::2] == 0).all() and (y[0, :, ::2] != 0).any()


def test_one_sample_has_no_std(run, engine, image, tmp_path):
    arguments = ["sample", engine, image, "--operator", "denoise", "-o", tmp_path / "out"]
    assert run(*arguments, "--num-samples", 1, "--steps", 1)[0] == 0
    assert not (tmp_path / "out" / "std.npy").exists()
    assert (tmp_path / "out" / "restoration.png").exists()


def test_kspace_from_a_file(run, tmp_path):
    le.compile(tiny_prior(1), tmp_path / "grey.engine", image_size=16)
    truth = torch.rand(1, 1, 32, 40, generator=torch.Generator().manual_seed(0))
    mask = np.ones((32, 40))
    mask[:, ::3] = 0
    np.save(tmp_path / "mask.npy", mask)
    op = le.MRI(mask, 0.02, real_image=True)
    y = op.measure(truth, seed=1)[0].numpy()
    operator = f"mri:mask={tmp_path / 'mask.npy'}"
    for name, array in (("two", y), ("complex", y[0] + 1j * y[1])):
        np.save(tmp_path / f"{name}.npy", array)
        source, out = tmp_path / f"{name}.npy", tmp_path / name
        assert run(*sample(tmp_path / "grey.engine", source, out, operator=operator))[0] == 0
    assert np.array_equal(
        np.load(tmp_path / "two" / "samples.npy"), np.load(tmp_path / "complex" / "samples.npy")
    )
    np.save(tmp_path / "bad.npy", np.zeros((3, 4)))
    source = tmp_path / "bad.npy"
    status, _, err = run(*sample(tmp_path / "grey.engine", source, out, operator=operator))
    assert status == 2 and err == (
        f"error: {source}: expected an npy file with k-space, (H, W) complex or (2, H, W) real, "
        "got "
        "float64 of shape (3, 4); save it by np.save\n"
    )


def test_compile_and_info(run, tmp_path, monkeypatch):
    from latino_engine.priors import save_prior

    save_prior(tiny_prior(), tmp_path / "prior")
    target = tmp_path / "a.engine"
    status, out, _ = run(
        "compile", tmp_path / "prior", "-o", target, "--image-size", "16x20", "--json"
    )
    assert status == 0 and json.loads(out)["image_size"] == [16, 20]
    status, out, _ = run("info", target)
    assert status == 0 and "tiny" in out and "relative error" in out
    status, out, _ = run("info", target, "--json")
    assert status == 0 and json.loads(out)["prior"]["name"] == "tiny"
    status, out, _ = run("info", "--json")
    told = json.loads(out)
    assert status == 0 and told["backends"][:2] == ["onnxruntime", "torch"]
    assert told["usable_cores"] >= 1 and "instructions" in told["machine"]
    assert set(told["threads_wait"]) == {"onnxruntime and openvino", "OpenMP (torch, operators)"}
    assert run("info")[0] == 0
    status, out, _ = run("info", "photo-small", "--json")
    told = json.loads(out)
    assert status == 0 and told["prior"] == "photo-small" and told["adapters"] == "photo-small"
    adapter = resources.files("latino_engine") / "assets" / "adapters" / "photo-small"
    for name in (adapter, "digits-32-2x2"):
        status, out, _ = run("info", name, "--json")
        told, folder = json.loads(out), adapter.parent / str(name)
        facts = json.loads((folder / "adapter.json").read_text())
        assert status == 0 and told["adapter"] == facts["name"] == folder.name
        assert told["prior_sha256"] == facts["prior_sha256"]
        assert set(told["operators"]) == set(facts["sampler"]["steps"])
    status, _, err = run("info", "photo-smal")
    assert status == 2 and "did you mean 'photo-small'?" in err
    (target / "denoiser.onnx").write_bytes(b"")
    status, _, err = run("info", target)
    assert (
        status == 2
        and err.startswith("error: denoiser.onnx: expected the contents")
        and err.count("\n") == 1
    )


MISTAKES = {
    "operator": (
        {"operator": "blurr:std=1"},
        "error: operator: expected one of ",
    ),
    "image": (
        {"image": "none.png"},
        "error: none.png: expected an image file, got no such file; check the path",
    ),
    "engine": (
        {"engine": "none.engine"},
        "error: engine: expected the folder of an engine, got 'none.engine', which does not exist",
    ),
    "samples": (
        {"more": ["--num-samples", 0]},
        "error: num_samples: expected at least 1, got 0; ask for one sample or more",
    ),
    "noise": ({"more": ["--noise-std", -0.1]}, "error: noise_std: expected"),
    "backend": ({"more": ["--backend", "cuda"]}, "error: backend: expected one of "),
    "number": ({"more": ["--steps", "many"]}, "error: Invalid value for '--steps'"),
    "seed": ({"more": ["--seed", -1]}, "error: seed: expected 0 <= seed < 2^64, got -1"),
    "factor": (
        {"operator": "sr:factor=3", "more": ["--simulate"]},
        "error: operator sr:factor=3, x: expected sides divisible by 3, got",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(run, engine, image, tmp_path, name):
    changes, beginning = MISTAKES[name]
    arguments = sample(
        changes.get("engine", engine),
        changes.get("image", image),
        tmp_path / "out",
        *changes.get("more", []),
        operator=changes.get("operator", "denoise"),
    )
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(beginning), err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_typers_own_mistakes_look_the_same(run):
    for arguments in (["smple"], ["sample"], ["compile", "photo-small"], ["info", "--wrong"]):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


def test_an_output_folder_that_is_someone_elses(run, engine, image, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    status, _, err = run(*sample(engine, image, tmp_path / "mine", operator="denoise"))
    assert status == 2 and "mine" in err and err.count("\n") == 1
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_interrupted(run, monkeypatch, engine, image, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("latino_engine.engine.Engine.sample", interrupt)
    status, _, err = run(*sample(engine, image, tmp_path / "out", operator="denoise"))
    assert (status, err) == (130, "error: interrupted; nothing was written\n")


@pytest.mark.slow
def test_the_demo_restores_better_than_its_start(run, tmp_path):
    status, out, _ = run("demo", "-o", tmp_path / "demo", "--json")
    rows = json.loads(out)
    assert status == 0 and len(rows) == 3
    for row in rows:
        assert row["nfe"] == 4
        assert row["mean"] > row["sample"] > 25.0
        assert row["mean"] > row["start"] + 0.3 and row["mean"] > row["measured"] + 0.3
        assert Image.open(row["picture"]).size[0] == 1800
