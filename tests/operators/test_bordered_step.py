"""The exact data step of bordered blurs whose kernel is a product; several coils without shifts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

import latino_engine as le
from latino_engine.operators.parts.separable_step import as_product

RNG = np.random.default_rng(0)
MODES = {"reflect": "reflect", "replicate": "nearest"}
KERNELS = {
    "symmetric": np.outer([1.0, 2, 1], [1, 3, 3, 1]) / 32,
    "lopsided": np.outer([4.0, 2, 1, 0.5], [0, 1, 5]) / 45,
    "one column": np.array([[1.0], [2], [4]]) / 7,
}


def dense(kernel: np.ndarray, border: str, size: tuple[int, int]) -> np.ndarray:
    """A by scipy.ndimage, one image of a single pixel after another: (pixels of y, pixels of x)."""
    kh, kw = kernel.shape
    columns = []
    for pixel in np.eye(size[0] * size[1]).reshape(-1, *size):
        if border == "valid":
            full = ndimage.convolve(pixel, kernel, mode="constant")
            above, left = kh - 1 - kh // 2, kw - 1 - kw // 2
            image = full[above : above + size[0] - kh + 1, left : left + size[1] - kw + 1]
        else:
            image = ndimage.convolve(pixel, kernel, mode=MODES[border])
        columns.append(image.ravel())
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("border", ["reflect", "replicate", "valid"])
def test_the_prox_of_a_product_is_that_of_dense_algebra(name, border):
    kernel, size = KERNELS[name], (9, 11)
    op = le.BorderedBlur(kernel, 0.02, border)
    x = torch.from_numpy(RNG.random((1, 2, *size)))
    y = op.A(x)
    matrix = dense(kernel, border, size)
    assert np.allclose(matrix @ x[0, 1].numpy().ravel(), y[0, 1].numpy().ravel(), atol=1e-12)
    v = torch.from_numpy(RNG.random((1, 2, *size)))
    for gamma in (0.0, 1.0, 225.0, 1e6):
        left = np.eye(99) + gamma * matrix.T @ matrix
        right = v.reshape(2, -1).numpy().T + gamma * matrix.T @ y.reshape(2, -1).numpy().T
        wanted = np.linalg.solve(left, right).T.reshape(1, 2, *size)
        assert np.abs(op.prox(v, y, gamma).numpy() - wanted).max() < 1e-7


def test_only_one_product_counts_as_one():
    kernel = torch.from_numpy(RNG.random((5, 7)))
    assert as_product(kernel[None, None]) is None
    assert as_product(torch.outer(kernel[:, 0], kernel[0]).expand(2, 1, 5, 7)) is None
    a, b = as_product(torch.outer(kernel[:, 0], kernel[0])[None, None])
    torch.testing.assert_close(torch.outer(a, b), torch.outer(kernel[:, 0], kernel[0]))


@pytest.mark.parametrize("size", [(8, 9), (7, 6)])
@pytest.mark.parametrize("channels", [1, 2])
def test_several_coils_by_dense_algebra(size, channels):
    """The normal equations of m F(s x), written out with numpy's own transforms."""
    count = size[0] * size[1]
    mask = (RNG.random(size) > 0.4).astype(float)
    maps = RNG.normal(size=(3, *size)) + 1j * RNG.normal(size=(3, *size))

    def forward(x: np.ndarray) -> np.ndarray:
        shifted = np.fft.ifftshift(maps * x, axes=(-2, -1))
        return mask * np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))

    units = [1.0] if channels == 1 else [1.0, 1j]
    basis = [u * e for u in units for e in np.eye(count).reshape(-1, *size)]
    stacked = np.stack([forward(e).ravel() for e in basis], axis=1)
    matrix = np.concatenate([stacked.real, stacked.imag])
    truth, v = RNG.random((2, channels * count))
    y = (matrix @ truth).reshape(2, 3, *size)
    gamma = 5.0
    left = np.eye(channels * count) + gamma * matrix.T @ matrix
    wanted = np.linalg.solve(left, v + gamma * matrix.T @ y.ravel())
    op = le.MRI(mask, 0.02, maps, real_image=channels == 1, tol=1e-10, max_iter=500)
    anchor = torch.from_numpy(v.reshape(1, channels, *size))
    found = op.prox(anchor, torch.from_numpy(y)[None], gamma)
    assert np.abs(found.numpy().ravel() - wanted).max() < 1e-7


def test_max_iter_and_tol_are_heard_where_the_warning_asks_for_them():
    mask, maps = np.ones((8, 8)), RNG.normal(size=(2, 8, 8)) + 0j
    x = torch.rand(1, 1, 8, 8)
    few = le.MRI(mask, 0.02, maps, real_image=True, max_iter=1)
    y = few.measure(x)
    with pytest.warns(UserWarning, match="stopped after 1 iterations.*raise max_iter or tol"):
        few.prox(x, y, 100.0)
    loose = le.MRI(mask, 0.02, maps, real_image=True, max_iter=1, tol=0.9)
    loose.prox(x, y, 100.0)  # warnings are errors in these tests
    assert (loose.for_grey().tol, loose.take(torch.tensor([0])).max_iter) == (0.9, 1)
    with pytest.raises(ValueError, match="tol: expected a number in"):
        le.MRI(mask, 0.02, tol=2.0)
    with pytest.raises(ValueError, match="max_iter: expected at least 1"):
        le.MRI(mask, 0.02, max_iter=0)
