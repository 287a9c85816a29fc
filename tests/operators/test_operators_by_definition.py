"""Every operator against its definition written out, which no consistent mistake can satisfy."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import skimage.data
import torch
from laws import relative_error
from operator_cases import coil_maps, random, random_kernel, random_mask
from torch import Tensor

from latino_engine import ops
from latino_engine.operators import (
    MRI,
    Blur,
    Denoising,
    Inpainting,
    LinearOperator,
    SuperResolution,
)
from latino_engine.operators.parts.point_spread import (
    bicubic_profile,
    gaussian_kernel,
    motion_kernel,
)
from latino_engine.operators.parts.size_table import SizeTable

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = 1e-12


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """sum_k kernel[k] x[n - (k - centre)], one shifted copy of the image per tap."""
    kh, kw = kernel.shape[-2:]
    result = torch.zeros_like(x)
    for i in range(kh):
        for j in range(kw):
            moved = torch.roll(x, (i - kh // 2, j - kw // 2), dims=(-2, -1))
            result = result + kernel[..., i, j, None, None] * moved
    return result


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 3), (4, 3), (2, 5), (13, 11), (3, 1, 4, 4), (1, 2, 3, 2)]
)
def test_blur_is_a_true_circular_convolution(shape: tuple[int, ...]) -> None:
    x = random(3, 2, 13, 11)
    kernel = random_kernel(*shape) if shape != (1, 1) else torch.ones(1, 1)
    assert relative_error(Blur(kernel, 0.0).A(x), convolved(x, kernel.double())) < EXACT


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_super_resolution_keeps_every_sth_pixel_from_pixel_0(factor: int) -> None:
    x = random(2, 3, 5 * factor, 4 * factor)
    kernel = random_kernel(4, 3)
    expected = convolved(x, kernel)[..., ::factor, ::factor]
    assert relative_error(SuperResolution(factor, 0.0, kernel).A(x), expected) < EXACT


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_kernel_is_keys_cubic(factor: int) -> None:
    """A plain reading of Keys' piecewise cubic with a = -1/2 at (k - 2 s + 1/2) / s."""
    taps = []
    for k in range(4 * factor):
        t = abs((k - 2 * factor + 0.5) / factor)
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        taps.append(near if t <= 1 else far if t < 2 else 0.0)
    profile = np.array(taps) / np.sum(taps)
    np.testing.assert_allclose(bicubic_profile(factor).numpy(), profile, atol=1e-15)
    kernel = SuperResolution(factor, 0.0).kernel[0, 0].numpy()
    np.testing.assert_allclose(kernel, np.outer(profile, profile), atol=1e-15)


@pytest.mark.parametrize("kernel", ["bicubic", "gaussian", "lopsided"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_upsampled_start_is_registered(kernel: str, factor: int) -> None:
    """A wave comes back where it was: the phase of the start is right to 1/50 pixel."""
    lopsided = torch.zeros(7, 7)
    lopsided[5:, 0:2] = 0.25
    op = SuperResolution(factor, 0.02, lopsided if kernel == "lopsided" else kernel)
    n = 8 * factor * 4
    t = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    x = (t.cos()[:, None] + t.cos()[None, :])[None, None]
    rows, columns = op._interpolation(op.A(x))
    spectrum = torch.fft.fft2(rows @ op.A(x) @ columns)[0, 0]
    per_pixel = 2 * torch.pi / n
    assert abs(float(spectrum[1, 0].angle())) < per_pixel / 50
    assert abs(float(spectrum[0, 1].angle())) < per_pixel / 50
    if kernel == "bicubic":
        y = op.A(random(1, 1, n, n))
        adjoint = op.A_adjoint(y) / op.A_adjoint(torch.ones_like(y))
        assert relative_error(rows @ y @ columns, adjoint) < EXACT


def test_the_start_has_the_brightness_of_the_image_whatever_the_kernels_sum() -> None:
    """A kernel of sum 3 triples y; the start does not."""
    op = SuperResolution(2, 0.02, 3.0 * random_kernel(4, 3))
    x = torch.full((1, 2, 12, 16), 0.7, dtype=torch.float64)
    rows, columns = op._interpolation(op.A(x))
    assert relative_error(rows @ op.A(x) @ columns, x) < EXACT


def test_a_kernel_of_sum_zero_still_has_a_finite_start() -> None:
    kernel = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    op = SuperResolution(2, 0.02, kernel)
    assert bool(torch.isfinite(op.initial_estimate(op.A(random(1, 1, 12, 8)))).all())


@pytest.mark.parametrize("std", [0.7, 1.0, 1.6, 3.0, 7.3, 10.0])
def test_gaussian_kernel_has_its_std(std: float) -> None:
    kernel = gaussian_kernel(std)
    side = kernel.shape[0]
    assert side == 2 * int(std / 0.3 + 1) + 1
    n = torch.arange(side, dtype=torch.float64) - side // 2
    assert abs(float(kernel.sum()) - 1) < 1e-14
    assert abs(float((kernel.sum(1) * n).sum())) < 1e-12
    for axis in (0, 1):
        measured = float(torch.sqrt((kernel.sum(axis) * n**2).sum()))
        assert measured == pytest.approx(std, rel=0.005)


def test_an_even_gaussian_does_not_shift_the_image() -> None:
    kernel = gaussian_kernel(1.0, 10)
    n = torch.arange(10, dtype=torch.float64) - 5
    assert abs(float((kernel.sum(1) * n).sum())) < 1e-4


def test_uniform_and_motion_kernels() -> None:
    assert torch.equal(Blur.uniform(4, 0.1).kernel, torch.full((1, 1, 4, 4), 1 / 16).double())
    state = torch.random.get_rng_state()
    for size in (1, 2, 3, 8, 15, 31):
        for seed in range(5):
            kernel = motion_kernel(size, seed)
            assert kernel.shape == (size, size) and float(kernel.min()) >= 0
            assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-12)
            assert torch.equal(kernel, motion_kernel(size, seed))
            centroid = (kernel.sum(1) * torch.arange(size)).sum()
            assert float(centroid) == pytest.approx(size // 2, abs=1e-9 if size != 2 else 1.0)
    assert torch.equal(state, torch.random.get_rng_state())
    kernel = motion_kernel(31, 0)
    touched = int((kernel > 0).sum())
    assert 31 < touched < 31 * 8  # a thin curve from side to side, not a blob and not a dot
    assert not torch.equal(kernel, motion_kernel(31, 1))


@pytest.mark.parametrize("size", [(12, 10), (13, 7), (8, 11)])
def test_mri_is_the_centred_orthonormal_transform(size: tuple[int, int]) -> None:
    x, mask, maps = random(2, 2, *size), random_mask(*size), coil_maps(3, *size)
    image = x[:, 0].numpy() + 1j * x[:, 1].numpy()

    def transform(a: np.ndarray) -> np.ndarray:
        shifted = np.fft.ifftshift(a, axes=(-2, -1))
        return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))

    k = mask.numpy() * transform(image)
    expected = torch.from_numpy(np.stack((k.real, k.imag), axis=1))
    assert relative_error(MRI(mask, 0.0).A(x), expected) < EXACT
    k = mask.numpy() * transform(maps.numpy()[None] * image[:, None])
    expected = torch.from_numpy(np.stack((k.real, k.imag), axis=1))
    assert relative_error(MRI(mask, 0.0, maps).A(x), expected) < EXACT


def test_mri_of_a_constant_lies_in_the_middle_of_k_space() -> None:
    y = MRI(torch.ones(9, 8), 0.0).A(torch.ones(1, 1, 9, 8, dtype=torch.float64))
    assert float(y[0, 0, 4, 4]) == pytest.approx(72**0.5)
    assert float(y.norm()) == pytest.approx(72**0.5)


def test_real_and_complex_mri_agree_on_a_symmetric_mask() -> None:
    """Where m(k) = m(-k), a real image stays real under the complex step."""
    mask = torch.zeros(7, 9)
    mask[2:5, 3:6] = 1
    op = MRI(mask, 0.02)
    v = random(2, 1, 7, 9)
    y = op.measure(random(2, 1, 7, 9))
    y_real = op.A(MRI(mask, 0.0, real_image=True).A_adjoint(y))
    z = op.prox(torch.cat((v, torch.zeros_like(v)), 1), y_real, 3.0)
    assert float(z[:, 1].norm()) < 1e-12
    assert relative_error(z[:, :1], op.prox(v, y_real, 3.0)) < EXACT


def test_the_start_of_a_real_image_counts_each_frequency_once() -> None:
    """Half of k-space determines a real image; the zero-filled one has it at half weight."""
    mask = torch.zeros(9, 11)
    mask[:5] = 1
    mask[4, 6:] = 0
    op = MRI(mask, 0.0, real_image=True)
    x = random(2, 1, 9, 11)
    y = op.A(x)
    assert relative_error(op.A_adjoint(y), x) > 0.4
    assert relative_error(op.initial_estimate(y), x) < 1e-3


def test_one_flat_coil_equals_no_coil() -> None:
    mask, x = random_mask(9, 8), random(2, 2, 9, 8)
    single, coils = MRI(mask, 0.02), MRI(mask, 0.02, torch.ones(1, 9, 8))
    y = single.A(x)
    assert torch.equal(coils.A(x)[:, :, 0], y)
    assert relative_error(coils.prox(x, y[:, :, None], 5.0), single.prox(x, y, 5.0)) < 1e-5
    assert coils.num_observed(y[:, :, None]).tolist() == single.num_observed(y).tolist()


def test_what_is_not_observed_is_never_used() -> None:
    mask = random_mask(12, 10)
    for op, x in (
        (Inpainting(mask, 0.02), random(2, 3, 12, 10)),
        (MRI(mask, 0.02), random(2, 2, 12, 10)),
    ):
        y = op.measure(x)
        hidden = (mask == 0).expand_as(y)
        assert float(y[hidden].abs().max()) == 0.0
        spoilt = torch.where(hidden, torch.full_like(y, float("nan")), y)
        assert torch.equal(op.observed(spoilt), y)
        assert torch.equal(op.A_adjoint(spoilt), op.A_adjoint(y))
        assert torch.equal(op.prox(x, spoilt, 4.0), op.prox(x, y, 4.0))
        assert torch.equal(op.initial_estimate(spoilt), op.initial_estimate(y))
        channels = 3 if isinstance(op, Inpainting) else 2
        assert op.num_observed(y).tolist() == [channels * float(mask.sum())] * 2
        spoilt_x = torch.where(hidden, torch.full_like(x, float("nan")), x)
        if isinstance(op, Inpainting):
            assert torch.equal(op.A(spoilt_x), op.A(x))


def test_filling_keeps_what_is_seen_and_continues_it() -> None:
    rows = torch.linspace(0.2, 0.8, 45, dtype=torch.float64)
    ramp = rows[:, None] + torch.linspace(0.0, 0.1, 31, dtype=torch.float64)
    x = ramp.expand(2, 3, 45, 31).contiguous()
    mask = torch.ones(45, 31)
    mask[8:40, 5:27] = 0  # a large box
    op = Inpainting(mask, 0.0)
    filled = op.initial_estimate(op.A(x))
    seen = mask.expand_as(x) > 0
    assert torch.equal(filled[seen], x[seen])
    assert float((filled - x).abs().max()) < 0.15
    assert float(filled.min()) >= 0.2 - 1e-9 and float(filled.max()) <= 0.9 + 1e-9
    constant = op.initial_estimate(op.A(torch.full_like(x, 0.3)))
    assert float((constant - 0.3).abs().max()) < 1e-12


def test_filling_half_of_a_photograph() -> None:
    """Relative error 0.083 of its contrast; 0.096 without the smoothing, 1 for a constant."""
    x = torch.tensor(skimage.data.chelsea()[:128, :128].copy()).permute(2, 0, 1)[None] / 255
    mask = torch.rand(128, 128) > 0.5
    error = Inpainting(mask, 0.0).initial_estimate(x) - x
    assert float(error.norm() / (x - x.mean()).norm()) < 0.09


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 3), (17, 16)])
def test_filling_from_nothing_is_mid_grey(size: tuple[int, int]) -> None:
    masks = torch.zeros(2, 1, *size)
    masks[1, ..., -1, -1] = 1
    y = torch.full((2, 3, *size), 0.25)
    filled = Inpainting(masks, 0.0).initial_estimate(y)
    assert torch.equal(filled[0], torch.full((3, *size), 0.5))
    assert float((filled[1] - 0.25).abs().max()) < 1e-6


def test_conjugate_gradients_say_when_they_did_not_arrive() -> None:
    scale = torch.linspace(0.1, 30.0, 64).reshape(1, 1, 8, 8)
    op = LinearOperator(lambda x: scale * x, lambda y: scale * y, 0.02, max_iter=3)
    x = torch.rand(2, 1, 8, 8)
    sentence = (
        r"conjugate gradients stopped after 3 iterations at a relative residual of \S+, above "
        r"tol=1e-06; raise max_iter or tol, or check that A_adjoint is the adjoint of A"
    )
    with pytest.warns(UserWarning, match=f"^{sentence}$") as caught:
        op.prox(torch.rand_like(x), op.A(x), 10.0)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match="residual of nan"):
        op.prox(float("nan") * x, op.A(x), 10.0)


def test_conjugate_gradients_stop_at_the_rounding_of_float32() -> None:
    """tol = 1e-12 is more than float32 has: the solve is as close as it can be, and no alarm."""
    scale = torch.linspace(0.0, 3.0, 64).reshape(1, 1, 8, 8)
    v, y = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    exact = (v.double() + 20.0 * scale * y) / (1 + 20.0 * scale.double() ** 2)
    for max_iter, bound in ((150, 1e-6), (75, 5e-5)):  # about 90 iterations reach 1e-12
        op = LinearOperator(
            lambda x: scale * x, lambda y: scale * y, 0.02, tol=1e-12, max_iter=max_iter
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            z = op.prox(v, y, 20.0)
        assert relative_error(z.double(), exact) < bound


def test_a_users_operator_may_measure_anything() -> None:
    """Complex numbers, and one number per image."""
    x = random(3, 2, 6, 5)
    spectrum = LinearOperator(
        lambda x: torch.fft.fft2(x, norm="ortho"),
        lambda y: torch.fft.ifft2(y, norm="ortho").real,
        0.1,
    )
    y = spectrum.measure(x)
    assert y.dtype == torch.complex128 and spectrum.num_observed(y).tolist() == [120.0] * 3
    assert relative_error(spectrum.prox(x, y, 3.0), (x + 3 * spectrum.A_adjoint(y)) / 4) < 1e-6
    total = LinearOperator(
        lambda x: x.sum(dim=(1, 2, 3)), lambda y: y.reshape(-1, 1, 1, 1).expand(-1, 2, 6, 5), 0.1
    )
    y = total.measure(x)
    assert y.shape == (3,) and total.num_observed(y).tolist() == [1.0] * 3
    shift = 2.0 / (1 + 2.0 * 60) * (y - total.A(x))
    assert relative_error(total.prox(x, y, 2.0), x + shift.reshape(-1, 1, 1, 1)) < 1e-6


def test_the_start_of_a_users_operator_has_the_scale_of_the_image() -> None:
    """A = 0.1 I with loud noise, so that the prox hardly moves the start."""
    op = LinearOperator(lambda x: 0.1 * x, lambda y: 0.1 * y, 1.0)
    x = random(2, 1, 6, 5)
    assert relative_error(op.initial_estimate(op.A(x)), x) < 1e-5


def test_measure_draws_its_own_step_of_the_noise() -> None:
    """eps = gaussian_noise(seed, image 0..B-1, sample 0, step 2^32 - 1)."""
    x = torch.zeros(3, 2, 6, 5)
    eps = ops.gaussian_noise(9, [0, 1, 2], [0, 0, 0], 2**32 - 1, (3, 2, 6, 5))
    assert torch.equal(Denoising(0.1).measure(x, seed=9), 0.1 * eps)


def test_noise_of_measure_does_not_depend_on_the_rest_of_the_batch() -> None:
    x = torch.rand(3, 3, 9, 8)
    for op in (Denoising(0.1), Blur.gaussian(0.5, 0.1), Inpainting(torch.ones(9, 8), 0.1)):
        assert relative_error(op.measure(x, 4)[:2], op.measure(x[:2], 4)) < 1e-6
        noise = op.measure(x, 4) - op.A(x)
        assert float(torch.corrcoef(noise.flatten(1))[0, 1].abs()) < 0.3


def test_a_table_is_bounded_and_safe_between_threads() -> None:
    op = Blur(random_kernel(3, 4), 0.02)
    sizes = [(h, w) for h in range(6, 12) for w in range(6, 10)]
    images = [random(1, 1, *size) for size in sizes]
    expected = [convolved(x, op.kernel[0, 0]) for x in images]
    errors: list[float] = []

    def work() -> None:
        errors.extend(relative_error(op.A(x), e) for x, e in zip(images, expected, strict=True))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 4 * len(sizes) and max(errors) < EXACT
    assert len(op._table) == op._table.capacity
    table = SizeTable(2)
    for h in (1, 2, 1, 3):  # 3 drives out 2, the least recently used
        table.get("a", (h, 1), torch.zeros(1), lambda: (torch.zeros(1),))
    kept = table.get("a", (1, 1), torch.zeros(1), lambda: pytest.fail("1 was used last"))
    assert len(table) == 2 and kept is not None


def test_one_operator_serves_both_precisions() -> None:
    op, x = SuperResolution(2, 0.02), random(1, 1, 16, 12)
    for dtype in (torch.float32, torch.float64, torch.float32):
        start = op.initial_estimate(op.A(x.to(dtype)))
        assert start.dtype == dtype
    expected = convolved(x, op.kernel[0, 0])[..., ::2, ::2]
    assert relative_error(op.A(x), expected) < EXACT


def test_an_operator_is_frozen_and_owns_its_parameters() -> None:
    for kernel in (np.full((3, 3), 1 / 9), torch.full((3, 3), 1 / 9, dtype=torch.float64)):
        op = Blur(kernel, 0.02)
        kernel[:] = 0
        assert float(op.kernel.sum()) == pytest.approx(1.0)
    assert op.kernel.dtype == torch.float64
    with pytest.raises(AttributeError):
        op.noise_std = 0.1  # type: ignore[misc]
