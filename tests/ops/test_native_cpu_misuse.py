"""The compiled CPU extension is safe to misuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from latino_engine.ops import cpu_extension

needs_extension = pytest.mark.skipif(
    cpu_extension.missing() is not None, reason=str(cpu_extension.missing())
)


@pytest.fixture
def cpu() -> Any:
    """The extension itself."""
    if cpu_extension.missing():
        pytest.skip(str(cpu_extension.missing()))
    from latino_engine import _cpu

    return _cpu


SIZE = (2, 3, 16, 32)


def image() -> np.ndarray:
    return np.ones(SIZE, np.float32)


def complex_image() -> np.ndarray:
    return np.ones((2, 16, 32), np.complex64)


def calls() -> dict[str, dict[str, Any]]:
    """Arguments that are right, by function and by name."""
    two, zero = np.ones(2, np.float32), np.zeros(2, np.int64)
    identity = {"seed": 1, "image_ids": zero, "sample_ids": zero.copy(), "step": 0}
    scalars = {"sigma_next": 0.4, "kept": 0.3, "renewed": 0.9}
    end = {"out": image(), "num_threads": 1}
    prox = {"v": image(), "mask": image(), "y": image(), "gamma": two}
    scales = {name: two.copy() for name in ("x_weight", "gamma", "scale")}
    step = {"x": image(), "x_t": image(), **scales, **identity, **end}
    half, full = np.ones((2, 3, 16, 17), np.complex64), np.ones(SIZE, np.complex64)
    return {
        "gaussian_noise": {**identity, **end},
        "langevin_noise": {"z": image(), "scale": two, **identity, **end},
        "reverse_step": {"x0_hat": image(), "x_t": image(), **scalars, **identity, **end},
        "masked_prox": {**prox, **end},
        "masked_prox_noise": {**step, "mask": image(), "y": image()},
        "fourier_prox_noise": {**step, "power": half.real.copy(), "back_projected": half},
        "alias_prox_noise": {
            **{**step, "h": full, "back_projected": full.copy(), "factor": 2},
            "folded_power": np.ones((2, 3, 8, 16), np.float32),
        },
        "kspace_pack": {
            **{name: image()[:, :2].copy() for name in ("x", "x_t")},
            **{"x_weight": two, "image": complex_image(), "num_threads": 1},
        },
        "kspace_combine": {
            **{"spectrum": complex_image(), "mask": image()[:, :1].copy()},
            **{"y": image()[:, :2].copy(), "gamma": two, "num_threads": 1},
        },
        "kspace_unpack": {
            **{"image": complex_image(), "scale": two, **identity},
            **{"out": image()[:, :2].copy(), "num_threads": 1},
        },
        "running_moments": {
            **{name: image() for name in ("mean", "m2", "x", "mean_out", "m2_out")},
            "count": 2,
            "num_threads": 1,
        },
    }


def wrong_values(array: np.ndarray) -> list[Any]:
    read_only = array.copy()
    read_only.flags.writeable = False
    unaligned = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    return [
        array.real.astype(np.float64),
        array.astype(array.dtype.newbyteorder()),
        array.real.astype(np.uint8),
        np.repeat(array, 2, axis=-1)[..., ::2],
        np.concatenate([array, array])[:3],
        array[None],
        array.ravel()[:1].reshape(()),
        np.zeros((0, *array.shape[1:]), array.dtype),
        unaligned,
        array.tolist(),
        None,
        "text",
        array.ctypes.data,
    ]


@pytest.mark.parametrize("function", sorted(calls()))
def test_misuse_is_an_exception(cpu: Any, function: str) -> None:
    run = getattr(cpu, function)
    run(**calls()[function])
    for name, right in calls()[function].items():
        if not isinstance(right, np.ndarray):
            continue
        for wrong in wrong_values(right):
            if wrong is None and name == "x_t":  # there may be none
                continue
            with pytest.raises((TypeError, ValueError)):
                run(**{**calls()[function], name: wrong})
    for name, wrong in (("num_threads", 0), ("num_threads", 10**6), ("seed", -1), ("seed", 2**64)):
        if name in calls()[function]:
            with pytest.raises((TypeError, ValueError)):
                run(**{**calls()[function], name: wrong})


def test_misuse_of_ids_and_count(cpu: Any) -> None:
    right = calls()["gaussian_noise"]
    for name, value in (("image_ids", 2**22), ("image_ids", -1), ("sample_ids", 2**32)):
        with pytest.raises(ValueError, match=rf"^{name}: expected values in \[0, "):
            cpu.gaussian_noise(**{**right, name: np.array([0, value])})
    with pytest.raises(ValueError, match=r"^out: expected at most 1024 channels"):
        cpu.gaussian_noise(**{**right, "out": np.empty((2, 1025, 1, 1), np.float32)})
    for count in (0, -1, math.nan):
        with pytest.raises(ValueError, match=r"^count: expected a count from 1"):
            cpu.running_moments(**{**calls()["running_moments"], "count": count})
    zero = np.zeros(1, np.int64)
    for shape in ((1, 1, 4), (1, 1, -4, 4), (1, 1, 2**17, 2**17), (1, 2000, 1, 1)):
        with pytest.raises(ValueError, match="expected"):
            cpu.philox_integers(1, zero, zero, 0, shape)


@pytest.mark.parametrize("function", sorted(calls()))
def test_outputs_may_be_inputs_but_not_overlap_them(cpu: Any, function: str) -> None:
    right = calls()[function]
    outputs = [name for name in right if name.endswith("out")]
    arrays = {name: a for name, a in right.items() if isinstance(a, np.ndarray)}
    inputs = [n for n, a in arrays.items() if a.shape == SIZE and a.dtype == np.float32]
    run, count = getattr(cpu, function), int(np.prod(SIZE))
    expected = calls()[function]
    run(**expected)
    for out in outputs:
        read_only = right[out].copy()
        read_only.flags.writeable = False
        with pytest.raises(ValueError, match=f"^{out}: expected a writeable array"):
            run(**{**calls()[function], out: read_only})
        for name in (n for n in inputs if n not in outputs):
            again = calls()[function]
            again[out] = again[name]
            run(**again)
            assert np.array_equal(again[out], expected[out])
            memory = np.ones(count + 1, np.float32)
            views = {name: memory[:-1].reshape(SIZE), out: memory[1:].reshape(SIZE)}
            with pytest.raises(ValueError, match=f"^{out}: expected memory apart from {name}"):
                run(**{**calls()[function], **views})
    if function == "running_moments":
        same = image()
        with pytest.raises(ValueError, match=r"^mean_out: expected memory apart from m2_out"):
            run(**{**calls()[function], "mean_out": same, "m2_out": same})
