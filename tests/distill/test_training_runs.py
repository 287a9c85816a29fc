"""What the trainings share: what a run is compared by, what is tried before its first step."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import typer
from blobs import blob_images, distillation, prior_training
from PIL import Image
from safetensors.torch import save_file
from tifffile import COMPRESSION
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program, training
from latino_engine.distill import distillation as module
from latino_engine.distill import paper_objective
from latino_engine.distill.distillation import distill
from latino_engine.distill.operator_draws import draw_operator, parse_draws
from latino_engine.distill.prior_training import train_prior
from latino_engine.distill.runs import claim_folder, fingerprint
from latino_engine.errors import ImageUnreadable, InvalidArgument
from latino_engine.evaluation import perceptual
from latino_engine.image_io import datasets
from latino_engine.image_io.datasets import CHECKPOINT, open_images


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "blobs.npy", blob_images())
    return tmp_path / "blobs.npy"


def test_the_same_images_are_the_same_run_wherever_they_stand(source, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(source, here / "images.npy")
    monkeypatch.chdir(here)
    distill(tiny_prior(1), distillation("images.npy", training_steps=1), "run")
    absolute = distillation(here / "images.npy", training_steps=2)
    assert distill(tiny_prior(1), absolute, here / "run").training["steps_done"] == 2
    monkeypatch.chdir(tmp_path)
    here.rename(tmp_path / "there")
    more = distillation("there/images.npy", training_steps=3)
    assert distill(tiny_prior(1), more, "there/run").training["steps_done"] == 3


@pytest.mark.parametrize("kind", ["file", "folder", "more in folder"])
def test_other_images_of_the_same_name_are_refused(kind, tmp_path, monkeypatch):
    mine = blob_images(64)
    theirs = blob_images(80) if kind == "more in folder" else mine.copy()
    if kind != "more in folder":  # the same sizes: the last pixels alone tell
        theirs[63] = 255 - theirs[63]
    for place, images in (("here", mine), ("there", theirs)):
        (tmp_path / place / "images").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        if kind == "file":
            np.save("images/blobs.npy", images)
        else:
            for number, image in enumerate(images):
                Image.fromarray(image[0]).save(f"images/{number}.tif")
    name = "images/blobs.npy" if kind == "file" else "images"
    monkeypatch.chdir(tmp_path / "here")
    distill(tiny_prior(1), distillation(name, training_steps=1), tmp_path / "run")
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(InvalidArgument) as caught:
        distill(tiny_prior(1), distillation(name, training_steps=2), tmp_path / "run")
    assert str(caught.value) == (
        "out: expected the options of the run in 'run', got another source; use the same options, "
        "or another folder"
    )
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_only_images_mark_a_folder_and_any_name_will_do(tmp_path):
    """The run may stand in the folder of its images, and a name need not be UTF-8."""
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(blob_images(4)):
        Image.fromarray(image[0]).save(images / f"{number}.png")
    (images / "0.png").rename(os.fsdecode(os.fsencode(images) + b"/caf\xe9.png"))
    distill(tiny_prior(1), distillation(images, training_steps=1), images / "run")
    (images / "README").write_text("added later")
    more = distillation(images, training_steps=2)
    assert distill(tiny_prior(1), more, images / "run").training["steps_done"] == 2
    for steps in (1, 2):  # whose pictures of samples are no images to train on
        train_prior(prior_training(images, steps=steps), images / "deep" / "prior")
    assert list((images / "deep" / "prior").glob("*.png"))
    assert len(open_images(images, 16)) == 4


def test_all_weights_mark_a_start(tmp_path):
    """The header alone may be longer than what is read of an image."""
    marks = []
    for value in (0.0, 1.0):
        weights = {f"{n:0200d}": torch.zeros(1) for n in range(200)}
        save_file({**weights, "z": torch.tensor(value)}, tmp_path / "adapter.safetensors")
        marks.append(fingerprint(str(tmp_path), (".safetensors",)))
    assert marks[0] != marks[1]
    assert fingerprint("x" * 300, (".safetensors",)) is None


@pytest.mark.parametrize("option", [{"checkpointing": True}, {"init_rate": 0.2}])
def test_what_does_not_change_the_run_may_change(option, source, tmp_path):
    distill(tiny_prior(1), distillation(source, training_steps=1), tmp_path / "run")
    more = distillation(source, training_steps=2, **option)
    assert distill(tiny_prior(1), more, tmp_path / "run").training["steps_done"] == 2


def test_a_checkpoint_older_than_an_option_goes_on(source, tmp_path, monkeypatch):
    distill(tiny_prior(1), distillation(source, training_steps=1), tmp_path / "run")
    read = module.read_facts

    def older(path):
        facts = read(path)
        return {**facts, "options": {k: v for k, v in facts["options"].items() if k != "exponent"}}

    monkeypatch.setattr(module, "read_facts", older)
    more = distillation(source, training_steps=2)
    with pytest.raises(InvalidArgument, match="got another exponent; use the same options"):
        distill(tiny_prior(1), replace(more, exponent=0.5), tmp_path / "run")
    assert distill(tiny_prior(1), more, tmp_path / "run").training["steps_done"] == 2


def test_a_second_process_tells_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    stopped = training._stopped(tmp_path)
    assert isinstance(stopped, typer.Exit) and capsys.readouterr().err == ""


def test_the_start_may_be_trained_on_or_be_gone(source, tmp_path):
    """It is read once, when a run begins."""
    begun = distillation(source, training_steps=1)
    distill(tiny_prior(1), begun, tmp_path / "begun")
    shutil.copytree(tmp_path / "begun", tmp_path / "copy")
    options = replace(begun, start=str(tmp_path / "begun"))
    distill(tiny_prior(1), options, tmp_path / "run")
    copied = replace(options, start=str(tmp_path / "copy"), training_steps=2)
    assert distill(tiny_prior(1), copied, tmp_path / "run").training["steps_done"] == 2
    shutil.rmtree(tmp_path / "copy")
    gone = replace(copied, training_steps=3)
    assert distill(tiny_prior(1), gone, tmp_path / "run").training["steps_done"] == 3
    with pytest.raises(InvalidArgument, match="got another start; use the same options"):
        distill(tiny_prior(1), replace(gone, start="digits-32-2x2"), tmp_path / "run")


def test_a_run_whose_checkpoint_does_not_tell_its_start(source, tmp_path, monkeypatch):
    begun = distillation(source, training_steps=1)
    distill(tiny_prior(1), begun, tmp_path / "begun")
    options = replace(begun, start=str(tmp_path / "begun"))
    distill(tiny_prior(1), options, tmp_path / "run")
    read = module.read_facts
    monkeypatch.setattr(module, "read_facts", lambda path: {**read(path), "origin": None})
    distill(tiny_prior(1), replace(options, training_steps=2), tmp_path / "run")
    assert le.load_adapter(tmp_path / "run").training["start"] == {"name": "begun"}


def test_the_distance_of_a_run_can_be_asked_for(source, tmp_path, monkeypatch):
    """A run begun by "auto" without LPIPS goes on by "pyramid" where LPIPS is installed."""
    options = distillation(source, objective="paper", training_steps=1)
    adapter = distill(tiny_prior(1), options, tmp_path / "run")
    assert adapter.training["perceptual_network"] == "pyramid"
    both = lambda name: (  # noqa: E731
        "pyramid" if name == "pyramid" else "lpips",
        perceptual.pyramid_distance,
    )
    monkeypatch.setattr(paper_objective, "perceptual_distance", both)
    more = replace(options, training_steps=2)
    with pytest.raises(InvalidArgument) as caught:
        distill(tiny_prior(1), more, tmp_path / "run")
    assert str(caught.value) == (
        "perceptual_network: expected 'pyramid', as the run began with, got lpips; give "
        "--perceptual-network pyramid, or use another folder"
    )
    asked = distill(tiny_prior(1), replace(more, perceptual_network="pyramid"), tmp_path / "run")
    assert asked.training["steps_done"] == 2


def test_a_new_folder_is_not_left_and_others_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    assert claim_folder(tmp_path / "mine") is False
    assert (tmp_path / "mine").is_dir()
    assert claim_folder(tmp_path / "a" / "b") is False
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("train", ["distill", "train-prior"])
def test_stopped_before_the_first_step_nothing_is_promised(
    train, source, tmp_path, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("latino_engine.distill.distillation.draw_batch", interrupted)
    monkeypatch.setattr("latino_engine.distill.prior_training.draw_batch", interrupted)
    out, images = str(tmp_path / "run"), [str(source), "--size", "16"]
    if train == "distill":
        le.save_prior(tiny_prior(1), tmp_path / "prior")
        images = [str(tmp_path / "prior"), *images, "--training-steps", "2"]
        command = [train, *images, "-o", out, "--operator", "sr:factor=2"]
    else:
        command = [train, *images, "-o", out, "--steps", "2"]
    assert program.run(command) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was written\n"


def test_headers_alone_are_read(tmp_path, monkeypatch):
    pixels = np.zeros((20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg")
    Image.fromarray(pixels).save(tmp_path / "c.tif")
    tifffile.imwrite(tmp_path / "d.tiff", pixels.astype(np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "e.tiff", pixels.astype(">u2"), byteorder=">", photometric="rgb")
    Image.fromarray(pixels).save(tmp_path / "f.tiff", compression="tiff_lzw")
    deep = {"photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "g.tiff", pixels.astype(np.uint16), **deep)
    tifffile.imwrite(tmp_path / "h.tiff", pixels.astype(np.uint16), **deep, predictor=2)
    monkeypatch.delattr(datasets, "read_image")
    assert open_images(tmp_path, crop=16).channels == 3


def test_a_tiff_that_cannot_be_decoded_is_refused_before_the_first_step(tmp_path):
    """The header of a 32 bit LZW file is in order; its pixels need another decoder."""
    floats = Image.fromarray(np.zeros((20, 24), np.float32))
    floats.save(tmp_path / "a.tif", compression="tiff_lzw")
    with pytest.raises(ImageUnreadable) as caught:
        open_images(tmp_path, crop=16)
    assert "a.tif: expected a compression that can be decoded here, got 32 bits in LZW" in str(
        caught.value
    )


def test_a_tiff_whose_decoder_is_not_known_is_decoded_at_once(tmp_path):
    """Bytes in ZSTD, by their tag; floats behind another predictor."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 24), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(COMPRESSION.ZSTD)
    with pytest.raises(ImageUnreadable, match=r"a\.tif: "):
        open_images(tmp_path, crop=16)
    path.unlink()
    floats = Image.fromarray(np.zeros((20, 24), np.float32))
    floats.save(tmp_path / "b.tif", compression="tiff_adobe_deflate", tiffinfo={317: 3})
    with pytest.raises(ImageUnreadable, match=r"b\.tif: .*32 bits in ADOBE_DEFLATE"):
        open_images(tmp_path, crop=16)
    (tmp_path / "b.tif").unlink()
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "c.tif", tiffinfo={317: 2})
    with pytest.raises(ImageUnreadable, match=r"c\.tif: "):
        open_images(tmp_path, crop=16)


@pytest.mark.parametrize("kind", ["animation", "pages", "alpha.tif", "large", "integers"])
def test_what_a_header_shows_is_refused_before_the_first_step(kind, tmp_path, monkeypatch):
    pixels = Image.fromarray(np.zeros((20, 24, 3), np.uint8))
    other = Image.fromarray(np.full((20, 24, 3), 9, np.uint8))
    if kind == "animation":
        pixels.save(tmp_path / "a.png", save_all=True, append_images=[other])
        sentence = "a.png: expected one image, got an animation"
    elif kind == "pages":
        pixels.save(tmp_path / "a.tif", save_all=True, append_images=[other])
        sentence = "a.tif: expected one page, got 2 pages"
    elif kind == "alpha.tif":
        pixels.convert("RGBA").save(tmp_path / "a.tif")
        sentence = "a.tif: expected an opaque image, got one with alpha"
    elif kind == "integers":
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 24), np.int32))
        sentence = "a.tif: expected uint8, uint16 or floats in [0, 1], got int32"
    else:
        monkeypatch.setattr("latino_engine.image_io.images.MAX_PIXELS", 400)
        monkeypatch.setattr(datasets, "MAX_PIXELS", 400)
        pixels.save(tmp_path / "a.png")
        sentence = "a.png: expected at most 400 pixels, got 20 x 24"
    with pytest.raises(ImageUnreadable) as caught:
        open_images(tmp_path, crop=16)
    assert sentence in str(caught.value)


def test_a_choice_may_be_a_range():
    random = np.random.default_rng(0)
    found = {
        float(draw_operator("poisson:peak=20..40|100", 0.0, 1, 16, random).peak) for _ in range(64)
    }
    assert 100.0 in found
    others = found - {100.0}
    assert len(others) > 10 and all(20.0 <= peak <= 40.0 for peak in others)
    assert parse_draws(["blur:std=1..2|3"], "0.1").kinds(32, 1) == ("Blur",)


@pytest.mark.parametrize("values", ["2..1e300", "2.5..4", "2..3.5"])
def test_a_range_of_whole_numbers(values):
    with pytest.raises(InvalidArgument) as caught:
        parse_draws([f"sr:factor={values}"], "0.1").kinds(16, 1)
    assert str(caught.value) == (
        "operator sr, factor: expected a range low..high of two whole numbers, at most 2^53, got "
        f"'{values}'; write factor=2..4"
    )


def test_what_a_range_is_tried_with(monkeypatch):
    """Ends, but every factor and size: one in the middle may not divide the image."""
    tried = []
    parse = "latino_engine.distill.operator_draws.parse_operator"
    monkeypatch.setattr(parse, lambda text, *_: tried.append(text) or le.Denoising(0.1))
    chain = "blur:std=1,size=3..5,border=valid then sr:factor=2"
    texts = ["tomography:angles=20..180", "sr:factor=2..4", "sr:factor=1..900", chain]
    parse_draws(texts, "0.1").kinds(16, 1)
    assert tried == [
        "tomography:angles=20",
        "tomography:angles=180",
        "sr:factor=2",
        "sr:factor=3",
        "sr:factor=4",
        *(f"sr:factor={number}" for number in (*range(1, 65), 900)),
        *(chain.replace("3..5", str(number)) for number in (3, 4, 5)),
    ]
    monkeypatch.undo()
    with pytest.raises(InvalidArgument, match="x: expected sides divisible by 3, got 16 x 16"):
        parse_draws(["sr:factor=2..4"], "0.1").kinds(16, 1)


@pytest.mark.parametrize(
    "array, sentence",
    [
        (np.full((2, 16, 16), np.nan), "finite numbers, got 512 that are NaN or infinite; replace"),
        (np.zeros((2, 16, 16), np.int32), "uint8 or floats, got int32; convert the array"),
    ],
)
def test_arrays_that_hold_no_images(array, sentence, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ImageUnreadable) as caught:
        open_images(tmp_path / "a.npy", crop=16)
    assert f"a.npy: expected {sentence}" in str(caught.value)
