"""The CUDA backend: loads the extension when it is first needed, and queues its launches.

Power-of-two sides from 64 to 2048 take three launches of our own transforms; `fourier_path` tells
which, in this one place. Every other size takes torch.fft and the same formulas in pointwise
kernels. The scalars of a step lie in a `StepTable` on the device, so that one captured CUDA graph
serves every step.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from latino_engine import cuda_nvrtc

_INTERFACE_VERSION = 1
_REMEDY = (
    "with the CUDA toolkit's nvcc on the path run "
    "`LATINO_CUDA=1 python -m pip install --force-reinstall --no-deps .` in the source folder"
)

#: (seed, image_ids, sample_ids), ids int64 (P,) on the device
Identity: TypeAlias = tuple[int, Tensor, Tensor]


@functools.cache
def _load() -> tuple[Any, str | None]:
    """(extension, None), or (None, what is missing)."""
    name = "the compiled extension latino_engine._cuda"
    try:
        extension = importlib.import_module("latino_engine._cuda")
    except ModuleNotFoundError:
        return None, f"{name}, which is not built here"
    except ImportError as error:
        return None, f"{name}, which cannot be loaded ({error})"
    found = getattr(extension, "INTERFACE_VERSION", None)
    if found != _INTERFACE_VERSION:
        return None, f"{name} with interface {_INTERFACE_VERSION}, but the one here has {found}"
    if extension.LAUNCHES_BY_NAME:  # built without nvcc: NVRTC compiles the kernels at run time
        problem = cuda_nvrtc.missing()
        if problem is not None:
            return None, problem
        extension.set_function_loader(cuda_nvrtc.function_handle)
    return extension, None


def missing() -> str | None:
    """None where the extension can be used, else what is missing and which command installs it."""
    extension, problem = _load()
    if problem is not None:
        return f"backend 'cuda' needs {problem}; {_REMEDY}"
    if extension.DEVICE_TYPE == "cuda" and not torch.cuda.is_available():
        return (
            "backend 'cuda' needs an NVIDIA GPU, its driver and torch with CUDA, but torch finds "
            "none here; install torch from its CUDA index, or use backend='torch'"
        )
    return None


def unfit(*tensors: Tensor | None) -> str | None:
    """None if the extension can take these tensors, else what it was given instead."""
    extension = _load()[0]
    device_type = "cuda" if extension is None else extension.DEVICE_TYPE
    if torch.compiler.is_compiling():
        return "a traced graph"
    if forward_ad._current_level >= 0:
        return "a forward derivative"
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, Parameter) or is_functorch_wrapped_tensor(tensor):
            return f"a {type(tensor).__name__} of torch.func or of a subclass"
        if tensor.device.type != device_type or tensor.layout != torch.strided:
            return f"a {tensor.layout} tensor on {tensor.device}"
        if tensor.dtype not in (torch.float32, torch.complex64):
            return f"{tensor.dtype}"
        if torch.is_grad_enabled() and tensor.requires_grad:
            return "a tensor that requires a gradient"
    return None


def fourier_path(height: int, width: int, factor: int | None = None) -> str:
    """What transforms images of this size: "own kernels" or "torch.fft"; factor as in alias_prox."""
    kernels = _extension()
    if factor is None:
        own = kernels.has_fourier_kernels(height, width)
    else:
        own = kernels.has_alias_kernels(height, width, factor)
    return "own kernels" if own else "torch.fft"


# ---- what ran --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: its name with template arguments, e.g. "fourier_columns<256>".
        grid, block: (x, y).
        shared_bytes: dynamic shared memory of a block.
        image_bytes: device memory read and written for images and spectra.
        constant_bytes: for the constants of the operator, which all samples of an image share.
    """

    kernel: str
    grid: tuple[int, int]
    block: tuple[int, int]
    shared_bytes: int
    image_bytes: int
    constant_bytes: int


@contextlib.contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Collects the launches of this thread; the list is filled when the block ends."""
    kernels, found = _extension(), list[Launch]()
    kernels.record_launches(True)
    try:
        yield found
    finally:
        found.extend(Launch(*record) for record in kernels.launches())
        kernels.record_launches(False)


# ---- the scalars of a step -------------------------------------------------------------------


class StepTable:
    """Scalars of the steps, on the device, and the counter that says which step is next.

    Every operation that is given the table uses its next row; its last launch moves the counter
    on. `position` mirrors the counter for eager calls, which are refused beyond the end; a replayed
    graph is not seen by it, and `check` then asks the device.

    Attributes:
        rows: int32 (steps, 1|P, 4), the bits of three floats and the noise step.
        counter: int32 (3,): next row, blocks that have arrived, 1 after a step beyond the end.
        position: the next row, as far as the host knows.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.counter = torch.zeros(3, dtype=torch.int32, device=rows.device)
        self.position = 0

    @classmethod
    def of(cls, columns: Sequence[Tensor], noise_steps: Sequence[int]) -> StepTable:
        """Three float columns, each broadcasting to (steps, 1|P), and a noise step for each row.

        The columns are (x_weight, gamma, scale) or, for reverse steps, (sigma_next, kept, renewed).
        """
        floats = torch.stack(torch.broadcast_tensors(*(c.to(torch.float32) for c in columns)), -1)
        signed = [step - 2**32 if step >= 2**31 else step for step in noise_steps]
        last = torch.tensor(signed, dtype=torch.int32, device=floats.device)[:, None, None]
        last = last.expand(floats.shape[0], floats.shape[1], 1)
        return cls(torch.cat((floats.view(torch.int32), last), dim=-1).contiguous())

    @classmethod
    def single(
        cls, device: torch.device, values: Sequence[float | Tensor], noise_step: int
    ) -> StepTable:
        """One step: three scalars, each a number or (1|P,) in any shape."""
        columns = [torch.as_tensor(v, dtype=torch.float32, device=device) for v in values]
        return cls.of([column.reshape(1, -1) for column in columns], [noise_step])

    def __repr__(self) -> str:
        steps, pairs, _ = self.rows.shape
        return f"StepTable({steps} steps, {pairs} pairs, next {self.position})"

    def arguments(self) -> tuple[Tensor, Tensor, int]:
        """What the extension takes."""
        return self.rows, self.counter, self.position

    def rewind(self) -> None:
        """Back to the first row."""
        self.counter.zero_()
        self.position = 0

    def check(self) -> None:
        """Raises IndexError if a launch came after the last row; waits for the device."""
        if int(self.counter[2]):
            raise IndexError(
                f"step: expected at most {self.rows.shape[0]} steps between two rewinds, got more; "
                "call rewind() before the first replay"
            )


# ---- operations with a table: what an engine captures ------------------------------------------


def run_fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    power: Tensor,
    back_projected: Tensor,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.fourier_prox_noise` with the next row of the table; x, x_t, out also in 16 bits."""
    _, channels, height, width = x.shape
    out = torch.empty_like(x) if out is None else out
    table, kernels, stream = steps.arguments(), _extension(), _stream(x)
    constants = (power, back_projected)
    with _on(x):
        if fourier_path(height, width) == "own kernels":
            spectrum = _spectrum(x, channels, width // 2)
            kernels.fourier_prox_noise(x, x_t, *constants, table, noise, spectrum, out, stream)
        else:
            V = torch.fft.rfft2(_anchor(x, x_t, table, stream))
            kernels.fourier_combine(x, V, *constants, table, stream)
            z = torch.fft.irfft2(V, s=(height, width)).contiguous()
            kernels.langevin_noise(z, table, noise, out, stream)
    steps.position += 1
    return out


def run_alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    factor: int,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.alias_prox_noise` with the next row of the table; x, x_t, out also in 16 bits."""
    _, channels, height, width = x.shape
    out = torch.empty_like(x) if out is None else out
    table, kernels, stream = steps.arguments(), _extension(), _stream(x)
    constants = (h, folded_power, back_projected, factor)
    with _on(x):
        if fourier_path(height, width, factor) == "own kernels":
            spectrum = _spectrum(x, channels, width // 2)
            kernels.alias_prox_noise(x, x_t, *constants, table, noise, spectrum, out, stream)
        else:
            V = torch.fft.fft2(_anchor(x, x_t, table, stream))
            kernels.alias_combine(x, V, *constants, table, stream)
            z = torch.fft.ifft2(V).real.contiguous()
            kernels.langevin_noise(z, table, noise, out, stream)
    steps.position += 1
    return out


def run_fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    mask: Tensor,
    y: Tensor,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.fourier_mask_prox_noise` with the next row; x, x_t, out also in 16 bits."""
    _, _, height, width = x.shape
    out = torch.empty_like(x) if out is None else out
    table, kernels, stream = steps.arguments(), _extension(), _stream(x)
    axes = (-2, -1)
    with _on(x):
        if fourier_path(height, width) == "own kernels":
            spectrum = _spectrum(x, 1, width)
            kernels.fourier_mask_prox_noise(x, x_t, mask, y, table, noise, spectrum, out, stream)
        else:
            v = _anchor(x, x_t, table, stream)
            image = torch.fft.ifftshift(torch.complex(v[:, :1], v[:, 1:]), dim=axes)
            V = torch.fft.fftshift(torch.fft.fft2(image, norm="ortho"), dim=axes).contiguous()
            kernels.kspace_combine(x, V, mask, y, table, stream)
            image = torch.fft.ifft2(torch.fft.ifftshift(V, dim=axes), norm="ortho")
            image = torch.fft.fftshift(image, dim=axes)
            z = torch.cat((image.real, image.imag), dim=1)
            kernels.langevin_noise(z, table, noise, out, stream)
    steps.position += 1
    return out


def run_masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    mask: Tensor,
    y: Tensor,
    steps: StepTable,
    noise: Identity,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`reference.masked_prox_noise` in one launch; x, x_t, out also in 16 bits."""
    out = torch.empty_like(x) if out is None else out
    with _on(x):
        inputs = (x, x_t, mask, y, steps.arguments(), noise)
        _extension().masked_prox_noise(*inputs, out, _stream(x))
    steps.position += 1
    return out


def run_langevin_noise(
    z: Tensor, steps: StepTable, noise: Identity, *, out: Tensor | None = None
) -> Tensor:
    """z + scale eps in one launch; z, out also in 16 bits."""
    out = torch.empty_like(z) if out is None else out
    with _on(z):
        _extension().langevin_noise(z, steps.arguments(), noise, out, _stream(z))
    steps.position += 1
    return out


def run_gaussian_noise(out: Tensor, steps: StepTable, noise: Identity) -> Tensor:
    """out = eps in one launch; out also in 16 bits."""
    with _on(out):
        _extension().gaussian_noise(steps.arguments(), noise, out, _stream(out))
    steps.position += 1
    return out


def run_reverse_step(
    x0_hat: Tensor, x_t: Tensor, steps: StepTable, noise: Identity, *, out: Tensor | None = None
) -> Tensor:
    """`reference.reverse_step` in one launch; rows are (sigma_next, kept, renewed)."""
    out = torch.empty_like(x_t) if out is None else out
    with _on(x_t):
        _extension().reverse_step(x0_hat, x_t, steps.arguments(), noise, out, _stream(x_t))
    steps.position += 1
    return out


# ---- the operations of latino_engine.ops: one step, given as numbers ----------------------------


def fourier_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """As `reference.fourier_prox_noise`."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(power), _plain(back_projected))
    return run_fourier_prox_noise(*images, steps, _identity(seed, image_ids, sample_ids))


def alias_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    h: Tensor,
    folded_power: Tensor,
    back_projected: Tensor,
    gamma: Tensor,
    scale: Tensor,
    factor: int,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """As `reference.alias_prox_noise`."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(h), _plain(folded_power), _plain(back_projected))
    return run_alias_prox_noise(*images, factor, steps, _identity(seed, image_ids, sample_ids))


def fourier_mask_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """As `reference.fourier_mask_prox_noise`."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(mask), _plain(y))
    return run_fourier_mask_prox_noise(*images, steps, _identity(seed, image_ids, sample_ids))


def masked_prox_noise(
    x: Tensor,
    x_t: Tensor | None,
    x_weight: Tensor,
    mask: Tensor,
    y: Tensor,
    gamma: Tensor,
    scale: Tensor,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """As `reference.masked_prox_noise`, for mask and y (P|1, C|1, H, W)."""
    steps = StepTable.single(x.device, (x_weight, gamma, scale), step)
    images = (_plain(x), _plain(x_t), _plain(mask), _plain(y))
    return run_masked_prox_noise(*images, steps, _identity(seed, image_ids, sample_ids))


def gaussian_noise(
    seed: int, image_ids: Tensor, sample_ids: Tensor, step: int, shape: tuple[int, int, int, int]
) -> Tensor:
    """As `reference.gaussian_noise`, within 1e-6."""
    out = torch.empty(shape, dtype=torch.float32, device=image_ids.device)
    if out.numel() == 0:
        return out
    steps = StepTable.single(out.device, (0.0, 0.0, 1.0), step)
    return run_gaussian_noise(out, steps, _identity(seed, image_ids, sample_ids))


def langevin_noise(
    z: Tensor, scale: Tensor, seed: int, image_ids: Tensor, sample_ids: Tensor, step: int
) -> Tensor:
    """As `reference.langevin_noise`, without an array of normals."""
    if z.numel() == 0:
        return z.clone()
    steps = StepTable.single(z.device, (0.0, 0.0, scale), step)
    return run_langevin_noise(_plain(z), steps, _identity(seed, image_ids, sample_ids))


def reverse_step(
    x0_hat: Tensor,
    x_t: Tensor,
    sigma_n: float,
    sigma_next: float,
    zeta: float,
    seed: int,
    image_ids: Tensor,
    sample_ids: Tensor,
    step: int,
) -> Tensor:
    """As `reference.reverse_step`, without an array of normals."""
    if x_t.numel() == 0:
        return x_t.clone()
    scalars = (sigma_next, math.sqrt(1.0 - zeta) / sigma_n, math.sqrt(zeta))
    steps = StepTable.single(x_t.device, scalars, step)
    return run_reverse_step(_plain(x0_hat), _plain(x_t), steps, _identity(seed, image_ids, sample_ids))


def running_moments(mean: Tensor, m2: Tensor, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference.running_moments`."""
    updated, deviations = torch.empty_like(x), torch.empty_like(x)
    with _on(x):
        inputs = (_plain(mean), _plain(m2), count, _plain(x))
        _extension().running_moments(*inputs, updated, deviations, _stream(x))
    return updated, deviations


# ---- below -----------------------------------------------------------------------------------


def _extension() -> Any:
    return _load()[0]


def _plain(tensor: Any) -> Any:
    """The tensor, contiguous and without lazy conjugation; None stays None."""
    if tensor is None:
        return None
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _identity(seed: int, image_ids: Tensor, sample_ids: Tensor) -> Identity:
    return seed, _plain(image_ids.to(torch.int64)), _plain(sample_ids.to(torch.int64))


def _spectrum(x: Tensor, channels: int, columns: int) -> Tensor:
    size = (x.shape[0], channels, x.shape[2], columns)
    return torch.empty(size, dtype=torch.complex64, device=x.device)


def _anchor(x: Tensor, x_t: Tensor | None, table: tuple[Tensor, Tensor, int], stream: int) -> Tensor:
    """x_weight x + (1 - x_weight) x_t in float32."""
    if x_t is None and x.dtype == torch.float32:
        return x
    v = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    _extension().combine_anchors(x, x_t, table, v, stream)
    return v


def _stream(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return 0
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _on(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The tensor's device as the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
