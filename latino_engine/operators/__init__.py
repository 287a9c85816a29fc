"""Inverse problems: one file each, all with A, A_adjoint, prox, initial_estimate and measure."""

from latino_engine.operators.blur import Blur
from latino_engine.operators.bordered_blur import BorderedBlur
from latino_engine.operators.colorization import Colorization
from latino_engine.operators.composition import Compose
from latino_engine.operators.compressed_sensing import CompressedSensing
from latino_engine.operators.demosaicing import Demosaicing
from latino_engine.operators.inpainting import Denoising, Inpainting
from latino_engine.operators.jpeg import JPEG
from latino_engine.operators.linear import LinearOperator
from latino_engine.operators.luminance import Luminance
from latino_engine.operators.mri import MRI
from latino_engine.operators.phase_retrieval import PhaseRetrieval
from latino_engine.operators.poisson import PoissonNoise
from latino_engine.operators.protocol import DataStep, Operator
from latino_engine.operators.spatially_varying_blur import SpatiallyVaryingBlur
from latino_engine.operators.stacking import Stack
from latino_engine.operators.super_resolution import SuperResolution
from latino_engine.operators.tomography import Tomography

__all__ = [
    "JPEG",
    "MRI",
    "Blur",
    "BorderedBlur",
    "Colorization",
    "Compose",
    "CompressedSensing",
    "DataStep",
    "Demosaicing",
    "Denoising",
    "Inpainting",
    "LinearOperator",
    "Luminance",
    "Operator",
    "PhaseRetrieval",
    "PoissonNoise",
    "SpatiallyVaryingBlur",
    "Stack",
    "SuperResolution",
    "Tomography",
]
