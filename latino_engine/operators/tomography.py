"""Computed tomography with parallel beams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from latino_engine.errors import invalid, invalid_type
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_noise_std,
    as_parameter,
    check_batch,
    check_dtype,
    check_image,
    check_index,
    common_batch,
    pick_noise_std,
    show_noise_std,
)
from latino_engine.operators.parts.image_size import (
    LARGEST_SIDE,
    as_image_size,
    check_image_size,
    check_memory,
)
from latino_engine.operators.parts.parallel_beam import joseph_entries, sparse_pair, sparse_product
from latino_engine.operators.parts.scalars import as_choice, as_count, as_number
from latino_engine.operators.parts.size_table import SizeTable
from latino_engine.operators.protocol import Operator


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Tomography(Operator):
    """y[a, d] = (line integral of x at angle a through detector d) / max(H, W) + noise.

    Parallel beams, detectors one pixel apart. The object turns about the pixel (cy, cx), which
    falls on the detector d0: the rays of detector d are
    {(j, i): (j - cx) cos a - (i - cy) sin a = d - d0}; Joseph's method. In units of the longer
    side, an image of ones has line integrals about 1. The adjoint is the exact transpose; the prox
    is by conjugate gradients.

    | convention | (cy, cx) | d0 | D where it is left out |
    |---|---|---|---|
    | "centred" | ((H-1)/2, (W-1)/2) | (D-1)/2 | the diagonal, rounded up to the parity of W |
    | "skimage", `radon(circle=False)` | (H//2, W//2) | D//2 | ceil(sqrt(2) max(H, W)) |
    | "astra", `parallel` | ((H-1)/2, (W-1)/2) | (D-1)/2 | the diagonal, rounded up |

    x: (B, C, H, W); y: (B, C, A, D), the sinogram; float32 or float64, public range.

    Args:
        angles: A angles in degrees, or their number: then k 180 / A for k = 0 .. A - 1. Angles
            that cover pi or 2 pi are refused as radians.
        image_size: H, W of the image (or one side of a square).
        noise_std: standard deviation of the noise of y, a number or (B,), >= 0.
        num_detectors: D; None: as the convention has it.
        convention: "centred", "skimage" or "astra"; divide their sinograms by max(H, W) and put the
            angles on axis 2, those of scikit-image by `sinogram.T`.
        rotation_centre: (cy, cx) in pixels, not always whole ones; None: as the convention has it.
        detector_offset: pixels by which the axis falls beside d0, towards larger d: of a real scan.

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.
    """

    angles: Tensor
    image_size: tuple[int, int]
    noise_std: float | Tensor
    num_detectors: int
    convention: str
    rotation_centre: tuple[float, float]
    detector_offset: float
    batch_size: int | None
    _table: SizeTable
    kind = "Tomography"
    family = "tomography"

    def __init__(
        self,
        angles: int | ArrayLike,
        image_size: int | tuple[int, int],
        noise_std: float | ArrayLike,
        num_detectors: int | None = None,
        *,
        convention: str = "centred",
        rotation_centre: tuple[float, float] | None = None,
        detector_offset: float = 0.0,
    ) -> None:
        size, sigma_y = as_image_size(image_size), as_noise_std(noise_std)
        expected = " or ".join(repr(name) for name in _CONVENTIONS)
        remedy = "'centred' and rotation_centre describe any other"
        as_choice("convention", convention, _CONVENTIONS, expected, remedy)
        default, centre = _CONVENTIONS[convention](size)
        detectors = default
        if num_detectors is not None:
            detectors = as_count("num_detectors", num_detectors, 2 * LARGEST_SIDE, "leave it out")
        object.__setattr__(self, "angles", _as_angles(angles))
        object.__setattr__(self, "image_size", size)
        object.__setattr__(self, "noise_std", sigma_y)
        object.__setattr__(self, "num_detectors", detectors)
        object.__setattr__(self, "convention", convention)
        object.__setattr__(self, "rotation_centre", _as_centre(rotation_centre, centre))
        object.__setattr__(self, "detector_offset", _as_pixels("detector_offset", detector_offset))
        object.__setattr__(self, "batch_size", common_batch("noise_std", (), sigma_y))
        object.__setattr__(self, "_table", SizeTable(capacity=2))

    def __repr__(self) -> str:
        height, width = self.image_size
        shape = f"{len(self.angles)} angles, {self.num_detectors} detectors"
        shape += "" if self.convention == "centred" else f", as {self.convention}"
        return f"Tomography({shape}, image {height} x {width}, {show_noise_std(self.noise_std)})"

    def A(self, x: Tensor) -> Tensor:
        """The sinogram, (B, C, A, D)."""
        check_image("x", x, self.batch_size)
        check_image_size("x", x, self.image_size)
        matrix, transposed = self._matrices(x)
        return self._product(x, matrix, transposed, (len(self.angles), self.num_detectors))

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The back-projection, the transpose of A."""
        self.check_measurement(y)
        matrix, transposed = self._matrices(y)
        return self._product(y, transposed, matrix, self.image_size)

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        """The pseudo-inverse of a finely sampled y: ramp filter along t, then back-projection.

        The filter is Ramachandran's and Lakshminarayanan's in its spatial form, 1/4 at 0 and
        -1 / (pi n)^2 at odd n, so that the mean is right; the angles must cover 180 degrees evenly.
        """
        self.check_measurement(y)
        detectors = self.num_detectors
        n = torch.arange(1 - detectors, detectors, dtype=torch.float64)
        ramp = torch.where(n % 2 != 0, -1.0 / (torch.pi * n) ** 2, torch.zeros_like(n))
        ramp[detectors - 1] = 0.25
        length = 3 * detectors
        spectrum = torch.fft.rfft(y, n=length) * torch.fft.rfft(ramp.to(y), n=length)
        filtered = torch.fft.irfft(spectrum, n=length)[..., detectors - 1 : 2 * detectors - 1]
        scale = math.pi / len(self.angles) * max(self.image_size) ** 2
        return scale * self.A_adjoint(filtered.contiguous())

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The filtered back-projection, softened, then one prox, gamma = (0.1 / sigma_y)^2."""
        return self._one_prox(_softened(self.filtered_back_projection(y)), y)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """The sinogram of one image, (C, A, D) or (1, C, A, D), stretched to [0, 1]."""
        return y / y.abs().amax().clamp(min=1e-12)

    def take(self, index: Tensor) -> Tomography:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        sigma_y = pick_noise_std(self.noise_std, check_index(index, self.batch_size))
        taken = Tomography(
            self.angles,
            self.image_size,
            sigma_y,
            self.num_detectors,
            convention=self.convention,
            rotation_centre=self.rotation_centre,
            detector_offset=self.detector_offset,
        )
        object.__setattr__(taken, "_table", self._table)  # the matrices do not know the noise
        return taken

    def _product(
        self, image: Tensor, matrix: Tensor, transposed: Tensor, size: tuple[int, int]
    ) -> Tensor:
        columns = image.flatten(2).flatten(0, 1).T.contiguous()  # (pixels, B C)
        product = sparse_product(columns, matrix, transposed)
        return product.T.reshape(*image.shape[:2], *size).contiguous()

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A and A^T, (A D, H W) and (H W, A D)."""

        def build() -> tuple[Tensor, ...]:
            detectors = self.num_detectors
            crossed = 2.0 * len(self.angles) * detectors * max(self.image_size)  # two for each row
            check_memory("image_size", "projections", 48.0 * crossed)
            middle = detectors // 2 if self.convention == "skimage" else (detectors - 1) / 2
            geometry = (self.rotation_centre, middle + self.detector_offset)
            rows, columns, values = joseph_entries(
                self.angles, self.image_size, detectors, *geometry
            )
            shape = (len(self.angles) * self.num_detectors, math.prod(self.image_size))
            return sparse_pair(rows, columns, values / max(self.image_size), shape, like)

        matrix, transposed = self._table.get("matrices", self.image_size, like, build)
        return matrix, transposed

    def check_measurement(self, y: Tensor) -> None:
        """Raises unless y is a sinogram of these angles and detectors."""
        expected = (len(self.angles), self.num_detectors)
        if not isinstance(y, Tensor) or y.ndim != 4 or tuple(y.shape[2:]) != expected:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            wanted = f"a sinogram (B, C, {expected[0]}, {expected[1]})"
            raise invalid("y", wanted, got, "angles stand on axis 2, detectors on axis 3")
        check_dtype("y", y)
        check_batch("y", y.shape[0], self.batch_size)


def _centred(size: tuple[int, int]) -> tuple[int, tuple[float, float]]:
    detectors, centre = _astra(size)
    return detectors + (detectors - size[1]) % 2, centre


def _skimage(size: tuple[int, int]) -> tuple[int, tuple[float, float]]:
    return math.ceil(math.sqrt(2.0) * max(size)), (size[0] // 2, size[1] // 2)


def _astra(size: tuple[int, int]) -> tuple[int, tuple[float, float]]:
    return math.ceil(math.hypot(*size)), ((size[0] - 1) / 2, (size[1] - 1) / 2)


#: name -> (H, W) -> (number of detectors, rotation centre).
_CONVENTIONS = {"centred": _centred, "skimage": _skimage, "astra": _astra}
CONVENTIONS = tuple(_CONVENTIONS)
_MOST_ANGLES = 1 << 20


def _as_centre(value: object, default: tuple[float, float]) -> tuple[float, float]:
    if value is None:
        return default
    try:
        row, column = cast(tuple[object, object], value)
    except (TypeError, ValueError, RuntimeError):
        got, remedy = type(value).__name__, "give the row and the column of the pixel"
        raise invalid_type("rotation_centre", "(row, column)", got, remedy) from None
    return _as_pixels("rotation_centre", row), _as_pixels("rotation_centre", column)


def _as_pixels(name: str, value: object) -> float:
    expected = "a finite number of pixels"
    return as_number(name, value, expected, lambda v: abs(v) <= 1e9, "leave it out where it is 0")


def _look_like_radians(angles: Tensor) -> bool:
    """Whether three or more angles cover pi or 2 pi, with or without the last step, to 2 %."""
    count, span = len(angles), float(angles.max() - angles.min())
    whole = (span, span * count / max(count - 1, 1))
    return count > 2 and any(
        abs(covered / turn - 1.0) < 0.02 for covered in whole for turn in (math.pi, 2 * math.pi)
    )


def _as_angles(value: int | ArrayLike) -> Tensor:
    """(A,) float64, degrees."""
    if hasattr(value, "__index__") and getattr(value, "shape", ()) == ():
        remedy = "give their number or the degrees"
        value = as_count("angles", value, _MOST_ANGLES, remedy, "at least one")
        return torch.arange(value, dtype=torch.float64, device="cpu") * (180.0 / value)
    angles = as_parameter("angles", value)
    if angles.ndim != 1 or angles.numel() == 0:
        got = f"shape {tuple(angles.shape)}"
        raise invalid("angles", "a number of angles or a list of degrees", got, "flatten it")
    if _look_like_radians(angles):
        got = f"angles from {float(angles.min()):.4g} to {float(angles.max()):.4g}, as radians have"
        raise invalid("angles", "degrees", got, "convert them by numpy.degrees")
    return angles


def _softened(x: Tensor) -> Tensor:
    """(1 2 1)/4 along both axes: the streaks of few angles are finer than the image."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2.0 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4.0
    return (rows[..., :-2] + 2.0 * rows[..., 1:-1] + rows[..., 2:]) / 4.0
