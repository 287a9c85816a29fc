"""Many images: one process and a cluster with a killed worker write the same bits."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.errors import BackendNotAvailable, InvalidArgument
from latino_engine.interop.ray import Request, Sampler, list_images, map_images
from latino_engine.operators.spec import operator

COUNT = 24
REQUEST = Request("inpaint:random=0.5,seed=2", noise_std=0.05, num_samples=2, seed=5, steps=3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("ray") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    draw = np.random.default_rng(3)
    for i in range(COUNT):
        pixels = draw.integers(0, 256, (16 + 4 * (i % 2), 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if i % 3 else ".") / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def alone(engine, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    told = map_images(engine, images, out, REQUEST)
    assert told == {"drawn": COUNT, "kept": 0, "failures": {}}
    return out


def samples(folder):
    return {
        path.relative_to(folder).as_posix(): le.Posterior.load(path).samples
        for path in sorted(folder.rglob("*.npz"))
    }


def test_each_image_is_a_call_of_the_engine(engine, images, alone):
    loaded, found = le.load(engine, threads=1), samples(alone)
    names = list_images(images)
    assert [f"{name}.npz" for name in names] == sorted(found)
    for i in (0, 7, COUNT - 1):
        pixels = np.asarray(Image.open(images / names[i]), dtype=np.float64) / 255
        y = torch.from_numpy(pixels).float().permute(2, 0, 1)[None].contiguous()
        op = operator(REQUEST.operator, 0.05, tuple(y.shape[-2:]))
        expected = loaded.sample(y, op, 2, seed=5, steps=3, image_ids=[i]).samples
        assert torch.equal(found[f"{names[i]}.npz"], expected)


def test_a_run_that_was_stopped_goes_on(engine, images, alone, tmp_path):
    out = tmp_path / "out"
    (out / "more").mkdir(parents=True)
    kept = sorted(alone.rglob("*.npz"))[::3]
    for path in kept:
        target = out / path.relative_to(alone)
        target.write_bytes(path.read_bytes())
    told = map_images(engine, images, out, REQUEST)
    assert told["kept"] == len(kept) and told["drawn"] == COUNT - len(kept)
    expected = samples(alone)
    assert all(torch.equal(value, expected[name]) for name, value in samples(out).items())
    with pytest.raises(InvalidArgument, match=r"out: expected a new folder, .* another request"):
        map_images(engine, images, out, Request("denoise"))


def test_an_image_that_cannot_be_used_is_told_and_the_others_are_drawn(engine, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    options = ["--operator", "denoise", "--steps", "2", "--num-samples", "1", "--json"]
    status = program.run(["map", str(engine), str(folder), "-o", str(tmp_path / "out"), *options])
    told = json.loads(capsys.readouterr().out)
    assert status == 1
    assert (told["drawn"], list(told["failures"])) == (1, [str(folder / "b.png")])
    assert "expected" in told["failures"][str(folder / "b.png")]
    assert le.Posterior.load(tmp_path / "out" / "a.png.npz").num_samples == 1


def test_rows_of_bytes_and_of_paths(engine, images, alone):
    names = list_images(images)
    sampler = Sampler(str(engine), REQUEST)
    batch = {
        "image_id": np.array([1, 2]),
        "path": np.array([str(images / names[i]) for i in (1, 2)]),
        "bytes": np.array([(images / names[i]).read_bytes() for i in (1, 2)], dtype=object),
    }
    rows = sampler(batch)
    expected = samples(alone)
    for row, i in enumerate((1, 2)):
        np.testing.assert_array_equal(rows["samples"][row], expected[f"{names[i]}.npz"][:, 0])
    assert list(rows["error"]) == ["", ""]
    del batch["bytes"]
    np.testing.assert_array_equal(sampler(batch)["mean"][1], rows["mean"][1])


def test_sentences(engine, tmp_path, monkeypatch):
    with pytest.raises(InvalidArgument, match="images: expected 1 to"):
        map_images(engine, tmp_path, tmp_path / "out", REQUEST)
    with pytest.raises(InvalidArgument, match="engine: expected the one of hash"):
        Sampler(str(engine), REQUEST, sha256="0" * 64)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(BackendNotAvailable, match=r"pip install 'latino-engine\[ray\]'"):
        map_images(engine, tmp_path, tmp_path / "out", REQUEST, ray="auto")


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    memory = 100 * 2**20
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": memory, "include_dashboard": False},
    )
    made.add_node(num_cpus=1, object_store_memory=memory)
    yield made
    made.shutdown()


def kill_one_worker(out, killed):
    """Once the first files are there, SIGKILL to one of the processes that draw."""
    until = time.monotonic() + 240
    while time.monotonic() < until and not killed:
        workers = [
            child
            for child in psutil.Process().children(recursive=True)
            if any("MapWorker" in part for part in child.cmdline()[:1])
        ]
        if len(list(out.rglob("*.npz"))) >= 2 and workers:
            os.kill(workers[0].pid, signal.SIGKILL)
            killed.append(workers[0].pid)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_of_two_nodes_with_a_killed_worker(cluster, engine, images, alone, tmp_path):
    out, killed = tmp_path / "out", []
    out.mkdir()
    thread = threading.Thread(target=kill_one_worker, args=(out, killed))
    thread.start()
    told = map_images(
        engine, images, out, REQUEST, ray=cluster.address, actors=2, batch=2, threads=1
    )
    thread.join()
    assert killed, "no worker was killed in the middle"
    assert told == {"drawn": COUNT, "kept": 0, "failures": {}}
    expected, found = samples(alone), samples(out)
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
