"""The fused operations: one file for each, with its torch specification, its backends, its table.

A table {backend: function} holds the backends that pay, and every one of them must agree with
"torch", the specification; `latino_engine.ops.dispatch` says which one runs. A `launch_<op>` is the
operation on CUDA with its scalars in a `StepTable`, for a captured graph.
"""

from __future__ import annotations

from latino_engine.ops import alias_prox as _alias
from latino_engine.ops import convolve as _convolve
from latino_engine.ops import fourier_prox as _fourier
from latino_engine.ops import kspace as _kspace
from latino_engine.ops import masked_prox as _masked
from latino_engine.ops import noise as _noise
from latino_engine.ops import pointwise as _pointwise
from latino_engine.ops.alias_prox import alias_fold as alias_fold
from latino_engine.ops.alias_prox import alias_prox, alias_prox_noise
from latino_engine.ops.alias_prox import launch_alias_prox_noise as launch_alias_prox_noise
from latino_engine.ops.checks import check_ids, check_seed, per_image
from latino_engine.ops.convolve import convolve, convolved_spectrum
from latino_engine.ops.dispatch import Backend, Table, backend_of, transforms_of
from latino_engine.ops.fourier_prox import fourier_prox, fourier_prox_noise
from latino_engine.ops.fourier_prox import launch_fourier_prox_noise as launch_fourier_prox_noise
from latino_engine.ops.kspace import (
    fourier_mask_prox,
    fourier_mask_prox_noise,
    kspace_adjoint,
    kspace_forward,
)
from latino_engine.ops.kspace import (
    launch_fourier_mask_prox_noise as launch_fourier_mask_prox_noise,
)
from latino_engine.ops.masked_prox import launch_masked_prox_noise as launch_masked_prox_noise
from latino_engine.ops.masked_prox import masked_prox, masked_prox_noise, observed_prox
from latino_engine.ops.noise import gaussian_noise, langevin_noise, reverse_step
from latino_engine.ops.noise import launch_langevin_noise as launch_langevin_noise
from latino_engine.ops.noise import launch_reverse_step as launch_reverse_step
from latino_engine.ops.philox import MAX_IMAGE_ID
from latino_engine.ops.pointwise import combine_anchors, keep_observed, running_moments

__all__ = [
    "MAX_IMAGE_ID",
    "Backend",
    "alias_prox",
    "alias_prox_noise",
    "backend_of",
    "check_ids",
    "check_seed",
    "combine_anchors",
    "convolve",
    "convolved_spectrum",
    "fourier_mask_prox",
    "fourier_mask_prox_noise",
    "fourier_prox",
    "fourier_prox_noise",
    "gaussian_noise",
    "keep_observed",
    "kspace_adjoint",
    "kspace_forward",
    "langevin_noise",
    "masked_prox",
    "masked_prox_noise",
    "observed_prox",
    "per_image",
    "reverse_step",
    "running_moments",
    "transforms_of",
]

#: operation -> its table, of all operations.
TABLES: dict[str, Table] = {
    "gaussian_noise": _noise.GAUSSIAN,
    "langevin_noise": _noise.LANGEVIN,
    "reverse_step": _noise.REVERSE,
    "fourier_prox": _fourier.PROX,
    "fourier_prox_noise": _fourier.STEP,
    "alias_prox": _alias.PROX,
    "alias_prox_noise": _alias.STEP,
    "masked_prox": _masked.PROX,
    "masked_prox_noise": _masked.STEP,
    "observed_prox": _masked.OBSERVED,
    "fourier_mask_prox": _kspace.PROX,
    "fourier_mask_prox_noise": _kspace.STEP,
    "kspace_forward": _kspace.FORWARD,
    "kspace_adjoint": _kspace.ADJOINT,
    "convolve": _convolve.CONVOLVE,
    "convolved_spectrum": _convolve.SPECTRUM,
    "keep_observed": _pointwise.KEPT,
    "combine_anchors": _pointwise.COMBINED,
    "running_moments": _pointwise.MOMENTS,
}
