"""The engine as a reconstructor of deepinv, under the tests, evaluation and losses of deepinv."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

deepinv = pytest.importorskip("deepinv", reason="peers: run make test-peers")
sys.path.insert(0, str(Path(__file__).parents[1]))

from deepinv import physics as dinv  # noqa: E402
from deepinv.tests.dummy import DummyCircles  # noqa: E402
from deepinv.tests.test_physics import find_operator  # noqa: E402
from laws import relative_error  # noqa: E402
from tiny import tiny_prior  # noqa: E402

import latino_engine as le  # noqa: E402
from latino_engine.interop.deepinv import Reconstructor  # noqa: E402

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SIGMA, SIZE = 0.05, (3, 16, 24)
#: What deepinv's own tests call them -> channels of the image.
OPERATORS = {
    "deblur_circular": (1, 3),
    "deblur_valid": (3,),
    "fftdeblur": (1, 2, 3),
    "super_resolution_circular": (1, 3),
    "super_resolution_reflect": (3,),
    "inpainting": (1, 2, 3),
    "demosaicing": (3,),
    "denoising": (1, 2, 3),
    "MRI": (2,),
    "MultiCoilMRI": (2,),
    "2DParallelBeamCT": (1,),
    "CS": (1,),
    "singlepixel": (3,),
    "colorize": (3,),
    "composition": (3,),
    "space_deblur_circular": (3,),
    "VirtualLinearPhysics": (3,),
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[int, le.Engine]:
    folder = tmp_path_factory.mktemp("engines")
    return {
        channels: le.compile(
            tiny_prior(channels), folder / f"{channels}.engine", backend="torch", image_size=16
        )
        for channels in (1, 2, 3)
    }


def _set_noise(physics: dinv.Physics) -> None:
    """As deepinv's test of restoration networks does."""
    for part in physics.modules():
        if isinstance(part, dinv.Physics) and hasattr(part, "noise_model"):
            part.noise_model = dinv.GaussianNoise(SIGMA)


@pytest.mark.parametrize(
    ("name", "channels"), [(name, c) for name, many in OPERATORS.items() for c in many]
)
def test_the_physics_of_deepinvs_own_tests(name: str, channels: int, engines: dict) -> None:
    """As test_restoration_models of deepinv/tests/test_models.py, which is run for its networks."""
    side = 17 if name == "2DParallelBeamCT" else 21  # odd sides; that one is square
    physics, size, _, dtype = find_operator(name, "cpu", imsize=(channels, 17, side))
    _set_noise(physics)
    data = torch.utils.data.DataLoader(DummyCircles(2, imsize=size), batch_size=2)
    x = next(iter(data))["x"].to(dtype)
    y = physics(x)
    model = Reconstructor(engines[channels], num_samples=2, steps=2)
    x_hat = model(y, physics)
    assert x_hat.shape == x.shape and x_hat.dtype == x.dtype
    assert bool(torch.isfinite(x_hat).all()) and not x_hat.requires_grad
    expected = engines[channels].sample(y, physics, 2, steps=2).mean
    assert relative_error(x_hat, expected) < 1e-6


def test_complex_measurements(engines: dict) -> None:
    """The adjoint over real images is the real part."""
    torch.manual_seed(0)
    matrix = torch.randn(200, 256, dtype=torch.complex64) / 16
    physics = dinv.LinearPhysics(
        A=lambda x: x.flatten(1).to(torch.complex64) @ matrix.T,
        A_adjoint=lambda y: (y @ matrix.conj()).reshape(-1, 1, 16, 16),
        noise_model=dinv.GaussianNoise(SIGMA),
    )
    y = physics.A(torch.rand(2, 1, 16, 16))
    stacked = torch.cat([matrix.real, matrix.imag])
    real = le.LinearOperator(
        lambda x: x.flatten(1) @ stacked.T,
        lambda y: (y @ stacked).reshape(-1, 1, 16, 16),
        SIGMA,
    )
    found = engines[1].sample(y, physics, 2, steps=2)
    expected = engines[1].sample(torch.cat([y.real, y.imag], dim=1), real, 2, steps=2)
    assert relative_error(found.samples, expected.samples) < 1e-4
    assert relative_error(found.residual_chi2, expected.residual_chi2) < 1e-4
    x_hat = Reconstructor(engines[1], 2, steps=2)(y, physics)
    assert x_hat.dtype == torch.float32 and relative_error(x_hat, found.mean) < 1e-6


@pytest.mark.parametrize("name", ["3DMRI", "DynamicMRI", "3Ddeblur_valid", "cassi-ss"])
def test_what_is_no_image_is_refused(name: str, engines: dict) -> None:
    size = (3, 16, 21) if name == "cassi-ss" else None  # with three bands no adjoint there
    physics, size, _, _ = find_operator(name, "cpu", imsize=size)
    _set_noise(physics)
    y = physics(torch.rand(2, *size))
    sentence = {
        "3DMRI": "op: expected images, got a three_d physics; sample the volume slice by slice",
        "DynamicMRI": r"A_adjoint\(y\): expected a tensor \(2, C, H, W\), got \(2, 2, 5, 17, 11\)",
        "3Ddeblur_valid": r"A_adjoint\(y\): expected .* \(2, C, H, W\), got \(2, 1, 7, 6, 8\)",
        "cassi-ss": r"A_adjoint: expected the adjoint of A, so that .* of it for x = A_adjoint",
    }
    with pytest.raises(ValueError, match=f"^{sentence[name]}"):
        Reconstructor(engines[size[0]], 1, steps=1)(y, physics)


def _evaluate(model: torch.nn.Module, physics: object, x: Tensor, **options: object) -> dict:
    data = torch.utils.data.DataLoader(_Images(x), batch_size=2)
    return deepinv.test(
        model, data, physics, verbose=False, show_progress_bar=False, **options
    )  # fmt: skip


class _Images(torch.utils.data.Dataset):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


PHYSICS = {
    "inpainting": lambda: dinv.Inpainting(SIZE, mask=0.5, noise_model=dinv.GaussianNoise(SIGMA)),
    "photons": lambda: dinv.Denoising(dinv.PoissonNoise(0.05)),
    "counts": lambda: dinv.Denoising(dinv.PoissonNoise(0.05, normalize=False)),
    "stacked": lambda: dinv.stack(
        dinv.Denoising(dinv.GaussianNoise(0.1)),
        dinv.Inpainting(SIZE, mask=0.5, noise_model=dinv.GaussianNoise(SIGMA)),
    ),
    "several": lambda: [
        dinv.Denoising(dinv.GaussianNoise(0.1)),
        dinv.Inpainting(SIZE, mask=0.5, noise_model=dinv.GaussianNoise(SIGMA)),
    ],
}


@pytest.mark.parametrize("name", PHYSICS)
def test_evaluation(name: str, engines: dict) -> None:
    """PSNR of deepinv.test, measurements made on the way, the last batch smaller."""
    physics = PHYSICS[name]()
    x = torch.rand(3, *SIZE)
    model = Reconstructor(engines[3], num_samples=1, steps=2)
    options = {"online_measurements": True, "compare_no_learning": name == "inpainting"}
    if name == "several":
        data = [torch.utils.data.DataLoader(_Images(x), batch_size=2) for _ in physics]
        found = deepinv.test(
            model, data, physics, verbose=False, show_progress_bar=False, **options
        )
    else:
        found = _evaluate(model, physics, x, **options)
    assert all(torch.isfinite(torch.tensor(v)) for k, v in found.items() if k.startswith("PSNR"))


def test_evaluation_with_new_parameters_for_every_batch(engines: dict) -> None:
    """The reconstructor is given the mask that the generator drew, one for each image."""
    generator = dinv.generator.BernoulliSplittingMaskGenerator(SIZE, split_ratio=0.5)
    physics = dinv.Inpainting(SIZE, noise_model=dinv.GaussianNoise(SIGMA))
    seen: list[Tensor] = []

    class _Seen(Reconstructor):
        def forward(self, y: Tensor, physics: torch.nn.Module) -> Tensor:
            seen.append(physics.mask.clone())
            return super().forward(y, physics)

    model = _Seen(engines[3], num_samples=1, steps=1)
    found = _evaluate(
        model,
        physics,
        torch.rand(4, *SIZE),
        online_measurements=True,
        physics_generator=generator,
        metrics=[deepinv.metric.PSNR(), deepinv.metric.MSE()],
    )
    assert len(seen) == 2 and seen[0].shape[0] == 2 and not torch.equal(seen[0], seen[1])
    assert found["PSNR"] > 0.0 and found["MSE"] > 0.0


def test_gradients_are_off(engines: dict) -> None:
    physics = dinv.Denoising(dinv.GaussianNoise(SIGMA))
    y = physics(torch.rand(2, *SIZE)).requires_grad_(True)
    model = Reconstructor(engines[3], num_samples=1, steps=2).train()
    with torch.enable_grad():
        x_hat = model(y, physics)
    assert not x_hat.requires_grad and x_hat.grad_fn is None and y.grad is None
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(model(y, physics), x_hat)


def test_it_has_no_weights_to_move_or_save(engines: dict) -> None:
    model = Reconstructor(engines[3], num_samples=1, steps=2)
    assert not model.state_dict() and not list(model.buffers())
    model.load_state_dict({})
    physics = dinv.Denoising(dinv.GaussianNoise(SIGMA))
    y = physics(torch.rand(2, *SIZE))
    x_hat = model(y, physics)
    assert torch.equal(model.to("cpu", torch.float64).eval()(y, physics), x_hat)
    assert torch.equal(copy.copy(model)(y, physics), x_hat)
    turned = y.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # another layout in memory
    assert torch.equal(model(turned, physics), x_hat)


def test_deepinvs_wrappers_and_losses_take_it(engines: dict) -> None:
    """An average over rotations, and scores that call the model again on other measurements."""
    physics = dinv.Inpainting(SIZE, mask=0.5, noise_model=dinv.GaussianNoise(SIGMA))
    x = torch.rand(2, *SIZE)
    y = physics(x)
    model = Reconstructor(engines[3], num_samples=1, steps=2)
    turned = deepinv.models.EquivariantReconstructor(
        model, transform=deepinv.transform.Reflect(dim=[-1])
    )
    x_hat = turned.eval()(y, physics)
    assert x_hat.shape == x.shape and bool(torch.isfinite(x_hat).all())
    scores = {
        "SURE": deepinv.loss.SureGaussianLoss(SIGMA),
        "EI": deepinv.loss.EILoss(deepinv.transform.Shift()),
        "MC": deepinv.loss.MCLoss(),
    }
    for name, score in scores.items():
        found = score(x=x, x_net=model(y, physics), y=y, physics=physics, model=model)
        assert bool(torch.isfinite(found).all()), name
    split = deepinv.loss.SplittingLoss(split_ratio=0.7).adapt_model(model)
    assert split.eval()(y, physics).shape == x.shape


def test_wrong_measurements_are_refused_in_one_sentence(engines: dict) -> None:
    model = Reconstructor(engines[3], num_samples=1, steps=1)
    physics = dinv.Denoising(dinv.GaussianNoise(SIGMA))
    with pytest.raises(ValueError, match=r"^y: expected 3 channels, as the prior 'tiny' has, got"):
        model(torch.rand(2, 1, 16, 24), physics)
    with pytest.raises(ValueError, match=r"^y: expected \(B, 3, H, W\) float32, got \(3, 16, 24\)"):
        model(torch.rand(*SIZE), physics)
    mixed = dinv.Denoising(dinv.PoissonGaussianNoise(0.1, 0.1))
    with pytest.raises(TypeError) as caught:
        model(torch.rand(2, *SIZE), mixed)
    assert str(caught.value) == (
        "op.noise_model: expected GaussianNoise, PoissonNoise or ZeroNoise, got "
        "PoissonGaussianNoise; approximate it by physics.set_noise_model(GaussianNoise(sigma))"
    )
    both = dinv.stack(physics, dinv.Denoising(dinv.PoissonNoise(0.1)))
    with pytest.raises(TypeError) as caught:
        model(both(torch.rand(2, *SIZE)), both)
    assert str(caught.value) == (
        "op[1].noise_model: expected GaussianNoise or ZeroNoise in a stack, got PoissonNoise; "
        "sample it by itself, or approximate it by GaussianNoise"
    )
    phases = dinv.RandomPhaseRetrieval(50, SIZE)
    both, y = dinv.stack(physics, phases), [torch.rand(2, *SIZE), torch.rand(2, 50)]
    with pytest.raises(TypeError, match=r"^op: expected a linear deepinv physics, got RandomPhase"):
        model(y, both)


def test_through_onnxruntime(tmp_path: Path) -> None:
    """Another runtime behind the same call; threads of a data loader do not matter."""
    engine = le.compile(tiny_prior(3), tmp_path / "a.engine", backend="onnxruntime", image_size=16)
    physics = dinv.Denoising(dinv.GaussianNoise(SIGMA))
    y = physics(torch.rand(2, *SIZE))
    found = Reconstructor(engine, 2, steps=2)(y, physics)
    other = Reconstructor(le.load(tmp_path / "a.engine", backend="torch"), 2, steps=2)(y, physics)
    assert relative_error(found, other) < 1e-4
