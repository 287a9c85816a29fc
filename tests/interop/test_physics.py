"""What tells deepinv's objects from others, with classes that carry the names of its modules.

The conversions themselves are compared with deepinv in tests/peers/test_interop.py.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from deepinv_stand_in import Halved, Pair, Photons, Physics, named
from tiny import tiny_prior

import latino_engine as le
from latino_engine.errors import BackendNotAvailable
from latino_engine.interop.physics import (
    PhysicsOperator,
    from_physics,
    is_physics,
    is_reconstructor,
)
from latino_engine.sampling.problem import make_problem


def test_physics_is_told_by_the_modules_of_its_classes():
    assert is_physics(Halved()) and is_physics(Physics())
    assert not is_physics(le.Denoising(0.1)) and not is_physics(torch.nn.Identity())
    assert not is_physics(named("Physics", "deepinvented.physics")())
    assert not is_physics(named("LinearPhysics", "deepinv.physicslike")())
    assert is_reconstructor(named("Reconstructor", "deepinv.models.base")())
    assert not is_reconstructor(torch.nn.Identity())


def test_a_users_physics_is_solved_by_its_own_a():
    op = from_physics(Halved())
    assert type(op) is PhysicsOperator and op.noise_std == pytest.approx(0.1)
    v, y = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(op.prox(v, y, 4.0), (v + 2.0 * y) / 2.0, atol=1e-5, rtol=0)


def test_a_network_is_given_the_physics_and_not_its_conversion():
    physics, seen = Halved(), []

    def network(y, op):
        seen.append(op)
        return 2.0 * y

    y = torch.rand(1, 3, 8, 8)
    problem = make_problem(y, physics, tiny_prior().spec, network, "cpu")
    assert seen == [physics] and type(problem.operator) is PhysicsOperator
    torch.testing.assert_close(problem.x_init, 4.0 * y - 1.0)


def test_stacked_physics_join_their_measurements():
    parts = [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)]
    problem = make_problem(parts, Pair(), tiny_prior().spec, None, "cpu")
    assert [type(part) for part in problem.operator.operators] == [PhysicsOperator] * 2
    for part, y in zip(problem.operator.split(problem.y), parts, strict=True):
        torch.testing.assert_close(part, y)
    with pytest.raises(ValueError, match=r"^y: expected 2 tensors, .*, got 1; give all of them"):
        make_problem(parts[:1], Pair(), tiny_prior().spec, None, "cpu")
    with pytest.raises(TypeError, match=r"^y: expected 2 tensors, .*, got a str in it; give te"):
        make_problem([parts[0], "y"], Pair(), tiny_prior().spec, None, "cpu")
    with pytest.raises(ValueError, match=r"^image_shape: expected \(C, H, W\), got None; stacked"):
        from_physics(Pair())


def test_counts_are_multiplied_by_their_gain():
    counts = torch.tensor([0.0, 3.0, 5.0]).repeat(1, 3, 8, 8)
    problem = make_problem(counts, Photons(), tiny_prior().spec, None, "cpu")
    assert type(problem.operator) is le.PoissonNoise
    assert problem.operator.peak == pytest.approx(10.0)
    torch.testing.assert_close(problem.y, 0.1 * counts)


def test_a_list_of_measurements_is_joined_by_the_stack():
    op = le.Stack([le.Denoising(0.1), le.Denoising(0.3)], (3, 8, 8))
    parts = [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)]
    problem = make_problem(parts, op, tiny_prior().spec, None, "cpu")
    torch.testing.assert_close(problem.y, op.join(parts))


def test_complex_measurements_of_a_linear_operator():
    """y in C^m is y in R^2m: the same start, data step and residual."""
    torch.manual_seed(0)
    matrix = torch.randn(150, 192, dtype=torch.complex64) / 14
    both = torch.cat([matrix.real, matrix.imag])
    complex_op = le.LinearOperator(
        lambda x: x.flatten(1).to(torch.complex64) @ matrix.T,
        lambda y: (y @ matrix.conj()).real.reshape(-1, 3, 8, 8),
        0.1,
    )
    real_op = le.LinearOperator(
        lambda x: x.flatten(1) @ both.T, lambda y: (y @ both).reshape(-1, 3, 8, 8), 0.1
    )
    y, v = complex_op.A(torch.rand(2, 3, 8, 8)), torch.randn(2, 3, 8, 8)
    index, spec = torch.arange(2), tiny_prior().spec
    found = make_problem(y.numpy(), complex_op, spec, None, "cpu")
    expected = make_problem(torch.cat([y.real, y.imag], dim=1), real_op, spec, None, "cpu")
    assert found.y.is_complex()
    for one, other in (
        (found.x_init, expected.x_init),
        (found.data_step(index)(v, 4.0), expected.data_step(index)(v, 4.0)),
        (found.residual_chi2(v, index), expected.residual_chi2(v, index)),
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"^init: expected shape .* use init=None where y is no"):
        make_problem(y, complex_op, spec, "measurement", "cpu")


CASES = {
    "not linear": (
        Physics(),
        "op: expected a linear deepinv physics, got Physics; use an operator of this package, or "
        "linearise it as a LinearPhysics",
    ),
    "stacked": (
        Pair(),
        "y: expected 2 tensors, one for each of the stacked physics, got Tensor; give what "
        "physics(x) returns",
    ),
    "noise": (
        named(
            "Mine",
            "mine",
            Halved,
            noise_model=named("RicianNoise", "deepinv.physics.noise")(),
        )(),
        "op.noise_model: expected GaussianNoise, PoissonNoise or ZeroNoise, got RicianNoise; "
        "approximate it by physics.set_noise_model(GaussianNoise(sigma))",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sentence(name):
    physics, sentence = CASES[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        make_problem(torch.rand(1, 3, 8, 8), physics, tiny_prior().spec, None, "cpu")
    assert str(caught.value) == sentence


def test_a_model_that_depends_on_the_place_in_the_batch_is_refused():
    weights = torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1)
    op = le.LinearOperator(lambda x: weights * x, lambda y: weights * y, 0.1)
    with pytest.raises(ValueError) as caught:
        make_problem(torch.rand(2, 3, 8, 8), op, tiny_prior().spec, None, "cpu")
    assert str(caught.value) == (
        "A: expected the same model for every image, got one that depends on the place of an "
        "image in the batch; sample the images one by one"
    )


def test_deepinv_is_neither_needed_nor_imported():
    code = "import sys, latino_engine.sampling.problem; sys.exit('deepinv' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(importlib.util.find_spec("deepinv") is not None, reason="deepinv is installed")
def test_the_reconstructor_names_what_it_lacks():
    with pytest.raises(BackendNotAvailable, match="install it with: pip install deepinv"):
        importlib.import_module("latino_engine.interop.deepinv")
