"""The compiled extension (csrc/bindings_cpu.cpp): contiguous numpy arrays, `out` written in place.

ids are int64 (P,), spectra complex64, everything else float32. A wrong type is a TypeError; a wrong
shape, layout or overlap, or an id out of range, a ValueError. All of targets() give the same bits.
"""

from numpy import complex64, float32, int64, uint32
from numpy.typing import NDArray

INTERFACE_VERSION: int

def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]: ...
def philox_integers(
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    shape: tuple[int, int, int, int],
) -> NDArray[uint32]: ...
def gaussian_noise(
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
def langevin_noise(
    z: NDArray[float32],
    scale: NDArray[float32],
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
def reverse_step(
    x0_hat: NDArray[float32],
    x_t: NDArray[float32],
    sigma_next: float,
    kept: float,
    renewed: float,
    lowest: float,
    highest: float,
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
def masked_prox(
    v: NDArray[float32],
    mask: NDArray[float32],
    y: NDArray[float32],
    gamma: NDArray[float32],
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
def masked_prox_noise(
    x: NDArray[float32],
    x_t: NDArray[float32] | None,
    x_weight: NDArray[float32],
    mask: NDArray[float32],
    y: NDArray[float32],
    gamma: NDArray[float32],
    scale: NDArray[float32],
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
def fourier_prox_noise(
    x: NDArray[float32],
    x_t: NDArray[float32] | None,
    x_weight: NDArray[float32],
    power: NDArray[float32],
    back_projected: NDArray[complex64],
    gamma: NDArray[float32],
    scale: NDArray[float32],
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
    target: str = "",
) -> None: ...
def alias_prox_noise(
    x: NDArray[float32],
    x_t: NDArray[float32] | None,
    x_weight: NDArray[float32],
    h: NDArray[complex64],
    folded_power: NDArray[float32],
    back_projected: NDArray[complex64],
    gamma: NDArray[float32],
    scale: NDArray[float32],
    factor: int,
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
    target: str = "",
) -> None: ...
def fourier_combine(
    spectrum: NDArray[complex64],
    power: NDArray[float32],
    back_projected: NDArray[complex64],
    gamma: NDArray[float32],
    num_threads: int,
) -> None: ...
def kspace_pack(
    x: NDArray[float32],
    x_t: NDArray[float32] | None,
    x_weight: NDArray[float32],
    image: NDArray[complex64],
    num_threads: int,
) -> None: ...
def kspace_combine(
    spectrum: NDArray[complex64],
    mask: NDArray[float32],
    y: NDArray[float32],
    gamma: NDArray[float32],
    num_threads: int,
) -> None: ...
def kspace_unpack(
    image: NDArray[complex64],
    scale: NDArray[float32],
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
) -> None: ...
def has_fourier_loops(height: int, width: int) -> bool: ...
def has_alias_loops(height: int, width: int, factor: int) -> bool: ...
def targets() -> list[str]: ...
def workspace_allocations() -> int: ...
def running_moments(
    mean: NDArray[float32],
    m2: NDArray[float32],
    count: float,
    x: NDArray[float32],
    mean_out: NDArray[float32],
    m2_out: NDArray[float32],
    num_threads: int,
) -> None: ...
def convolve(
    x: NDArray[float32],
    h: NDArray[complex64],
    conjugate: bool,
    out: NDArray[float32],
    num_threads: int,
    target: str = "",
) -> None: ...
def convolved_spectrum(
    x: NDArray[float32],
    h: NDArray[complex64],
    conjugate: bool,
    spectrum: NDArray[complex64],
    num_threads: int,
    target: str = "",
) -> None: ...
def keep_observed(
    x: NDArray[float32], mask: NDArray[float32], out: NDArray[float32], num_threads: int
) -> None: ...
def kspace_forward(
    x: NDArray[float32],
    mask: NDArray[float32],
    out: NDArray[float32],
    num_threads: int,
    target: str = "",
) -> None: ...
def kspace_adjoint(
    y: NDArray[float32],
    mask: NDArray[float32],
    out: NDArray[float32],
    num_threads: int,
    target: str = "",
) -> None: ...
def kspace_prox_noise(
    x: NDArray[float32],
    x_t: NDArray[float32] | None,
    x_weight: NDArray[float32],
    mask: NDArray[float32],
    y: NDArray[float32],
    gamma: NDArray[float32],
    scale: NDArray[float32],
    seed: int,
    image_ids: NDArray[int64],
    sample_ids: NDArray[int64],
    step: int,
    out: NDArray[float32],
    num_threads: int,
    target: str = "",
) -> None: ...
