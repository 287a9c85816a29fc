"""The extension's own transforms: against float64 numpy, the same on every path, safe to misuse."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import InvalidArgument
from latino_engine.ops import cpu_extension, philox

if cpu_extension.missing() is not None:
    pytest.skip(str(cpu_extension.missing()), allow_module_level=True)

from latino_engine import _cpu

BOUND = 2e-6  # largest error over largest entry; measured 7e-7 with aliases, else 3e-7
SIDES = (16, 32, 64, 128, 256, 512, 1024)
OTHER_SIZES = ((24, 40), (17, 33), (128, 100), (1, 64), (8, 8), (4096, 16))
ALIAS_SIZES = (
    (16, 32, 2),
    (32, 32, 2),
    (64, 64, 4),
    (16, 1024, 16),
    (1024, 16 * 16, 8),
    (128, 2048, 128),
    (256, 512, 2),
    (512, 256, 4),
)
ALIAS_BY_TORCH = ((24, 48, 2), (32, 32, 4), (64, 64, 1), (48, 64, 4), (30, 30, 3))
SEED, STEP = 2**40 + 7, 5


class Case:
    """Random arguments of an inner step and its float64 result, by numpy."""

    def __init__(
        self,
        size: tuple[int, int],
        pairs: int = 1,
        channels: int = 1,
        factor: int | None = None,
        kernels: tuple[int, int] = (1, 1),
    ) -> None:
        rng = np.random.default_rng(size[0] + 3 * size[1] + pairs)
        shape, kept = (pairs, channels, *size), (1, 1)
        self.x = rng.standard_normal(shape, np.float32)
        self.x_t = 3 * rng.standard_normal(shape, np.float32)
        self.x_weight = rng.random(pairs, np.float32)
        self.gamma = np.float32(20) * rng.random(pairs, np.float32)
        self.scale = rng.random(pairs, np.float32)
        self.ids = np.arange(pairs) + 3
        kernel = np.zeros((*kernels, *size))
        part = kernel[..., :5, :4]  # not symmetric
        part[...] = rng.standard_normal(part.shape) / np.sqrt(part[0, 0].size)
        self.factor = factor
        if factor is not None:
            kept = (size[0] // factor, size[1] // factor)
        measured = size if factor is None else kept
        Y = np.fft.fft2(rng.standard_normal((pairs, channels, *measured)))
        self.h = np.fft.fft2(kernel)
        self.back = self.h.conj() * (Y if factor is None else np.tile(Y, (factor, factor)))
        self.power = self.fold(np.abs(self.h) ** 2)
        self.half = size[1] // 2 + 1

    def fold(self, spectrum: np.ndarray) -> np.ndarray:
        if self.factor is None:
            return spectrum
        s, (*lead, height, width) = self.factor, spectrum.shape
        return spectrum.reshape(*lead, s, height // s, s, width // s).mean(axis=(-4, -2))

    def expected(self, anchored: bool = True) -> np.ndarray:
        a, gamma, scale = (
            v.astype(np.float64)[:, None, None, None]
            for v in (self.x_weight, self.gamma, self.scale)
        )
        v = self.x.astype(np.float64)
        if anchored:
            v = a * v + (1 - a) * self.x_t
        b = np.fft.fft2(v) + gamma * self.back
        if self.factor is None:
            X = b / (1 + gamma * self.power)
        else:
            inner = self.fold(self.h * b) * gamma / (1 + gamma * self.power)
            X = b - self.h.conj() * np.tile(inner, (self.factor, self.factor))
        ids = torch.from_numpy(self.ids)
        eps = philox.philox_normals(SEED, ids, ids, STEP, v.shape)
        return np.fft.ifft2(X).real + scale * eps.numpy()

    def constants(self) -> tuple[np.ndarray, ...]:
        def single(a: np.ndarray) -> np.ndarray:
            kind = np.complex64 if np.iscomplexobj(a) else np.float32
            return np.ascontiguousarray(a.astype(kind))

        if self.factor is None:
            return single(self.power[..., : self.half]), single(self.back[..., : self.half])
        return single(self.h), single(self.power), single(self.back)

    def arguments(self) -> dict[str, Any]:
        """Of the extension's function, by name."""
        names = ("power", "back_projected")
        extra: dict[str, Any] = {}
        if self.factor is not None:
            names, extra = ("h", "folded_power", "back_projected"), {"factor": self.factor}
        return {
            **{name: getattr(self, name) for name in ("x", "x_t", "x_weight", "gamma", "scale")},
            **dict(zip(names, self.constants(), strict=True)),
            **extra,
            **{"seed": SEED, "image_ids": self.ids, "sample_ids": self.ids.copy(), "step": STEP},
            **{"out": np.full_like(self.x, np.nan), "num_threads": 1},
        }

    def direct(self, **changed: Any) -> np.ndarray:
        arguments = {**self.arguments(), **changed}
        run = _cpu.fourier_prox_noise if self.factor is None else _cpu.alias_prox_noise
        run(**arguments)
        out: np.ndarray = arguments["out"]
        return out

    def through_ops(self, backend: Any = "cpu", anchored: bool = True) -> np.ndarray:
        tensors = [torch.from_numpy(a) for a in self.constants()]
        tail = [] if self.factor is None else [self.factor]
        run = ops.fourier_prox_noise if self.factor is None else ops.alias_prox_noise
        scalars = [torch.from_numpy(a) for a in (self.x_weight, self.gamma, self.scale)]
        x, x_t = torch.from_numpy(self.x), torch.from_numpy(self.x_t)
        identity = (SEED, torch.from_numpy(self.ids), torch.from_numpy(self.ids), STEP)
        anchor = x_t if anchored else None
        rest = (*tensors, *scalars[1:], *tail, *identity)
        found: Tensor = run(x, anchor, scalars[0], *rest, backend=backend)  # type: ignore[operator]
        return found.numpy()


def error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and found.dtype == np.float32
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ---- right -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", SIDES)
@pytest.mark.parametrize("height", SIDES)
def test_every_size(height: int, width: int) -> None:
    assert cpu_extension.fourier_path(height, width) == "own loops"
    case = Case((height, width))
    assert error(case.through_ops(), case.expected()) <= BOUND


@pytest.mark.parametrize("size", [(2048, 16), (16, 2048), (2048, 64), (64, 2048)], ids=str)
def test_the_largest_side(size: tuple[int, int]) -> None:
    case = Case(size)
    assert error(case.through_ops(), case.expected()) <= BOUND


@pytest.mark.parametrize("kernels", [(1, 1), (1, 3), (4, 1), (4, 3)], ids=str)
@pytest.mark.parametrize("anchored", [True, False], ids=["anchored", "alone"])
@pytest.mark.parametrize("factor", [None, 2], ids=["fourier", "alias"])
def test_batches_channels_and_scalars(
    kernels: tuple[int, int], anchored: bool, factor: int | None
) -> None:
    case = Case((32, 64), 4, 3, factor, kernels)
    case.scale[1] = 0.0
    case.gamma[2] = 0.0
    case.x_weight[:2] = (1.0, 0.0)
    assert error(case.through_ops(anchored=anchored), case.expected(anchored)) <= BOUND


@pytest.mark.parametrize("size", ALIAS_SIZES, ids=str)
def test_aliases(size: tuple[int, int, int]) -> None:
    height, width, factor = size
    assert cpu_extension.fourier_path(height, width, factor) == "own loops"
    case = Case((height, width), 2, 1, factor)
    assert error(case.through_ops(), case.expected()) <= BOUND


@pytest.mark.parametrize("size", OTHER_SIZES, ids=str)
def test_other_sizes(size: tuple[int, int]) -> None:
    assert cpu_extension.fourier_path(*size) == "torch.fft"
    case = Case(size, 2, 3)
    assert error(case.through_ops(), case.expected()) <= BOUND


@pytest.mark.parametrize("size", ALIAS_BY_TORCH, ids=str)
def test_other_aliases(size: tuple[int, int, int]) -> None:
    height, width, factor = size
    assert cpu_extension.fourier_path(height, width, factor) == "torch.fft"
    case = Case((height, width), 2, 3, factor)
    assert error(case.through_ops(), case.expected()) <= BOUND


@pytest.mark.parametrize("anchored", [True, False], ids=["anchored", "alone"])
@pytest.mark.parametrize("size", [(129, 257), (32, 64), (5, 7), (1, 1)], ids=str)
def test_masks(size: tuple[int, int], anchored: bool) -> None:
    shape = (3, 2, *size)
    x, x_t, y = torch.randn(3, *shape).unbind()
    mask = (torch.rand(1, 2, *size) < 0.5).float()
    scalars = (torch.rand(3), mask, y, torch.rand(3), torch.rand(3))
    identity = (SEED, [0, 1, 2], [5, 5, 5], STEP)
    arguments = (x, x_t if anchored else None, *scalars, *identity)
    found = ops.masked_prox_noise(*arguments, backend="cpu")
    expected = ops.masked_prox_noise(*arguments, backend="torch")
    assert error(found.numpy(), expected.double().numpy()) <= BOUND


def test_strided_and_conjugated_inputs() -> None:
    case = Case((32, 64), 2, 3)
    power, back = (torch.from_numpy(a) for a in case.constants())
    x, x_t = (torch.from_numpy(a).to(memory_format=torch.channels_last) for a in (case.x, case.x_t))
    lazy = back.conj().resolve_conj().conj()
    scalars = [torch.from_numpy(a) for a in (case.gamma, case.scale)]
    identity = (SEED, case.ids.tolist(), case.ids.tolist(), STEP)
    weight = torch.from_numpy(case.x_weight)
    found = ops.fourier_prox_noise(x, x_t, weight, power, lazy, *scalars, *identity, backend="cpu")
    assert np.array_equal(found.numpy(), case.through_ops())


# ---- the same --------------------------------------------------------------------------------

every_kind = pytest.mark.parametrize("factor", [None, 2, 4], ids=["fourier", "alias2", "alias4"])


@every_kind
@pytest.mark.parametrize("size", [(32, 64), (128, 128), (512, 64), (64, 1024)], ids=str)
def test_instruction_sets_agree_to_the_bit(size: tuple[int, int], factor: int | None) -> None:
    case = Case(size, 2, 3, factor)
    targets = _cpu.targets()
    assert targets[-1] == "plain"
    best = case.direct()
    for target in targets:
        assert np.array_equal(case.direct(target=target), best), target


@every_kind
def test_threads_do_not_change_bits(factor: int | None) -> None:
    case = Case((128, 256), 2, 3, factor)
    alone = case.direct()
    for threads in (2, 3, 4, 5, 7, 64):  # whole planes, shared planes, and both
        assert np.array_equal(case.direct(num_threads=threads), alone)


@every_kind
def test_one_image_is_the_same_in_any_batch(factor: int | None) -> None:
    case = Case((64, 64), 3, 2, factor)
    together = case.direct()
    whole = case.arguments()
    per_image = [n for n, a in whole.items() if isinstance(a, np.ndarray) and a.shape[0] == 3]
    for i in range(3):
        one = {name: np.ascontiguousarray(whole[name][i : i + 1]) for name in per_image}
        assert np.array_equal(case.direct(**one), together[i : i + 1])


@every_kind
def test_output_in_place(factor: int | None) -> None:
    case = Case((64, 128), 2, 2, factor)
    expected = case.direct()
    for name in ("x", "x_t"):
        again = case.arguments()[name].copy()
        assert np.array_equal(case.direct(**{name: again, "out": again}), expected)


def test_nothing_is_allocated_after_the_first_call() -> None:
    cases = [Case((64, 128), 2, 3), Case((64, 128), 2, 3, 4)]
    for threads in (1, 2, 1):
        for case in cases:
            case.direct(num_threads=threads)
    before = _cpu.workspace_allocations()
    assert before > 0
    for threads in (1, 2, 1):
        for case in cases:
            case.direct(num_threads=threads)
    assert _cpu.workspace_allocations() == before


# ---- which path runs -------------------------------------------------------------------------


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the extension's functions that ran, in order."""
    ran: list[str] = []
    extension = cpu_extension.extension()

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("has_"):
                ran.append(name)
            return getattr(extension, name)

    monkeypatch.setattr(cpu_extension, "extension", Recorder)
    return ran


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        ((64, 128), None, ["fourier_prox_noise"]),
        ((64, 100), None, ["fourier_combine", "langevin_noise"]),
        ((64, 128), 4, ["alias_prox_noise"]),
        ((48, 48), 2, ["langevin_noise"]),
    ],
)
def test_auto_takes_the_path(
    paths: list[str], size: tuple[int, int], factor: int | None, expected: list[str]
) -> None:
    case = Case(size, 1, 1, factor)
    assert error(case.through_ops("auto"), case.expected()) <= BOUND
    assert paths == expected


def test_gradients_and_other_types_go_to_torch(paths: list[str]) -> None:
    x, spectrum = torch.randn(1, 1, 32, 32), torch.fft.rfft2(torch.randn(1, 1, 32, 32))
    power, rest = spectrum.abs() ** 2, (1.0, 0.1, 1, [0], [0], 0)
    learned = x.clone().requires_grad_()
    ops.fourier_prox_noise(learned, None, 1.0, power, spectrum, *rest).sum().backward()
    assert learned.grad is not None
    double = (x.double(), None, 1.0, power.double(), spectrum.to(torch.complex128))
    assert ops.fourier_prox_noise(*double, *rest).dtype == torch.float64
    assert paths == []
    single = (learned, None, 1.0, power, spectrum)
    for arguments, got in ((double, "torch.float64"), (single, "a gradient")):
        with pytest.raises(InvalidArgument, match=rf"^backend: expected float32 .*{got}"):
            ops.fourier_prox_noise(*arguments, *rest, backend="cpu")


# ---- misuse ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 16), (16, 8), (16, 24), (4096, 16), (16, 4096)], ids=str)
def test_sizes_without_own_loops_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^out: expected sides of a power of two"):
        Case(size).direct()


@pytest.mark.parametrize("factor", [0, -2, 1, 3, 32, 2**31 - 1])
def test_factors_without_own_loops_are_refused(factor: int) -> None:
    with pytest.raises(ValueError, match=r"^factor: expected a power of two"):
        Case((64, 64), 1, 1, 2).direct(factor=factor)


def test_other_misuse() -> None:
    for target in ("avx9", None, 3):
        with pytest.raises((TypeError, ValueError)):
            Case((64, 64)).direct(target=target)
    case = Case((64, 64), 2)
    out = case.arguments()["out"]
    for name in ("gamma", "scale", "x_weight"):
        with pytest.raises(ValueError, match=rf"^out: expected memory apart from {name}"):
            case.direct(**{name: out.ravel()[:2], "out": out})


def test_misuse_of_the_combination() -> None:
    spectrum = np.zeros((2, 1, 4, 3), np.complex64)
    power, gamma = np.zeros((1, 1, 4, 3), np.float32), np.ones(2, np.float32)
    _cpu.fourier_combine(spectrum, power, spectrum.copy(), gamma, 1)
    for wrong in (
        (spectrum[0], power, spectrum, gamma, 1),
        (spectrum, power, spectrum, gamma, 1),
        (spectrum, power[..., :2], spectrum.copy(), gamma, 1),
        (spectrum, power, spectrum.copy(), gamma[:0], 1),
        (spectrum, power, spectrum.copy(), gamma, 0),
        (spectrum.real, power, spectrum.copy(), gamma, 1),
        (spectrum[..., :0], power[..., :0], spectrum[..., :0], gamma, 1),
    ):
        with pytest.raises((TypeError, ValueError)):
            _cpu.fourier_combine(*wrong)


# ---- memory ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_under_the_sanitizers(tmp_path: Path) -> None:
    """Every size in memory of exactly its size, under AddressSanitizer and UBSan."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    root = Path(__file__).parents[2] / "csrc"
    sources = [str(root / "cpu" / f"{n}.cpp") for n in ("noise", "operators", "pointwise", "rows")]
    driver = str(root / "cpu" / "sanitizer_check.cpp")
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += ["-ffp-contract=off", "-fopenmp", f"-I{root}", f"-I{root / 'include'}"]
    program = str(tmp_path / "check")
    subprocess.run([compiler, *flags, driver, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "sizes clean" in done.stdout
