"""LPIPS and FID: scores by networks of others, computed only where their weights are installed.

Nothing is downloaded. torchmetrics computes FID, and lpips computes LPIPS. A network of the
caller's may take the place of the one that FID is defined with; its figure then compares with none
of the literature.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latino_engine.errors import invalid
from latino_engine.evaluation.perceptual import lpips_missing, perceptual_distance

_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names the file
_BATCH = 64


def learned_scores(
    samples: Tensor, truth: Tensor, feature_network: nn.Module | None = None
) -> dict[str, Any]:
    """LPIPS and FID of samples (B, C, H, W) for the truth (B, C, H, W), public units.

    Args:
        samples: one sample for each image.
        truth: the images.
        feature_network: (B, 3, H, W) float32 in [0, 1] -> (B, features), in place of Inception.

    Returns:
        {"lpips", "fid"}: a number, or null where weights or packages are missing;
        "not_computed": one sentence for each that is null.

    Raises:
        ValueError: fewer than two images.

    Source: Zhang et al. (2018), arXiv:1801.03924; Heusel et al. (2017), arXiv:1706.08500.
    """
    if len(truth) < 2:
        raise invalid("truth", "at least 2 images", len(truth), "FID compares distributions")
    missing = {"lpips": lpips_missing()}
    missing["fid"] = None if feature_network is not None else inception_missing()
    no_torchmetrics = _package_missing("torchmetrics", "fid")
    missing["fid"] = missing["fid"] or no_torchmetrics
    drawn, true = _colour(samples.clamp(0.0, 1.0)), _colour(truth.clamp(0.0, 1.0))
    return {
        "lpips": None if missing["lpips"] else _lpips(drawn, true),
        "fid": None if missing["fid"] else _fid(drawn, true, feature_network),
        "not_computed": {name: reason for name, reason in missing.items() if reason},
    }


def inception_missing() -> str | None:
    """One sentence on what FID lacks here, None where it can be used without a download."""
    missing = _package_missing("torch_fidelity", "fid")
    if missing:
        return missing
    path = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION
    if path.is_file():
        return None
    return (
        f"fid: expected the weights {_INCEPTION} in torch's folder of checkpoints, got none; put "
        "them there"
    )


def _package_missing(package: str, score: str) -> str | None:
    if util.find_spec(package) is not None:
        return None
    return f"{score}: expected the package {package}, got none installed; install it"


def _colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


def _lpips(samples: Tensor, truth: Tensor) -> float:
    _, distance = perceptual_distance("lpips")
    with torch.no_grad():
        each = [
            float(distance(2.0 * a[None] - 1.0, 2.0 * b[None] - 1.0))
            for a, b in zip(samples, truth, strict=True)
        ]
    return sum(each) / len(each)


def _fid(samples: Tensor, truth: Tensor, network: nn.Module | None) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    feature: Any = 2048 if network is None else network
    size = (3, *truth.shape[-2:])
    metric = FrechetInceptionDistance(feature=feature, normalize=True, input_img_size=size)
    for first in range(0, len(truth), _BATCH):
        metric.update(truth[first : first + _BATCH], real=True)
        metric.update(samples[first : first + _BATCH], real=False)
    return float(metric.compute())
