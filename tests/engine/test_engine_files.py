"""An engine on disk: every byte counts, nothing is half written, and each refusal is one
sentence.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine import manifest, runtimes
from latino_engine.compilation import compiler
from latino_engine.errors import (
    AccuracyError,
    BackendNotAvailable,
    EngineInvalid,
    OutputNotWritable,
)

REMEDY = "compile the engine again (latino-engine compile)"
FILES = ("engine.json", "denoiser.onnx", "prior.json", "model.safetensors")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return path


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "tiny.engine")


def refusal(folder, error=EngineInvalid, **options):
    with pytest.raises(error) as caught:
        le.load(folder, **options)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_the_files_of_an_engine(folder):
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_the_manifest_says_what_was_measured(folder):
    fields = le.load(folder).manifest
    assert fields["format_version"] == 1
    assert fields["prior_sha256"] == tiny_prior().content_hash()
    for name in ("onnxruntime", "torch"):
        record = fields["runtimes"][name]
        assert 0.0 <= record["relative_error"] <= record["bound"] == 1e-5
        assert record["time_ms"] > 0 and record["timed_at"] == [1, 3, 16, 16]
    times = {name: r["time_ms"] for name, r in fields["runtimes"].items()}
    assert fields["backend"] == min(times, key=times.get)
    assert (
        fields["versions"]["torch"] == torch.__version__.split("+")[0]
        or fields["versions"]["torch"]
    )
    assert fields["machine"]["cores"] >= 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.37, 0.999])
def test_one_changed_byte_is_refused(folder, name, place):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    text = refusal(folder)
    assert text.startswith(f"{name}: expected ") and "compile" in text


def test_white_space_counts_too(folder):
    path = folder / "engine.json"
    path.write_text(path.read_text() + " ")
    assert refusal(folder) == (
        "engine.json: expected the manifest as it was written, got an edited or damaged one in "
        f"'tiny.engine'; {REMEDY}"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    text = refusal(folder)
    if name == "engine.json":
        assert text.startswith("engine: expected a folder with engine.json, got ")
    else:
        assert text == f"{name}: expected a file of the engine 'tiny.engine', got none; {REMEDY}"


def test_another_format_version_is_refused(folder):
    path = folder / "engine.json"
    for version, remedy in ((2, "update latino-engine"), (0, REMEDY)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
        assert refusal(folder) == (
            f"engine.json: expected format version 1, got {version}; {remedy}"
        )


def test_what_is_no_engine(tmp_path):
    assert refusal(tmp_path / "none") == (
        f"engine: expected the folder of an engine, got '{tmp_path}/none', which does not exist; "
        "make one by: latino-engine compile photo-small -o a.engine"
    )
    (tmp_path / "engine.json").write_text("[1]")
    assert "got a file that cannot be read as one" in refusal(tmp_path)


def test_a_manifest_that_names_a_file_elsewhere(folder):
    fields = json.loads((folder / "engine.json").read_text())
    del fields["sha256"]
    fields["files"]["../secret"] = {"sha256": "0" * 64, "bytes": 1}
    signed = fields | {"sha256": manifest._digest(fields)}
    (folder / "engine.json").write_bytes(manifest._serialised(signed))
    assert refusal(folder).startswith("../secret: expected a file of the engine")


@pytest.mark.parametrize(
    "options, error, sentence",
    [
        (
            {"backend": "tensor"},
            ValueError,
            "backend: expected one of 'auto', 'onnxruntime', 'torch', 'openvino', "
            "'tensorrt', got 'tensor'; "
            "choose one of these",
        ),
        (
            {"device": "gpu"},
            ValueError,
            "device: expected None, 'cpu' or 'cuda', got 'gpu'; choose one of these",
        ),
        (
            {"threads": 0},
            ValueError,
            "threads: expected at least 1, got 0; leave it out to use all cores",
        ),
        (
            {"threads": 1.5},
            TypeError,
            "threads: expected an integer, got float; give a whole number",
        ),
    ],
)
def test_load_refuses(original, options, error, sentence):
    with pytest.raises(error) as caught:
        le.load(original, **options)
    assert str(caught.value) == sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_no_gpu(original, backend):
    assert "device: expected one that " in refusal(
        original, BackendNotAvailable, backend=backend, device="cuda"
    )


@pytest.mark.parametrize(
    "name, command",
    [
        ("onnxruntime", "pip install onnxruntime"),
        ("tensorrt", "pip install 'latino-engine[tensorrt]'"),
    ],
)
def test_a_backend_that_is_not_installed(original, monkeypatch, tmp_path, name, command):
    monkeypatch.setattr(runtimes, "_present", lambda package: package == "torch")
    package = {"onnxruntime": "onnxruntime", "tensorrt": "tensorrt_rtx"}[name]
    expected = (
        f"backend: expected one that is installed here, got {name!r}, whose package {package} is "
        "missing; "
        f"install it with: {command}"
    )
    assert refusal(original, BackendNotAvailable, backend=name) == expected
    with pytest.raises(BackendNotAvailable) as caught:
        le.compile(tiny_prior(), tmp_path / "a.engine", backend=name)
    assert str(caught.value) == expected
    assert not list(tmp_path.iterdir())


def test_an_engine_without_plans_says_so(original, monkeypatch):
    monkeypatch.setattr(runtimes, "_present", lambda package: True)
    assert refusal(original, backend="tensorrt") == (
        "backend: expected one that the engine 'tiny.engine' serves, got 'tensorrt'; it was not "
        f"compiled for it; build it by: latino-engine rebuild {original}, or load it with --rebuild"
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            {"precision": "int4"},
            "precision: expected one of 'fp32', 'fp16', 'bf16', got 'int4'; choose one of these",
        ),
        ({"max_batch": 0}, "max_batch: expected at least 1, got 0; choose the largest chunk"),
        (
            {"image_size": 2},
            "image_size: expected one side, or (height, width), got 2; the prior wants sides of at "
            "least 4",
        ),
        (
            {"backend": "trt"},
            "backend: expected one of 'auto', 'onnxruntime', 'torch', 'openvino', "
            "'tensorrt', got 'trt'; "
            "choose one of these",
        ),
        (
            {"gpu_architectures": ["sm_89"]},
            "gpu_architectures: expected None, got ['sm_89']; neither onnxruntime nor torch builds "
            "for a GPU ahead of time, use backend='tensorrt'",
        ),
        (
            {"precision": "bf16", "backend": "onnxruntime"},
            "precision: expected one of fp32, fp16 for the backend 'onnxruntime', got bf16; choose "
            "another "
            "precision or backend",
        ),
    ],
)
def test_compile_refuses_and_writes_nothing(tmp_path, options, sentence):
    with pytest.raises(ValueError) as caught:
        le.compile(tiny_prior(), tmp_path / "a.engine", **options)
    assert str(caught.value) == sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision_passes_its_gate(tmp_path, precision):
    engine = le.compile(tiny_prior(), tmp_path / "a.engine", precision=precision, image_size=16)
    records = engine.manifest["runtimes"]
    assert 1e-6 < records["torch"]["relative_error"] <= records["torch"]["bound"]
    if precision == "bf16":
        assert "got bf16" in records["onnxruntime"]["refused"]
        with pytest.raises(
            EngineInvalid,
            match=r"expected one that the engine 'a.engine' serves, got 'onnxruntime'",
        ):
            le.load(tmp_path / "a.engine", backend="onnxruntime")


def test_the_gate_refuses_an_engine_that_is_off(tmp_path, monkeypatch):
    from latino_engine.runtimes import onnxruntime

    real = onnxruntime.OnnxRuntimeDenoiser.__call__
    monkeypatch.setattr(
        onnxruntime.OnnxRuntimeDenoiser,
        "__call__",
        lambda self, x, sigma: real(self, x, sigma) * 1.01,
    )
    with pytest.raises(
        AccuracyError, match=r"at most 1e-05 against float32 torch, got 0\.01 from onnxruntime"
    ):
        le.compile(tiny_prior(), tmp_path / "a.engine", backend="onnxruntime")
    assert not list(tmp_path.iterdir())
    engine = le.compile(tiny_prior(), tmp_path / "a.engine", image_size=16)  # "auto" takes another
    assert engine.backend != "onnxruntime"
    assert "got 0.01 from onnxruntime" in engine.manifest["runtimes"]["onnxruntime"]["refused"]


def test_an_engine_is_replaced_and_only_an_engine(original, tmp_path):
    target = shutil.copytree(original, tmp_path / "a.engine")
    le.compile(tiny_prior(1), target, image_size=16)
    assert le.load(target).spec.channels == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(OutputNotWritable):
        le.compile(tiny_prior(), tmp_path / "thesis", image_size=16)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_failed_compile_keeps_the_old_engine(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compiler, "write_manifest", full)
    with pytest.raises(OutputNotWritable, match="no space left on device; free some space"):
        le.compile(tiny_prior(1), folder, image_size=16)
    assert le.load(folder).spec.channels == 3
    assert [p.name for p in folder.parent.iterdir()] == ["tiny.engine"]


def test_a_killed_compile_leaves_no_engine(tmp_path):
    """Killed by SIGKILL while it fills the folder: nothing stands under the engine's name."""
    code = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
from tiny import tiny_prior
from latino_engine.compilation import compiler
real = compiler.write_manifest
def slow(folder, fields):
    print("filling", flush=True)
    time.sleep(60)
compiler.write_manifest = slow
compiler.compile(tiny_prior(), {str(tmp_path / "a.engine")!r}, image_size=16)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "filling\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    assert not (tmp_path / "a.engine").exists()
    assert all(p.name.startswith(".latino-") for p in tmp_path.iterdir())
    assert le.compile(tiny_prior(), tmp_path / "a.engine", image_size=16).spec.name == "tiny"


@pytest.mark.parametrize("name", ["rebuild", "torch_compile"])
def test_switches_of_load_are_booleans(original, name):
    with pytest.raises(TypeError) as caught:
        le.load(original, **{name: "yes"})
    assert str(caught.value) == f"{name}: expected True or False, got str; give a boolean"
