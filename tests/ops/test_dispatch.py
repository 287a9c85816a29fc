"""Every branch of every table of backends: what runs is proved by the names of its kernels."""

from __future__ import annotations

import pytest
import torch
from cuda_shim.fixtures import compiled_shim, shim_as_device  # noqa: F401  (fixtures)
from op_backends import (  # noqa: F401  (fixtures among them)
    BRANCHES,
    IDENTITY,
    OTHER,
    OWN,
    Ran,
    arguments,
    backend_recorded,
    cpu_recorded,
    images,
    kernels_of,
    triton_interpreted,
)

from latino_engine import ops
from latino_engine.errors import BackendNotAvailable, InvalidArgument
from latino_engine.ops import (
    cpu_extension,
    cuda_extension,
    dispatch,
    triton,
)

#: On the CPU; other sides go to torch.
OWN_SIDES_ALONE = (("cpu", "convolve"), ("cpu", "convolved_spectrum"))


@pytest.mark.parametrize("side", [OWN, OTHER])
@pytest.mark.parametrize(("ran", "operation"), BRANCHES, indirect=["ran"])
def test_every_branch(ran: Ran, operation: str, side: int) -> None:
    """Named and by "auto" the same kernels run, and give torch's numbers."""
    backend, names = ran
    run, given = getattr(ops, operation), arguments(operation, side)
    expected = run(*given, backend="torch")
    assert names() == []
    if side == OTHER and (backend, operation) in OWN_SIDES_ALONE:
        with pytest.raises(InvalidArgument, match="not sides of a power of two from 16 to 2048"):
            run(*given, backend=backend)
        assert torch.equal(run(*given), expected) and names() == []
        return
    found = run(*given, backend=backend)
    assert names() == kernels_of(backend, operation, side)
    again = run(*given)
    assert names() == 2 * kernels_of(backend, operation, side)
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for one, other in pairs:
        assert float((one - other).abs().max()) <= 2e-6 * max(1.0, float(other.abs().max()))
    both = zip(found, again, strict=True) if isinstance(found, tuple) else [(found, again)]
    assert all(torch.equal(one, other) for one, other in both)


def test_the_branches_are_those_of_the_tables() -> None:
    found = {(name, op) for op, table in ops.TABLES.items() for name in table if name != "torch"}
    assert found == set(BRANCHES)
    assert len(ops.TABLES) == 19 and all(arguments(operation) for operation in ops.TABLES)


# ---- the order, and what is missing ------------------------------------------------------------


def test_auto_asks_cuda_then_triton_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is taken as soon as those before it are missing."""
    x = torch.zeros(1, 1, 4, 4)
    order = ["cuda", "triton", "cpu"]
    for name in order:
        module = dispatch.BACKENDS[name].module
        monkeypatch.setattr(module, "missing", lambda: None)
        monkeypatch.setattr(module, "device_type", lambda: "cpu")
    table = {name: name for name in (*order, "torch")}
    for name in (*order, "torch"):
        assert dispatch.choose(table, "auto", x) == name  # type: ignore[arg-type]
        assert ops.backend_of("cpu") == name
        if name != "torch":
            module = dispatch.BACKENDS[name].module
            monkeypatch.setattr(module, "missing", lambda: "gone")
    assert dispatch.choose(table, "auto", x, obstacle="a reason") == "torch"  # type: ignore[arg-type]


def test_a_missing_backend_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments("langevin_noise")
    monkeypatch.setattr(triton, "_is_installed", lambda: False)
    with pytest.raises(BackendNotAvailable) as caught:
        ops.langevin_noise(*given, backend="triton")
    assert str(caught.value) == (
        "backend 'triton' needs Triton, which is not installed here; "
        "run `python -m pip install triton`"
    )
    if torch.cuda.is_available():
        return
    monkeypatch.setattr(triton, "_is_installed", lambda: True)
    for backend, operation in BRANCHES:
        if backend == "triton" or (backend == "cuda" and cuda_extension.extension() is not None):
            with pytest.raises(BackendNotAvailable) as caught:
                getattr(ops, operation)(*arguments(operation), backend=backend)
            assert str(caught.value) == (
                f"backend '{backend}' needs an NVIDIA GPU, its driver and torch with CUDA, but "
                "torch finds none here; install torch from its CUDA index, or use backend='torch'"
            )


@pytest.mark.parametrize("ran", ["triton", "cuda"], indirect=True)
def test_a_named_backend_that_cannot_serve(ran: Ran) -> None:
    x, x_t = images()
    rest = (0.7, 0.4, 0.9, *IDENTITY)
    for wrong, got in (
        (x.double(), "torch.float64"),
        (x.clone().requires_grad_(), "a tensor that requires a gradient"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            ops.reverse_step(wrong, x_t.to(wrong.dtype), *rest, backend=ran[0])  # type: ignore[arg-type]
        expected = f"float32 tensors on one GPU, without gradients, for '{ran[0]}'"
        assert str(caught.value) == (
            f"backend: expected {expected}, got {got}; use backend='torch'"
        )
        assert ops.reverse_step(wrong, x_t.to(wrong.dtype), *rest).dtype == wrong.dtype
    assert ran[1]() == []


# ---- what is shown -----------------------------------------------------------------------------


def test_the_transforms_are_visible() -> None:
    import latino_engine as le

    own = "cpu, own loops" if cpu_extension.missing() is None else "torch, torch.fft"
    fft = "cpu, torch.fft" if cpu_extension.missing() is None else "torch, torch.fft"
    blur = le.Blur.gaussian(1.0, 0.02, size=5)
    shown = repr(blur.data_step(torch.zeros(2, 3, 32, 64)))
    assert shown == f"FusedStep(2 x 3 x 32 x 64 float32, transforms='{own}')"
    assert f"transforms='{fft}'" in repr(blur.data_step(torch.zeros(1, 3, 30, 64)))
    down = le.SuperResolution(2, 0.02)
    assert f"transforms='{own}'" in repr(down.data_step(torch.zeros(1, 1, 32, 32)))
    assert f"transforms='{fft}'" in repr(down.data_step(torch.zeros(1, 1, 9, 9)))
    for side, transforms in ((32, own), (30, fft)):
        mri = le.MRI(torch.ones(side, side), 0.02)
        assert f"transforms='{transforms}'" in repr(mri.data_step(torch.zeros(1, 2, side, side)))
    assert repr(le.Denoising(0.1).data_step(torch.zeros(1, 3, 8, 8))) == (
        "FusedStep(1 x 3 x 8 x 8 float32)"
    )


def test_the_transforms_of_cuda_are_visible(device: str) -> None:
    assert ops.transforms_of(device, (64, 128)) == "cuda, own kernels"
    assert ops.transforms_of(device, (64, 128), 0) == "cuda, own kernels"
    assert ops.transforms_of(device, (64, 100)) == "cuda, torch.fft"
    assert ops.transforms_of(device, (64, 128), 16) == "cuda, torch.fft"
