"""Which function of an operation's table {backend: function} runs.

`backend="auto"` takes the first of "cuda", "triton" and "cpu" that is in the table, is there and
can take the tensors, else torch. A backend that is named is used or refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, invalid
from latino_engine.ops import cpu, cpu_extension, cuda, reference, triton
from latino_engine.ops.checks import SIXTEEN_BITS

Backend: TypeAlias = Literal["auto", "torch", "cpu", "triton", "cuda"]
Table: TypeAlias = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class _Implementation:
    """A module with `missing` and `unfit`, and what it takes."""

    module: ModuleType
    takes: str

    def obstacle(
        self, tensors: Sequence[Tensor | None], spectra: bool, images: Sequence[Tensor | None]
    ) -> str | None:
        found: str | None = self.module.unfit(*tensors, spectra=spectra, images=images)
        return found


_ON_A_GPU = "float32 tensors on one GPU, without gradients"
#: In the order in which "auto" asks them.
_IMPLEMENTATIONS = {
    "cuda": _Implementation(cuda, f"{_ON_A_GPU}, for 'cuda'"),
    "triton": _Implementation(triton, f"{_ON_A_GPU}, for 'triton'"),
    "cpu": _Implementation(
        cpu_extension, "float32 tensors on the CPU, without gradients, for 'cpu'"
    ),
}


_IN_FLOAT32 = {module.__name__ for module in (reference, cpu_extension, cpu)}


def choose(
    table: Table,
    backend: str,
    *tensors: Tensor | None,
    obstacle: str | None = None,
    spectra: bool = False,
    images: Sequence[Tensor | None] = (),
) -> Callable[..., Any]:
    """The function to run.

    Args:
        table: {backend: function}, "torch" among them.
        backend: "auto" or a key of the table.
        tensors: what the function is given.
        obstacle: a further reason why torch alone can serve.
        spectra: complex64 may stand beside float32.
        images: more of what the function is given, which may be in 16 bits; see `write`.

    Raises:
        BackendNotAvailable: the named backend is missing; the sentence says what installs it.
        InvalidArgument: the name is none of the table's, or its backend cannot take the tensors.
    """
    if backend == "torch":
        return table["torch"]
    if backend == "auto":
        return table[_first(table, obstacle, tensors, spectra, images)]
    if backend not in table:
        choices = "one of " + ", ".join(repr(name) for name in ("auto", *table))
        raise invalid("backend", choices, repr(backend), "choose one of these")
    implementation = _IMPLEMENTATIONS[backend]
    missing = implementation.module.missing()
    if missing is not None:
        raise BackendNotAvailable(missing)
    obstacle = obstacle or implementation.obstacle(tensors, spectra, images)
    if obstacle is not None:
        raise invalid("backend", implementation.takes, obstacle, "use backend='torch'")
    return table[backend]


def write(run: Callable[..., Any], out: Tensor | None, *arguments: Any, **options: Any) -> Tensor:
    """run(image, ...) as a new tensor, or in `out`; only torch's functions have no `out`.

    Images in 16 bits are widened by the load of a kernel for GPUs and rounded by its store. Torch
    and the CPU's loops are given float32 copies; their result is rounded once, to the same bits.
    """
    image = arguments[0]
    if _is_narrow(image) and run.__module__ in _IN_FLOAT32:
        wide = (a.float() if _is_narrow(a) else a for a in arguments)
        rounded: Tensor = run(*wide, **options).to(image.dtype)
        return rounded if out is None else out.copy_(rounded)
    if out is None:
        made: Tensor = run(*arguments, **options)
        return made
    if run.__module__ == reference.__name__:
        return out.copy_(run(*arguments, **options))
    if run.__module__ == triton.__name__:  # the extensions look for themselves
        _check_apart(out, arguments)
    run(*arguments, **options, out=out)
    return out


def _check_apart(out: Tensor, arguments: Sequence[Any]) -> None:
    """Raises if a result would overwrite what is still to be read; `out` may be an image itself."""
    for tensor in arguments:
        if not isinstance(tensor, Tensor) or tensor.numel() == 0:
            continue
        same = tensor.data_ptr() == out.data_ptr() and tensor.shape == out.shape
        if same and tensor.is_contiguous() and tensor.dtype == out.dtype:
            continue
        reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        end = tensor.data_ptr() + (reach + 1) * tensor.element_size()
        if out.data_ptr() < end and tensor.data_ptr() < out.data_ptr() + out.nbytes:
            got = "memory that an argument shares in part"
            raise invalid("out", "an argument itself or memory apart", got, "give another tensor")


def _is_narrow(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.dtype in SIXTEEN_BITS


def _first(
    table: Collection[str],
    obstacle: str | None,
    tensors: Sequence[Tensor | None],
    spectra: bool,
    images: Sequence[Tensor | None],
) -> str:
    if obstacle is not None:
        return "torch"
    for name, implementation in _IMPLEMENTATIONS.items():
        # What is there is asked last: it may load a library.
        if name not in table or implementation.obstacle(tensors, spectra, images) is not None:
            continue
        if implementation.module.missing() is None:
            return name
    return "torch"


def backend_of(device: str | torch.device) -> str:
    """What `backend="auto"` takes for float32 tensors on this device."""
    kind = torch.device(device).type
    for name, implementation in _IMPLEMENTATIONS.items():
        module = implementation.module
        if module.device_type() == kind and module.missing() is None:
            return name
    return "torch"


def transforms_of(
    device: str | torch.device, size: Sequence[int], factor: int | None = None
) -> str:
    """Whose transforms "auto" takes for images of this size, e.g. "cpu, own loops".

    "cuda, own kernels", "cpu, own loops", or the backend and "torch.fft"; `factor` is that of
    super-resolution, and 0 a mask in k-space.
    """
    backend = backend_of(device)
    if backend == "cuda":
        return f"cuda, {cuda.fourier_path(size[0], size[1], factor or None)}"
    if backend == "cpu":
        return f"cpu, {cpu_extension.fourier_path(size[0], size[1], factor or None)}"
    return f"{backend}, torch.fft"
