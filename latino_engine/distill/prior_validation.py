"""How well a prior denoises photographs that it was not trained on, while it is trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from latino_engine.evaluation.metrics import psnr
from latino_engine.image_io.datasets import ImageSource, open_images

#: Noise levels of the denoising literature, of 255.
LEVELS = (15, 25, 50)
_MOST_IMAGES = 32
_MOST_SIDE = 256


class Validation:
    """PSNR of one denoising call at the noise levels of the literature.

    Args:
        source: folder, idx or npy file of images; of more than 32 every n-th is taken, and of each
            the central square of at most 256 x 256.
        multiple: of which the sides have to be multiples.
        device: where the model is.

    Raises:
        ImageUnreadable: no images, or some that cannot be used.
    """

    def __init__(self, source: str | Path, multiple: int, device: torch.device) -> None:
        images = open_images(source, multiple)
        every = -(-len(images) // _MOST_IMAGES)
        self.channels = images.channels
        self.images = [
            _central(images, number, multiple).to(device) for number in range(0, len(images), every)
        ]

    @torch.no_grad()
    def psnr(self, model: nn.Module) -> list[float]:
        """Mean PSNR in dB of the clamped output, one number for each of LEVELS; the noise is the
        same at every call.
        """
        found = []
        for level in LEVELS:
            decibels = []
            for number, x in enumerate(self.images):
                generator = torch.Generator().manual_seed(number)
                sigma = torch.tensor([level / 127.5], device=x.device)
                noise = torch.randn(x.shape, generator=generator).to(x.device)
                denoised = model(x + sigma * noise, sigma)
                decibels.append(float(psnr(denoised / 2.0 + 0.5, x / 2.0 + 0.5)))
            found.append(sum(decibels) / len(decibels))
        return found


def _central(images: ImageSource, number: int, multiple: int) -> Tensor:
    pixels = torch.from_numpy(images.image(number).copy())[None].float() / 127.5 - 1.0
    height, width = (min(side, _MOST_SIDE) // multiple * multiple for side in pixels.shape[2:])
    top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
    return pixels[:, :, top : top + height, left : left + width].contiguous()
