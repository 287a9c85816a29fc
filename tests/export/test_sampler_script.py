"""The script of docs/gpu.md runs a whole sampler with onnxruntime and numpy alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.priors import save_prior

PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
(SCRIPT,) = re.findall(r"<!-- sampler\.onnx -->\n```python\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("operator", ["blur", "mask"])
def test_the_script_of_the_page_draws_samples(operator, tmp_path):
    save_prior(tiny_prior(), tmp_path / "prior")
    command = ["export", tmp_path / "prior", "-o", tmp_path / "sampler.onnx", "--whole-sampler"]
    assert program.run([*map(str, command), "--size", "16x20", "--operator", operator]) == 0
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 10
    alone = (
        "import sys; sys.modules['latino_engine'] = sys.modules['torch'] = None\n" + SCRIPT
    )  # neither can be imported
    done = subprocess.run(
        [sys.executable, "-c", alone], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "sample.npy")
    assert found.shape == (1, 3, 16, 20) and np.isfinite(found).all()

    # What the files say is one sample of the engine's own path, by its own noise.
    stored = dict(np.load(tmp_path / "sampler.npz"))
    scale, offset = stored.pop("scale"), stored.pop("offset")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "sampler.onnx"))
    assert {i.name for i in session.get_inputs()} == set(stored)
    own = (session.run(["x"], stored)[0] - offset) / scale
    x = F.interpolate(le.sample_image("coffee"), (16, 20), mode="bicubic", antialias=True)
    op = le.Blur.gaussian(1.6, 0.02)
    if operator == "mask":
        op = le.operator("inpaint:random=0.5,seed=0", 0.02, (16, 20))
    y = op.measure(x.clamp(0, 1), seed=1)
    engine = le.compile(tiny_prior(), tmp_path / "tiny.engine", backend="torch", image_size=16)
    expected = engine.sample(y, op, num_samples=1, seed=0).samples[0].numpy()
    assert np.linalg.norm(own - expected) <= 1e-4 * np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) > 0.01 * np.linalg.norm(expected)  # another draw
    assert torch.allclose(torch.from_numpy(stored["y"]), 2 * y - 1, atol=1e-5) or operator == "mask"
