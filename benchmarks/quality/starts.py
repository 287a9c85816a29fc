"""Two operators whose start is hard to beat: phase retrieval by starting point, colourisation.

    python -m benchmarks.quality.starts

Two photographs of scikit-image, 64 x 64 for the phases and 96 x 96 for the colours; PSNR in dB, for
phase retrieval of the image or of the one turned by 180 degrees, whichever is closer.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import skimage.data
import torch
from torch import Tensor

import latino_engine as le
from latino_engine.evaluation.metrics import psnr

PHOTOGRAPHS = ("chelsea", "astronaut")
LUMA = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
PHASES = {
    "4 masks": lambda: le.PhaseRetrieval.coded_diffraction(64, 0.02, 4),
    "2 masks": lambda: le.PhaseRetrieval.coded_diffraction(64, 0.02, 2),
    "1 mask": lambda: le.PhaseRetrieval.coded_diffraction(64, 0.02, 1),
    "no mask, oversampling 2": lambda: le.PhaseRetrieval.oversampled(64, 0.02),
}


def photograph(name: str, side: int) -> Tensor:
    """(1, 3, side, side), public range."""
    pixels = getattr(skimage.data, name)()[80 : 80 + side, 150 : 150 + side]
    return torch.tensor(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def spectral(op: le.PhaseRetrieval, y: Tensor, num_iter: int = 60) -> Tensor:
    """The leading eigenvector of A^H diag(1 - 1/y^2) A, y^2 relative to its mean, scaled to y.

    Source: Luo, Alghamdi, Lu, *Optimal spectral initialization for signal recovery with
    applications to phase retrieval*, IEEE Trans. Signal Process. 67(9), 2019.
    """
    energy = y.square() / y.square().mean(dim=(2, 3, 4), keepdim=True)
    weight = (1.0 - 1.0 / energy.clamp(min=1e-3)).clamp(min=-3.0)
    height, width = op.masks.shape[-2:]
    masks = op.masks.to(torch.complex64)
    x = torch.rand(*y.shape[:2], height, width, generator=torch.Generator().manual_seed(0))
    for _ in range(num_iter):
        back = torch.fft.ifft2(weight * op.field(x), norm="ortho")[..., :height, :width]
        x = (masks.conj() * back).real.sum(dim=2) + 6.0 * x  # shifted: positive
        x = x / x.norm(dim=(2, 3), keepdim=True)
    x = x * x.sum(dim=(2, 3), keepdim=True).sign()
    predicted = op.A(x)
    scale = (predicted * y).sum(dim=(2, 3, 4)) / predicted.square().sum(dim=(2, 3, 4))
    return x * scale[..., None, None]


def closer(found: Tensor, truth: Tensor) -> float:
    """PSNR up to the trivial ambiguity."""
    return max(float(psnr(z, truth)[0]) for z in (found, found.flip(-2, -1)))


def phases(name: str) -> None:
    """The search from grey, and from the spectral estimate."""
    x = photograph(name, 64)
    for label, make in PHASES.items():
        op = make()
        y = op.measure(x)
        first = spectral(op, y)
        grey, other = op.initial_estimate(y), op.search(y, first.clamp(0.0, 1.0))
        figures = [closer(z, x) for z in (grey, first, other)]
        residual = float((op.A(grey) - y).norm()) / (0.02 * math.sqrt(y.numel()))
        print(f"| {name}, {label} | " + " | ".join(f"{f:.1f}" for f in (*figures, residual)) + " |")


def colours(engine: le.Engine, name: str) -> None:
    """PSNR and the root mean square errors of luma and chroma, of the start and of the mean."""
    x = photograph(name, 96)
    op = le.Colorization(0.02)
    y = op.measure(x, seed=1)
    for label, z in (
        ("start", op.initial_estimate(y)),
        ("mean of 4", engine.sample(y, op, num_samples=4, sampler="latino").mean),
    ):
        error = z - x
        luma = (LUMA * error).sum(dim=1, keepdim=True)
        chroma = float((error - luma).square().mean().sqrt())
        invented = float((z - (LUMA * z).sum(dim=1, keepdim=True)).square().mean().sqrt())
        figures = f"{float(psnr(z, x)[0]):.2f} | {float(luma.square().mean().sqrt()):.4f}"
        print(f"| {name}, {label} | {figures} | {chroma:.4f} | {invented:.4f} |")


def main() -> None:
    """Print both tables."""
    print("| magnitudes, noise 0.02 | from grey | spectral alone | from spectral | residual |")
    print("|---|---|---|---|---|")
    for name in PHOTOGRAPHS:
        phases(name)
    print("\n| colourisation, noise 0.02 | PSNR | luma error | chroma error | chroma drawn |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        engine = le.compile("photo-small", Path(folder) / "a.engine", adapter="none", image_size=64)
        for name in PHOTOGRAPHS:
            colours(engine, name)


if __name__ == "__main__":
    main()
