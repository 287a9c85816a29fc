"""Borders, varying blur, Hadamard patterns, colour filters: against loops over pixels, float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from laws import relative_error
from operator_cases import random, random_kernel, symmetric_kernel
from torch import Tensor

from latino_engine.operators import (
    BorderedBlur,
    Colorization,
    Compose,
    CompressedSensing,
    Demosaicing,
    Denoising,
    SpatiallyVaryingBlur,
    Stack,
)

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = 1e-12
MODES = {"reflect": "reflect", "replicate": "nearest"}  # scipy's names


@pytest.mark.parametrize("border", ["reflect", "replicate", "valid"])
@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (2, 5), (1, 6), (7, 9)])
def test_blur_with_borders_is_scipys(border: str, shape: tuple[int, int]) -> None:
    """Kernel pixel (kh//2, kw//2) is the origin, for even sides too."""
    x, kernel = random(1, 2, 9, 11), random_kernel(*shape)
    found = BorderedBlur(kernel, 0.0, border).A(x)  # type: ignore[arg-type]
    mode = MODES.get(border, "constant")
    expected = np.stack(
        [scipy.ndimage.convolve(channel, kernel.numpy(), mode=mode) for channel in x[0].numpy()]
    )
    if border == "valid":
        (top, left), (kh, kw) = _before(shape), shape
        expected = expected[:, top : top + 9 - kh + 1, left : left + 11 - kw + 1]
    assert relative_error(found[0], torch.from_numpy(expected)) < EXACT


def _before(shape: tuple[int, int]) -> tuple[int, int]:
    return (shape[0] - 1 - shape[0] // 2, shape[1] - 1 - shape[1] // 2)


@pytest.mark.parametrize("border", ["reflect", "replicate", "valid"])
def test_borders_by_a_loop_over_pixels(border: str) -> None:
    x, kernel = random(1, 1, 5, 6), random_kernel(4, 3)
    found = BorderedBlur(kernel, 0.0, border).A(x)[0, 0]  # type: ignore[arg-type]
    height, width, (kh, kw) = 5, 6, kernel.shape
    (top, left), shape = (_before((4, 3)), found.shape) if border == "valid" else ((0, 0), (5, 6))
    expected = torch.zeros(shape, dtype=torch.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            for a in range(kh):
                for b in range(kw):
                    row, column = i + top - (a - kh // 2), j + left - (b - kw // 2)
                    if border == "reflect":
                        row = -1 - row if row < 0 else row
                        row = 2 * height - 1 - row if row >= height else row
                        column = -1 - column if column < 0 else column
                        column = 2 * width - 1 - column if column >= width else column
                    elif border == "replicate":
                        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                    expected[i, j] += kernel[a, b] * x[0, 0, row, column]
    assert relative_error(found, expected) < EXACT


def test_the_cosine_step_is_the_dense_solve() -> None:
    op, gamma = BorderedBlur(symmetric_kernel(5, 3), 0.02), 7.0
    v, y = random(1, 1, 6, 7), random(1, 1, 6, 7, seed=9)
    matrix = dense(op, (1, 6, 7))
    system = gamma * matrix.T @ matrix + torch.eye(42, dtype=torch.float64)
    expected = torch.linalg.solve(system, v.flatten() + gamma * matrix.T @ y.flatten())
    assert relative_error(op.prox(v, y, gamma).flatten(1), expected[None]) < EXACT


def dense(op: object, shape: tuple[int, int, int]) -> Tensor:
    """The matrix of A, one column for each pixel."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return torch.stack([op.A(e[None]).flatten() for e in basis], dim=1)  # type: ignore[attr-defined]


def test_varying_blur_is_a_sum_over_weighted_pixels() -> None:
    """Every pixel is spread by the blend of its tiles' kernels, cos^2 between their centres."""
    kernels, x = random_kernel(2, 3, 3, 4), random(1, 1, 8, 9)
    expected = torch.zeros(8, 9, dtype=torch.float64)
    for i in range(8):
        for j in range(9):
            kernel = torch.zeros(3, 4, dtype=torch.float64)
            for r in range(2):
                for s in range(3):
                    kernel += _share(i, 8, r, 2) * _share(j, 9, s, 3) * kernels[r, s]
            for a in range(3):
                for b in range(4):
                    place = ((i + a - 1) % 8, (j + b - 2) % 9)
                    expected[place] += kernel[a, b] * x[0, 0, i, j]
    assert relative_error(SpatiallyVaryingBlur(kernels, 0.0).A(x)[0, 0], expected) < EXACT


def _share(pixel: int, length: int, tile: int, num_tiles: int) -> float:
    side = length / num_tiles
    centres = [(k + 0.5) * side for k in range(num_tiles)]
    place = min(max(pixel + 0.5, centres[0]), centres[-1])
    distance = abs(place - centres[tile]) / side
    return math.cos(math.pi / 2 * distance) ** 2 if distance < 1 else 0.0


@pytest.mark.parametrize("ordering", ["random", "sequency"])
@pytest.mark.parametrize("size", [(4, 8), (3, 5)])
def test_coefficients_are_rows_of_the_hadamard_matrix(ordering: str, size: tuple[int, int]) -> None:
    op = CompressedSensing(1.0, size, 0.0, ordering, random_signs=False)  # type: ignore[arg-type]
    height, width = (1 << (n - 1).bit_length() for n in size)
    rows, columns = _sylvester(height), _sylvester(width)
    x = random(1, 1, *size)
    padded = torch.zeros(height, width, dtype=torch.float64)
    padded[: size[0], : size[1]] = x[0, 0]
    expected = rows @ padded @ columns / math.sqrt(height * width)
    found = op.coefficients(op.A(x))[0, 0]
    kept = found != 0
    assert int(kept.sum()) == op.num_measurements == size[0] * size[1]
    assert relative_error(found[kept][None], expected[kept][None]) < EXACT
    assert bool(kept[0, 0])  # the mean is always among them
    if ordering == "sequency":  # what is left out changes sign at least as often
        changes = [[_changes(r) / height, _changes(c) / width] for r in rows for c in columns]
        speed = torch.tensor([a * a + b * b for a, b in changes]).reshape(height, width)
        assert kept.all() or float(speed[kept].max()) <= float(speed[~kept].min())


def _sylvester(n: int) -> Tensor:
    """(-1)^popcount(i & j)."""
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n)]
    return torch.tensor(signs, dtype=torch.float64)


def _changes(row: Tensor) -> int:
    return int((row[1:] != row[:-1]).sum())


def test_random_signs_come_before_the_patterns() -> None:
    """D is +1 or -1 at every pixel; with it and without, the same rows are measured."""
    op = CompressedSensing(1.0, (4, 4), 0.0, seed=3)
    plain = CompressedSensing(1.0, (4, 4), 0.0, random_signs=False, seed=3)
    signs = plain.A_adjoint(op.A(torch.ones(1, 1, 4, 4, dtype=torch.float64)))
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    assert 0 < int((signs > 0).sum()) < 16
    x = random(1, 1, 4, 4)
    assert relative_error(op.A(x), plain.A(signs * x)) < EXACT


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_a_mosaic_pixel_by_pixel(pattern: str) -> None:
    x = random(2, 3, 5, 7)
    y = Demosaicing(0.0, pattern).A(x)
    for i in range(5):
        for j in range(7):
            colour = "RGB".index(pattern[2 * (i % 2) + j % 2])
            assert torch.equal(y[:, 0, i, j], x[:, colour, i, j])


def test_grey_is_the_weighted_sum() -> None:
    x = random(2, 3, 4, 5)
    expected = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    assert relative_error(Colorization(0.0).A(x)[:, 0], expected) < EXACT


def test_combinations_are_products_and_stacks_of_matrices() -> None:
    blur, grey = BorderedBlur(random_kernel(3, 3), 0.0), Colorization(0.2)
    first, last = dense(blur, (3, 4, 5)), dense(grey, (3, 4, 5))
    composed = dense(Compose([blur, grey]), (3, 4, 5))
    assert relative_error(composed, last @ first) < EXACT
    stacked = dense(Stack([Denoising(0.1), grey], (3, 4, 5)), (3, 4, 5))
    identity = torch.eye(60, dtype=torch.float64)
    assert relative_error(stacked, torch.cat((identity, 0.5 * last))) < EXACT
