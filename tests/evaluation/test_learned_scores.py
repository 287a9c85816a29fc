"""LPIPS and FID where a stand-in network takes the place of weights that cannot be had here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latino_engine.errors import InvalidArgument
from latino_engine.evaluation import learned_scores as module
from latino_engine.evaluation.learned_scores import inception_missing, learned_scores

pytest.importorskip("torchmetrics", reason="torchmetrics: pip install 'latino-engine[distill]'")


class Features(torch.nn.Module):
    """The mean colour and the contrast of an image: (B, 6)."""

    def forward(self, images):
        pixels = images.double()
        return torch.cat((pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3))), dim=1)


def frechet(a, b):
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of rows of features, from the definition."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(ca @ cb).astype(complex)).real.sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * root


def test_fid_against_its_definition():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(80, 3, 8, 8, generator=generator)
    samples = 0.3 + 0.5 * torch.rand(80, 3, 8, 8, generator=generator)
    found = learned_scores(samples, truth, Features())
    pair = [Features()(images).numpy() for images in (truth, samples)]
    assert found["fid"] == pytest.approx(frechet(*pair), rel=1e-3)
    assert learned_scores(truth, truth, Features())["fid"] == pytest.approx(0.0, abs=1e-5)


def test_grey_images():
    truth = torch.rand(40, 1, 8, 8)
    assert learned_scores(truth.flip(0), truth, Features())["fid"] == pytest.approx(0, abs=1e-4)


def test_without_weights_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = learned_scores(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8))
    assert found["lpips"] is None and found["fid"] is None
    assert set(found["not_computed"]) == {"lpips", "fid"}
    monkeypatch.setattr(module.util, "find_spec", lambda name: object())
    assert "expected the weights weights-inception" in inception_missing()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").touch()
    assert inception_missing() is None


def test_lpips_goes_through_the_distance(monkeypatch):
    monkeypatch.setattr(module, "lpips_missing", lambda: None)
    stand_in = ("lpips", lambda a, b: (a - b).abs().mean())
    monkeypatch.setattr(module, "perceptual_distance", lambda name: stand_in)
    truth = torch.full((3, 1, 8, 8), 0.25)
    assert learned_scores(truth + 0.1, truth, Features())["lpips"] == pytest.approx(0.2)


def test_one_image_has_no_fid():
    with pytest.raises(InvalidArgument, match="truth: expected at least 2 images, got 1"):
        learned_scores(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
