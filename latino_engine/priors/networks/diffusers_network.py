"""diffusers' UNet2DModel as F(x, time)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from latino_engine.errors import PriorInvalid


class DiffusersUNet(nn.Module):
    """F(x, time) of a `diffusers.UNet2DModel` built from its configuration.

    Args:
        channels: image channels; the configuration's in_channels.
        config: the fields of the model's config.json.
        label: class of a class-conditional model.

    Raises:
        PriorInvalid: diffusers is not installed.
    """

    def __init__(self, channels: int, config: dict[str, Any], label: int | None = None) -> None:
        super().__init__()
        self.unet = unet2d_class().from_config(config)
        self.label = label

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        labels = None
        if self.label is not None:
            labels = torch.full_like(time, float(self.label)).long()
        out = self.unet(x, time, class_labels=labels, return_dict=False)
        return cast(Tensor, out[0])


def unet2d_class() -> Any:
    """`diffusers.UNet2DModel`.

    Raises:
        PriorInvalid: diffusers is not installed.
    """
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise PriorInvalid(
            f"diffusers: expected the package, which defines this network, got {error}; "
            "install it by pip install 'latino-engine[diffusers]'"
        ) from error
    return UNet2DModel
