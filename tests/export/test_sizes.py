"""Modules that keep a size of their own are refused in one sentence that names it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import latino_engine as le
from latino_engine.errors import PriorInvalid

MULTIPLE = 4  # exported at 16 x 24


class Keeps(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(3, 3, 3, padding=1)
        self.table = nn.Parameter(torch.zeros(1, 3, 16, 24))

    def forward(self, x, sigma):
        h = self.conv(x)
        if self.how == "int":
            return h + 0.0 * torch.arange(int(x.shape[2]))[None, None, :, None]
        if self.how == "branch":
            return h if x.shape[2] < 20 else 0.5 * h
        if self.how == "parameter" and x.shape[2] > 16:
            return h + self.table
        return h


def prior(how):
    options = {"channels": 3, "sigma_min": 0.02, "sigma_max": 5.0, "size_multiple": MULTIPLE}
    return le.from_module(Keeps(how), parametrization="denoiser", **options)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("int", r"size 16 x 24 .*; let forward take sizes from x\.shape"),
        ("branch", r"size 16 x 24 .*; let forward take sizes from x\.shape"),
        ("parameter", r"size 16 x 24 .*it at 64 x 96: .*size of tensor"),
    ],
)
def test_a_size_that_is_kept_is_named_at_compile(tmp_path, how, sentence):
    with pytest.raises(PriorInvalid, match=sentence) as error:
        le.compile(prior(how), tmp_path / "e.engine", "onnxruntime", image_size=16)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert not (tmp_path / "e.engine").exists()
