"""Misuse of the CUDA operations is a Python exception of one sentence, never a stray access."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from cuda_shim.fixtures import compiled_shim, shim_as_device  # noqa: F401  (fixtures)
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import BackendNotAvailable, InvalidArgument
from latino_engine.ops import cuda_extension, cuda_nvrtc
from latino_engine.ops.step_table import StepTable

SHAPE = (2, 2, 64, 64)
IMAGES = ("x", "x_t", "z", "x0_hat", "out")


def image() -> Tensor:
    return torch.ones(SHAPE)


def calls() -> dict[str, dict[str, Any]]:
    """Arguments that are right, by function of the extension and by name."""
    table = StepTable.single(torch.device("cpu"), (0.5, 1.0, 0.1), 3).arguments()
    who = (5, torch.arange(2), torch.arange(2))
    half, full = torch.ones(1, 2, 64, 33), torch.ones(1, 1, 64, 64)
    spectrum = torch.zeros(2, 2, 64, 32, dtype=torch.complex64)
    end = {"steps": table, "noise": who, "out": image(), "stream": 0}
    start = {"x": image(), "x_t": image()}
    alias = {"h": full + 0j, "folded_power": torch.ones(1, 1, 32, 32), "back_projected": full + 0j}
    mask = {"mask": full, "y": torch.ones(1, 2, 64, 64)}
    wide = torch.zeros(2, 2, 64, 64, dtype=torch.complex64)
    combine = {"steps": table, "stream": 0, "image": image()}
    return {
        "fourier_prox_noise": {
            **start,
            "power": half,
            "back_projected": half + 0j,
            "spectrum": spectrum,
            **end,
        },
        "alias_prox_noise": {**start, **alias, "factor": 2, "spectrum": spectrum, **end},
        "fourier_mask_prox_noise": {**start, **mask, "spectrum": wide[:, :1].contiguous(), **end},
        "masked_prox_noise": {**start, **mask, **end},
        "gaussian_noise": end,
        "langevin_noise": {"z": image(), **end},
        "reverse_step": {
            "x0_hat": image(),
            "x_t": image(),
            **end,
        },
        "combine_anchors": {**start, "steps": table, "out": image(), "stream": 0},
        "fourier_combine": {
            **combine,
            "spectrum": half.expand(2, -1, -1, -1) + 0j,
            "power": half,
            "back_projected": half + 0j,
        },
        "alias_combine": {**combine, **alias, "factor": 2, "spectrum": wide},
        "kspace_combine": {**combine, **mask, "spectrum": wide[:, :1].contiguous()},
    }


FUNCTIONS = sorted(calls())
every_function = pytest.mark.parametrize("function", FUNCTIONS)


def wrong_values(tensor: Tensor) -> dict[str, Any]:
    """What a tensor argument must not be, by what the sentence says."""
    strided = torch.stack((tensor, tensor), dim=-1)[..., 0]
    huge = torch.zeros(1, dtype=tensor.dtype).expand(2**31, 1, 1, 1)
    return {
        "expected a torch tensor": tensor.numpy(),
        "expected a tensor on a cpu device": tensor.to("meta"),
        "expected a contiguous tensor, got strides": strided,
        "expected torch.": tensor.to(torch.complex128),
        "expected at most 2^31 - 1 entries": huge,
        "expected": tensor[None].contiguous(),
    }


@every_function
def test_wrong_tensors(shim: ModuleType, function: str) -> None:
    run = getattr(shim, function)
    run(**calls()[function])
    for name, right in calls()[function].items():
        if not isinstance(right, Tensor):
            continue
        for text, wrong in wrong_values(right).items():
            if name == "image" and text == "expected torch.":
                continue  # it stands for the sizes only
            with pytest.raises((TypeError, ValueError)) as caught:
                run(**{**calls()[function], name: wrong})
            assert text in str(caught.value), (name, text)
            assert ";" in str(caught.value)
        for wrong in (right[..., :-1].contiguous(), right[:0], right.reshape(-1)):
            if function == "gaussian_noise" and wrong.ndim == 4 and wrong.numel():
                continue  # the noise has the sizes of its output
            with pytest.raises((TypeError, ValueError)):
                run(**{**calls()[function], name: wrong})
        if name not in ("x_t",):
            with pytest.raises(TypeError):
                run(**{**calls()[function], name: None})


@every_function
def test_overlaps(shim: ModuleType, function: str) -> None:
    """An output may be an image read at the same place, and no other memory."""
    run, right = getattr(shim, function), calls()[function]
    outputs = [n for n in right if n in ("out", "spectrum")]
    inputs = [n for n, t in right.items() if isinstance(t, Tensor) and n not in outputs]
    expected = calls()[function]
    run(**expected)
    for out in outputs:
        for name in inputs:
            if name == "image":  # stands for the sizes only
                continue
            again = calls()[function]
            if again[out].dtype == again[name].dtype and again[out].shape == again[name].shape:
                again[out] = again[name]
                if name in IMAGES:
                    rewound = calls()[function].get("steps")
                    if rewound is not None:
                        again["steps"] = rewound
                    run(**again)
                    assert torch.equal(again[out], expected[out])
                else:
                    with pytest.raises(ValueError, match=f"^{out}: expected memory apart from"):
                        run(**again)
            again = calls()[function]
            bytes_of = [again[n].numel() * again[n].element_size() for n in (out, name)]
            memory = torch.zeros(max(bytes_of) // 8 + 2, dtype=torch.float64)
            again[out] = _view(memory[1:], again[out])
            again[name] = _view(memory, again[name])
            with pytest.raises(ValueError, match=f"^{out}: expected memory apart from"):
                run(**again)


def _view(memory: Tensor, like: Tensor) -> Tensor:
    flat = memory.view(torch.uint8)[: like.numel() * like.element_size()].view(like.dtype)
    return flat.view(like.shape)


def test_wrong_tables_and_identities(shim: ModuleType) -> None:
    right = calls()["langevin_noise"]
    rows, counter, _ = right["steps"]
    seed, images, samples = right["noise"]
    tables = {
        r"^step: expected 0 <= step < 1, got 1": (rows, counter, 1),
        r"^step: expected 0 <= step < 1, got -1": (rows, counter, -1),
        r"^rows: expected torch.int32": (rows.float(), counter, 0),
        r"^rows: expected \(steps, 1\|2, 4\)": (rows.expand(1, 3, 4).contiguous(), counter, 0),
        r"^rows: expected \(steps": (rows[:0], counter, 0),
        r"^counter: expected shape \(3,\)": (rows, counter[:2], 0),
        r"^steps: expected \(rows, counter, position\)": (rows, counter),
    }
    for text, table in tables.items():
        with pytest.raises((TypeError, ValueError), match=text):
            shim.langevin_noise(**{**right, "steps": table})
    identities = {
        r"^image_ids: expected torch.int64": (seed, images.int(), samples),
        r"^sample_ids: expected shape \(2,\)": (seed, images, samples[:1]),
        r"^noise: expected": (seed, images),
        r"nable to cast": (-1, images, samples),
        r"^seed: expected torch.int64": (torch.zeros(1), images, samples),
        r"^seed: expected shape \(1,\)": (torch.zeros(2, dtype=torch.int64), images, samples),
    }
    for text, noise in identities.items():
        with pytest.raises((TypeError, ValueError, RuntimeError), match=text):
            shim.langevin_noise(**{**right, "noise": noise})
    counter_as_out = torch.zeros(3, dtype=torch.int32)
    assert torch.equal(counter_as_out, counter)


def test_sizes_without_kernels(shim: ModuleType) -> None:
    right = calls()["fourier_prox_noise"]
    small = {n: torch.ones(2, 2, 32, 64) for n in ("x", "x_t", "out")}
    with pytest.raises(ValueError, match=r"^x: expected sides of has_fourier_kernels, got 32 x 64"):
        shim.fourier_prox_noise(**{**right, **small})
    right = calls()["alias_prox_noise"]
    with pytest.raises(ValueError, match=r"use torch\.fft"):
        shim.alias_prox_noise(**{**right, "factor": 16})
    with pytest.raises(ValueError, match=r"^factor: expected a divisor of both sides, got 3"):
        shim.alias_combine(**{**calls()["alias_combine"], "factor": 3})
    wide = torch.ones(1, 1025, 1, 1)
    with pytest.raises(ValueError, match="at most 1024 channels"):
        shim.langevin_noise(**{**calls()["langevin_noise"], "z": wide})


def test_lazy_views_are_refused(shim: ModuleType) -> None:
    right = calls()["fourier_prox_noise"]
    with pytest.raises(ValueError, match=r"^back_projected: expected a contiguous tensor, got a l"):
        shim.fourier_prox_noise(**{**right, "back_projected": right["back_projected"].conj()})


# ---- the operations ------------------------------------------------------------------------------


def step_arguments() -> list[Any]:
    half = torch.ones(1, 1, 64, 33)
    return [image(), image(), 0.5, half, half + 0j, 1.0, 0.1, 5, [0, 1], [0, 1], 3]


def test_ops_resolve_lazy_and_strided_tensors(device: str) -> None:
    arguments = step_arguments()
    arguments[0] = torch.randn(2, 2, 64, 64).transpose(2, 3)
    arguments[4] = torch.fft.rfft2(torch.randn(1, 1, 64, 64)).conj()
    found = ops.fourier_prox_noise(*arguments, backend="cuda")
    expected = ops.fourier_prox_noise(*arguments, backend="torch")
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(ops.fourier_prox_noise(*arguments), found)  # auto


def test_auto_leaves_the_rest_to_torch(device: str) -> None:
    arguments = step_arguments()
    arguments[0] = arguments[0].clone().requires_grad_()
    with cuda_extension.recorded_launches() as launches:
        assert ops.fourier_prox_noise(*arguments).requires_grad
        doubles = [
            a.double() if isinstance(a, Tensor) and a.is_floating_point() else a
            for a in step_arguments()
        ]
        doubles[4] = doubles[4].to(torch.complex128)
        assert ops.fourier_prox_noise(*doubles).dtype == torch.float64
    assert not launches
    text = (
        "backend: expected float32 tensors on one GPU, without gradients, for 'cuda', "
        "got a tensor that requires a gradient; use backend='torch'"
    )
    with pytest.raises(InvalidArgument) as caught:
        ops.fourier_prox_noise(*arguments, backend="cuda")
    assert str(caught.value) == text


@pytest.mark.parametrize("backend", ("torch", "cuda"))
def test_wrong_arguments_of_the_operations(device: str, backend: Any) -> None:
    half, full = torch.ones(1, 1, 64, 33), torch.ones(1, 1, 64, 64)
    rest = (1.0, 0.1, 5, [0, 1], [0, 1], 3)
    x = image()
    fourier, alias = ops.fourier_prox_noise, ops.alias_prox_noise
    masked, kspace = ops.masked_prox_noise, ops.fourier_mask_prox_noise
    tail = (1.0, 0.1, 2, *rest[2:])
    wrong: tuple[tuple[str, Callable[..., Tensor], tuple[Any, ...]], ...] = (
        ("x", fourier, (x.int(), None, 0.5, half, half + 0j, *rest)),
        ("x", fourier, (x[0], None, 0.5, half, half + 0j, *rest)),
        ("x_t", fourier, (x, x[:1], 0.5, half, half + 0j, *rest)),
        ("power", fourier, (x, x, 0.5, half[..., :-1], half + 0j, *rest)),
        ("back_projected", fourier, (x, x, 0.5, half, half[0] + 0j, *rest)),
        ("gamma", fourier, (x, x, 0.5, half, half + 0j, torch.ones(3), *rest[1:])),
        ("scale", fourier, (x, x, 0.5, half, half + 0j, 1.0, torch.ones(3), *rest[2:])),
        ("x_weight", fourier, (x, x, torch.ones(3), half, half + 0j, *rest)),
        ("image_ids", fourier, (x, x, 0.5, half, half + 0j, 1.0, 0.1, 5, [0], [0, 1], 3)),
        ("step", fourier, (x, x, 0.5, half, half + 0j, 1.0, 0.1, 5, [0, 1], [0, 1], 2**32)),
        ("x", alias, (x, x, 0.5, full + 0j, full, full + 0j, 1.0, 0.1, 3, *rest[2:])),
        ("folded_power", alias, (x, x, 0.5, full + 0j, full, full + 0j, *tail)),
        ("mask", masked, (x, x, 0.5, full[..., :1], full, *rest)),
        ("y", masked, (x, x, 0.5, full, torch.ones(3, 1, 64, 64), *rest)),
        ("x", kspace, (x[:, :1], None, 0.5, full, full, *rest)),
        ("y", kspace, (x, x, 0.5, full, full, *rest)),
        ("backend", fourier, (x, x, 0.5, half, half + 0j, *rest)),
    )
    for name, run, arguments in wrong:
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected .*; "):
            run(*arguments, backend="gpu" if name == "backend" else backend)


# ---- what is missing ----------------------------------------------------------------------------


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts another module, or None for none at all, in the extension's place."""

    def replace(module: Any) -> None:
        monkeypatch.setitem(sys.modules, "latino_engine._cuda", module)
        cuda_extension._load.cache_clear()

    yield replace
    monkeypatch.undo()
    cuda_extension._load.cache_clear()


def test_without_the_extension(hidden: Callable[[Any], None]) -> None:
    hidden(None)
    assert torch.isfinite(ops.fourier_prox_noise(*step_arguments())).all()
    with pytest.raises(BackendNotAvailable) as caught:
        ops.fourier_prox_noise(*step_arguments(), backend="cuda")
    assert str(caught.value) == (
        "backend 'cuda' needs the compiled extension latino_engine._cuda, which is not built here; "
        "with the CUDA toolkit's nvcc on the path run "
        "`LATINO_CUDA=1 python -m pip install --force-reinstall --no-deps .` in the source folder"
    )


def test_an_extension_of_another_version(hidden: Callable[[Any], None]) -> None:
    hidden(SimpleNamespace(INTERFACE_VERSION=0))
    with pytest.raises(BackendNotAvailable, match="with interface 4, but the one built here has 0"):
        ops.fourier_prox_noise(*step_arguments(), backend="cuda")


def test_an_extension_that_launches_by_name(
    hidden: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built without nvcc it needs NVRTC, and is told who compiles."""
    loaders: list[Any] = []
    driver = SimpleNamespace(
        INTERFACE_VERSION=4,
        LAUNCHES_BY_NAME=True,
        DEVICE_TYPE="cuda",
        set_function_loader=loaders.append,
    )
    hidden(driver)
    monkeypatch.setattr(cuda_nvrtc, "_library", lambda: None)
    assert "NVRTC's library, which `pip install nvidia-cuda-nvrtc`" in str(cuda_extension.missing())
    assert not loaders
    monkeypatch.setattr(cuda_nvrtc, "_library", lambda: object())
    hidden(driver)
    if not torch.cuda.is_available():
        assert "an NVIDIA GPU, its driver and torch with CUDA" in str(cuda_extension.missing())
    assert loaders == [cuda_nvrtc.function_handle]


def test_kernels_for_newer_gpus(
    hidden: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not launched on an older one: "auto" goes on, by name it is one sentence."""
    hidden(
        SimpleNamespace(
            INTERFACE_VERSION=4, LAUNCHES_BY_NAME=False, DEVICE_TYPE="cuda", OLDEST_ARCHITECTURE=80
        )
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_extension, "_newest_capability", lambda: 86)
    assert cuda_extension.missing() is None
    monkeypatch.setattr(cuda_extension, "_newest_capability", lambda: 75)
    assert ops.backend_of("cuda") != "cuda"
    with pytest.raises(BackendNotAvailable) as caught:
        ops.fourier_prox_noise(*step_arguments(), backend="cuda")
    assert str(caught.value) == (
        "backend 'cuda' needs a GPU of compute capability 8.0 or newer, for which its kernels were "
        "compiled here, but torch finds 7.5; run `LATINO_CUDA_ARCHS=75 python -m pip install "
        "--force-reinstall --no-deps .` in the source folder, or use backend='torch'"
    )


def test_importing_the_package_loads_no_extension() -> None:
    code = "import sys, latino_engine.ops; print('latino_engine._cuda' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_failed_launch_leaves_the_table_alone(device: str) -> None:
    z = image()
    steps = StepTable.single(z.device, (0.5, 1.0, 0.1), 3)
    with pytest.raises(ValueError, match=r"^out: expected shape"):
        ops.launch_langevin_noise(z, steps, (5, *torch.arange(4).split(2)), out=z[:1])
    assert steps.position == 0 and not steps.counter.any()
