"""Numbers as people have them: any kind of array, any torch state, noise of nearly nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_prior
from torch import Tensor

import latino_engine as le

ANGLES = np.linspace(0.0, 180.0, 12, endpoint=False)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("engines") / "tiny.engine"
    return le.compile(tiny_prior(), path, backend="torch", image_size=16)


def photo(height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(11))


def kernel() -> np.ndarray:
    taps = np.random.default_rng(3).random((4, 6))
    return taps / taps.sum()


def mask() -> np.ndarray:
    return (np.random.default_rng(4).random((16, 24)) > 0.4).astype(np.float64)


def other_order(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder(">" if a.dtype.isnative else "="))


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "big-endian": lambda a: a.astype(">f8"),
    "little-endian": lambda a: a.astype("<f8"),
    "reversed": lambda a: a[::-1].copy()[::-1],
    "transposed": lambda a: np.asfortranarray(a),
    "longdouble": lambda a: a.astype(np.longdouble),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "masked, none hidden": lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool)),
    "list": lambda a: a.tolist(),
    "torch, reversed": lambda a: torch.from_numpy(a[::-1].copy()).flip(0),
}
TAKES: dict[str, tuple[Callable[[], np.ndarray], Callable[[Any], Any]]] = {
    "blur kernel": (kernel, lambda a: le.Blur(a, 0.05).A(photo())),
    "bordered kernel": (kernel, lambda a: le.BorderedBlur(a, 0.05).A(photo())),
    "sr kernel": (kernel, lambda a: le.SuperResolution(2, 0.05, a).A(photo())),
    "grid of kernels": (
        lambda: kernel()[None, None].repeat(2, axis=0),
        lambda a: le.SpatiallyVaryingBlur(a, 0.05).A(photo()),
    ),
    "mask": (mask, lambda a: le.Inpainting(a, 0.05).A(photo())),
    "mri mask": (mask, lambda a: le.MRI(a, 0.05).A(photo()[:, :2])),
    "angles": (lambda: ANGLES, lambda a: le.Tomography(a, (16, 24), 0.05).A(photo())),
    "noise levels": (lambda: np.array([0.05]), lambda a: le.Denoising(a).measure(photo(), seed=1)),
    "peak": (
        lambda: np.array([30.0]),
        lambda a: le.PoissonNoise(le.Denoising(0.0), a).measure(photo(), seed=1),
    ),
    "weights": (
        lambda: np.array([0.2, 0.7, 0.1]),
        lambda a: le.Colorization(0.05, a).A(photo()),
    ),
    "coil maps": (
        lambda: np.random.default_rng(5).random((2, 16, 24)),
        lambda a: le.MRI(mask(), 0.05, a).A(photo()[:, :2]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TAKES)
def test_every_kind_of_array_is_its_numbers(name: str, kind: str) -> None:
    make, use = TAKES[name]
    given = make()
    assert torch.equal(use(KINDS[kind](given)), use(torch.from_numpy(given.copy())))


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("list", "torch, reversed")])
def test_measurement_start_and_ids_of_every_kind(engine: Any, kind: str) -> None:
    op, y = le.Denoising(0.1), photo().double().numpy()
    expected = engine.sample(torch.from_numpy(y), op, 1, steps=2, init=torch.from_numpy(1 - y))
    found = engine.sample(KINDS[kind](y), op, 1, steps=2, init=KINDS[kind](1 - y))
    assert torch.equal(found.samples, expected.samples)
    ids = np.array([7, 9])[::-1].astype(">u4")
    two = photo().repeat(2, 1, 1, 1)
    by_array = engine.sample(two, op, 1, steps=2, image_ids=ids)
    by_list = engine.sample(two, op, 1, steps=2, image_ids=[9, 7])
    assert torch.equal(by_array.samples, by_list.samples)


def test_masked_entries_are_named(engine: Any) -> None:
    hidden = np.zeros((4, 6), bool)
    hidden[1, :2] = True
    with pytest.raises(
        ValueError, match="kernel: expected an array with all its entries, got 2 ma"
    ):
        le.Blur(np.ma.masked_array(kernel(), hidden), 0.05)
    y = np.ma.masked_array(photo().numpy(), photo().numpy() > 0.9)
    with pytest.raises(ValueError, match="y: expected an array with all its entries"):
        engine.sample(y, le.Denoising(0.1), 1, steps=1)


OPERATORS: dict[str, Callable[[], Any]] = {
    "blur": lambda: le.Blur(kernel(), 0.05),
    "bordered": lambda: le.BorderedBlur(kernel(), 0.05),
    "sr": lambda: le.SuperResolution(2, 0.05),
    "sr, small noise": lambda: le.SuperResolution(2, 0.002),
    "sr, Pillow": lambda: le.SuperResolution(2, 0.05, "pillow-bicubic"),
    "inpainting": lambda: le.Inpainting(mask(), 0.05),
    "jpeg": lambda: le.JPEG(30, subsampling="4:2:0"),
    "tomography": lambda: le.Tomography(ANGLES, (16, 24), 0.05),
    "varying": lambda: le.SpatiallyVaryingBlur(kernel()[None, None], 0.05),
    "sensing": lambda: le.CompressedSensing(0.5, (16, 24), 0.05),
    "poisson": lambda: le.PoissonNoise(le.Denoising(0.0), 50.0),
    "demosaicing": lambda: le.Demosaicing(0.05),
    "colorization": lambda: le.Colorization(0.05),
    "phase": lambda: le.PhaseRetrieval.coded_diffraction((16, 24), 0.05),
    "compose": lambda: le.Compose([le.Blur(kernel(), 0.0), le.Inpainting(mask(), 0.05)]),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_callers_torch_state_does_not_reach_the_samples(
    engine: Any, name: str, keep: bool
) -> None:
    y = OPERATORS[name]().measure(photo(), seed=3)

    def sampled() -> Tensor:
        op = OPERATORS[name]()  # nothing of it computed in another state
        return engine.sample(y, op, 2, steps=2, keep_samples=keep).mean

    expected = sampled()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sampled(), expected), "autocast"
    with torch.inference_mode():
        assert torch.equal(sampled(), expected), "inference mode"
    with torch.enable_grad():
        assert torch.equal(sampled(), expected) and not sampled().requires_grad
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            found = sampled()
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(found, expected), dtype


SMALL: dict[str, Callable[[float], Any]] = {
    "blur": lambda noise: le.Blur(kernel(), noise),
    "bordered": lambda noise: le.BorderedBlur(kernel(), noise),
    "sr": lambda noise: le.SuperResolution(2, noise),
    "tomography": lambda noise: le.Tomography(ANGLES, (16, 24), noise),
    "inpainting": lambda noise: le.Inpainting(mask(), noise),
}


@pytest.mark.parametrize("name", SMALL)
def test_noise_of_nearly_nothing_is_noise_of_a_thousandth(engine: Any, name: str) -> None:
    y = SMALL[name](0.0).A(photo())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = engine.sample(y, SMALL[name](1e-3), 1, steps=2).samples
    for noise in (1e-8, 1e-6, 1e-4):
        with pytest.warns(UserWarning, match=f"noise_std: {noise:g} is taken as 0.001"):
            found = engine.sample(y, SMALL[name](noise), 1, steps=2).samples
        assert torch.equal(found, expected)
    assert float((SMALL[name](0.0).A(found[0]) - y).abs().max()) < 0.02, "it explains y"


@pytest.mark.parametrize("gamma", [1e3, 1e8, 1e14])
def test_conjugate_gradients_stay_numbers_at_any_gamma(gamma: float) -> None:
    """In float32, beside the nearest image that explains y, by a dense pseudo-inverse."""
    op = le.BorderedBlur(kernel(), 0.05, "replicate")
    v, x = torch.rand(2, 1, 1, 16, 24, dtype=torch.float64)
    y, n = op.A(x), 16 * 24
    dense = op.A(torch.eye(n, dtype=torch.float64).reshape(n, 1, 16, 24)).reshape(n, n).T
    system = torch.eye(n, dtype=torch.float64) / gamma + dense.T @ dense
    expected = torch.linalg.solve(system, v.flatten() / gamma + dense.T @ y.flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not all of the 500 iterations suffice
        found = op.prox(v.float(), y.float(), gamma)
    assert bool(torch.isfinite(found).all())
    assert float((op.A(found.double()) - y).abs().max()) < 1e-2
    assert float((found.flatten() - expected).norm() / expected.norm()) < 0.3


class Broken(le.Denoising):
    """A data step that fails at its second call."""

    def data_step(self, y: Tensor) -> Any:
        calls = []

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            calls.append(gamma)
            return v * (torch.nan if len(calls) == 2 else 1.0)

        return step


def test_what_is_not_finite_is_never_returned(engine: Any) -> None:
    with pytest.raises(ArithmeticError) as caught:
        engine.sample(photo(), Broken(0.1), 1, steps=3)
    sentence = str(caught.value)
    assert sentence.startswith(
        "samples: expected finite numbers, got NaN or infinity from the data step after "
        "evaluation 2 (gamma ="
    )
    assert "check the units of y and noise_std" in sentence
