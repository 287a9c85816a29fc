"""Which function of an operation's table {backend: function} runs: the only place that chooses.

`backend="auto"` takes the first of "cuda", "triton" and "cpu" that is in the table, is there and
can take the tensors, else torch. A backend that is named is used or refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, invalid
from latino_engine.ops import cpu_extension, cuda_extension, triton
from latino_engine.ops.checks import unfit

Backend: TypeAlias = Literal["auto", "torch", "cpu", "triton", "cuda"]
Table: TypeAlias = Mapping[str, Callable[..., Any]]


class _Place(NamedTuple):
    """A module with `missing` and `device_type`, and what it takes in words."""

    module: ModuleType
    takes: str


_ON_A_GPU = "float32 tensors on one GPU, without gradients"
#: In the order in which "auto" asks them.
BACKENDS = {
    "cuda": _Place(cuda_extension, f"{_ON_A_GPU}, for 'cuda'"),
    "triton": _Place(triton, f"{_ON_A_GPU}, for 'triton'"),
    "cpu": _Place(cpu_extension, "float32 tensors on the CPU, without gradients, for 'cpu'"),
}


def choose(
    table: Table,
    backend: str,
    *tensors: Tensor | None,
    obstacle: str | None = None,
    spectra: bool = False,
) -> Callable[..., Any]:
    """The function to run.

    Args:
        table: {backend: function}, "torch" among them.
        backend: "auto" or a key of the table.
        tensors: what the function is given.
        obstacle: a further reason why torch alone can serve.
        spectra: complex64 may stand beside float32.

    Raises:
        BackendNotAvailable: the named backend is missing; the sentence says what installs it.
        InvalidArgument: the name is none of the table's, or its backend cannot take the tensors.
    """
    if backend == "torch":
        return table["torch"]
    if backend == "auto":
        if obstacle is None:
            for name in BACKENDS:
                if name in table and serves(name, *tensors, spectra=spectra):
                    return table[name]
        return table["torch"]
    if backend not in table:
        choices = "one of " + ", ".join(repr(name) for name in ("auto", *table))
        raise invalid("backend", choices, repr(backend), "choose one of these")
    module, takes = BACKENDS[backend]
    missing = module.missing()
    if missing is not None:
        raise BackendNotAvailable(missing)
    obstacle = obstacle or unfit(module.device_type(), tensors, spectra)
    if obstacle is not None:
        raise invalid("backend", takes, obstacle, "use backend='torch'")
    return table[backend]


def serves(backend: str, *tensors: Tensor | None, spectra: bool = False) -> bool:
    """Whether this backend, not "torch", is there and can take the tensors."""
    module = BACKENDS[backend].module
    # What is there is asked last: it may load a library.
    return unfit(module.device_type(), tensors, spectra) is None and module.missing() is None


def backend_of(device: str | torch.device) -> str:
    """What `backend="auto"` takes for float32 tensors on this device."""
    kind = torch.device(device).type
    for name, (module, _) in BACKENDS.items():
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
    if backend in ("torch", "triton"):
        return f"{backend}, torch.fft"
    return f"{backend}, {BACKENDS[backend].module.fourier_path(size[0], size[1], factor or None)}"
