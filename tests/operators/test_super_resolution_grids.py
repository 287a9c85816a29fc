"""Where super-resolution lays its pixels: the resized images of Pillow, torch and MATLAB's rule."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from laws import relative_error
from PIL import Image
from torch import Tensor

from latino_engine.errors import InvalidArgument
from latino_engine.operators import SuperResolution
from latino_engine.operators.spec import parse_operator

pytestmark = pytest.mark.usefixtures("one_thread")

FACTORS = (1, 2, 3, 4, 8)
PILLOW = {
    "pillow-box": Image.Resampling.BOX,
    "pillow-bilinear": Image.Resampling.BILINEAR,
    "pillow-hamming": Image.Resampling.HAMMING,
    "pillow-bicubic": Image.Resampling.BICUBIC,
    "pillow-lanczos": Image.Resampling.LANCZOS,
}

every_factor = pytest.mark.parametrize("factor", FACTORS)


def photograph(height: int = 48, width: int = 72) -> Tensor:
    """(1, 3, H, W) float64 in [0, 1]."""
    image = np.ascontiguousarray(skimage.data.chelsea()[60 : 60 + height, 100 : 100 + width])
    return torch.tensor(image, dtype=torch.float64).permute(2, 0, 1)[None] / 255


@every_factor
@pytest.mark.parametrize("name", PILLOW)
def test_as_pillow_resizes(name: str, factor: int) -> None:
    x = photograph()
    y = SuperResolution(factor, 0.02, name).A(x)
    for channel in range(3):
        plane = Image.fromarray(x[0, channel].numpy().astype(np.float32))
        small = plane.resize((72 // factor, 48 // factor), PILLOW[name])
        assert float(np.abs(y[0, channel].numpy() - np.array(small)).max()) < 1e-6


@every_factor
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_as_torch_resizes(mode: str, factor: int) -> None:
    x = photograph()
    y = SuperResolution(factor, 0.02, f"torch-{mode}").A(x)
    size = (48 // factor, 72 // factor)
    small = torch.nn.functional.interpolate(x.float(), size, mode=mode, antialias=True)
    assert float((y - small).abs().max()) < 1e-6


def cubic(t: float) -> float:
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0


def lanczos(lobes: int) -> Callable[[float], float]:
    def weight(t: float) -> float:
        if abs(t) >= lobes:
            return 0.0
        eps = 2.0**-52  # as the documented functions have it, instead of the limit at 0
        top = math.sin(math.pi * t) * math.sin(math.pi * t / lobes) + eps
        return top / (math.pi**2 * t**2 / lobes + eps)

    return weight


MATLAB: dict[str, tuple[Callable[[float], float], float]] = {
    "matlab-box": (lambda t: float(-0.5 <= t < 0.5), 1.0),
    "matlab-bilinear": (lambda t: max(0.0, 1.0 - abs(t)), 2.0),
    "matlab-bicubic": (cubic, 4.0),
    "matlab-lanczos2": (lanczos(2), 4.0),
    "matlab-lanczos3": (lanczos(3), 6.0),
}


def imresize_axis(image: np.ndarray, factor: int, name: str) -> np.ndarray:
    """The first axis of an image by the `contributions` of imresize, counted from 1 as there."""
    kernel, width = MATLAB[name]
    scale, length = 1.0 / factor, len(image)
    width = width / scale
    mirrored = [*range(1, length + 1), *range(length, 0, -1)]
    out = np.zeros((length // factor, *image.shape[1:]))
    for x in range(1, len(out) + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        indices = [left + p for p in range(math.ceil(width) + 2)]
        weights = [scale * kernel(scale * (u - i)) for i in indices]
        total = sum(weights)
        for index, weight in zip(indices, weights, strict=True):
            pixel = mirrored[(index - 1) % (2 * length)]
            out[x - 1] += weight / total * image[pixel - 1]
    return out


@every_factor
@pytest.mark.parametrize("name", MATLAB)
def test_as_imresize_resizes(name: str, factor: int) -> None:
    x = photograph()
    y = SuperResolution(factor, 0.02, name).A(x)
    rows = imresize_axis(x[0].permute(1, 2, 0).numpy(), factor, name)
    both = imresize_axis(rows.transpose(1, 0, 2), factor, name).transpose(1, 0, 2)
    assert float(np.abs(y[0].permute(1, 2, 0).numpy() - both).max()) < 1e-6


@every_factor
def test_area_is_the_mean_of_the_pixels(factor: int) -> None:
    x = photograph()
    blocks = x.numpy().reshape(1, 3, 48 // factor, factor, 72 // factor, factor)
    y = SuperResolution(factor, 0.02, "area").A(x)
    assert float(np.abs(y.numpy() - blocks.mean(axis=(3, 5))).max()) < 1e-12


@every_factor
def test_bicubic_on_the_centred_grid_is_that_of_the_libraries(factor: int) -> None:
    """Away from the borders, where the image wraps around."""
    x = photograph(96, 96)
    y = SuperResolution(factor, 0.02, grid="centred").A(x)
    small = np.stack(
        [
            np.array(
                Image.fromarray(plane.astype(np.float32)).resize(
                    (96 // factor, 96 // factor), Image.Resampling.BICUBIC
                )
            )
            for plane in x[0].numpy()
        ]
    )
    inner = (..., slice(3, -3), slice(3, -3))
    assert float(np.abs(y[0].numpy() - small)[inner].max()) < 1e-6


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
@pytest.mark.parametrize("kernel", ["bicubic", "gaussian", "array", "pillow-lanczos", "area"])
def test_a_ramp_keeps_its_place_on_the_centred_grid(kernel: str, factor: int) -> None:
    """x = column number gives y = the middle of every small pixel, s i + (s - 1) / 2."""
    taps = 7 if factor % 2 else 8
    given = torch.ones(taps, taps, dtype=torch.float64) / taps**2 if kernel == "array" else kernel
    side = 24 * factor
    x = torch.arange(side, dtype=torch.float64).expand(1, 1, side, side)
    y = SuperResolution(factor, 0.02, given, grid="centred").A(x)[0, 0, 12]
    expected = factor * torch.arange(24, dtype=torch.float64) + (factor - 1) / 2
    assert float((y - expected)[6:-6].abs().max()) < 1e-9


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarged_lies_where_the_image_lay(factor: int) -> None:
    """A ramp of the small image becomes the ramp of the large one, on either grid."""
    side = 24 * factor
    x = torch.arange(side, dtype=torch.float64).expand(1, 1, side, side)
    inner = slice(8 * factor, -8 * factor)
    for options in ({}, {"grid": "centred"}, {"kernel": "matlab-bicubic"}, {"kernel": "area"}):
        op = SuperResolution(factor, 0.02, **options)  # type: ignore[arg-type]
        found = op.enlarged(op.A(x))[0, 0, side // 2]
        assert float((found - x[0, 0, 0])[inner].abs().max()) < 1e-6, options


@pytest.mark.parametrize("noise_std", [0.02, 1e-3])
@pytest.mark.parametrize(
    "options",
    [{}, {"grid": "centred"}, {"kernel": "pillow-bicubic"}, {"kernel": "matlab-lanczos3"}],
    ids=("corner", "centred", "pillow", "matlab"),
)
def test_the_prox_is_right_at_any_gamma(options: dict[str, str], noise_std: float) -> None:
    """Beside a dense solve in float64, up to the limit v + A^+ (y - A v), in float32 too."""
    op = SuperResolution(2, noise_std, **options)  # type: ignore[arg-type]
    size, n = (16, 20), 320
    x, v = torch.rand(2, 1, 1, *size, dtype=torch.float64)
    basis = torch.eye(n, dtype=torch.float64).reshape(n, 1, *size)
    dense = op.A(basis).reshape(n, -1).T  # (m, n)
    y = op.A(x) + 0.01
    for gamma in (0.0, 1.0, 500.0, 1e4, 1e8, 1e14):
        gram = dense @ dense.T + torch.eye(len(dense), dtype=torch.float64) / max(gamma, 1e-300)
        missing = y.flatten() - dense @ v.flatten()
        expected = v.flatten() + dense.T @ torch.linalg.solve(gram, missing)
        for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
            found = op.prox(v.to(dtype), y.to(dtype), gamma).double().flatten()
            assert float((found - expected).abs().max()) < bound, (gamma, dtype)
    if noise_std < 5e-3:
        found = op.data_step(y.float())(v.float(), 1e8).double().flatten()
        gram = dense @ dense.T + 1e-8 * torch.eye(len(dense), dtype=torch.float64)
        missing = y.flatten() - dense @ v.flatten()
        expected = v.flatten() + dense.T @ torch.linalg.solve(gram, missing)
        assert float((found - expected).abs().max()) < 2e-5


def test_a_padded_kernel_larger_than_the_image_wraps_around() -> None:
    """16 taps at factor 4, moved by one pixel, on an image of 16: as on a period repeated twice."""
    op = SuperResolution(4, 0.02, grid="centred")
    x = torch.rand(1, 2, 16, 16, dtype=torch.float64)
    twice = op.A(x.repeat(1, 1, 2, 2))[..., :4, :4]
    assert relative_error(op.A(x), twice) < 1e-12


def test_take_keeps_the_grid_and_its_origin() -> None:
    noise = torch.tensor([0.01, 0.05])
    kernels = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    for kernel in ("bicubic", "pillow-bicubic", kernels):
        op = SuperResolution(4, noise, kernel, grid="centred")
        second = op.take(torch.tensor([1]))
        assert second.grid == "centred" and second.noise_std == pytest.approx(0.05)
        assert relative_error(second.A(x[1:]), op.A(x)[1:]) < 1e-12


def test_the_command_line_is_centred() -> None:
    x = torch.rand(1, 3, 32, 32)
    centred, corner = SuperResolution(4, 0.05, grid="centred"), SuperResolution(4, 0.05)
    assert torch.equal(parse_operator("sr:factor=4", 0.05, (32, 32)).A(x), centred.A(x))
    found = parse_operator("sr:factor=4,grid=corner", 0.05, (32, 32))
    assert torch.equal(found.A(x), corner.A(x))
    found = parse_operator("sr:factor=4,kernel=pillow-bicubic", 0.05, (32, 32))
    assert torch.equal(found.A(x), SuperResolution(4, 0.05, "pillow-bicubic").A(x))


def test_sentences() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        (
            {"grid": "center"},
            "grid: expected 'corner' or 'centred', got 'center'; 'centred' is what Pillow, MATLAB, "
            "torch and OpenCV write",
        ),
        (
            {"kernel": torch.ones(5, 5), "grid": "centred"},
            "kernel: expected an even number of rows as the factor 4, on the centred grid, got 5; "
            "pad it by a line of zeros where its middle lies, or use grid='corner'",
        ),
        (
            {"kernel": "pillow-bicubic", "grid": "corner"},
            "grid: expected 'centred' for 'pillow-bicubic', got 'corner'; leave the grid out",
        ),
    ]
    for options, sentence in cases:
        with pytest.raises(InvalidArgument) as caught:
            SuperResolution(4, 0.02, **options)  # type: ignore[arg-type]
        assert str(caught.value) == sentence
