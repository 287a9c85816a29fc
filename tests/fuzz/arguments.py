"""Arguments that nobody should give, and operators that are right but for one of them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import latino_engine as le
from latino_engine.operators import (
    JPEG,
    MRI,
    Blur,
    BorderedBlur,
    Colorization,
    Compose,
    CompressedSensing,
    Demosaicing,
    Denoising,
    Inpainting,
    LinearOperator,
    PhaseRetrieval,
    PoissonNoise,
    SpatiallyVaryingBlur,
    Stack,
    SuperResolution,
    Tomography,
)

SIDE = 8


def _masked() -> Any:
    return np.ma.masked_less(np.arange(16.0).reshape(4, 4), 3)


def _quantized() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will drop them one day
        return torch.quantize_per_tensor(torch.ones(1, 3, SIDE, SIDE), 0.1, 0, torch.quint8)


#: Made anew for each call: some are used up, some are written to.
STRANGE: tuple[Callable[[], Any], ...] = (
    *(lambda v=v: v for v in (None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 2**31, 2**63, -(2**70))),
    *(lambda v=v: v for v in (0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e-20, 1e30, 1e300, 2.5)),
    *(lambda v=v: float(v) for v in ("nan", "inf", "-inf")),
    *(lambda v=v: v for v in (1j, 1 + 0j, "", "a", "1", "nan", "ud2m", "\0", b"1", ...)),
    *(lambda v=v: v for v in ((), (1,), (1, 2), (0, 8), (8, 8), (8, -8), (8, 8, 8), (1e3, 2))),
    *(lambda v=v: list(v) for v in ((), (1,), ("a",), (None,), ([1], [2, 3]), (2**70,))),
    lambda: {1, 2},
    lambda: {"a": 1},
    lambda: range(3),
    lambda: object(),
    lambda: slice(2),
    lambda: (2**40, 2**40),
    lambda: (np.int64(8), np.int32(8)),
    lambda: np.float32(0.5),
    lambda: np.float64("nan"),
    lambda: np.int8(4),
    lambda: np.bool_(True),
    lambda: np.array(8),
    lambda: np.array([8, 8]),
    lambda: np.array(["a"]),
    lambda: np.array([None]),
    lambda: np.array([], dtype=np.float32),
    lambda: np.zeros((0, 3)),
    lambda: np.ones((1, 3, SIDE, SIDE), np.float16),
    lambda: np.ones((1, 3, SIDE, SIDE), np.longdouble),
    lambda: np.ones((3, 3), ">f4"),
    lambda: np.datetime64("2020-01-01"),
    _masked,
    lambda: np.matrix([[1.0, 2.0], [3.0, 4.0]]),
    lambda: torch.tensor(8),
    lambda: torch.tensor(0.5),
    lambda: torch.tensor([0.5, float("nan")]),
    lambda: torch.tensor(1j),
    lambda: torch.tensor(True),
    lambda: torch.empty(0),
    lambda: torch.empty(1, 3, 0, 4),
    lambda: torch.empty(0, 3, SIDE, SIDE),
    lambda: torch.ones(SIDE),
    lambda: torch.ones(SIDE, SIDE),
    lambda: torch.ones(3, SIDE, SIDE),
    lambda: torch.ones(1, 1, SIDE, SIDE),
    lambda: torch.ones(2, 3, SIDE, SIDE),
    lambda: torch.ones(1, 3, SIDE + 1, SIDE),
    lambda: torch.ones(1, 1025, 4, 4),
    lambda: torch.ones(1, 1, 1, 1, 1, 1),
    lambda: torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64),
    lambda: torch.ones(1, 3, SIDE, SIDE, dtype=torch.float16),
    lambda: torch.ones(1, 3, SIDE, SIDE, dtype=torch.bfloat16),
    lambda: torch.ones(1, 3, SIDE, SIDE, dtype=torch.int32),
    lambda: torch.ones(1, 3, SIDE, SIDE, dtype=torch.complex64),
    lambda: torch.ones(1, 3, SIDE, SIDE, dtype=torch.bool),
    lambda: torch.ones(1, 3, SIDE, SIDE).to(torch.float8_e4m3fn),
    lambda: torch.ones(1, 3, SIDE, SIDE, device="meta"),
    lambda: torch.ones(1, device="meta"),
    lambda: torch.ones(SIDE, SIDE).to_sparse(),
    lambda: torch.ones(1, 3, SIDE, SIDE).to_sparse(),
    lambda: torch.ones(1, 3, SIDE, SIDE).to_mkldnn(),
    _quantized,
    lambda: torch.full((1, 3, SIDE, SIDE), float("nan")),
    lambda: torch.full((1, 3, SIDE, SIDE), float("inf")),
    lambda: torch.ones(1, 3, SIDE, SIDE).expand(4, 3, SIDE, SIDE),
    lambda: torch.ones(1, 3, SIDE, 2 * SIDE)[..., ::2],
    lambda: torch.ones(1, 3, SIDE, SIDE, requires_grad=True),
    lambda: torch.nn.Parameter(torch.ones(1, 3, SIDE, SIDE)),
    lambda: Denoising(0.1),
    lambda: Blur,
)


def _identity(x: Any) -> Any:
    return x


_MASK = np.indices((SIDE, SIDE)).sum(0) % 3 > 0
_KERNEL = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 1.0], [1.0, 2.0, 1.0]]) / 15.0

#: (what is called, its arguments by name, all of them right).
MAKERS: tuple[tuple[Callable[..., Any], dict[str, Any]], ...] = (
    (Blur, {"kernel": _KERNEL, "noise_std": 0.1}),
    (Blur.gaussian, {"std": 1.0, "noise_std": 0.1, "size": 3, "compat": None}),
    (Blur.uniform, {"size": 3, "noise_std": 0.1}),
    (Blur.motion, {"size": 3, "noise_std": 0.1, "seed": 1}),
    (BorderedBlur, {"kernel": _KERNEL, "noise_std": 0.1, "border": "reflect"}),
    (BorderedBlur, {"kernel": _KERNEL, "noise_std": 0.1, "border": "valid"}),
    (SuperResolution, {"factor": 2, "noise_std": 0.1, "kernel": "bicubic", "grid": None}),
    (Inpainting, {"mask": _MASK, "noise_std": 0.1}),
    (Denoising, {"noise_std": 0.1}),
    (MRI, {"mask": _MASK, "noise_std": 0.1, "coil_maps": None, "real_image": True}),
    (JPEG, {"quality": 30, "grey": False, "subsampling": "4:2:0", "tables": None}),
    (Demosaicing, {"noise_std": 0.1, "pattern": "RGGB"}),
    (Colorization, {"noise_std": 0.1, "weights": (0.3, 0.6, 0.1)}),
    (
        Tomography,
        {
            "angles": 5,
            "image_size": SIDE,
            "noise_std": 0.1,
            "num_detectors": None,
            "convention": "centred",
            "rotation_centre": None,
            "detector_offset": 0.0,
        },
    ),
    (
        CompressedSensing,
        {
            "ratio": 0.5,
            "image_size": (SIDE, SIDE),
            "noise_std": 0.1,
            "ordering": "random",
            "random_signs": None,
            "seed": 0,
        },
    ),
    (PhaseRetrieval, {"masks": np.ones((2, SIDE, SIDE)), "noise_std": 0.1, "oversampling": 1}),
    (PhaseRetrieval.coded_diffraction, {"image_size": SIDE, "noise_std": 0.1, "num_masks": 2}),
    (PhaseRetrieval.oversampled, {"image_size": SIDE, "noise_std": 0.1, "oversampling": 2}),
    (PoissonNoise, {"operator": Denoising(0.0), "peak": 30.0}),
    (SpatiallyVaryingBlur, {"kernels": np.ones((2, 2, 3, 3)) / 9.0, "noise_std": 0.1}),
    (
        LinearOperator,
        {
            "A": _identity,
            "A_adjoint": _identity,
            "noise_std": 0.1,
            "tol": 1e-4,
            "max_iter": 20,
        },
    ),
    (Compose, {"operators": [Blur(_KERNEL, 0.0), Inpainting(_MASK, 0.1)]}),
    (
        Stack,
        {
            "operators": [Denoising(0.1), Inpainting(_MASK, 0.2)],
            "image_shape": (3, SIDE, SIDE),
        },
    ),
)


def _members(op: Any) -> dict[str, dict[str, Any]]:
    """Methods of an operator with arguments that are right: made from a measurement of it."""
    channels = 1 if getattr(op, "real_image", False) else 3
    x = torch.rand(1, channels, SIDE, SIDE)
    y = op.measure(x, seed=1)
    found: dict[str, dict[str, Any]] = {
        "A": {"x": x},
        "measure": {"x": x, "seed": 3},
        "prox": {"v": x, "y": y, "gamma": 2.0},
        "initial_estimate": {"y": y},
        "check_measurement": {"y": y},
        "take": {"index": torch.tensor([0])},
    }
    if op.is_linear:
        found["A_adjoint"] = {"y": y}
        found["A_adjoint_A"] = {"x": x}
    return {name: given for name, given in found.items() if hasattr(op, name)}


def spoiled(chance: random.Random, right: dict[str, Any]) -> dict[str, Any]:
    """The arguments with one or two that are strange; now and then all as they were."""
    given = dict(right)
    for name in chance.sample(sorted(right), min(len(right), chance.choice((0, 1, 1, 1, 2)))):
        given[name] = chance.choice(STRANGE)()
    return given


def words_of(given: dict[str, Any]) -> str:
    """The arguments for a report."""
    out = []
    for name, value in given.items():
        shape = getattr(value, "shape", None)
        told = f"{type(value).__name__}{tuple(shape)} {value.dtype}" if shape is not None else ""
        out.append(f"{name}={told or repr(value)[:60]}")
    return ", ".join(out)


def an_operator_call(chance: random.Random) -> tuple[str, Callable[[], Any]]:
    """An operator made of arguments that are spoiled, or one of its methods called with such."""
    maker, right = chance.choice(MAKERS)
    name = maker.__qualname__
    if chance.random() < 0.45:
        given = spoiled(chance, right)

        def make() -> Any:
            op = maker(**given)
            repr(op)
            image = torch.rand(1, 1 if getattr(op, "real_image", False) else 3, SIDE, SIDE)
            return op.measure(image, seed=2)

        return f"{name}({words_of(given)}).measure", make
    op = maker(**right)
    members = _members(op)
    member = chance.choice(sorted(members))
    given = spoiled(chance, members[member])
    numbers = [v for v in given.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    plain = all(v.layout is torch.strided and v.dtype.itemsize > 1 for v in numbers)
    finite = plain and all(v.is_meta or bool(v.isfinite().all()) for v in numbers)

    def call() -> Any:
        result = getattr(op, member)(**given)
        return result if finite else None  # what A makes of NaN is NaN

    return f"{op!r}.{member}({words_of(given)})", call


def a_sample_call(engine: le.Engine) -> Callable[[random.Random], tuple[str, Callable[[], Any]]]:
    """Calls of `Engine.sample` with arguments that are spoiled."""
    y = torch.rand(1, 3, SIDE, SIDE)

    def make(chance: random.Random) -> tuple[str, Callable[[], Any]]:
        right = {
            "y": y,
            "op": Denoising(0.1),
            "num_samples": 1,
            "seed": 3,
            "sampler": "latino",
            "steps": 2,
            "unfold": None,
            "init": None,
            "image_ids": None,
            "keep_samples": True,
            "progress": None,
            "tile": None,
            "overlap": None,
            "timeout": None,
            "cancel": None,
        }
        given = spoiled(chance, right)
        return f"sample({words_of(given)})", lambda: engine.sample(**given)

    return make
