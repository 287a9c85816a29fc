"""PSNR of zero-shot LATINO on a folder of images, the three tasks of the demo, as a Markdown table.

    python -m benchmarks.quality.zero_shot FOLDER [NAME ...]

Noise std 0.02 (image range 0 to 1), 8 evaluations, seed 1; PSNR of clamped images, averaged over
the images.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import latino_engine as le
from latino_engine.evaluation.metrics import psnr
from latino_engine.image_io import read_image
from latino_engine.operators.spec import parse_operator

NOISE_STD = 0.02
SEED = 1
NUM_SAMPLES = 8
TASKS = {
    "Gaussian blur, std 1.6, 13 x 13": "blur:std=1.6,size=13",
    "bicubic 4x super-resolution": "sr:factor=4",
    "half of the pixels missing": "inpaint:random=0.5",
}


def main(folder: Path, names: list[str]) -> None:
    """Print the table for the images of a folder, or for the named ones (without extension)."""
    paths = sorted(p for p in folder.iterdir() if not names or p.stem in names)
    truth = torch.cat([read_image(path) for path in paths])
    print(f"{len(paths)} images of {folder.name}: {', '.join(path.stem for path in paths)}\n")
    print("| task | start | one sample | mean of 8 | chi2 |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        engine = le.compile("photo-small", Path(scratch) / "photo-small.engine", adapter="none")
        for task, text in TASKS.items():
            op = parse_operator(text, NOISE_STD, (truth.shape[-2], truth.shape[-1]))
            y = op.measure(truth, seed=SEED)
            post = engine.sample(y, op, num_samples=NUM_SAMPLES, seed=SEED)
            images = (op.initial_estimate(y), post.samples[0], post.mean)
            figures = " | ".join(f"{float(psnr(x, truth).mean()):.2f}" for x in images)
            print(f"| {task} | {figures} | {float(post.residual_chi2.mean()):.2f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
