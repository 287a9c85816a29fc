"""What every fused operation takes, and backends that stand in for the machine's.

"cuda" is the shim, "triton" its interpreter; each claims the CPU's tensors while it is tested. A
test asks for the fixture `ran`, with a backend as its parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import torch
from cuda_shim.fixtures import compiled_shim, shim_as_device  # noqa: F401  (fixtures)
from torch import Tensor

from latino_engine.ops import alias_fold, cpu_extension, cuda_extension, triton

OWN, OTHER = 64, 12  # a side with transforms of our own, and one without
IDENTITY = (2**63 + 5, [0, 7], [3, 2**32 - 1], 9)
Run: TypeAlias = Callable[..., Any]
#: (backend, the names of its kernels so far)
Ran: TypeAlias = tuple[str, Callable[[], list[str]]]


def images(side: int = OWN) -> Tensor:
    """Two states (2, 2, 2, side, side)."""
    return torch.randn(2, 2, 2, side, side, generator=torch.Generator().manual_seed(1))


def arguments(operation: str, side: int = OWN) -> tuple[Any, ...]:
    """What an operation takes."""
    x, x_t = images(side)
    mask, y = (x[:1, :1] > 0).float(), x_t[:1]
    h = torch.fft.fft2(mask / mask.sum())
    low = torch.fft.fft2(y[..., ::2, ::2]).repeat(1, 1, 2, 2)
    alias = (h, alias_fold(h.abs() ** 2, 2), (h.conj() * low).resolve_conj())
    half = h[..., : side // 2 + 1].contiguous()
    power = half.abs() ** 2
    back = (half.conj() * torch.fft.rfft2(y)).resolve_conj()
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
        "convolve": (x, half),
        "convolved_spectrum": (x, half, True),
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
#: The same where the transforms are torch.fft's and rows no whole vectors, where that differs.
OTHER_KERNELS: dict[str, dict[str, list[str]]] = {
    "cuda": {
        "gaussian_noise": ["gaussian_noise<1>"],
        "langevin_noise": ["langevin_noise<1>"],
        "reverse_step": ["reverse_step<1>"],
        "fourier_prox_noise": ["combine_anchors", "fourier_combine", "langevin_noise<1>"],
        "alias_prox_noise": ["combine_anchors", "alias_combine", "langevin_noise<1>"],
        "masked_prox_noise": ["masked_prox_noise<1>"],
        "fourier_mask_prox_noise": ["combine_anchors", "kspace_combine", "langevin_noise<1>"],
    },
    "triton": {},
    "cpu": {
        "fourier_prox": ["fourier_combine"],
        "alias_prox": [],
        "kspace_forward": ["kspace_pack", "kspace_unpack", "keep_observed"],
        "kspace_adjoint": ["keep_observed", "kspace_pack", "kspace_unpack"],
        "fourier_mask_prox": ["keep_observed", "kspace_pack", "kspace_combine", "kspace_unpack"],
        "fourier_prox_noise": ["fourier_combine", "langevin_noise"],
        "alias_prox_noise": ["langevin_noise"],
        "fourier_mask_prox_noise": ["kspace_pack", "kspace_combine", "kspace_unpack"],
    },
}
BRANCHES = [(backend, operation) for backend, rows in KERNELS.items() for operation in rows]


def kernels_of(backend: str, operation: str, side: int) -> list[str]:
    """What runs, in this order."""
    own = KERNELS[backend][operation]
    return own if side == OWN else OTHER_KERNELS[backend].get(operation, own)


@pytest.fixture(name="interpreter")
def triton_interpreted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """backend="triton" runs in Triton's interpreter; gives the names of what is launched."""
    triton_copies = pytest.importorskip("triton_copies", exc_type=ImportError)
    package, launched = triton_copies.interpreted_package(), list[str]()
    kernels = triton_copies.Kernels(package, "cpu")
    for operation in KERNELS["triton"]:
        for name in KERNELS["triton"][operation]:
            kernels.module(name)
    monkeypatch.setattr(triton, "_PACKAGE", package)
    monkeypatch.setattr(triton, "_DEVICE_TYPE", "cpu")
    launch = triton._launch

    def recorded(name: str) -> Run:
        launched.append(name)
        return launch(name)

    monkeypatch.setattr(triton, "_launch", recorded)
    return launched


@pytest.fixture(name="extension_calls")
def cpu_recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of the CPU extension that run."""
    if cpu_extension.missing() is not None:
        pytest.skip(str(cpu_extension.missing()))
    calls, extension = list[str](), cpu_extension.extension()

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("has_"):
                calls.append(name)
            return getattr(extension, name)

    monkeypatch.setattr(cpu_extension, "extension", Recorder)
    return calls


@pytest.fixture(name="ran")
def backend_recorded(request: pytest.FixtureRequest) -> Iterator[Ran]:
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
