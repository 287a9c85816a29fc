"""JPEG: the cell of a file, the projection on it, and Pillow's decoder as the judge."""

from __future__ import annotations

import io
import math

import laws
import numpy as np
import pytest
import skimage.data
import torch
from laws import relative_error
from PIL import Image, features
from torch import Tensor

from latino_engine.operators import JPEG, Operator
from latino_engine.operators.parts.jpeg_codec import (
    colour_matrix,
    dct_matrix,
    quantisation_tables,
    to_coefficients,
)

pytestmark = pytest.mark.usefixtures("one_thread")

QUALITIES = (1, 5, 10, 25, 49, 50, 75, 90, 95, 100)
DTYPES = (torch.float32, torch.float64)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))


def photograph(name: str = "chelsea") -> np.ndarray:
    return np.ascontiguousarray(getattr(skimage.data, name)()[:232, :256])


def to_tensor(image: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    tensor = torch.tensor(image, dtype=dtype) / 255
    return tensor[None, None] if image.ndim == 2 else tensor.permute(2, 0, 1)[None]


def pillow_round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return np.array(Image.open(file))


def levels_of(op: JPEG, x: Tensor) -> Tensor:
    return op._levels(x)


@pytest.mark.parametrize("quality", QUALITIES)
def test_the_tables_are_those_pillow_writes(quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, "JPEG", quality=quality, subsampling=0)
    tables = quantisation_tables(quality, 3)
    written = Image.open(file).quantization  # type: ignore[attr-defined]
    assert tables[0].flatten().int().tolist() == list(written[0])
    assert tables[1].flatten().int().tolist() == list(written[1])
    assert torch.equal(tables[1], tables[2])


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", ["chelsea", "astronaut", "coffee"])
def test_decoded_as_pillow_decodes(name: str, quality: int) -> None:
    """Pillow rounds YCbCr to 8 bits before its DCT, which moves a few coefficients by one level.

    So the first generation agrees to 3/255 in the mean square and for 9 pixels in 10. A second one
    starts in the middle of its cells, where nearly nothing moves: 997 in 1000.
    """
    first = pillow_round_trip(photograph(name), quality)
    second = pillow_round_trip(first, quality)
    for before, after, share, rms in (
        (photograph(name), first, 0.92, 3.0),
        (first, second, 0.997, 1.0),
    ):
        ours = JPEG(quality).A(to_tensor(before)).clamp(0, 1)
        error = 255 * (ours - to_tensor(after)).abs()
        assert float(error.square().mean().sqrt()) < rms
        assert float((error <= 3).double().mean()) > share


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_grey_images_use_the_luminance_table(quality: int) -> None:
    image = skimage.data.camera()[:128, :128]
    ours = JPEG(quality).A(to_tensor(image)).clamp(0, 1)
    error = 255 * (ours - to_tensor(pillow_round_trip(image, quality))).abs()
    assert float((error <= 3).double().mean()) > 0.97 and float(error.square().mean().sqrt()) < 1.5


def test_pillow_has_a_jpeg_codec() -> None:
    assert features.check("jpg")


def test_dct_is_orthonormal_and_colour_is_jfif() -> None:
    dct = dct_matrix()
    assert torch.allclose(dct @ dct.T, torch.eye(8, dtype=torch.float64), atol=1e-15)
    expected = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
        dtype=torch.float64,
    )
    assert torch.allclose(colour_matrix(3), expected, atol=1e-6)
    grey = to_coefficients(
        torch.full((1, 3, 8, 8), 0.75, dtype=torch.float64), colour_matrix(3), dct
    )
    assert float(grey[0, 0, 0, 0, 0, 0]) == pytest.approx(8 * (0.75 * 255 - 128))
    assert float(grey.abs().sum()) == pytest.approx(8 * (0.75 * 255 - 128))


@every_dtype
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_projection_laws(channels: int, quality: int, dtype: torch.dtype) -> None:
    op = JPEG(quality)
    x = torch.rand(2, channels, 16, 24, dtype=dtype)
    v = x + 0.3 * torch.randn_like(x)
    y = op.measure(x, seed=1)
    bound = 5e-6 if dtype == torch.float32 else 1e-13
    assert torch.equal(y, op.A(x)) and y.dtype == dtype
    assert torch.equal(levels_of(op, y), levels_of(op, x))
    assert relative_error(op.A(y), y) < bound, "A is idempotent"
    inside = op.prox(v, y, 1e18)
    assert torch.equal(levels_of(op, inside), levels_of(op, y)), "P(v) is quantised to y"
    assert relative_error(op.prox(inside, y, 1e18), inside) < bound, "P is idempotent"
    assert relative_error(op.prox(inside, y, 3.0), inside) < bound, "the cell is left alone"
    assert torch.equal(op.prox(v, y, 0.0), v)
    gamma = torch.tensor([0.5, 7.0], dtype=dtype)
    weight = gamma.reshape(-1, 1, 1, 1)
    expected = (v + weight * inside) / (1 + weight)
    assert relative_error(op.prox(v, y, gamma), expected) < bound
    assert torch.equal(op.initial_estimate(y), y)


def test_the_projection_is_the_nearest_point_of_the_cell() -> None:
    """Clamped where it is outside, untouched where it is inside: by definition, in YCbCr."""
    op, dct, colour = JPEG(30), dct_matrix(), colour_matrix(3)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    v = x + 0.2 * torch.randn_like(x)
    tables = quantisation_tables(30, 3)
    centre = to_coefficients(op.A(x), colour, dct)[0, :, 0, :, 0]
    before = to_coefficients(v, colour, dct)[0, :, 0, :, 0]
    after = to_coefficients(op.prox(v, op.A(x), 1e18), colour, dct)[0, :, 0, :, 0]
    expected = torch.minimum(torch.maximum(before, centre - tables / 2), centre + tables / 2)
    assert float((after - expected).abs().max()) < 1e-6
    assert 5 < int((before != expected).sum()) < 187


@pytest.mark.parametrize("size", [(13, 17), (8, 9), (5, 3)])
def test_sides_that_are_not_multiples_of_8(size: tuple[int, int]) -> None:
    op, x = JPEG(40), torch.rand(2, 3, *size, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, -size[1] % 8, 0, -size[0] % 8), mode="replicate")
    y = op.A(x)
    assert y.shape == x.shape
    assert relative_error(y, op.A(padded)[..., : size[0], : size[1]]) < 1e-12
    full = (slice(None), slice(None), slice(0, size[0] // 8 * 8), slice(0, size[1] // 8 * 8))
    v = torch.rand_like(x)
    inside = op.prox(v, y, 1e18)
    assert bool(torch.isfinite(inside).all())
    if y[full].numel():
        assert torch.equal(op.A(inside)[full].round(decimals=9), y[full].round(decimals=9))


def test_noise_std_is_the_rms_of_a_uniform_error() -> None:
    for quality in (1, 30, 100):
        luminance, chrominance, _ = quantisation_tables(quality, 3).square().mean(dim=(1, 2)) / 12
        expected = math.sqrt(float(luminance + 2 * chrominance) / 3) / 255
        assert JPEG(quality).noise_std == pytest.approx(expected, rel=1e-12)
        assert JPEG(quality, grey=True).noise_std == pytest.approx(math.sqrt(luminance) / 255)
    assert JPEG(100).noise_std == pytest.approx(1 / math.sqrt(12) / 255)


def test_it_is_an_operator_but_not_a_linear_one() -> None:
    op = JPEG(20)
    assert isinstance(op, Operator) and not op.is_linear and op.batch_size is None
    assert op.take(torch.tensor([1, 0])) is op
    y = torch.rand(2, 3, 8, 16)
    assert op.num_observed(y).tolist() == [384.0, 384.0] and op.observed(y) is y
    assert repr(op) == "JPEG(quality=20)"
    with pytest.raises(ValueError) as caught:
        op.A_adjoint(y)
    sentence = "A_adjoint: expected a linear operator, got JPEG, which rounds; use prox instead"
    assert str(caught.value) == sentence


def test_purity_copies_and_gradients() -> None:
    op = JPEG(30)
    x = torch.rand(2, 3, 16, 8, dtype=torch.float64)
    y = op.A(x)
    laws.check_copies(op, x)
    kept = x.clone(), y.clone()
    v = (x + 0.2 * torch.randn_like(x)).requires_grad_()
    gamma = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    op.prox(v, y, gamma).square().sum().backward()
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    direction = torch.randn_like(x)
    step = 1e-7  # central difference: no coefficient lies this close to a face of its cell
    with torch.no_grad():
        change = op.prox(v + step * direction, y, gamma).square().sum()
        change -= op.prox(v - step * direction, y, gamma).square().sum()
        expected = float(change) / (2 * step)
        change = op.prox(v, y, gamma + step).square().sum()
        change -= op.prox(v, y, gamma - step).square().sum()
    assert v.grad is not None and gamma.grad is not None
    assert float((v.grad * direction).sum()) == pytest.approx(expected, rel=1e-5)
    assert float(gamma.grad.sum()) == pytest.approx(float(change) / (2 * step), rel=1e-5)
