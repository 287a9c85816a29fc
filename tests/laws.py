"""The laws that every linear operator obeys; each returns its relative error after asserting it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from tolerances import TOLERANCES
from torch import Tensor

GAMMAS = (0.0, 0.7, 25.0, 225.0)


def relative_error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||, the worst over the batch; b must not vanish."""
    assert a.shape == b.shape, f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}"
    assert a.dtype == b.dtype, f"dtypes differ: {a.dtype} and {b.dtype}"
    norm = b.flatten(1).norm(dim=1)
    assert float(norm.min()) > 0, "nothing to compare with: the reference is zero"
    return float(((a - b).flatten(1).norm(dim=1) / norm).max())


def require(law: str, dtype: torch.dtype, error: float) -> float:
    """Asserts that the error is within the table; NaN is not."""
    bound = TOLERANCES[law, dtype]
    assert error <= bound, f"{law} {dtype}: relative error {error:.2e} above {bound:.0e}"
    return error


def check_linear(op: Any, x: Tensor) -> float:
    """A(a x + b z) = a A(x) + b A(z), a and b different for every image."""
    z = torch.randn_like(x)
    a, b = torch.randn(2, x.shape[0], 1, 1, 1, dtype=x.dtype)
    ax, az = op.A(x), op.A(z)
    extra = [1] * (ax.ndim - 1)
    expected = a.reshape(-1, *extra) * ax + b.reshape(-1, *extra) * az
    return require("linear", x.dtype, relative_error(op.A(a * x + b * z), expected))


def check_adjoint(op: Any, x: Tensor) -> float:
    """<A x, y> = <x, A_adjoint y> for every image, over ||A x|| ||y||."""
    ax = op.A(x)
    y = torch.randn_like(ax)
    back = op.A_adjoint(y)
    assert back.shape == x.shape
    scale = ax.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    assert float(scale.min()) > 0, "A maps an image to zero"
    gap = (ax * y).flatten(1).sum(1) - (x * back).flatten(1).sum(1)
    return require("adjoint", x.dtype, float((gap.abs() / scale).max()))


def check_autograd_adjoint(op: Any, x: Tensor) -> float:
    """A_adjoint(y) is the gradient of <A x, y>."""
    x = x.clone().requires_grad_()
    ax = op.A(x)
    y = torch.randn_like(ax)
    (expected,) = torch.autograd.grad(ax, x, y)
    return require("autograd_adjoint", x.dtype, relative_error(op.A_adjoint(y), expected))


def check_prox_optimal(op: Any, x: Tensor, law: str = "prox_optimal") -> float:
    """gamma A^T(A z - y) + z - v = 0 at z = prox(v, y, gamma), over ||v + gamma A^T y||."""
    y = op.A(x) + 0.1 * torch.randn_like(op.A(x))
    v = torch.randn_like(x)
    worst = 0.0
    for gamma in GAMMAS:
        z = op.prox(v, y, gamma)
        back = op.A_adjoint(y)
        residual = gamma * (op.A_adjoint(op.A(z)) - back) + z - v
        worst = max(
            worst,
            relative_error(residual + v, v) if gamma == 0 else _ratio(residual, v + gamma * back),
        )
    gammas = torch.linspace(0.3, 40.0, x.shape[0], dtype=x.dtype)
    z = op.prox(v, y, gammas)
    weight = gammas.reshape(-1, 1, 1, 1)
    residual = weight * (op.A_adjoint(op.A(z)) - op.A_adjoint(y)) + z - v
    worst = max(worst, _ratio(residual, v + weight * op.A_adjoint(y)))
    return require(law, x.dtype, worst)


def _ratio(residual: Tensor, scale: Tensor) -> float:
    return float((residual.flatten(1).norm(dim=1) / scale.flatten(1).norm(dim=1)).max())


def check_prox_limits(op: Any, x: Tensor) -> float:
    """gamma = 0 gives v; consistent data (y = A v) give v for every gamma."""
    v = torch.randn_like(x)
    y = op.A(x)
    at_zero = relative_error(op.prox(v, y, 0.0), v)
    consistent = relative_error(op.prox(v, op.A(v), 9.0), v)
    return require("prox_limits", x.dtype, max(at_zero, consistent))


def check_batch_equals_one_by_one(op: Any, x: Tensor, law: str = "batch") -> float:
    """An image does not depend on the others of its batch, and take picks its parameters."""
    y = op.A(x)
    v = torch.randn_like(x)
    gammas = torch.linspace(0.5, 9.0, x.shape[0], dtype=x.dtype)
    whole = (y, op.A_adjoint(y), op.prox(v, y, gammas), op.initial_estimate(y))
    worst = 0.0
    orders = [[i] for i in range(x.shape[0])]
    for order in [*orders, [*reversed(range(x.shape[0])), 0]]:
        index = torch.tensor(order)
        part = op.take(index)
        assert part.batch_size in (None, len(order))
        some = (
            part.A(x[index]),
            part.A_adjoint(y[index]),
            part.prox(v[index], y[index], gammas[index]),
            part.initial_estimate(y[index]),
        )
        assert torch.equal(part.num_observed(y[index]), op.num_observed(y)[index])
        for a, b in zip(some, whole, strict=True):
            worst = max(worst, relative_error(a, b[index]))
    return require(law, x.dtype, worst)


def check_noncontiguous(op: Any, x: Tensor, law: str = "noncontiguous") -> float:
    """Strides do not matter."""
    y = op.A(x)
    v = torch.randn_like(x)
    xs, ys, vs = (_strided(t) for t in (x, y, v))
    assert not xs.is_contiguous() and not ys.is_contiguous()
    pairs = (
        (op.A(xs), y),
        (op.A_adjoint(ys), op.A_adjoint(y)),
        (op.prox(vs, ys, 2.0), op.prox(v, y, 2.0)),
        (op.initial_estimate(ys), op.initial_estimate(y)),
    )
    return require(law, x.dtype, max(relative_error(a, b) for a, b in pairs))


def _strided(t: Tensor) -> Tensor:
    return torch.stack((t, torch.full_like(t, float("nan"))), dim=-1)[..., 0]


def check_inputs_unchanged(op: Any, x: Tensor) -> None:
    """No method writes into its arguments."""
    y = op.measure(x, seed=3)
    v = torch.randn_like(x)
    gamma = torch.linspace(0.5, 9.0, x.shape[0], dtype=x.dtype)
    kept = [t.clone() for t in (x, y, v, gamma)]
    op.A(x), op.A_adjoint(y), op.prox(v, y, gamma), op.initial_estimate(y), op.observed(y)
    for before, after in zip(kept, (x, y, v, gamma), strict=True):
        assert torch.equal(before, after)


def check_copies(op: Any, x: Tensor) -> None:
    """pickle and deepcopy give the same operator, before and after its tables were filled."""
    y, v = op.A(x), torch.randn_like(x)
    expected = op.prox(v, y, 2.0)
    copies: tuple[Callable[[Any], Any], ...] = (
        lambda o: pickle.loads(pickle.dumps(o)),
        copy.deepcopy,
        copy.copy,
    )
    for make in copies:
        again = make(op)
        assert repr(again) == repr(op)
        assert torch.equal(again.A(x), y)
        assert torch.equal(again.prox(v, y, 2.0), expected)
