"""Every branch of every table of backends: what runs is proved by the names of its kernels.

"cuda" is the shim, "triton" its interpreter; each claims the CPU's tensors while it is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_shim.fixtures import compiled_shim, shim_as_device  # noqa: F401  (fixtures)
from torch import Tensor

from latino_engine import (
    cuda_extension,
    dispatch,
    inner_steps,
    native,
    native_operators,
    operator_calls,
    ops,
    reference,
    triton_native,
)
from latino_engine.errors import BackendNotAvailable, InvalidArgument, InvalidType

IDENTITY = (2**63 + 5, [0, 7], [3, 2**32 - 1], 9)
Run = Callable[..., Any]


def images(channels: int = 2) -> Tensor:
    """Two states (2, 2, C, 64, 64)."""
    return torch.randn(2, 2, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def arguments(operation: str) -> tuple[Any, ...]:
    """What an operation takes, at a size for which "cuda" and "cpu" have their own transforms."""
    x, x_t = images()
    mask, y = (x[:1, :1] > 0).float(), x_t[:1]
    h = torch.fft.fft2(mask / mask.sum())
    low = torch.fft.fft2(y[..., ::2, ::2]).repeat(1, 1, 2, 2)
    alias = (h, reference.alias_fold(h.abs() ** 2, 2), (h.conj() * low).resolve_conj())
    power = h[..., :33].abs() ** 2
    back = (h[..., :33].conj() * torch.fft.rfft2(y)).resolve_conj()
    anchors, scalars = (x, x_t, 0.4), (torch.tensor([2.0, 3.0]), 0.3)
    return {
        "gaussian_noise": (*IDENTITY, x.shape),
        "langevin_noise": (x, 0.5, *IDENTITY),
        "reverse_step": (x, x_t, 0.7, 0.4, 0.9, *IDENTITY),
        "running_moments": (x, x_t.abs(), 3, x_t),
        "masked_prox": (x, mask, y, 2.0),
        "fourier_prox": (x, power, back, 2.0),
        "alias_prox": (x, *alias, 2.0, 2),
        "combine_anchors": (x, x_t, 0.4),
        "convolve": (x, h[..., :33].contiguous()),
        "convolved_spectrum": (x, h[..., :33].contiguous(), True),
        "keep_observed": (x, mask),
        "observed_prox": (x, mask, y, 2.0),
        "kspace_forward": (x, mask),
        "kspace_adjoint": (y, mask),
        "fourier_mask_prox": (x, mask, y, 2.0),
        "fourier_prox_noise": (*anchors, power, back, *scalars, *IDENTITY),
        "alias_prox_noise": (*anchors, *alias, *scalars, 2, *IDENTITY),
        "masked_prox_noise": (*anchors, mask, y, *scalars, *IDENTITY),
        "fourier_mask_prox_noise": (*anchors, mask, y, *scalars, *IDENTITY),
    }[operation]


#: The kernels of each backend, in the order in which they run.
KERNELS: dict[str, dict[str, list[str]]] = {
    "cuda": {
        "gaussian_noise": ["gaussian_noise<4>"],
        "langevin_noise": ["langevin_noise<4>"],
        "reverse_step": ["reverse_step<4>"],
        "running_moments": ["running_moments<4>"],
        "fourier_prox_noise": [
            "fourier_rows_forward<64>",
            "fourier_columns<64>",
            "fourier_rows_inverse<64>",
        ],
        "alias_prox_noise": [
            "fourier_rows_forward<64>",
            "alias_columns<64, 2>",
            "fourier_rows_inverse<64>",
        ],
        "masked_prox_noise": ["masked_prox_noise<4>"],
        "fourier_mask_prox_noise": [
            "kspace_rows_forward<64>",
            "kspace_columns<64>",
            "kspace_rows_inverse<64>",
        ],
    },
    "triton": {
        "gaussian_noise": ["gaussian_noise"],
        "langevin_noise": ["langevin_noise"],
        "reverse_step": ["reverse_step"],
        "running_moments": ["running_moments"],
        "fourier_prox": ["fourier_prox"],
        "alias_prox": ["alias_prox"],
        "fourier_mask_prox": ["fourier_mask_prox"],
        "fourier_prox_noise": ["fourier_prox", "langevin_noise"],
        "alias_prox_noise": ["alias_prox", "langevin_noise"],
        "masked_prox_noise": ["masked_prox_noise"],
        "fourier_mask_prox_noise": ["fourier_mask_prox", "langevin_noise"],
    },
    "cpu": {
        "gaussian_noise": ["gaussian_noise"],
        "langevin_noise": ["langevin_noise"],
        "reverse_step": ["reverse_step"],
        "running_moments": ["running_moments"],
        "masked_prox": ["masked_prox"],
        "fourier_prox": ["fourier_prox_noise"],
        "alias_prox": ["alias_prox_noise"],
        "convolve": ["convolve"],
        "convolved_spectrum": ["convolved_spectrum"],
        "keep_observed": ["keep_observed"],
        "observed_prox": ["masked_prox"],
        "kspace_forward": ["kspace_forward"],
        "kspace_adjoint": ["kspace_adjoint"],
        "fourier_mask_prox": ["kspace_prox_noise"],
        "fourier_prox_noise": ["fourier_prox_noise"],
        "alias_prox_noise": ["alias_prox_noise"],
        "masked_prox_noise": ["masked_prox_noise"],
        "fourier_mask_prox_noise": ["kspace_prox_noise"],
    },
}
TABLES = {
    name.strip("_").lower(): table
    for module in (ops, inner_steps, operator_calls)
    for name, table in vars(module).items()
    if isinstance(table, dict) and "torch" in table
}
OPERATIONS = sorted(TABLES)
BRANCHES = [(backend, operation) for backend, rows in KERNELS.items() for operation in rows]


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """backend="triton" runs in Triton's interpreter; gives the names of what is launched."""
    triton_copies = pytest.importorskip("triton_copies", exc_type=ImportError)
    package, launched = triton_copies.interpreted_package(), list[str]()
    kernels = triton_copies.Kernels(package, "cpu")
    for operation in KERNELS["triton"]:
        for name in KERNELS["triton"][operation]:
            kernels.module(name)
    monkeypatch.setattr(triton_native, "_PACKAGE", package)
    monkeypatch.setattr(triton_native, "_DEVICE_TYPE", "cpu")
    launch = triton_native._launch

    def recorded(name: str) -> Run:
        launched.append(name)
        return launch(name)

    monkeypatch.setattr(triton_native, "_launch", recorded)
    return launched


@pytest.fixture
def extension_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of the CPU extension that run."""
    if native.missing() is not None:
        pytest.skip(str(native.missing()))
    calls, extension = list[str](), native._extension()

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("has_"):
                calls.append(name)
            return getattr(extension, name)

    for module in (native, native_operators):
        monkeypatch.setattr(module, "_extension", Recorder)
    return calls


@pytest.fixture
def ran(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """(backend, the names of its kernels so far), the backend standing in for the machine's."""
    if request.param == "cuda":
        request.getfixturevalue("device")
        shim = cuda_extension.extension()
        shim.record_launches(True)
        yield "cuda", lambda: [record[0] for record in shim.launches()]
        shim.record_launches(False)
        return
    found = request.getfixturevalue(
        {"triton": "interpreter", "cpu": "extension_calls"}[request.param]
    )
    yield request.param, lambda: list(found)


every_branch = pytest.mark.parametrize(("ran", "operation"), BRANCHES, indirect=["ran"])


@every_branch
def test_every_branch(ran: tuple[str, Callable[[], list[str]]], operation: str) -> None:
    """Named and by "auto" the same kernels run, and give torch's numbers."""
    backend, names = ran
    run, given = getattr(ops, operation), arguments(operation)
    expected = run(*given, backend="torch")
    assert names() == []
    found = run(*given, backend=backend)
    assert names() == KERNELS[backend][operation]
    again = run(*given)
    assert names() == 2 * KERNELS[backend][operation]
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for one, other in pairs:
        assert float((one - other).abs().max()) <= 2e-6 * max(1.0, float(other.abs().max()))
    both = zip(found, again, strict=True) if isinstance(found, tuple) else [(found, again)]
    assert all(torch.equal(one, other) for one, other in both)


def test_the_branches_are_those_of_the_tables() -> None:
    found = {(name, op) for op, table in TABLES.items() for name in table if name != "torch"}
    assert found == set(BRANCHES)
    assert len(TABLES) == 19 and all(arguments(operation) for operation in OPERATIONS)


WITH_OUT = [(b, o) for b, o in BRANCHES if "noise" in o or o == "reverse_step"]


@pytest.mark.parametrize(("ran", "operation"), WITH_OUT, indirect=["ran"])
def test_results_are_written_in_place(
    ran: tuple[str, Callable[[], list[str]]], operation: str
) -> None:
    run, given = getattr(ops, operation), arguments(operation)
    expected, out = run(*given, backend=ran[0]), torch.full_like(images()[0], torch.nan)
    assert run(*given, backend=ran[0], out=out) is out and torch.equal(out, expected)
    again = torch.full_like(out, torch.nan)
    assert run(*given, backend="torch", out=again) is again
    assert torch.allclose(again, expected, atol=1e-5)
    if operation != "gaussian_noise":
        assert run(*given, backend=ran[0], out=given[0]) is given[0]
        assert torch.equal(given[0], expected)


OF_IMAGES = [(b, o) for b, o in WITH_OUT if o != "gaussian_noise"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("ran", "operation"), OF_IMAGES, indirect=["ran"])
def test_images_in_16_bits(
    ran: tuple[str, Callable[[], list[str]]], operation: str, dtype: torch.dtype
) -> None:
    """An option of load and store: the float32 result, rounded once, by the same kernels."""
    backend, names = ran
    run, given = getattr(ops, operation), arguments(operation)
    states = 1 if operation == "langevin_noise" else 2
    narrow = [image.to(dtype) for image in given[:states]]
    wide = run(*(image.float() for image in narrow), *given[states:], backend=backend)
    before = len(names())
    found = run(*narrow, *given[states:], backend=backend)
    assert found.dtype == dtype and names()[before:] == KERNELS[backend][operation]
    again = run(*narrow, *given[states:])  # auto
    assert torch.equal(again, found)
    if backend == "triton" and dtype == torch.bfloat16:  # its interpreter cuts off, a GPU rounds
        assert torch.allclose(found.float(), wide, rtol=2.0**-7, atol=1e-6)
    else:
        assert torch.equal(found, wide.to(dtype))
    other = run(*narrow, *given[states:], backend="torch")
    assert other.dtype == dtype and torch.allclose(other.float(), wide, rtol=2.0**-7, atol=1e-5)
    assert run(*narrow, *given[states:], backend=backend, out=narrow[0]) is narrow[0]
    assert torch.equal(narrow[0], found)


def test_images_of_two_dtypes_are_refused() -> None:
    x, x_t = images()
    given = arguments("masked_prox_noise")[2:]
    calls: tuple[tuple[str, Run], ...] = (
        ("x", lambda a, b: ops.masked_prox_noise(a, b, *given)),
        ("x0_hat", lambda a, b: ops.reverse_step(a, b, 0.7, 0.4, 0.9, *IDENTITY)),
        ("x", lambda a, b: ops.combine_anchors(a, b, 0.5)),
    )
    for name, run in calls:
        with pytest.raises(InvalidType) as caught:
            run(x.half(), x_t)
        assert str(caught.value) == (
            f"x_t: expected torch.float16 as {name}, got torch.float32; use one dtype"
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_data_steps_of_16_bits(dtype: torch.dtype) -> None:
    for operation in ("masked_prox", "fourier_prox", "alias_prox", "combine_anchors"):
        run, (v, *rest) = getattr(ops, operation), arguments(operation)
        if operation == "combine_anchors":
            rest[0] = rest[0].to(dtype)
        found = run(v.to(dtype), *rest)
        rest[0] = rest[0].float() if rest[0].dtype == dtype else rest[0]
        wide = run(v.to(dtype).float(), *rest)
        assert found.dtype == dtype
        assert torch.allclose(found.float(), wide, rtol=2.0**-7, atol=1e-5)


@pytest.mark.parametrize("ran", [*KERNELS], indirect=True)
def test_the_estimate_is_clamped(ran: tuple[str, Callable[[], list[str]]]) -> None:
    x, x_t = images()
    x[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    rest = (0.7, 0.4, 0.9, *IDENTITY)
    found = ops.reverse_step(x, x_t, *rest, clamp=(-0.5, 1.0), backend=ran[0])  # type: ignore[arg-type]
    expected = ops.reverse_step(x.clamp(-0.5, 1.0), x_t, *rest, backend="torch")
    assert torch.allclose(found, expected, atol=1e-5, equal_nan=True)
    assert int(found.isnan().sum()) == 1
    for clamp in ((1.0, -1.0), (0.0, float("nan")), (1.0,)):
        with pytest.raises(InvalidArgument, match=r"^clamp: expected \(lowest, highest\) with low"):
            ops.reverse_step(x, x_t, *rest, clamp=clamp)  # type: ignore[arg-type]


# ---- the order, and what is missing ------------------------------------------------------------


def test_auto_asks_cuda_then_triton_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is taken as soon as those before it are missing."""
    x = torch.zeros(1, 1, 4, 4)
    order = ["cuda", "triton", "cpu"]
    for name in order:
        module = dispatch._IMPLEMENTATIONS[name].module
        monkeypatch.setattr(module, "unfit", lambda *_, **__: None)
        monkeypatch.setattr(module, "missing", lambda: None)
        monkeypatch.setattr(module, "device_type", lambda: "cpu")
    table = {name: name for name in (*order, "torch")}
    for name in (*order, "torch"):
        assert dispatch.choose(table, "auto", x) == name  # type: ignore[arg-type]
        assert ops.backend_of("cpu") == name
        if name != "torch":
            module = dispatch._IMPLEMENTATIONS[name].module
            monkeypatch.setattr(module, "missing", lambda: "gone")
    assert dispatch.choose(table, "auto", x, obstacle="a reason") == "torch"  # type: ignore[arg-type]


def test_a_missing_backend_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments("langevin_noise")
    monkeypatch.setattr(triton_native, "_is_installed", lambda: False)
    with pytest.raises(BackendNotAvailable) as caught:
        ops.langevin_noise(*given, backend="triton")
    assert str(caught.value) == (
        "backend 'triton' needs Triton, which is not installed here; "
        "run `python -m pip install triton`"
    )
    if torch.cuda.is_available():
        return
    monkeypatch.setattr(triton_native, "_is_installed", lambda: True)
    for backend, operation in BRANCHES:
        if backend == "triton" or (backend == "cuda" and cuda_extension.extension() is not None):
            with pytest.raises(BackendNotAvailable) as caught:
                getattr(ops, operation)(*arguments(operation), backend=backend)
            assert str(caught.value) == (
                f"backend '{backend}' needs an NVIDIA GPU, its driver and torch with CUDA, but "
                "torch finds none here; install torch from its CUDA index, or use backend='torch'"
            )


@pytest.mark.parametrize("ran", ["triton", "cuda"], indirect=True)
def test_a_named_backend_that_cannot_serve(ran: tuple[str, Callable[[], list[str]]]) -> None:
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


def test_a_wrong_out_is_refused() -> None:
    x, _ = images()
    for out, error, text in (
        (x[:1].clone(), InvalidArgument, r"^out: expected shape \(2, 2, 64, 64\), got \(1, "),
        (x.double(), InvalidType, r"^out: expected torch\.float32 on cpu, got torch\.float64 on"),
        (x.to("meta"), InvalidType, r"^out: expected torch\.float32 on cpu, got torch\.float32 on"),
        (x.mT.contiguous().mT, InvalidArgument, r"^out: expected a contiguous tensor, got strides"),
        (x.numpy(), InvalidType, r"^out: expected a torch tensor, got ndarray"),
        (x.clone().requires_grad_(), InvalidArgument, r"^out: expected a tensor without grad"),
    ):
        for backend in ("torch", "auto"):
            with pytest.raises(error, match=text):
                ops.langevin_noise(x, 0.5, *IDENTITY, out=out, backend=backend)  # type: ignore[arg-type]


def test_memory_shared_in_part_is_refused() -> None:
    if native.missing() is not None:
        pytest.skip(str(native.missing()))
    memory = torch.zeros(images()[0].numel() + 64)
    x, out = (memory[at : at + images()[0].numel()].view(2, 2, 64, 64) for at in (0, 64))
    with pytest.raises(ValueError, match=r"^out: expected memory apart from z"):
        ops.langevin_noise(x, 0.5, *IDENTITY, out=out, backend="cpu")


@pytest.mark.parametrize("ran", ["triton", "cuda"], indirect=True)
def test_memory_shared_in_part_is_refused_by_kernels_for_gpus(
    ran: tuple[str, Callable[[], list[str]]],
) -> None:
    size = images()[0].numel()
    memory = torch.zeros(size + 64)
    x, out = (memory[at : at + size].view(2, 2, 64, 64) for at in (0, 64))
    with pytest.raises(ValueError, match=r"^out: expected .*memory apart"):
        ops.langevin_noise(x, 0.5, *IDENTITY, out=out, backend=ran[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^out: expected .*memory apart"):
        mask = memory[:4096].view(1, 1, 64, 64)
        ops.masked_prox_noise(
            x.clone(), None, 1.0, mask, x[:1].clone(), 1.0, 0.1, *IDENTITY, out=x,
            backend=ran[0],  # type: ignore[arg-type]
        )  # fmt: skip
    assert ran[1]() == []


# ---- memory ------------------------------------------------------------------------------------

NO_TRANSFORMS = [
    "gaussian_noise",
    "langevin_noise",
    "reverse_step",
    "masked_prox_noise",
    "fourier_prox_noise",
    "alias_prox_noise",
    "fourier_mask_prox_noise",
]


def bytes_allocated(run: Callable[[], Any]) -> int:
    """The largest single allocation of torch on the CPU while run() is going on."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    return max((int(event.cpu_memory_usage) for event in profile.events()), default=0)


@pytest.mark.parametrize("operation", NO_TRANSFORMS)
def test_no_image_is_allocated_after_the_first_call(operation: str) -> None:
    """With `out`, nothing of an image's size: neither by torch nor by the extension."""
    if native.missing() is not None:
        pytest.skip(str(native.missing()))
    run, given, out = getattr(ops, operation), arguments(operation), torch.empty(2, 2, 64, 64)
    given = tuple(torch.tensor(a) if isinstance(a, list) else a for a in given)
    call = lambda: run(*given, backend="cpu", out=out)  # noqa: E731
    call()
    before = native._extension().workspace_allocations()
    smallest = out.numel() * out.element_size() // 16  # ids and scalars are some tens of bytes
    assert bytes_allocated(call) < smallest <= bytes_allocated(lambda: run(*given, backend="cpu"))
    assert native._extension().workspace_allocations() == before


@pytest.mark.parametrize("operation", ["fourier_prox_noise", "fourier_mask_prox_noise"])
def test_other_sizes_allocate_for_the_transforms_alone(operation: str) -> None:
    """The spectrum and what torch.fft returns, nothing else of an image's size."""
    if native.missing() is not None:
        pytest.skip(str(native.missing()))
    x, x_t = torch.randn(2, 2, 2, 60, 60).unbind(0)
    mask, y = (x[:1, :1] > 0).float(), x_t[:1]
    half = torch.fft.rfft2(mask)
    constants = (mask, y) if "mask" in operation else (half.abs(), half)
    run, out = getattr(ops, operation), torch.empty_like(x)
    call = lambda: run(x, None, 1.0, *constants, 2.0, 0.3, *IDENTITY, backend="cpu", out=out)  # noqa: E731
    call()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    image = x.numel() * x.element_size()
    large = {e.name for e in profile.events() if e.self_cpu_memory_usage >= image // 2}
    # ours is the array that the transform reads
    assert large <= {"aten::empty", "aten::_fft_r2c", "aten::_fft_c2r", "aten::_fft_c2c"} | {
        "aten::clone",  # inside c2r, whose input torch.fft keeps
        "aten::empty_like",
        "aten::empty_strided",
        "aten::resize_",
    }, large


# ---- what is shown -----------------------------------------------------------------------------


def test_the_transforms_are_visible() -> None:
    import latino_engine as le

    own = "cpu, own loops" if native.missing() is None else "torch, torch.fft"
    fft = "cpu, torch.fft" if native.missing() is None else "torch, torch.fft"
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
