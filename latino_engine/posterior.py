"""What `Engine.sample` returns: samples of p(x | y) and what follows from them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine.atomic import atomic_folder
from latino_engine.errors import InvalidArgument, invalid
from latino_engine.image_io import write_image, write_npy

#: Names that a saved posterior may hold: the first marks a folder as one.
POSTERIOR_FILES = ("posterior.json", "*.npy", "*.png")


def finite(value: Tensor | float) -> float | None:
    """A number as JSON has it: None where it is infinite or not a number."""
    number = float(value)
    return number if math.isfinite(number) else None


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws from p(x | y), public units, nominally in the prior's data range, not clamped.

    Attributes:
        residual_chi2: (S, B) float64, ||A x - y||^2 / (m sigma_y^2); exact posterior samples
            average about 1, zero-shot LATINO, which ends on a prox, lies below.
        nfe: network evaluations per sample.
        time_ms: wall time of the whole call.
        stages_ms: its split: prox, noise, denoise, other.
        num_samples: S.
        about: what was asked and what ran, as JSON types.
        prompt_embedding: (B, tokens, width): the prompts that LATINO-PRO found, else None.
    """

    residual_chi2: Tensor
    nfe: int
    time_ms: float
    stages_ms: dict[str, float]
    num_samples: int
    about: dict[str, Any]
    kept: Tensor | None
    running: tuple[Tensor, Tensor] | None
    prompt_embedding: Tensor | None = None

    @property
    def samples(self) -> Tensor:
        """(S, B, C, H, W) float32.

        Raises:
            ValueError: the call said keep_samples=False.
        """
        if self.kept is None:
            raise InvalidArgument(
                "samples: expected a posterior with its samples, got one that kept only mean and "
                "std; "
                "call sample(..., keep_samples=True)"
            )
        return self.kept

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W): mean over the samples."""
        return self.samples.mean(dim=0) if self.running is None else self.running[0]

    @property
    def std(self) -> Tensor:
        """(B, C, H, W): standard deviation over the samples, divisor S - 1; NaN for a single
        sample.
        """
        if self.num_samples == 1:
            return torch.full_like(self.mean, torch.nan)
        if self.running is None:
            return self.samples.std(dim=0)
        return (self.running[1] / (self.num_samples - 1)).sqrt()

    def quantile(self, q: float | Tensor) -> Tensor:
        """Per-pixel quantile over the samples, linear between order statistics.

        Args:
            q: in [0, 1], a number -> (B, C, H, W), or (Q,) -> (Q, B, C, H, W).

        Raises:
            ValueError: q outside [0, 1], or samples that were not kept.
        """
        levels = torch.as_tensor(q, dtype=torch.float32)
        if levels.ndim > 1 or not bool(((levels >= 0) & (levels <= 1)).all()):
            raise invalid("q", "one number, or a list, in [0, 1]", q, "give probabilities")
        # torch.quantile refuses large inputs; sorting S values per pixel has no such limit.
        ordered = self.samples.sort(dim=0).values
        place = levels.to(ordered.device).reshape(-1) * (self.num_samples - 1)
        below = place.floor().long()
        above = (below + 1).clamp(max=self.num_samples - 1)
        share = (place - below).reshape(-1, *([1] * (ordered.ndim - 1)))
        found = torch.lerp(ordered[below], ordered[above], share)
        return found[0] if levels.ndim == 0 else found

    def __repr__(self) -> str:
        shape = tuple(self.mean.shape)
        return (
            f"Posterior({self.num_samples} samples of {shape}, nfe={self.nfe}, "
            f"{self.time_ms:.0f} ms, chi2={float(self.residual_chi2.mean()):.2f})"
        )

    def save(self, folder: str | Path) -> None:
        """Write samples.npy, mean.npy, std.npy, a PNG of each image and posterior.json; all or
        nothing.

        The npy files hold the unclamped float32 values; PNGs are 8 bit, clamped to the public
        range, written for 1 or 3 channels. Without kept samples, samples are left out; without two
        samples, the std.

        Raises:
            OutputNotWritable: the folder cannot be written, or holds other things than a posterior.
        """
        with atomic_folder(folder, ours=POSTERIOR_FILES) as partial:
            self.write_into(partial)

    def write_into(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder."""
        images = {"mean": self.mean[None]}
        if self.num_samples > 1:
            images["std"] = self.std[None]
        if self.kept is not None:
            images["sample"] = self.kept
        for name, stack in images.items():
            array = stack.cpu().numpy()
            write_npy(
                folder / f"{name}{'s' if name == 'sample' else ''}.npy",
                array if name == "sample" else array[0],
            )
            self._write_pictures(folder, name, stack)
        text = json.dumps(self.summary(), indent=1, allow_nan=False)
        (folder / "posterior.json").write_text(text + "\n")

    def summary(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            **self.about,
            "num_samples": self.num_samples,
            "nfe": self.nfe,
            "time_ms": self.time_ms,
            "stages_ms": self.stages_ms,
            "residual_chi2": [[finite(v) for v in row] for row in self.residual_chi2],
        }

    def _write_pictures(self, folder: Path, name: str, stack: Tensor) -> None:
        if stack.shape[2] not in (1, 3):
            return
        low, high = self.about["data_range"]
        shown = stack / (high - low) if name == "std" else (stack - low) / (high - low)
        for s, images in enumerate(shown):
            for b, image in enumerate(images):
                parts = [name]
                parts += [f"{s:03d}"] if name == "sample" else []
                parts += [f"image{b:03d}"] if len(images) > 1 else []
                write_image(folder / ("_".join(parts) + ".png"), image)
