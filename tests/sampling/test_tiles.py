"""Tiles: the weights, the exact agreement with the whole image, and how much memory they take."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from allocations import peak_allocated
from laws import relative_error
from tiny import tiny_prior
from torch import Tensor, nn

import latino_engine as le
from latino_engine.cli.program import run as cli
from latino_engine.engine import Engine
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.sampling import network as network_module
from latino_engine.sampling.tiles import (
    Tiles,
    blend_weights,
    denoise_tiles,
    make_tiles,
    tile_starts,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDING = 2e-6  # of a few convolutions, other memory layouts; measured 3e-7
MULTIPLE = 4
RADIUS = 6  # of Convolutional, pixels; asserted below


class Convolutional(nn.Module):
    """Strided and dilated convolutions, a nonlinearity, no normalisation: local, not invariant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 8, 4, stride=4)
        self.outer = nn.Conv2d(14, 3, 3, padding=1)
        self.largest_batch = 0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.largest_batch = max(self.largest_batch, len(x))
        h = torch.tanh(self.inner(x) * (1.0 + sigma[:, None, None, None]))
        low = torch.repeat_interleave(torch.repeat_interleave(self.down(h), 4, -1), 4, -2)
        return self.outer(torch.cat((h, low), dim=1))


class ConvolutionalRuntime(DenoiserRuntime):
    """The same as a runtime of an engine."""

    device = "cpu"

    def __init__(self) -> None:
        self.network = Convolutional()
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        with torch.no_grad():
            return self.network(x, sigma)


@pytest.fixture
def engine(tmp_path):
    manifest = {
        "prior": {"format": 1, **tiny_prior().spec.to_json()},
        "precision": "fp32",
        "max_batch": 5,
        "memory": {"per_pixel": 100.0, "per_pixel_squared": 0.0},
    }
    return Engine(tmp_path, manifest, "torch", ConvolutionalRuntime(), None)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return le.compile(tiny_prior(), tmp_path_factory.mktemp("e") / "tiny.engine", image_size=16)


LENGTHS = [(8, 8), (64, 16), (52, 16), (100, 24), (4, 8), (20, 16), (212, 32)]


@pytest.mark.parametrize(("length", "side"), LENGTHS)
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_the_weights_are_a_partition_of_unity(length, side, quarters):
    overlap = quarters * side // 4 // MULTIPLE * MULTIPLE
    tiles = Tiles(side, overlap, MULTIPLE, 8)
    starts, weights = tile_starts(length, tiles), blend_weights(length, tiles)
    side = min(side, length)
    assert starts[0] == 0 and starts[-1] + side == length
    assert all(start % MULTIPLE == 0 for start in starts)
    gaps = np.diff(starts)
    assert (gaps > 0).all() and (side - gaps >= overlap).all()
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        assert float(weight.min()) >= 0.0
        total[start : start + side] += weight
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-14, rtol=0)


def test_a_seam_is_smooth_and_drops_what_a_border_has_spoilt():
    weights = blend_weights(112, Tiles(64, 16, 4, 8))  # starts 0 and 48
    rise = weights[1, :16]
    assert bool((rise[:4] == 0).all()) and bool((rise[12:] == 1).all())
    steps = rise.diff()
    assert float(steps.min()) >= 0.0 and float(steps.max()) < 0.2
    torch.testing.assert_close(weights[0, 48:], 1.0 - rise, atol=1e-15, rtol=0)


def test_the_radius_of_the_test_network():
    network = Convolutional()
    furthest = 0
    for column in range(40, 44):  # every phase of the stride
        x = torch.randn(1, 3, 80, 80, requires_grad=True)
        network(x, torch.ones(1))[..., 40, column].sum().backward()
        touched = (x.grad.abs().sum(dim=(0, 1, 2)) > 0).nonzero().flatten()
        furthest = max(furthest, *(touched - column).abs().tolist())
    assert 4 <= furthest <= RADIUS


@pytest.mark.parametrize("size", [(64, 96), (33, 71), (128, 20), (61, 200)])
def test_exact_where_the_overlap_covers_the_network(engine, size):
    """overlap / 4 >= radius: the whole image, at the seams too."""
    x, sigma = torch.randn(2, 3, *size), torch.tensor([0.3, 1.0])
    whole = engine.denoise(x, sigma)
    tiled = engine.denoise(x, sigma, make_tiles(48, 24, MULTIPLE, 5))
    assert relative_error(tiled, whole) < ROUNDING


def test_exact_away_from_the_seams_where_it_does_not(engine):
    x = torch.randn(1, 3, 32, 160)
    tiles = make_tiles(32, 8, MULTIPLE, 5)
    wrong = (engine.denoise(x, 0.5, tiles) - engine.denoise(x, 0.5)).abs().amax(dim=(0, 1, 2))
    starts = tile_starts(160, tiles)
    near = torch.zeros(160, dtype=torch.bool)
    for left, right in itertools.pairwise(starts):
        near[right - RADIUS : left + 32 + RADIUS] = True
    assert float(wrong[~near].max()) < 1e-5
    assert float(wrong[near].max()) > 1e-3  # else this test says nothing


def test_a_network_that_shifts_its_grid_would_be_seen(engine):
    """The strided network is not the same off its grid, so starts must be multiples."""
    x = torch.randn(1, 3, 64, 64)
    shifted = engine.denoise(x[..., 2:], 0.5)[..., 10:-10]
    assert relative_error(shifted, engine.denoise(x, 0.5)[..., 12:-10]) > 1e-3


def test_sampling_by_tiles_is_sampling(engine):
    y = torch.rand(2, 3, 64, 88)
    blur = le.Blur.gaussian(1.5, 0.05)
    options = {"num_samples": 2, "seed": 3, "steps": 3}
    whole = engine.sample(y, blur, **options)
    tiled = engine.sample(y, blur, tile=48, overlap=24, **options)
    assert relative_error(tiled.samples.flatten(0, 1), whole.samples.flatten(0, 1)) < 1e-5
    assert tiled.nfe == whole.nfe == 3
    assert {"tile": 48, "overlap": 24}.items() <= tiled.summary().items()
    assert "tile" not in whole.summary()


def test_the_data_step_is_global(engine):
    """A measurement that mixes the whole image is met as well as without tiles."""
    y = torch.rand(1, 3, 64, 64)
    far = le.LinearOperator(lambda x: 0.5 * (x + x.flip(-1)), lambda y: 0.5 * (y + y.flip(-1)), 0.1)
    options = {"num_samples": 1, "steps": 2}
    tiled = engine.sample(y, far, tile=32, overlap=16, **options)
    whole = engine.sample(y, far, **options)
    assert float(tiled.residual_chi2) == pytest.approx(float(whole.residual_chi2), rel=1e-2)


def test_tiles_travel_in_batches(engine):
    runtime = engine.network.runtime
    y = torch.rand(2, 3, 64, 64)
    calls = []
    post = engine.sample(
        y,
        le.Denoising(0.1),
        num_samples=3,
        steps=1,
        tile=32,
        overlap=8,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert {shape[1:] for shape in runtime.shapes} == {(3, 32, 32)}
    assert max(shape[0] for shape in runtime.shapes) == 5  # max_batch
    assert sum(shape[0] for shape in runtime.shapes) == 6 * 9
    assert post.nfe == 1 and calls[-1] == (6, 6)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_batch_of_tiles_changes_nothing(batch):
    network, x = Convolutional(), torch.randn(2, 3, 64, 64)
    sigma = torch.tensor([0.2, 2.0])
    with torch.no_grad():
        expected = denoise_tiles(network, x, sigma, Tiles(32, 8, 4, 100))
        found = denoise_tiles(network, x, sigma, Tiles(32, 8, 4, batch))
    assert network.largest_batch == 18
    assert relative_error(found, expected) < ROUNDING


def test_an_image_of_one_tile_is_not_cut(engine):
    x = torch.randn(3, 3, 31, 30)
    assert torch.equal(engine.denoise(x, 0.5, make_tiles(32, None, 4, 8)), engine.denoise(x, 0.5))


def test_every_runtime_takes_tiles(compiled):
    """The tiny U-Net normalises over its tile, so the images differ; the runtimes must not."""
    y = torch.rand(1, 3, 40, 56)
    found = []
    for backend in ("torch", "onnxruntime"):
        engine = le.load(compiled.folder, backend=backend)
        found.append(engine.sample(y, le.Denoising(0.1), 2, steps=2, tile=24).samples)
        assert found[-1].shape == (2, 1, 3, 40, 56)
    assert relative_error(*found) < 1e-5


def test_an_image_larger_than_memory_is_sampled_by_tiles(engine, monkeypatch):
    whole = 100 * 512 * 512 + 12 * 4 * 3 * 512 * 512
    monkeypatch.setattr(network_module, "available_bytes", lambda device: int(0.65 * whole))
    y = torch.rand(1, 3, 512, 512)
    options = {"num_samples": 2, "steps": 1}
    monkeypatch.setattr(engine.network, "memory", {"per_pixel": 400.0, "per_pixel_squared": 0.0})
    with pytest.raises(ValueError) as caught:
        engine.sample(y, le.Denoising(0.1), **options)
    assert str(caught.value).endswith(
        "; let the network see tiles, for example tile=256, or free some memory"
    )
    assert engine.sample(y, le.Denoising(0.1), tile=64, **options).samples.shape[0] == 2
    monkeypatch.setattr(network_module, "available_bytes", lambda device: 10**6)
    with pytest.raises(ValueError, match=r"choose a smaller tile, or free some memory$"):
        engine.sample(y, le.Denoising(0.1), tile=256, **options)


def test_the_batch_of_tiles_follows_the_free_memory(engine, monkeypatch):
    tile, image = 100 * 32 * 32, 12 * 4 * 3 * 256 * 256
    for tiles_free, expected in ((1.5, (1, 1)), (3.5, (1, 3)), (50.0, (1, 5))):
        free = int(2 * (image + tiles_free * tile))
        monkeypatch.setattr(network_module, "available_bytes", lambda device, free=free: free)
        images, tiles = engine.network.tiled_chunk_size(256, 256, Tiles(32, 8, 4, 5))
        assert (images, tiles.batch) == expected


def test_running_out_of_memory_takes_fewer_tiles(engine, monkeypatch):
    y = torch.rand(1, 3, 64, 64)
    expected = engine.sample(y, le.Denoising(0.1), 1, steps=1, tile=32).samples
    runtime = engine.network.runtime

    def scarce(x, sigma):
        if len(x) > 1:
            raise RuntimeError("could not allocate memory")
        return runtime(x, sigma)

    scarce.device = "cpu"
    monkeypatch.setattr(engine.network, "runtime", scarce)
    found = engine.sample(y, le.Denoising(0.1), 1, steps=1, tile=32).samples
    assert relative_error(found[0], expected[0]) < ROUNDING


def test_the_working_set_is_the_tiles(engine, tmp_path):
    """Allocated above the input: the result and some tiles, whatever the size of the image; the
    whole image through the network costs its channels times that.
    """
    tiles = make_tiles(64, None, MULTIPLE, 4)
    above, image = {}, 0
    for side in (640, 1280):
        x, image = torch.rand(1, 3, side, side), 4 * 3 * side**2
        above[side] = peak_allocated(lambda x=x: engine.denoise(x, 0.5, tiles), tmp_path) - image
    whole = peak_allocated(lambda: engine.denoise(x, 0.5), tmp_path) - image
    assert whole > 8 * image  # 150 MB: the network's channels
    assert 0 <= above[1280] < 0.5 * image  # 4 times the pixels, and nothing more than the result
    assert above[1280] - above[640] < 0.1 * image


CASES = {
    "tile type": ({"tile": 32.0}, "tile: expected an integer, got float; give a whole number"),
    "tile multiple": (
        {"tile": 30},
        "tile: expected a multiple of 4, at least 8, as the prior wants, got 30; use 32",
    ),
    "tile small": (
        {"tile": 4},
        "tile: expected a multiple of 4, at least 8, as the prior wants, got 4; use 8",
    ),
    "overlap alone": (
        {"overlap": 8},
        "overlap: expected None without tile, got 8; give tile too, or leave it out",
    ),
    "overlap large": (
        {"tile": 32, "overlap": 32},
        "overlap: expected a multiple of 4 between 0 and 28 for tiles of 32, got 32; "
        "leave it out to have a quarter of the tile",
    ),
    "overlap negative": (
        {"tile": 32, "overlap": -4},
        "overlap: expected a multiple of 4 between 0 and 28 for tiles of 32, got -4; "
        "leave it out to have a quarter of the tile",
    ),
    "overlap multiple": (
        {"tile": 32, "overlap": 6},
        "overlap: expected a multiple of 4 between 0 and 28 for tiles of 32, got 6; "
        "leave it out to have a quarter of the tile",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sentence(engine, name):
    options, sentence = CASES[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        engine.sample(torch.rand(1, 3, 16, 16), le.Denoising(0.1), **options)
    assert str(caught.value) == sentence


def test_the_command_line_takes_tiles(compiled, tmp_path, capsys):
    np.save(tmp_path / "y.npy", np.random.default_rng(0).random((3, 40, 40), dtype=np.float32))
    arguments = ["sample", str(compiled.folder), str(tmp_path / "y.npy"), "--operator", "denoise"]
    arguments += ["--steps", "1", "--num-samples", "1", "-o", str(tmp_path / "out"), "--json"]
    assert cli([*arguments, "--tile", "24", "--overlap", "8"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["tile"], report["overlap"]) == (24, 8)
    assert cli([*arguments, "--tile", "25"]) == 2
    assert capsys.readouterr().err == (
        "error: tile: expected a multiple of 4, at least 8, as the prior wants, got 25; use 28\n"
    )
