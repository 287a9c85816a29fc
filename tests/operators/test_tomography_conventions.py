"""Where the object turns and the detectors stand: sinograms of scikit-image, and by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage.transform import radon
from torch import Tensor

from latino_engine.errors import InvalidArgument, InvalidType
from latino_engine.operators import Tomography
from latino_engine.operators.spec import parse_operator

pytestmark = pytest.mark.usefixtures("one_thread")

ANGLES = np.array([0.0, 17.0, 45.0, 90.0, 133.0, 171.0])


def blobs(height: int, width: int) -> np.ndarray:
    """Smooth, lopsided, nearly 0 at the borders: interpolations differ little on it."""
    rng = np.random.default_rng(2)
    image = rng.random((height, width))
    image = scipy.ndimage.gaussian_filter(image * (image > 0.9), 2.0)
    window = np.hanning(height)[:, None] * np.hanning(width)
    return np.asarray(image * window / image.max())


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image)[None, None]


@pytest.mark.parametrize("side", [48, 49])
def test_as_scikit_image_projects(side: int) -> None:
    image = blobs(side, side)
    theirs = radon(image, theta=ANGLES, circle=False).T / side
    ours = {}
    for convention in ("skimage", "centred"):
        op = Tomography(ANGLES, side, 0.01, theirs.shape[1], convention=convention)
        ours[convention] = op.A(as_tensor(image))[0, 0].numpy()
    assert Tomography(ANGLES, side, 0.01, convention="skimage").num_detectors == theirs.shape[1]
    assert distance(ours["skimage"], theirs) < 0.01
    if side % 2 == 0 or theirs.shape[1] % 2 == 0:
        assert distance(ours["centred"], theirs) > 0.05, "half a pixel away"


@pytest.mark.parametrize("shape", [(40, 56), (57, 38)])
def test_scikit_image_on_other_shapes(shape: tuple[int, int]) -> None:
    image = blobs(*shape)
    theirs = radon(image, theta=ANGLES, circle=False).T / max(shape)
    op = Tomography(ANGLES, shape, 0.01, convention="skimage")
    ours = op.A(as_tensor(image))[0, 0].numpy()
    assert ours.shape == theirs.shape and distance(ours, theirs) < 0.01


def test_a_reconstruction_of_their_sinogram_lies_on_the_image() -> None:
    image, theta = blobs(64, 64), np.arange(0.0, 180.0, 2.0)
    y = as_tensor(radon(image, theta=theta, circle=False).T / 64)
    errors = {}
    for convention in ("skimage", "centred"):
        op = Tomography(theta, 64, 0.002, y.shape[3], convention=convention)
        errors[convention] = distance(op.initial_estimate(y)[0, 0].numpy(), image)
    assert errors["skimage"] < 0.02 < 0.1 < errors["centred"]


@pytest.mark.parametrize("detector_offset", [0.0, 2.75, -1.5])
@pytest.mark.parametrize("centre", [None, (10.0, 14.0), (12.3, 8.6)])
@pytest.mark.parametrize("convention", ["centred", "skimage", "astra"])
def test_the_centre_of_mass_moves_as_the_geometry_says(
    convention: str, centre: tuple[float, float] | None, detector_offset: float
) -> None:
    """The mean detector of each projection is that of the image's centre of mass."""
    image = blobs(24, 20)
    detectors = 61
    op = Tomography(
        ANGLES,
        (24, 20),
        0.01,
        detectors,
        convention=convention,
        rotation_centre=centre,
        detector_offset=detector_offset,
    )
    sinogram = op.A(as_tensor(image))[0, 0].numpy()
    found = sinogram @ np.arange(detectors) / sinogram.sum(axis=1)
    cy, cx = centre or ((12, 10) if convention == "skimage" else (11.5, 9.5))
    row, column = scipy.ndimage.center_of_mass(image)
    a = np.radians(ANGLES)
    expected = (column - cx) * np.cos(a) - (row - cy) * np.sin(a) + 30 + detector_offset
    assert np.abs(found - expected).max() < 0.02
    assert np.allclose(sinogram.sum(axis=1), image.sum() / 24, rtol=0.01)


def test_number_of_detectors() -> None:
    for height, width in ((64, 64), (65, 65), (30, 41)):
        number = {
            name: Tomography(5, (height, width), 0.01, convention=name).num_detectors
            for name in ("centred", "skimage", "astra")
        }
        diagonal = math.ceil(math.hypot(height, width))
        assert number["astra"] == diagonal
        assert number["centred"] == diagonal + (diagonal - width) % 2
        assert number["skimage"] == radon(np.zeros((height, width)), [0.0], circle=False).shape[0]


@pytest.mark.parametrize("convention", ["centred", "skimage", "astra"])
def test_take_and_the_command_line_keep_the_geometry(convention: str) -> None:
    noise = torch.tensor([0.01, 0.02])
    op = Tomography(
        7, 16, noise, convention=convention, rotation_centre=(7.0, 8.0), detector_offset=0.5
    )
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    taken = op.take(torch.tensor([1]))
    assert torch.equal(taken.A(x[1:]), op.A(x)[1:])
    fresh = Tomography(
        7, 16, 0.02, convention=convention, rotation_centre=(7.0, 8.0), detector_offset=0.5
    )
    assert torch.equal(fresh.A(x[1:]), op.A(x)[1:])
    written = parse_operator(f"tomography:angles=7,convention={convention}", 0.01, (16, 16))
    assert torch.equal(written.A(x), Tomography(7, 16, 0.01, convention=convention).A(x))


@pytest.mark.parametrize(
    "angles",
    [
        np.linspace(0, np.pi, 60, endpoint=False),
        np.linspace(0, np.pi, 7),
        np.linspace(-np.pi, np.pi, 90, endpoint=False),
    ],
)
def test_radians_are_refused(angles: np.ndarray) -> None:
    with pytest.raises(InvalidArgument, match=r"^angles: expected degrees, got .*numpy"):
        Tomography(angles, 16, 0.01)
    assert len(Tomography(np.degrees(angles), 16, 0.01).angles) == len(angles)


def test_few_or_narrow_degrees_are_taken() -> None:
    for angles in ([0.0, 3.1], [0.0], [0.0, 1.0, 2.0], np.linspace(0, 10, 21), np.arange(180.0)):
        Tomography(angles, 16, 0.01)


def test_sentences() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Tomography(5, 16, 0.01, convention="tomopy")
    assert str(caught.value) == (
        "convention: expected 'centred' or 'skimage' or 'astra', got 'tomopy'; "
        "'centred' and rotation_centre describe any other"
    )
    for options in ({"rotation_centre": 3.0}, {"detector_offset": "1"}):
        with pytest.raises(InvalidType):
            Tomography(5, 16, 0.01, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        Tomography(5, 16, 0.01, detector_offset=math.inf)
