"""Pictures of measurements that are no images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """One picture (1, C, h, w) of several: enlarged to the largest height, grey ones beside
    coloured ones.
    """
    height = max(picture.shape[-2] for picture in pictures)
    channels = max(picture.shape[1] for picture in pictures)
    enlarged = []
    for picture in pictures:
        width = max(1, round(picture.shape[-1] * height / picture.shape[-2]))
        image = torch.nn.functional.interpolate(picture[:1], (height, width), mode="nearest")
        enlarged.append(image.expand(-1, channels, -1, -1) if image.shape[1] == 1 else image)
    return torch.cat(enlarged, dim=-1)
