"""Images to train on in seconds: bright squares on black, at random places."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latino_engine.distill.options import Distillation
from latino_engine.distill.prior_training import PriorTraining


def blob_images(count: int = 64, size: int = 16) -> np.ndarray:
    """(count, 1, size, size) uint8."""
    random = np.random.default_rng(0)
    images = np.zeros((count, 1, size, size), np.uint8)
    for image in images:
        top, left = random.integers(0, size - 6, 2)
        image[0, top : top + 6, left : left + 6] = 255
    return images


def distillation(source: Path, **more: object) -> Distillation:
    """A run of a few steps on them."""
    fixed = {
        "operators": ("sr:factor=2", "inpaint:random=0.3..0.7"),
        "noise_std": "0.05..0.1",
        "size": 16,
        "batch": 4,
        "steps": 2,
        "unfold": 1,
        "training_steps": 4,
        "targets": "all-conv",
        "rank": 2,
        "warmup": 1,
    }
    return Distillation(source=str(source), name="blobs", **{**fixed, **more})


def prior_training(source: Path, **more: object) -> PriorTraining:
    """A run of a few steps on them."""
    fixed = {
        "size": 16,
        "batch": 8,
        "steps": 6,
        "groups": 4,
        "warmup": 2,
        "widths": (8, 16),
        "blocks_per_level": 1,
        "attention_heads": 2,
        "embedding": 16,
    }
    return PriorTraining(source=str(source), name="blobs", **{**fixed, **more})
