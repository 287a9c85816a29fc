"""The contract of operators: its list of members, its defaults, and classes that users bring."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from operator_cases import LINEAR_CASES, random
from tiny import tiny_prior

import latino_engine as le
from latino_engine.operators import Operator, protocol
from latino_engine.operators.own import OwnOperator, as_operator
from latino_engine.operators.protocol import MEMBERS

DOCS = Path(__file__).parents[2] / "docs"
SHAPE = (2, 3, 6, 5)
MATRIX = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 90)))


class Plain:
    """y = M x, a class of no base."""

    noise_std = 0.05

    def A(self, x):
        return x.flatten(1) @ MATRIX.to(x).T

    def A_adjoint(self, y):
        return (y @ MATRIX.to(y)).reshape(len(y), *SHAPE[1:])


class WithProx(Plain):
    """The same, its prox by a dense solve."""

    def prox(self, v, y, gamma):
        gram = torch.eye(90).to(v) + gamma * MATRIX.T.to(v) @ MATRIX.to(v)
        right = v.flatten(1) + gamma * self.A_adjoint(y).flatten(1)
        return torch.linalg.solve(gram, right.T).T.reshape(v.shape)


class Derived(Operator):
    """The same, with the base."""

    noise_std = 0.05
    A = Plain.A
    A_adjoint = Plain.A_adjoint


def dense_prox(v, y, gamma):
    """(I + gamma M^T M) z = v + gamma M^T y by numpy."""
    matrix = MATRIX.numpy()
    right = v.flatten(1).numpy() + gamma * y.numpy() @ matrix
    z = np.linalg.solve(np.eye(90) + gamma * matrix.T @ matrix, right.T).T
    return torch.from_numpy(z).reshape(v.shape)


@pytest.mark.parametrize("page", ["docstring", "docs"])
def test_the_tables_list_every_member(page):
    text = protocol.__doc__ if page == "docstring" else (DOCS / "operators.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| ", text, re.M)
    found = [name for row in rows for name in re.findall(r"`(\w+)", row)]
    contract = [name for name in found if name in MEMBERS]
    assert sorted(contract) == sorted(MEMBERS)


@pytest.mark.parametrize("model", [Plain(), WithProx(), Derived()], ids=lambda m: type(m).__name__)
def test_the_defaults_of_a_users_class(model):
    op = as_operator("op", model)
    x, v = random(*SHAPE), random(*SHAPE, seed=2)
    y = op.measure(x, seed=3)
    noise = (y - x.flatten(1) @ MATRIX.T) / 0.05
    assert 0.7 < float(noise.std()) < 1.3
    assert torch.equal(y, op.measure(x, seed=3)) and not torch.equal(y, op.measure(x, seed=4))
    expected = dense_prox(v, y, 2.0)
    assert torch.allclose(op.prox(v, y, 2.0), expected, atol=1e-4)
    assert torch.allclose(op.data_step(y)(v, 2.0), expected, atol=1e-4)
    assert op.num_observed(y).tolist() == [40.0, 40.0]
    assert torch.equal(op.residual(x, y), op.A(x) - y)
    assert op.measured_shape(SHAPE[1:]) == (40,)
    back = y @ MATRIX
    scale = back.square().sum(1) / (back @ MATRIX.T).square().sum(1)
    start = dense_prox((scale[:, None] * back).reshape(SHAPE), y, (0.1 / 0.05) ** 2)
    assert torch.allclose(op.initial_estimate(y), start, atol=1e-3)
    assert op.take(torch.tensor([1])) is op or isinstance(op, OwnOperator)
    assert op.cost("prox", SHAPE) is None and op.for_grey() is op and op.family == "unknown"


def test_noise_levels_of_a_users_class_travel_with_the_images():
    model = Plain()
    model.noise_std = np.array([0.1, 0.2, 0.3])
    op = as_operator("op", model)
    assert op.batch_size == 3
    assert torch.allclose(
        op.take(torch.tensor([2, 0])).noise_std, torch.tensor([0.3, 0.1]).double()
    )


class Mirror:
    """A class that a user gives to `sample` as it is."""

    noise_std = 0.05

    def A(self, x):
        return 0.5 * x.flip(-1)

    def A_adjoint(self, y):
        return 0.5 * y.flip(-1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return le.compile(tiny_prior(), tmp_path_factory.mktemp("e") / "tiny.engine", image_size=16)


def test_a_users_class_is_sampled_as_its_linear_operator(engine):
    mirror = Mirror()
    y = 0.5 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mine = engine.sample(y, mirror, 1, steps=2)
    same = engine.sample(y, le.LinearOperator(mirror.A, mirror.A_adjoint, 0.05), 1, steps=2)
    assert torch.allclose(mine.samples, same.samples, atol=1e-4)
    assert torch.allclose(mine.residual_chi2, same.residual_chi2, rtol=1e-3)


def test_combinations_take_a_users_class():
    x = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stack = le.Stack([Mirror(), le.Denoising(0.05)], (3, 4, 6))
    y = stack.join([Mirror().A(x), x])
    assert torch.allclose(stack.prox(x, y, 3.0), x, atol=1e-5)  # y is noise-free: x stays
    chain = le.Compose([le.Blur.uniform(3, 0.0), Mirror()])
    blurred = sum(x.roll((i, j), (-2, -1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    assert torch.allclose(chain.A(x), 0.5 * blurred.flip(-1))
    model = Mirror()
    model.noise_std = 0.0
    photons = le.PoissonNoise(model, peak=1e6)
    assert torch.allclose(photons.measure(x, seed=1), 0.5 * x.flip(-1), atol=5e-3)


class NoA:
    noise_std = 0.1
    A_adjoint = Plain.A_adjoint


class NoAdjoint:
    noise_std = 0.1
    A = Plain.A


@pytest.mark.parametrize(("model", "lacking"), [(NoA(), "A"), (NoAdjoint(), "A_adjoint or prox")])
def test_what_a_class_lacks_is_said(engine, model, lacking):
    with pytest.raises(TypeError) as caught:
        engine.sample(torch.zeros(1, 3, 16, 16), model)
    assert str(caught.value) == (
        f"op: expected an operator such as Blur or Inpainting, got {type(model).__name__} without "
        f"{lacking}; wrap your own model in LinearOperator(A, A_adjoint, noise_std)"
    )


def test_an_adjoint_that_is_none_is_refused(engine):
    model = Mirror()
    model.A_adjoint = lambda y: y.flip(-1)
    with pytest.raises(ValueError, match="A_adjoint: expected the adjoint of A"):
        engine.sample(torch.rand(1, 3, 16, 16), model)


@pytest.mark.parametrize("case", LINEAR_CASES, ids=lambda case: case.name)
def test_every_operator_says_what_it_is(case):
    side = 12 * case.factor
    op = case.build(side, side)
    x = random(3, case.channels, side, side)
    y = op.measure(x)
    assert op.kind == type(op).__name__
    assert op.family != "unknown" or op.kind in ("LinearOperator", "Compose", "Stack")
    assert op.measured_shape(x.shape[1:]) == tuple(y.shape[1:])
    op.check_measurement(y)
    op.check_model(y)
    assert op.enlarged(y).shape[:1] == y.shape[:1]
    if op.kind != "LinearOperator":
        picture = op.measurement_picture(y)
        assert picture.ndim == 4 and bool(torch.isfinite(picture).all())
    with pytest.raises((ValueError, TypeError), match="y: expected"):
        op.check_measurement(y.long() if op.kind == "LinearOperator" else y[:, None, None, None])


def test_the_diagonal_of_combinations():
    mask, blur = le.Inpainting(torch.ones(4, 4), 0.1), le.Blur.uniform(3, 0.1)
    clean = le.Blur.uniform(3, 0.0)
    assert le.Stack([mask, le.Denoising(0.1)], (3, 4, 4)).diagonal == ("pixels",)
    assert le.Stack([blur, le.Denoising(0.1)], (3, 4, 4)).diagonal == ("frequencies",)
    assert le.Stack([blur, mask], (3, 4, 4)).diagonal == ()
    assert le.Compose([clean, blur]).diagonal == ("frequencies",)
    assert le.Compose([clean, le.Denoising(0.1)]).family == "deblurring"
    assert le.PoissonNoise(clean, 50).family == "deblurring"
