"""The prior: its network against the check file's contract, its folder, and what it refuses."""

from __future__ import annotations

import json
import pickle
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_prior
from tolerances import CHECK_FILE

from latino_engine import load_prior, save_prior
from latino_engine.errors import InvalidArgument, InvalidType, PriorInvalid

CHECK = Path(__file__).parents[1] / "data" / "photo-small-check.npz"


@pytest.fixture(scope="module")
def photo():
    return load_prior("photo-small")


@pytest.fixture
def folder(tmp_path):
    save_prior(tiny_prior(), tmp_path / "prior")
    return tmp_path / "prior"


def test_the_shipped_weights_match_the_check_file(photo):
    check = np.load(CHECK)
    out = photo.denoise(torch.from_numpy(check["x_noisy"]), torch.from_numpy(check["sigma"]))
    assert np.abs(out.numpy() - check["x0_hat"]).max() <= CHECK_FILE
    wrong = photo.denoise(
        torch.from_numpy(check["x_noisy"]), torch.from_numpy(check["sigma"]) * 1.05
    )
    assert np.abs(wrong.numpy() - check["x0_hat"]).max() > 100 * CHECK_FILE


def test_it_denoises_a_photograph(photo):
    from latino_engine.evaluation.metrics import psnr
    from latino_engine.image_io import read_image

    with resources.as_file(resources.files("latino_engine") / "assets" / "coffee.png") as path:
        clean = read_image(path)[..., :128, :128]
    x = 2.0 * clean - 1.0
    noisy = x + 0.2 * torch.randn_like(x)
    gain = psnr(photo.denoise(noisy, 0.2) / 2 + 0.5, clean) - psnr(noisy / 2 + 0.5, clean)
    assert float(gain) > 6.0


def test_sides_that_are_no_multiples_are_padded_by_reflection(photo):
    x = torch.randn(1, 3, 61, 50)
    out = photo.denoise(x, 0.3)
    assert out.shape == x.shape
    padded = torch.nn.functional.pad(x, (0, 6, 0, 3), mode="reflect")
    assert torch.equal(out, photo.denoise(padded, 0.3)[..., :61, :50])


def test_sigma_is_a_number_or_one_per_image_and_is_clamped(photo):
    x = torch.randn(2, 3, 16, 16)
    both = photo.denoise(x, torch.tensor([0.1, 1.0]))
    assert torch.allclose(both[1:], photo.denoise(x[1:], 1.0), atol=1e-5)
    assert torch.equal(photo.denoise(x, 1e-9), photo.denoise(x, photo.spec.sigma_min))
    assert torch.equal(photo.denoise(x, 1e9), photo.denoise(x, photo.spec.sigma_max))


def test_the_output_is_not_clipped(photo):
    assert float(photo.denoise(torch.full((1, 3, 16, 16), 3.0), 0.01).abs().max()) > 2.5


def test_a_saved_prior_loads_the_same_way(folder):
    prior, again = tiny_prior(), load_prior(folder)
    x = torch.randn(1, 3, 16, 24)
    assert torch.equal(prior.denoise(x, 0.4), again.denoise(x, 0.4))
    assert prior.content_hash() == again.content_hash()
    assert again.spec == prior.spec


def test_the_hash_sees_one_weight_and_the_specification(folder):
    before = load_prior(folder).content_hash()
    weights = load_file(folder / "model.safetensors")
    weights["conv_in.bias"][0] += 1.0
    save_file(weights, folder / "model.safetensors")
    changed = load_prior(folder).content_hash()
    edit(folder, sigma_max=10.0)
    assert len({before, changed, load_prior(folder).content_hash()}) == 3


def edit(folder, **fields):
    found = json.loads((folder / "prior.json").read_text())
    found.update(fields)
    (folder / "prior.json").write_text(json.dumps(found))


def refusal(source):
    with pytest.raises(PriorInvalid) as caught:
        load_prior(source)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_name():
    assert refusal("photo-smal") == (
        "prior: expected a shipped name or a folder, got 'photo-smal', which is neither; "
        "did you mean 'photo-small'?"
    )


def test_a_pickled_file_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Bomb()))
    assert refusal(path) == (
        "prior: expected a folder with prior.json and model.safetensors, got the pickled file "
        "'model.pt'; "
        "pickles can run code and are never loaded; convert it by latino-engine import, or save "
        "the weights with safetensors beside a prior.json"
    )
    torch.save(
        {"a": torch.zeros(2)}, tmp_path / "weights"
    )  # a zip with a pickle in it, by any name
    assert "the pickled file 'weights'" in refusal(tmp_path / "weights")
    assert not (tmp_path / "exploded").exists()


def test_a_folder_with_only_a_pickle(tmp_path):
    (tmp_path / "prior.json").write_text("{}")
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.bin")
    assert "(only the pickled 'model.bin', which is never loaded)" in refusal(tmp_path)


def test_a_pickle_under_the_name_of_safetensors(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    assert "expected a safetensors file, got one that cannot be read" in refusal(folder)


def test_a_truncated_file(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "expected a safetensors file, got one that cannot be read" in refusal(folder)


def test_a_text_file_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "got the file 'notes.txt'; convert it by" in refusal(tmp_path / "notes.txt")


def test_missing_files(tmp_path):
    assert "expected prior.json in" in refusal(tmp_path)


def test_weights_of_other_names_are_listed_with_the_nearest(folder):
    weights = load_file(folder / "model.safetensors")
    weights["conv_in.weights"] = weights.pop("conv_in.weight")
    save_file(weights, folder / "model.safetensors")
    text = refusal(folder)
    assert "missing conv_in.weight (nearest: conv_in.weights)" in text
    assert "unexpected conv_in.weights" in text


def test_weights_of_another_shape_or_not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["conv_in.bias"] = torch.zeros(3)
    weights["norm_out.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors")
    text = refusal(folder)
    assert "of another shape conv_in.bias (3,) instead of (8,)" in text
    assert "not finite norm_out.bias" in text


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"format": 2}, "expected format 1, got 2; use the release of latino-engine that wrote it"),
        ({"sigma_min": -1.0}, "expected `float` > 0.0 as sigma_min, got another value"),
        ({"data_range": [1.0, 0.0]}, "data_range low < high"),
        ({"channels": "three"}, "expected `int` as channels, got `str`; correct the file"),
        ({"architecture": {"name": "vit"}}, "expected an architecture of ['adm-unet', "),
        (
            {"architecture": {"name": "unet", "width": 3}},
            "expected the arguments of the architecture",
        ),
    ],
)
def test_a_specification_that_cannot_be_used(folder, fields, sentence):
    edit(folder, **fields)
    assert sentence in refusal(folder)


def test_a_specification_without_a_field_or_of_no_json(folder):
    found = json.loads((folder / "prior.json").read_text())
    del found["channels"]
    (folder / "prior.json").write_text(json.dumps(found))
    assert "expected the field channels, got none; correct the file" in refusal(folder)
    (folder / "prior.json").write_text("{")
    assert "prior.json: expected JSON" in refusal(folder)
    (folder / "prior.json").write_text("[]")
    assert "prior.json: expected an object, got list" in refusal(folder)


@pytest.mark.parametrize(
    "x, sigma, error, sentence",
    [
        (
            torch.zeros(3, 16, 16),
            0.1,
            InvalidArgument,
            "x_noisy: expected (B, 3, H, W), got (3, 16, 16); add a batch axis",
        ),
        (
            torch.zeros(1, 1, 16, 16),
            0.1,
            InvalidArgument,
            "x_noisy: expected 3 channels, as the prior 'tiny' has, got 1; "
            "repeat the grey image: x.repeat(1, 3, 1, 1)",
        ),
        (
            torch.zeros(1, 3, 3, 16),
            0.1,
            InvalidArgument,
            "x_noisy: expected sides of at least 4, got (3, 16); pad or enlarge the image",
        ),
        (
            torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
            0.1,
            InvalidType,
            "x_noisy: expected a floating-point image, got torch.uint8; convert it by .float()",
        ),
        (
            torch.zeros(2, 3, 16, 16),
            torch.zeros(3),
            InvalidArgument,
            "sigma: expected a number or shape (2,), got shape (3,); give one noise level for each "
            "image",
        ),
    ],
)
def test_denoise_refuses(x, sigma, error, sentence):
    with pytest.raises(error) as caught:
        tiny_prior().denoise(x, sigma)
    assert str(caught.value) == sentence
