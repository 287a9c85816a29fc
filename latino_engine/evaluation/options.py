"""The choices of an evaluation, each said once: the command takes its options from here.

Nothing in this file imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from latino_engine.sampling.options import Sampling


@dataclass(frozen=True)
class Evaluation(Sampling):
    """What to draw, and on what.

    Attributes:
        source: true images: folder, idx file (.gz too) or npy file.
        operator: forward model, such as sr:factor=4 or blur:std=2.
        noise_std: noise level, image range 0 to 1.
        size: side of the central square that is cut from every image.
        pad: black pixels added around the images of an array file.
        limit: at most so many images.
        num_samples: S >= 2 draws per image.
        seed: of measurements and samples, 0 <= seed < 2^64.
    """

    source: str
    operator: str
    noise_std: float = 0.05
    size: int = 64
    pad: int = 0
    limit: int = 64
    num_samples: int = field(default=16, kw_only=True)
