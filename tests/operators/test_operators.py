"""Operators x laws x dtype x odd, prime and non-square sizes."""

from __future__ import annotations

import laws
import pytest
import torch
from laws import relative_error, require
from operator_cases import BATCH, LINEAR_CASES, Case
from torch import Tensor

from latino_engine.operators import Compose, Operator, Stack

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = ((13, 17), (16, 9), (7, 7))  # in samples of y: times the factor for super-resolution
DTYPES = (torch.float32, torch.float64)

every_case = pytest.mark.parametrize("case", LINEAR_CASES, ids=lambda c: c.name)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))


def image(case: Case, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    height, width = case.factor * size[0], case.factor * size[1]
    return torch.rand(BATCH, case.channels, height, width, dtype=dtype)


@every_case
@every_size
@every_dtype
def test_laws(case: Case, size: tuple[int, int], dtype: torch.dtype) -> None:
    x = image(case, size, dtype)
    op = case.build(x.shape[-2], x.shape[-1])
    assert isinstance(op, Operator) and op.is_linear
    laws.check_linear(op, x)
    laws.check_adjoint(op, x)
    laws.check_autograd_adjoint(op, x)
    law = "prox_optimal_cg" if case.uses_cg else "prox_optimal"
    laws.check_prox_optimal(op, x, law)
    laws.check_prox_limits(op, x)


@every_case
@every_dtype
def test_batch_equals_one_by_one(case: Case, dtype: torch.dtype) -> None:
    x = image(case, (13, 8), dtype)
    law = "batch_cg" if case.uses_cg else "batch"
    laws.check_batch_equals_one_by_one(case.build(x.shape[-2], x.shape[-1]), x, law)


@every_case
@every_dtype
def test_strides_copies_and_purity(case: Case, dtype: torch.dtype) -> None:
    x = image(case, (9, 8), dtype)
    op = case.build(x.shape[-2], x.shape[-1])
    laws.check_noncontiguous(op, x, "noncontiguous_cg" if case.uses_cg else "noncontiguous")
    laws.check_copies(op, x)
    laws.check_inputs_unchanged(op, x)


@every_case
def test_against_dense_matrix(case: Case) -> None:
    """A, its transpose and the prox as matrices, every image for itself, on 12 x 10 pixels."""
    height, width = 12, 10 if case.factor < 3 else 12
    basis_size = case.channels * height * width
    op = case.build(height, width)
    x = torch.rand(BATCH, case.channels, height, width, dtype=torch.float64)
    v = torch.randn_like(x)
    y = op.measure(x, seed=5)
    gammas = torch.tensor([0.4, 3.0, 40.0], dtype=torch.float64)
    z = op.prox(v, y, gammas)
    basis = torch.eye(basis_size, dtype=torch.float64).reshape(-1, case.channels, height, width)
    for i in range(BATCH):
        one = op.take(torch.tensor([i]))
        matrix = one.A(basis).flatten(1).T  # (numbers in y, numbers in x)
        assert float(matrix.norm()) > 0.5
        ax = (matrix @ x[i].flatten()).reshape(y[i : i + 1].shape)
        require("dense", torch.float64, relative_error(op.A(x)[i : i + 1], ax))
        aty = (matrix.T @ y[i].flatten()).reshape(x[i : i + 1].shape)
        require("dense", torch.float64, relative_error(op.A_adjoint(y)[i : i + 1], aty))
        system = torch.eye(basis_size, dtype=torch.float64) + gammas[i] * matrix.T @ matrix
        exact = torch.linalg.solve(system, (v[i] + gammas[i] * aty[0]).flatten())
        law = "dense_cg" if case.uses_cg else "dense"
        error = relative_error(z[i : i + 1], exact.reshape(x[i : i + 1].shape))
        require(law, torch.float64, error)


@every_case
@every_dtype
def test_gradients_flow_through_the_prox(case: Case, dtype: torch.dtype) -> None:
    """The prox is affine in v and in y; its gradient in gamma against a central difference."""
    x = image(case, (8, 7), dtype)
    op = case.build(x.shape[-2], x.shape[-1])
    y = op.measure(x).requires_grad_()
    v = torch.rand_like(x).requires_grad_()
    gamma = torch.tensor([0.5, 2.0, 9.0], dtype=dtype, requires_grad=True)
    w = torch.randn_like(x)
    grad_v, grad_y, grad_gamma = torch.autograd.grad(op.prox(v, y, gamma), (v, y, gamma), w)
    with torch.no_grad():
        expected_v = op.prox(w, torch.zeros_like(y), gamma)  # (I + gamma A^T A)^-1 is symmetric
        expected_y = op.A(gamma.reshape(-1, 1, 1, 1) * expected_v)
        y64, v64, w64, g64 = (t.detach().double() for t in (y, v, w, gamma))
        residual = op.A_adjoint(y64 - op.A(op.prox(v64, y64, g64)))
        slope = op.prox(residual, torch.zeros_like(y64), g64)  # d prox / d gamma
        expected_gamma = (slope * w64).flatten(1).sum(1)
        scale = slope.flatten(1).norm(dim=1) * w64.flatten(1).norm(dim=1)
    law = "gradient_cg" if case.uses_cg else "gradient"
    require(law, dtype, relative_error(grad_v, expected_v))
    require(law, dtype, relative_error(grad_y, expected_y))
    gap = (grad_gamma.double() - expected_gamma).abs() / scale
    require(law, dtype, float(gap.max()))


@every_case
def test_measure_is_reproducible_and_has_the_noise_it_says(case: Case) -> None:
    x = image(case, (60, 60), torch.float64)
    op = case.build(x.shape[-2], x.shape[-1])
    state = torch.random.get_rng_state()
    y = op.measure(x, seed=7)
    assert torch.equal(state, torch.random.get_rng_state())
    assert y.dtype == x.dtype and torch.equal(y, op.measure(x, seed=7))
    residual = op.observed(y - op.A(x)).flatten(1)
    std = torch.sqrt(residual.square().sum(1) / op.num_observed(y))
    expected = torch.as_tensor(op.noise_std, dtype=torch.float64).expand(BATCH)
    # The relative standard error of a standard deviation from n draws is 1 / sqrt(2 n).
    error = (std / expected - 1).abs() * torch.sqrt(2 * op.num_observed(y))
    assert float(error.max()) < 5.0
    other = op.observed(op.measure(x, seed=8) - op.A(x)).flatten(1)
    correlation = (residual * other).sum(1) / (residual.norm(dim=1) * other.norm(dim=1))
    assert float((correlation.abs() * torch.sqrt(op.num_observed(y))).max()) < 5.0


@every_case
def test_initial_estimate_is_better_than_nothing(case: Case) -> None:
    """Of a smooth image: closer to it than mid-grey, whatever the operator."""
    if case.name in ("linear_operator", "mri_complex", "mri_real", "tomography_limited"):
        pytest.skip("what is not measured at low frequencies cannot be guessed from the rest")
    height, width = 24 * case.factor, 20 * case.factor
    row = torch.linspace(0, 6.28, height)[:, None].sin()
    column = torch.linspace(0, 6.28, width)[None, :].cos()
    x = (0.5 + 0.2 * row + 0.2 * column).expand(BATCH, case.channels, height, width).contiguous()
    op = case.build(height, width)
    estimate = op.initial_estimate(op.measure(x, seed=1))
    assert estimate.shape == x.shape and estimate.dtype == x.dtype
    assert float((estimate - x).norm()) < 0.7 * float((x - 0.5).norm())


@every_case
def test_initial_estimate_of_noise_free_data(case: Case) -> None:
    """noise_std = 0 is read as 1e-3, never as a division by zero."""
    x = image(case, (12, 12), torch.float32)
    op = case.build(x.shape[-2], x.shape[-1])
    object.__setattr__(op, "noise_std", 0.0)
    y = op.measure(x)
    assert torch.equal(y, op.A(x))
    assert bool(torch.isfinite(op.initial_estimate(y)).all())


@every_case
def test_the_repr_is_one_short_line(case: Case) -> None:
    op = case.build(12, 12)
    text = repr(op)
    limit = 240 if isinstance(op, (Stack, Compose)) else 120  # these show their parts
    assert text.startswith(type(op).__name__ + "(")
    assert "noise_std=" in text and "\n" not in text and len(text) < limit


def test_an_operator_used_under_inference_mode_still_trains() -> None:
    """Tables filled in inference mode are saved for the backward pass of a later call."""
    for case in LINEAR_CASES:
        x = image(case, (8, 8), torch.float32)
        with torch.inference_mode():
            op = case.build(x.shape[-2], x.shape[-1])
            op.prox(x, op.A(x), 1.0)
            op.initial_estimate(op.A(x))
        v = x.clone().requires_grad_()
        gamma = torch.ones(BATCH, requires_grad=True)
        op.prox(v, op.A(v), gamma).square().sum().backward()
        assert v.grad is not None and gamma.grad is not None
