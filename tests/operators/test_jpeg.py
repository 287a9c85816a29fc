"""JPEG: the cell of a file, the projection on it, and Pillow's decoder as the judge."""

from __future__ import annotations

import io
from pathlib import Path

import laws
import numpy as np
import pytest
import scipy.fft
import scipy.optimize
import skimage.data
import torch
from laws import relative_error
from PIL import Image, features
from torch import Tensor

import latino_engine
from latino_engine.errors import ImageUnreadable
from latino_engine.operators import JPEG, Operator
from latino_engine.operators.parts.jpeg_codec import (
    colour_matrix,
    dct_matrix,
    quantisation_tables,
    to_coefficients,
)
from latino_engine.operators.parts.jpeg_noise import typical_scales

pytestmark = pytest.mark.usefixtures("one_thread")

#: JFIF 1.02.
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
ASSETS = Path(latino_engine.__file__).parent / "assets"
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


def asset(name: str) -> np.ndarray:
    """A photograph of the package, (H, W, 3) uint8."""
    return np.array(Image.open(ASSETS / f"{name}.png").convert("RGB"))


def same_levels(op: JPEG, a: Tensor, b: Tensor) -> bool:
    return all(torch.equal(p, q) for p, q in zip(op._levels(a), op._levels(b), strict=True))


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
def test_laws_of_the_cell(channels: int, quality: int, dtype: torch.dtype) -> None:
    op = JPEG(quality)
    x = torch.rand(2, channels, 16, 24, dtype=dtype)
    v = x + 0.3 * torch.randn_like(x)
    y = op.measure(x, seed=1)
    bound = 5e-6 if dtype == torch.float32 else 1e-13
    assert torch.equal(y, op.A(x)) and y.dtype == dtype
    assert same_levels(op, y, x)
    assert relative_error(op.A(y), y) < bound, "A is idempotent"
    gamma = torch.tensor([0.5, 7.0], dtype=dtype)
    for weight in (1e-3, gamma, 1e18):
        assert same_levels(op, op.prox(v, y, weight), y), "the result is quantised to y"
    assert torch.equal(op.prox(v, y, 0.0), v)
    assert torch.equal(op.initial_estimate(y), y)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_the_data_step_is_the_least_of_its_objective(subsampling: str) -> None:
    """Beside a bounded least-squares solver on one unit of the file, with the law's moments by
    numerical integration of the Laplacian.
    """
    op = JPEG(30, subsampling=subsampling)
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64) * 0.6 + 0.2
    y, v = op.A(x), x + 0.1 * torch.randn_like(x)
    op, gamma = op.for_measurement(y), 3.0
    found = op.prox(v, y, gamma)
    down, across = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}[subsampling]
    for channel in range(3):
        steps = (down, across) if channel else (1, 1)
        encoded, target, result = (coefficients(p, channel, steps) for p in (x, v, found))
        q = quantisation_tables(30, 3)[channel].numpy()
        levels = np.round(encoded / q)
        # on (c - c_y)^2 and on (c - c_v)^2, where a mean moves all its pixels
        pull = gamma * (255 * op.noise_std) ** 2 / errors_by_search(levels, q, channel)
        metric = steps[0] * steps[1] / (YCBCR[channel] ** 2).sum()
        best = (pull * q * levels + metric * target) / (pull + metric)
        best = np.clip(best, q * (levels - 0.5), q * (levels + 0.5))
        assert np.abs(result - best).max() < 0.1, channel  # of a step of 18 to 200
        assert np.abs(result - target).max() > 1.0, channel
        moved = 255 * np.einsum("c,chw->hw", YCBCR[channel], (found - v)[0].numpy())
        means = moved.reshape(16 // steps[0], steps[0], -1, steps[1]).mean(axis=(1, 3))
        assert np.abs(moved - np.kron(means, np.ones(steps))).max() < 1e-4, "only the means"


def coefficients(image: Tensor, channel: int, steps: tuple[int, int]) -> np.ndarray:
    """DCT of the 8 x 8 blocks of one component's means, (R, S, 8, 8), levels of 0..255."""
    plane = 255 * np.einsum("c,chw->hw", YCBCR[channel], image[0].numpy()) - 128 * (channel == 0)
    rows, columns = (side // step for side, step in zip(plane.shape, steps, strict=True))
    means = plane.reshape(rows, steps[0], columns, steps[1]).mean(axis=(1, 3))
    blocks = means.reshape(rows // 8, 8, columns // 8, 8).transpose(0, 2, 1, 3)
    return np.asarray(scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho"))


def errors_by_search(levels: np.ndarray, q: np.ndarray, channel: int) -> np.ndarray:
    """E (c - c_y)^2 of every entry, (8, 8): the scale by a search for the largest likelihood of the
    levels and of four typical blocks, the error by integrating over 300 cells.
    """
    found = np.zeros((8, 8))
    for u, v in np.ndindex(8, 8):
        step, size = q[u, v], np.abs(levels[..., u, v]).ravel()
        usual = np.exp(-step / (2 * float(typical_scales(3)[channel, u, v])))
        zeros, ones = (size == 0).sum() + 4 * (1 - usual), (size > 0).sum() + 4 * usual
        total = size.sum() + 4 * usual / (1 - usual**2)

        def loss(log_b: float, counts: tuple[float, ...] = (step, zeros, ones, total)) -> float:
            step, zeros, ones, total = counts
            t = np.exp(-step / (2 * np.exp(log_b)))
            more = (2 * total - ones) * np.log(t) + ones * np.log1p(-t * t)
            return float(-zeros * np.log1p(-t) - more)

        bounds = (np.log(step / 60), np.log(step * 100))
        options = {"xatol": 1e-10, "maxiter": 2000}
        search = scipy.optimize.minimize_scalar(
            loss, bounds=bounds, method="bounded", options=options
        )
        b = np.exp(search.x)
        t = (np.arange(300 * 400) + 0.5) / 400 * step  # one half of the line
        density = np.exp(-t / b)
        error = t - step * np.round(t / step)
        found[u, v] = (density * error**2).sum() / density.sum()
    return found


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


@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=("4:4:4", "4:2:2", "4:2:0"))
@pytest.mark.parametrize("quality", [5, 10, 20, 50, 75, 90, 95])
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_noise_std_is_that_of_the_file(
    name: str, quality: int, subsampling: int, tmp_path: Path
) -> None:
    image, path = asset(name), tmp_path / "photo.jpg"
    Image.fromarray(image).save(path, quality=quality, subsampling=subsampling)
    y = to_tensor(np.array(Image.open(path)))
    measured = float((y - to_tensor(image)).square().mean().sqrt())
    op = JPEG.from_file(path)
    assert op.quality == quality
    assert op.subsampling == ("4:4:4", "4:2:2", "4:2:0")[subsampling]
    fitted = op.for_measurement(y).noise_std
    assert 0.6 < float(fitted) / measured < 1.6
    assert 0.3 < float(op.noise_std) / measured < 3.0, "of a typical photograph"


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (50, 47)])
@pytest.mark.parametrize("subsampling", [1, 2], ids=("4:2:2", "4:2:0"))
def test_subsampled_files_decode_as_pillow_decodes(
    subsampling: int, size: tuple[int, int], tmp_path: Path
) -> None:
    """The second generation, which starts in the middle of its cells; any size."""
    first, second = tmp_path / "first.jpg", tmp_path / "second.jpg"
    image = asset("coffee")[100 : 100 + size[0], 60 : 60 + size[1]]
    Image.fromarray(image).save(first, quality=75, subsampling=subsampling)
    x = np.array(Image.open(first))
    Image.fromarray(x).save(second, quality=75, subsampling=subsampling)
    ours = JPEG.from_file(second).A(to_tensor(x)).clamp(0, 1)
    error = 255 * (ours - to_tensor(np.array(Image.open(second)))).abs()
    assert float((error <= 3).double().mean()) > 0.95 and float(error.square().mean().sqrt()) < 2.5


@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=("4:4:4", "4:2:2", "4:2:0"))
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_the_photograph_lies_in_the_cell_of_its_file(
    quality: int, subsampling: int, tmp_path: Path
) -> None:
    """To one level of 0..255 in a hundred coefficients but one: Pillow rounds YCbCr to 8 bits."""
    image, path = asset("chelsea"), tmp_path / "photo.jpg"
    Image.fromarray(image).save(path, quality=quality, subsampling=subsampling)
    x, op = to_tensor(image), JPEG.from_file(path)
    nearest = op.prox(x, to_tensor(np.array(Image.open(path))), 1e-9)
    assert float((255 * (nearest - x)).abs().quantile(0.98)) < 1.0


def test_tables_of_a_file_that_no_quality_has(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    tables = [[3 + i // 4 for i in range(64)], [5 + i // 3 for i in range(64)]]
    Image.fromarray(asset("chelsea")).save(path, qtables=tables, subsampling=0)
    op = JPEG.from_file(path)
    assert op.quality is None and op.tables is not None
    assert op.tables[0].flatten().tolist() == tables[0]
    assert op.tables[1].flatten().tolist() == op.tables[2].flatten().tolist() == tables[1]
    y = to_tensor(np.array(Image.open(path)))
    assert relative_error(op.A(y), y) < 5e-3
    assert repr(op) == "JPEG(tables of a file)"


def test_grey_files(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpg"
    Image.fromarray(asset("chelsea")).convert("L").save(path, quality=30)
    op = JPEG.from_file(path)
    assert op.grey and op.quality == 30
    y = to_tensor(np.array(Image.open(path)))
    assert relative_error(op.A(y), y) < 5e-3


def test_files_that_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(asset("chelsea"))
    for name, mode, more, sentence in (
        ("cmyk", "CMYK", {}, "file: expected a grey or a YCbCr JPEG"),
        ("turned", "RGB", {"exif": turned_exif()}, "file: expected a JPEG that stands upright"),
    ):
        image.convert(mode).save(tmp_path / f"{name}.jpg", **more)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=sentence):
            JPEG.from_file(tmp_path / f"{name}.jpg")
    image.save(tmp_path / "image.png")
    for missing in ("image.png", "none.jpg"):
        with pytest.raises(ImageUnreadable, match="expected a JPEG file"):
            JPEG.from_file(tmp_path / missing)


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_noise_levels_of_several_files() -> None:
    x = torch.stack([to_tensor(asset(name)[:64, :64])[0] for name in ("chelsea", "coffee")])
    op = JPEG(20)
    y = op.A(x)
    both = op.for_measurement(y)
    assert isinstance(both.noise_std, Tensor) and both.batch_size == 2
    for i in range(2):
        one = op.for_measurement(y[i : i + 1])
        assert one.noise_std == pytest.approx(float(both.noise_std[i]))
        taken = both.take(torch.tensor([i]))
        found = taken.prox(x[i : i + 1], y[i : i + 1], 2.0)
        assert relative_error(found, both.prox(x, y, 2.0)[i : i + 1]) < 1e-12


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
