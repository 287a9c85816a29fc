"""Images of the fused operations: where results are written, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cuda_shim.fixtures import compiled_shim, shim_as_device  # noqa: F401  (fixtures)
from op_backends import (  # noqa: F401  (fixtures among them)
    BRANCHES,
    IDENTITY,
    KERNELS,
    Ran,
    Run,
    arguments,
    backend_recorded,
    cpu_recorded,
    images,
    triton_interpreted,
)

from latino_engine import ops
from latino_engine.errors import InvalidArgument, InvalidType
from latino_engine.ops import cpu_extension

WITH_OUT = [(b, o) for b, o in BRANCHES if "noise" in o or o == "reverse_step"]


@pytest.mark.parametrize(("ran", "operation"), WITH_OUT, indirect=["ran"])
def test_results_are_written_in_place(ran: Ran, operation: str) -> None:
    run, given = getattr(ops, operation), arguments(operation)
    expected, out = run(*given, backend=ran[0]), torch.full_like(images()[0], torch.nan)
    assert run(*given, backend=ran[0], out=out) is out and torch.equal(out, expected)
    again = torch.full_like(out, torch.nan)
    assert run(*given, backend="torch", out=again) is again
    assert torch.allclose(again, expected, atol=1e-5)
    if operation != "gaussian_noise":
        assert run(*given, backend=ran[0], out=given[0]) is given[0]
        assert torch.equal(given[0], expected)


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
            run(x.double(), x_t)
        assert str(caught.value) == (
            f"x_t: expected torch.float64 as {name}, got torch.float32; use one dtype"
        )


# ---- what is refused ---------------------------------------------------------------------------


#: The tensors of each operation, by place; the first is the image that all must match.
TENSORS = {
    "fourier_prox_noise": {0: "x", 1: "x_t", 3: "power", 4: "back_projected"},
    "alias_prox_noise": {0: "x", 1: "x_t", 3: "h", 4: "folded_power", 5: "back_projected"},
    "masked_prox_noise": {0: "x", 1: "x_t", 3: "mask", 4: "y"},
    "fourier_mask_prox_noise": {0: "x", 1: "x_t", 3: "mask", 4: "y"},
    "fourier_prox": {0: "v", 1: "power", 2: "back_projected"},
    "alias_prox": {0: "v", 1: "h", 2: "folded_power", 3: "back_projected"},
    "reverse_step": {0: "x0_hat", 1: "x_t"},
    "combine_anchors": {0: "x", 1: "x_t"},
}


@pytest.mark.parametrize("operation", TENSORS)
@pytest.mark.parametrize("backend", ["torch", "auto", "cpu"])
def test_tensors_that_do_not_belong_together(operation: str, backend: str) -> None:
    """Another device, another precision, no tensor: the sentence names the argument."""
    run, right = getattr(ops, operation), arguments(operation)
    options = {} if operation == "combine_anchors" else {"backend": backend}
    (_, image), *others = TENSORS[operation].items()
    for place, name in others:
        tensor = right[place]
        double = torch.complex128 if tensor.is_complex() else torch.float64
        one_of_a_kind = tensor.shape == right[0].shape and not tensor.is_complex()
        for wrong, text in (
            (tensor.to("meta"), f"on cpu {'as' if one_of_a_kind else 'for'} {image}"),
            (tensor.to(double), f", got {double}"),
            (tensor.abs().to(torch.int32), ", got torch.int32"),
            (tensor.numpy(), "a torch tensor, got ndarray; convert it by torch.from_numpy"),
        ):
            given = list(right)
            given[place] = wrong
            with pytest.raises(InvalidType) as caught:
                run(*given, **options)
            sentence = str(caught.value)
            assert sentence.startswith(f"{name}: expected ") and text in sentence, sentence


def test_the_sentences_about_tensors() -> None:
    x, x_t = images()
    mask = arguments("masked_prox_noise")[3]
    rest = (2.0, 0.3, *IDENTITY)
    for run, text in (
        (
            lambda: ops.masked_prox_noise(x.double(), None, 1.0, mask, x, *rest),
            "mask: expected torch.float64 on cpu for x of torch.float64, got torch.float32 on cpu; "
            "convert or move it with .to()",
        ),
        (
            lambda: ops.masked_prox_noise(x.half(), None, 1.0, mask, x, *rest),
            "x: expected float32 or float64, got torch.float16; convert it with .float()",
        ),
        (
            lambda: ops.reverse_step(x, x_t.to("meta"), 0.7, 0.4, 0.9, *IDENTITY),
            "x_t: expected a tensor on cpu as x0_hat, got meta; move one of them",
        ),
        (
            lambda: ops.running_moments(x, x_t.to("meta"), 2, x),
            "m2: expected a tensor on cpu as x, got meta; move one of them",
        ),
        (
            lambda: ops.masked_prox(x, mask.to("meta"), x_t, 1.0),
            "mask: expected a tensor on cpu as v, got meta; move one of them",
        ),
    ):
        with pytest.raises(InvalidType) as caught:
            run()
        assert str(caught.value) == text


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
    if cpu_extension.missing() is not None:
        pytest.skip(str(cpu_extension.missing()))
    memory = torch.zeros(images()[0].numel() + 64)
    x, out = (memory[at : at + images()[0].numel()].view(2, 2, 64, 64) for at in (0, 64))
    with pytest.raises(ValueError, match=r"^out: expected memory apart from z"):
        ops.langevin_noise(x, 0.5, *IDENTITY, out=out, backend="cpu")


@pytest.mark.parametrize("ran", ["triton", "cuda"], indirect=True)
def test_memory_shared_in_part_is_refused_by_kernels_for_gpus(
    ran: Ran,
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
    if cpu_extension.missing() is not None:
        pytest.skip(str(cpu_extension.missing()))
    run, given, out = getattr(ops, operation), arguments(operation), torch.empty(2, 2, 64, 64)
    given = tuple(torch.tensor(a) if isinstance(a, list) else a for a in given)
    call = lambda: run(*given, backend="cpu", out=out)  # noqa: E731
    call()
    before = cpu_extension.extension().workspace_allocations()
    smallest = out.numel() * out.element_size() // 16  # ids and scalars are some tens of bytes
    assert bytes_allocated(call) < smallest <= bytes_allocated(lambda: run(*given, backend="cpu"))
    assert cpu_extension.extension().workspace_allocations() == before


@pytest.mark.parametrize("operation", ["fourier_prox_noise", "fourier_mask_prox_noise"])
def test_other_sizes_allocate_for_the_transforms_alone(operation: str) -> None:
    """The spectrum and what torch.fft returns, nothing else of an image's size."""
    if cpu_extension.missing() is not None:
        pytest.skip(str(cpu_extension.missing()))
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
