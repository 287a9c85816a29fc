"""Inverse problems: one file each, all with A, A_adjoint, prox, initial_estimate and measure."""

from latino_engine.operators.blur import Blur
from latino_engine.operators.inpainting import Denoising, Inpainting
from latino_engine.operators.jpeg import JPEG
from latino_engine.operators.linear import LinearOperator
from latino_engine.operators.mri import MRI
from latino_engine.operators.protocol import DataStep, Operator
from latino_engine.operators.super_resolution import SuperResolution

__all__ = [
    "JPEG",
    "MRI",
    "Blur",
    "DataStep",
    "Denoising",
    "Inpainting",
    "LinearOperator",
    "Operator",
    "SuperResolution",
]
