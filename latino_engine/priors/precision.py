"""A denoiser in lower precision: the layers that multiply, and only those."""

from __future__ import annotations

import copy

import torch
from torch import nn

from latino_engine.priors.networks.unet import GroupNorm

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_MULTIPLYING = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def to_precision(denoiser: nn.Module, precision: str) -> nn.Module:
    """A copy of a denoiser whose convolutions and linear layers work in `precision`.

    The statistics of normalisations, the angles of the time embedding and the sums of the
    preconditioning stay float32.
    """
    if precision == "fp32":
        return denoiser
    dtype = PRECISIONS[precision]
    converted = copy.deepcopy(denoiser)
    for module in converted.modules():
        if isinstance(module, _MULTIPLYING):
            module.to(dtype)
        elif type(module) is nn.GroupNorm:  # of an imported network
            module.__class__ = GroupNorm
    converted.network_dtype = dtype  # type: ignore[assignment]
    return converted
