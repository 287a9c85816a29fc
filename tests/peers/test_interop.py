"""deepinv's physics in `sample`, and the engine inside deepinv."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

deepinv = pytest.importorskip("deepinv", reason="peers: run make test-peers")
sys.path.insert(0, str(Path(__file__).parents[1]))

from deepinv import physics as dinv  # noqa: E402
from laws import check_adjoint, relative_error  # noqa: E402
from tiny import tiny_prior  # noqa: E402

import latino_engine as le  # noqa: E402
from latino_engine.interop.deepinv import Reconstructor, to_physics  # noqa: E402
from latino_engine.interop.physics import PhysicsOperator, from_physics  # noqa: E402

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning:deepinv"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SIGMA, SIZE = 0.05, (3, 16, 24)
NOISE = dinv.GaussianNoise(SIGMA)
ROUNDING = 2e-6  # relative, float32 against float32, other FFTs; measured 4e-7
ADJOINT = 1e-6  # of deepinv's own A and A_adjoint in float32


def _random(*shape: int, seed: int = 4) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _mask(*shape: int) -> Tensor:
    return (_random(*shape) > 0.4).float()


def _kernel(*shape: int) -> Tensor:
    kernel = _random(*shape) ** 3
    return kernel / kernel.sum(dim=(-2, -1), keepdim=True)


def _maps() -> Tensor:
    return torch.complex(_random(1, 4, 16, 24), _random(1, 4, 16, 24, seed=5)) / 2


EXACT = {
    "blur": (lambda: dinv.Blur(_kernel(1, 1, 5, 3), "circular", noise_model=NOISE), le.Blur, 3),
    "even blur": (
        lambda: dinv.Blur(_kernel(1, 1, 4, 6), "circular", noise_model=NOISE),
        le.Blur,
        3,
    ),
    "blur by FFT": (
        lambda: dinv.Blur(_kernel(1, 3, 4, 5), "circular", use_fft=True, noise_model=NOISE),
        le.Blur,
        3,
    ),
    "blurs": (lambda: dinv.Blur(_kernel(2, 1, 5, 5), "circular", noise_model=NOISE), le.Blur, 3),
    "BlurFFT": (lambda: dinv.BlurFFT(SIZE, _kernel(1, 1, 5, 4), noise_model=NOISE), le.Blur, 3),
    **{
        f"{filter}, {factor}x": (
            lambda filter=filter, factor=factor: dinv.Downsampling(
                (3, 24, 24), filter=filter, factor=factor, noise_model=NOISE
            ),
            le.SuperResolution,
            3,
        )
        for filter in ("bicubic", "bilinear", "gaussian", "sinc", None)
        for factor in (2, 3)
    },
    "inpainting": (
        lambda: dinv.Inpainting(SIZE, mask=_mask(*SIZE), noise_model=NOISE),
        le.Inpainting,
        3,
    ),
    "inpainting, one mask": (
        lambda: dinv.Inpainting(SIZE, mask=_mask(16, 24), noise_model=NOISE),
        le.Inpainting,
        3,
    ),
    "demosaicing": (lambda: dinv.Demosaicing((16, 24), noise_model=NOISE), le.Inpainting, 3),
    "denoising": (lambda: dinv.Denoising(NOISE), le.Denoising, 3),
    "MRI": (lambda: dinv.MRI(_mask(16, 24), noise_model=NOISE), le.MRI, 2),
    "MRIs": (
        lambda: dinv.MRI(_mask(2, 1, 16, 24).repeat(1, 2, 1, 1), noise_model=NOISE),
        le.MRI,
        2,
    ),
    "coils": (
        lambda: dinv.MultiCoilMRI(_mask(16, 24), _maps(), noise_model=NOISE),
        le.MRI,
        2,
    ),
}

SOLVED = {
    **{
        f"blur, {padding}": (
            lambda padding=padding: dinv.Blur(_kernel(1, 1, 5, 4), padding, noise_model=NOISE),
            SIZE,
        )
        for padding in ("valid", "replicate", "reflect", "constant")
    },
    "downsampling, reflect": (
        lambda: dinv.Downsampling(
            SIZE, filter="bicubic", factor=2, padding="reflect", noise_model=NOISE
        ),
        SIZE,
    ),
    "downsampling, odd sides": (
        lambda: dinv.Downsampling((3, 15, 21), filter="gaussian", factor=2, noise_model=NOISE),
        (3, 15, 21),
    ),
    "tomography": (
        lambda: dinv.Tomography(20, 24, normalize=True, noise_model=NOISE),
        (1, 24, 24),
    ),
    "tomography, circle": (
        lambda: dinv.Tomography(20, 24, circle=True, normalize=True, noise_model=NOISE),
        (1, 24, 24),
    ),
    "compressed sensing": (
        lambda: dinv.CompressedSensing(200, (1, 16, 24), noise_model=NOISE),
        (1, 16, 24),
    ),
    "one pixel": (
        lambda: dinv.SinglePixelCamera(100, (1, 16, 16), noise_model=NOISE),
        (1, 16, 16),
    ),
    "composition": (
        lambda: (
            dinv.BlurFFT(SIZE, _kernel(1, 1, 5, 5), noise_model=NOISE)
            * dinv.Inpainting(SIZE, mask=_mask(*SIZE))
        ),
        SIZE,
    ),
    "a user's": (
        lambda: dinv.LinearPhysics(
            A=lambda x: x[..., 1:] - x[..., :-1],
            A_adjoint=lambda y: (
                torch.nn.functional.pad(y, (1, 0)) - torch.nn.functional.pad(y, (0, 1))
            ),
            noise_model=NOISE,
        ),
        SIZE,
    ),
}


def _close(physics: dinv.LinearPhysics, op: object, x: Tensor) -> None:
    y = torch.randn_like(physics.A(x))
    assert relative_error(op.A(x), physics.A(x)) < ROUNDING
    assert relative_error(op.A_adjoint(y), physics.A_adjoint(y)) < ROUNDING


@pytest.mark.parametrize("name", EXACT)
def test_the_same_model_here_is_the_same(name: str) -> None:
    make, kind, channels = EXACT[name]
    physics = make()
    op = from_physics(physics)
    assert type(op) is kind and op.noise_std == pytest.approx(SIGMA)
    size = (24, 24) if isinstance(physics, dinv.Downsampling) else (16, 24)
    x, v = _random(2, channels, *size), torch.randn(2, channels, *size)
    _close(physics, op, x)
    y = op.observed(physics.A(x) + 0.1)
    if getattr(physics, "filter", y) is None:
        return  # deepinv's prox_l2 of a decimation without filter multiplies by None
    for gamma in (0.5, 30.0):
        expected = physics.prox_l2(v, y, gamma, **_ACCURATE.get(name, {}))
        assert relative_error(op.prox(v, y, gamma), expected) < 3e-5  # deepinv divides by 1 / gamma


_ACCURATE = {
    name: {"solver": "CG", "max_iter": 200, "tol": 1e-7} for name in ("blur", "even blur", "coils")
} | {"blur by FFT": {"solver": "CG", "max_iter": 200, "tol": 1e-7}}
_ACCURATE["blurs"] = _ACCURATE["blur"]


@pytest.mark.parametrize("name", SOLVED)
def test_any_linear_physics_goes_by_its_own_a(name: str) -> None:
    make, size = SOLVED[name]
    physics = make()
    op = from_physics(physics)
    assert type(op) is PhysicsOperator and op.noise_std == pytest.approx(SIGMA)
    x, v = _random(2, *size), torch.randn(2, *size)
    _close(physics, op, x)
    ax = physics.A(x)
    y = torch.randn_like(ax)
    gap = (ax * y).flatten(1).sum(1) - (x * physics.A_adjoint(y)).flatten(1).sum(1)
    assert (
        float((gap.abs() / (ax.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1))).max()) < ADJOINT
    )
    z = op.prox(v, y, 3.0)  # its optimality, by the physics' own operators
    gradient = 3.0 * (physics.A_adjoint(physics.A(z)) - physics.A_adjoint(y)) + z - v
    assert relative_error(gradient + v, v) < 1e-4


@pytest.mark.parametrize("name", ["blur, valid", "blur, reflect", "tomography", "composition"])
def test_the_engines_units_hold_for_any_linear_physics(name: str, engines: dict) -> None:
    """Internally y is 2 y - A(1): an image that fits y exactly stays where it is."""
    make, size = SOLVED[name]
    physics = make()
    physics.set_noise_model(dinv.GaussianNoise(0.02))
    x = 0.25 + 0.5 * _random(1, *size)
    y = physics.A(x)
    from latino_engine.sampling.problem import make_problem

    problem = make_problem(y, physics, engines[size[0]].spec, x, "cpu")
    step = problem.data_step(torch.arange(1))
    kept = step(problem.x_init, 25.0)
    assert relative_error(kept, problem.x_init) < 1e-5
    assert relative_error(problem.x_init, 2.0 * x - 1.0) < 1e-6


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[int, le.Engine]:
    folder = tmp_path_factory.mktemp("engines")
    return {
        channels: le.compile(
            tiny_prior(channels), folder / f"{channels}.engine", backend="torch", image_size=16
        )
        for channels in (1, 2, 3)
    }


@pytest.mark.parametrize("name", [*EXACT, *SOLVED])
def test_sample_takes_physics(name: str, engines: dict) -> None:
    if name in EXACT:
        make, _, channels = EXACT[name]
        size = (channels, 24, 24) if "x" in name.split(", ")[-1] else (channels, 16, 24)
    else:
        make, size = SOLVED[name]
    physics = make()
    x = _random(2, *size)
    torch.manual_seed(0)
    y = physics(x)
    post = engines[size[0]].sample(y, physics, num_samples=2, steps=2)
    assert post.samples.shape == (2, 2, *size)
    assert bool(torch.isfinite(post.samples).all() & torch.isfinite(post.residual_chi2).all())
    if name in EXACT:
        same = engines[size[0]].sample(y, from_physics(physics), num_samples=2, steps=2)
        assert torch.equal(post.samples, same.samples)


def test_tomography_starts_at_its_filtered_back_projection() -> None:
    physics = dinv.Tomography(40, 32, normalize=True, noise_model=dinv.GaussianNoise(0.01))
    x = torch.zeros(1, 1, 32, 32)
    x[..., 10:20, 8:24] = 1.0
    op = from_physics(physics)
    y = physics.A(x)
    assert relative_error(op.initial_estimate(y), x) < 0.25
    start = op.initial_estimate(y)
    assert relative_error(start, x) < relative_error(physics.A_dagger(y), x)


def test_a_physics_is_copied() -> None:
    physics = dinv.Blur(_kernel(1, 1, 5, 5), "valid", noise_model=NOISE)
    op, x = from_physics(physics), _random(1, *SIZE)
    before = op.A(x)
    physics.update(filter=torch.zeros(1, 1, 5, 5))
    assert torch.equal(op.A(x), before)


@pytest.mark.parametrize("padding", ["circular", "valid"])
def test_parameters_and_noise_of_every_image(padding: str, engines: dict) -> None:
    """Image 1 of a batch is sampled as it is alone, under its own kernel and noise level."""
    levels = torch.tensor([0.02, 0.1])
    kernels = _kernel(2, 1, 3, 5)
    physics = dinv.Blur(kernels, padding, noise_model=dinv.GaussianNoise(levels))
    op = from_physics(physics)
    assert op.noise_std.tolist() == pytest.approx(levels.tolist())
    y = physics.A(_random(2, *SIZE))
    options = {"num_samples": 2, "steps": 2}
    whole = engines[3].sample(y, physics, **options)
    alone = dinv.Blur(kernels[1:], padding, noise_model=dinv.GaussianNoise(0.1))
    one = engines[3].sample(y[1:], alone, image_ids=[1], **options)
    assert relative_error(one.samples[:, 0], whole.samples[:, 1]) < 1e-5


def test_noise_levels_of_deepinvs_shape() -> None:
    noise = torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1) * dinv.GaussianNoise(0.1)
    op = from_physics(dinv.Denoising(noise))
    assert op.noise_std.tolist() == pytest.approx([0.2, 0.3])
    assert from_physics(dinv.Blur(_kernel(1, 1, 3, 3), "circular")).noise_std == 0.0


class _Asks(torch.nn.Module):
    """A restoration network of the calling convention (y, physics)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def forward(self, y: Tensor, physics: dinv.Physics) -> Tensor:
        self.seen.append(physics)
        return physics.A_dagger(y)


def test_a_network_as_start_is_given_the_physics_itself(engines: dict) -> None:
    physics = dinv.Blur(_kernel(1, 1, 3, 3), "valid", noise_model=NOISE)
    network = _Asks()
    y = physics(_random(1, *SIZE))
    engines[3].sample(y, physics, num_samples=1, steps=1, init=network)
    assert network.seen == [physics]


def _ram() -> torch.nn.Module:
    return deepinv.models.RAM(in_channels=(3,), pretrained=False).eval()


def test_ram_as_start(engines: dict) -> None:
    """deepinv's own RAM network, random weights: model(y, physics), here as there."""
    model = _ram()
    physics = dinv.Inpainting((3, 32, 32), mask=_mask(3, 32, 32), noise_model=NOISE)
    y = physics(_random(1, 3, 32, 32))
    with torch.no_grad():
        expected = model(y, physics)
    options = {"num_samples": 1, "steps": 1, "sampler": "ud2m", "unfold": 1}
    found = engines[3].sample(y, physics, init=model, **options)
    same = engines[3].sample(y, physics, init=expected, **options)
    assert torch.equal(found.samples, same.samples)
    ours = engines[3].sample(y, from_physics(physics), init=model, **options)
    assert relative_error(ours.samples[0], found.samples[0]) < 1e-4


OURS = {
    "blur": (le.Blur.gaussian(1.2, SIGMA), SIZE),
    "denoising": (le.Denoising(SIGMA), SIZE),
    "coils": (le.MRI(_mask(16, 24), SIGMA, _maps()), (2, 16, 24)),
    "levels": (le.Inpainting(_mask(16, 24), torch.tensor([0.1, 0.2])), SIZE),
}


@pytest.mark.parametrize("name", OURS)
def test_there_and_back(name: str) -> None:
    op, size = OURS[name]
    again = from_physics(to_physics(op, size))
    assert type(again) is type(op)
    x = _random(2, *size)
    assert relative_error(again.A(x), op.A(x)) < ROUNDING
    torch.testing.assert_close(
        torch.as_tensor(again.noise_std), torch.as_tensor(op.noise_std), rtol=1e-6, atol=0
    )


SUMS = {
    "borders": (le.BorderedBlur(_kernel(5, 4), SIGMA), SIZE),
    "varying": (le.SpatiallyVaryingBlur(_kernel(1, 2, 3, 4), SIGMA), SIZE),
    "demosaicing": (le.Demosaicing(SIGMA), SIZE),
    "composition": (
        le.Compose([le.Blur.gaussian(1.0, 0.0), le.Inpainting(_mask(16, 24), SIGMA)]),
        SIZE,
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_any_linear_operator_is_a_physics(name: str) -> None:
    op, size = SUMS[name]
    physics = to_physics(op, size)
    assert float(physics.noise_model.sigma) == pytest.approx(SIGMA)
    x, v = _random(2, *size), torch.randn(2, *size)
    y = torch.randn_like(op.A(x))
    assert torch.equal(physics.A(x), op.A(x))
    assert torch.equal(physics.A_adjoint(y), op.A_adjoint(y))
    found = physics.prox_l2(v, y, 3.0, solver="CG", max_iter=200, tol=1e-7)
    assert relative_error(found, op.prox(v, y, 3.0)) < 1e-4
    assert relative_error(from_physics(physics).A(x), op.A(x)) < ROUNDING


@pytest.mark.parametrize("normalize", [True, False])
def test_poisson_noise(normalize: bool, engines: dict) -> None:
    """The same samples for counts, for normalised counts and for our own operator."""
    noise = dinv.PoissonNoise(torch.tensor([0.02, 0.1]), normalize, clip_positive=True)
    kernel = _kernel(1, 1, 3, 3)
    physics = dinv.Blur(kernel, "circular", noise_model=noise)
    torch.manual_seed(2)
    y = physics(_random(2, *SIZE))
    op = le.PoissonNoise(le.Blur(kernel, 0.0), [50.0, 10.0])
    assert type(from_physics(physics)) is le.PoissonNoise
    gain = 1.0 if normalize else noise.gain.reshape(2, 1, 1, 1)
    options = {"num_samples": 1, "steps": 2}
    found = engines[3].sample(y, physics, **options).samples
    assert relative_error(found, engines[3].sample(gain * y, op, **options).samples) < 1e-5
    again = from_physics(to_physics(op, SIZE))
    assert torch.allclose(again.peak.float(), op.peak.float(), rtol=1e-6)
    alone = dinv.Blur(kernel, "circular", noise_model=dinv.PoissonNoise(0.1, normalize))
    one = engines[3].sample(y[1:], alone, image_ids=[1], **options).samples
    assert relative_error(one[:, 0], found[:, 1]) < 1e-4


def _stacked() -> dinv.Physics:
    blur = dinv.Blur(_kernel(1, 1, 3, 3), "valid", noise_model=NOISE)
    return dinv.stack(
        blur, dinv.Inpainting(SIZE, _mask(*SIZE), noise_model=dinv.GaussianNoise(0.2))
    )


def test_stacked_physics(engines: dict) -> None:
    """The prox weighs every part by its own noise; samples, start and reconstructor take y."""
    physics, x, v = _stacked(), _random(2, *SIZE), torch.randn(2, *SIZE)
    y = physics(x)
    op = from_physics(physics, image_shape=SIZE)
    gamma = 2.0
    z = op.prox(v, op.join(list(y)), gamma)
    weights = (1.0, (SIGMA / 0.2) ** 2)
    pull = sum(w * physics[i].A_adjoint(physics[i].A(z) - y[i]) for i, w in enumerate(weights))
    assert relative_error(gamma * pull + z, v) < 1e-4
    network = _Asks()
    options = {"num_samples": 2, "steps": 2}
    found = engines[3].sample(y, physics, **options)
    same = engines[3].sample(list(y), op, **options)
    assert torch.equal(found.samples, same.samples)
    assert 0.0 < float(found.residual_chi2.max()) < 10.0
    engines[3].sample(y, physics, num_samples=1, steps=1, init=lambda y, p: network(y[1], p[1]))
    assert network.seen == [physics[1]]
    mean = Reconstructor(engines[3], 2, steps=2)(y, physics)
    assert relative_error(mean, found.mean) < 1e-6
    back = to_physics(op, SIZE)
    assert isinstance(back, dinv.StackedLinearPhysics)
    assert relative_error(back.A(x)[0], physics.A(x)[0]) < ROUNDING
    assert relative_error(back.A_adjoint(y), physics.A_adjoint(y)) < ROUNDING


def test_an_operator_that_deepinv_lacks() -> None:
    with pytest.raises(TypeError, match=r"^operator: expected a linear operator, or PoissonNoise"):
        to_physics(le.JPEG(50), SIZE)


class _Images(torch.utils.data.Dataset):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


@pytest.mark.parametrize("online", [True, False])
def test_deepinvs_evaluation_takes_the_reconstructor(engines: dict, online: bool) -> None:
    physics = dinv.Blur(_kernel(1, 1, 5, 5), "circular", noise_model=dinv.GaussianNoise(0.01))
    x = _random(4, *SIZE)
    model = Reconstructor(engines[3], num_samples=2, steps=2)
    torch.manual_seed(1)
    y = physics(x)
    data = _Images(x) if online else torch.utils.data.TensorDataset(x, y)
    found = deepinv.test(
        model,
        torch.utils.data.DataLoader(data, batch_size=2),
        physics,
        metrics=[deepinv.metric.PSNR(), deepinv.metric.SSIM()],
        online_measurements=online,
        verbose=False,
        show_progress_bar=False,
    )
    if online:
        assert torch.isfinite(torch.tensor(found["PSNR"]))
        return
    means = [engines[3].sample(y[i : i + 2], physics, 2, steps=2).mean for i in (0, 2)]
    expected = deepinv.metric.PSNR()(torch.cat(means), x).mean()
    assert found["PSNR"] == pytest.approx(float(expected), rel=1e-3)


def test_the_reconstructor_is_one_of_deepinv(engines: dict) -> None:
    model = Reconstructor(engines[3], estimate="sample", steps=1, seed=7)
    assert isinstance(model, deepinv.models.Reconstructor)
    assert not list(model.parameters())
    physics = dinv.Denoising(NOISE)
    y = physics(_random(2, *SIZE)).double()
    x_hat = model.eval().to("cpu")(y, physics)
    assert x_hat.dtype == y.dtype and x_hat.shape == y.shape
    expected = engines[3].sample(y, physics, 1, seed=7, steps=1).samples[0]
    torch.testing.assert_close(x_hat.float(), expected)
    averaged = Reconstructor(engines[3], 3, steps=1)(y, physics)
    torch.testing.assert_close(
        averaged.float(), engines[3].sample(y, physics, 3, steps=1).mean, atol=1e-6, rtol=0
    )


def test_a_reconstructor_wants_an_engine(engines: dict) -> None:
    with pytest.raises(TypeError, match=r"^engine: expected an engine, got str; load one"):
        Reconstructor("photo.engine")
    with pytest.raises(ValueError, match=r"^estimate: expected one of 'mean', 'sample', got 'map'"):
        Reconstructor(engines[3], estimate="map")


def _rician() -> dinv.Physics:
    return dinv.Denoising(dinv.RicianNoise(0.1))


def _swapped() -> dinv.Physics:
    weights = torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1)
    return dinv.LinearPhysics(
        A=lambda x: weights * x, A_adjoint=lambda y: weights * y, noise_model=NOISE
    )


REFUSED = {
    "noise": (
        _rician,
        "op.noise_model: expected GaussianNoise, PoissonNoise or ZeroNoise, got RicianNoise; "
        "approximate it by physics.set_noise_model(GaussianNoise(sigma))",
    ),
    "phase": (
        lambda: dinv.RandomPhaseRetrieval(50, (1, 8, 8)),
        "op: expected a linear deepinv physics, got RandomPhaseRetrieval; use an operator of this "
        "package, or linearise it as a LinearPhysics",
    ),
    "filter": (
        lambda: dinv.Blur(padding="circular", noise_model=NOISE),
        "op.filter: expected a tensor, got None; set it: physics.update(filter=...)",
    ),
    "mask": (
        lambda: dinv.Inpainting(SIZE, mask=0.5 * torch.ones(SIZE), noise_model=NOISE),
        "mask: expected only 0 and 1, got values in [0.5, 0.5]; threshold it, for instance "
        "mask > 0.5",
    ),
    "volume": (
        lambda: dinv.MRI(torch.ones(2, 4, 8, 8), three_d=True, noise_model=NOISE),
        "op: expected images, got a three_d physics; sample the volume slice by slice",
    ),
    "one for each": (
        _swapped,
        "A: expected the same model for every image, got one that depends on the place of an "
        "image in the batch; sample the images one by one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sentence(name: str, engines: dict) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        engines[3].sample(_random(2, *SIZE), make(), num_samples=1, steps=1)
    assert str(caught.value) == sentence


def test_a_sensor_model_is_refused(engines: dict) -> None:
    physics = dinv.LinearPhysics(sensor_model=lambda y: y.round(), noise_model=NOISE)
    with pytest.raises(ValueError, match=r"^op: expected a deepinv physics without sensor_model"):
        engines[3].sample(_random(1, *SIZE), physics)


def test_adjoints_of_deepinv_are_adjoints() -> None:
    physics = dinv.Blur(_kernel(1, 1, 5, 5), "reflect", noise_model=NOISE)
    check_adjoint(physics, _random(2, *SIZE))
