"""Photon noise: Poisson counts behind any linear operator, by variance stabilisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import invalid
from latino_engine.operators.own import as_linear
from latino_engine.operators.parts.anscombe import stabilised, stabilised_mean
from latino_engine.operators.parts.checks import (
    ArrayLike,
    as_parameter,
    check_anchor,
    check_batch,
    check_finite,
    check_gamma,
    check_index,
    check_measured,
    pick_noise_std,
)
from latino_engine.operators.parts.conjugate_gradients import proximal_solve
from latino_engine.operators.parts.regularised_start import mid_grey, smooth_estimate
from latino_engine.operators.protocol import DataStep, Operator

_PIXELWISE = ("Inpainting", "Denoising")  # A multiplies every pixel by 0 or 1
_NUM_ITER = 10  # Gauss-Newton steps; each about squares the error once it is small
_NUM_HALVINGS = 6
_LARGEST_VALUE = 16.0  # beyond this, y holds counts that nobody divided by the peak

#: Between a photon in a million pixels and what no detector counts.
_PEAKS = (1e-6, 1e15)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class PoissonNoise(Operator):
    """y ~ Poisson(peak A x) / peak: `peak` photons where A x = 1.

    Anscombe's transform T(k) = 2 sqrt(k + 3/8) of the counts has variance about 1 and the mean
    m(peak A x), m(r) = E[T(K)], K ~ Poisson(r). The likelihood that the sampler sees is therefore

        T(peak y) ~ Normal(m(peak A x), 1), entry by entry,

    an approximation of the Poisson law that is close from about 2 photons on; m, not T, stands on
    the side of the model, so that there is no bias at low counts (m^-1 is the exact unbiased
    inverse). In the public units of the noise levels both sides are divided by 2 sqrt(peak):
    `noise_std` = 1 / (2 sqrt(peak)).

    Not linear in x. `prox` minimises gamma/2 || (m(peak A x) - T(peak y)) / (2 sqrt(peak)) ||^2
    + 1/2 ||x - v||^2 from v by at most 10 Gauss-Newton steps, each with halvings until the
    objective falls: pixel by pixel for denoising and inpainting, else by conjugate gradients.
    `residual_chi2` is that of the stabilised residual.

    Args:
        operator: A, linear, with noise_std = 0; y has its shape. A x should not be negative for
            x in [0, 1]; where it is, m continues linearly.
        peak: photons at A x = 1, > 0, a number or (B,).

    Raises:
        ValueError, TypeError: a parameter or an image that cannot be used, in one sentence.

    Source: Anscombe (1948); Makitalo, Foi (2011), see `anscombe`.
    """

    operator: Operator
    peak: float | Tensor
    noise_std: float | Tensor
    batch_size: int | None
    kind = "PoissonNoise"
    is_linear = False
    tol = 1e-5

    def __init__(self, operator: Operator, peak: float | ArrayLike) -> None:
        operator = as_linear("operator", operator, "Denoising(0.0) for A = 1")
        if bool(torch.as_tensor(operator.noise_std).any()):
            remedy = "the photons are all the noise there is"
            raise invalid("operator.noise_std", "0", operator.noise_std, remedy)
        photons, batch = _as_peak(peak), operator.batch_size
        if isinstance(photons, Tensor) and batch not in (None, len(photons)):
            got = f"{len(photons)} values"
            raise invalid("peak", f"a number or {batch} values", got, "give one for each image")
        object.__setattr__(self, "operator", operator)
        object.__setattr__(self, "peak", photons)
        object.__setattr__(self, "noise_std", _stabilised_std(photons))
        object.__setattr__(self, "family", operator.family)
        object.__setattr__(self, "measures_image", operator.measures_image)
        object.__setattr__(self, "wraps", operator.wraps)
        object.__setattr__(self, "measured_channels", operator.measured_channels)
        batch = len(photons) if isinstance(photons, Tensor) else batch
        object.__setattr__(self, "batch_size", batch)

    def __repr__(self) -> str:
        peak = self.peak
        shown = f"{peak:g}" if isinstance(peak, float) else f"{peak.numel()} values"
        return f"PoissonNoise({self.operator!r}, peak={shown})"

    def A(self, x: Tensor) -> Tensor:
        """A x, the mean of y."""
        predicted = self.operator.A(x)
        check_batch("x", x.shape[0], self.batch_size)
        return predicted

    def A_adjoint(self, y: Tensor) -> NoReturn:
        """Raises: the stabilised model is not linear."""
        remedy = "use prox, or operator.A_adjoint"
        raise invalid("A_adjoint", "a linear operator", "PoissonNoise", remedy)

    def data_step(self, y: Tensor) -> DataStep:
        """The data step of the stabilised measurement, whose form is computed once for y."""
        check_measured("y", y, self.batch_size)
        check_finite(self.observed(y))
        target, kept = self._stabilised(y), self._kept(y)
        shape, dtype = self.operator.A_adjoint(target).shape, y.dtype

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, tuple(shape), dtype)
            check_gamma(gamma)
            with torch.no_grad():
                x = v
                cost = self._cost(x, v, gamma, target, kept)
                for _ in range(_NUM_ITER):
                    proposal = self._linearised(x, v, gamma, target, kept)
                    x, cost, moved = self._descend(x, proposal, cost, v, gamma, target, kept)
                    if not moved:
                        break
            if torch.is_grad_enabled() and (v.requires_grad or _needs_gradient(gamma)):
                return self._linearised(x, v, gamma, target, kept)  # carries the gradient
            return x

        return step

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """(m(peak A x) - T(peak y)) / (2 sqrt(peak)), 0 where nothing is observed."""
        mean, _ = self._mean(self.operator.A(x))
        return self._kept(y) * (mean - self._stabilised(y))

    def initial_estimate(self, y: Tensor) -> Tensor:
        """The smooth image that explains y under its mean variance; see `regularised_start`."""
        y = self.operator.observed(y)
        back_projected = self.operator.A_adjoint(y)
        mean = y.double().flatten(1).sum(1) / self.operator.num_observed(y).clamp(min=1.0)
        per_photon = 1.0 / torch.as_tensor(self.peak).to(mean)
        noise_std = torch.sqrt(torch.maximum(mean, per_photon) * per_photon)
        grey = self._normal(mid_grey(back_projected))
        return smooth_estimate(self._normal, back_projected - grey, noise_std)

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """Poisson(peak A x) / peak, a function of (seed, place in the batch); A x < 0 as 0."""
        ops.check_seed(seed)
        mean = self.A(x).detach().double().cpu().clamp(min=0.0)
        peak = self._peak(mean)
        rates = peak * mean
        counts = []
        for image, rate in enumerate(rates):
            random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 2, image]))
            counts.append(torch.from_numpy(np.asarray(random.poisson(rate.numpy()))))
        y = torch.stack(counts).double() / peak
        return self.operator.observed(y.to(x.device, x.dtype))

    def observed(self, y: Tensor) -> Tensor:
        """y with every entry that the operator never observed set to 0."""
        return self.operator.observed(y)

    def num_observed(self, y: Tensor) -> Tensor:
        """What the operator counts, (B,) float64."""
        return self.operator.num_observed(y)

    def take(self, index: Tensor) -> PoissonNoise:
        """The operator of the images `index`, 1-D int64."""
        if self.batch_size is None:
            return self
        index = check_index(index, self.batch_size)
        return PoissonNoise(self.operator.take(index), pick_noise_std(self.peak, index))

    def for_grey(self) -> PoissonNoise:
        """The photons behind the operator for images of one channel."""
        grey = self.operator.for_grey()
        return self if grey is self.operator else PoissonNoise(grey, self.peak)

    def enlarged(self, y: Tensor) -> Tensor:
        """y as large as the operator makes it."""
        return self.operator.enlarged(y)

    def measurement_picture(self, y: Tensor) -> Tensor:
        """What the operator shows of y."""
        return self.operator.measurement_picture(y)

    def check_measurement(self, y: Tensor) -> None:
        """Raises for a y of another shape, or for counts that were not divided by the peak."""
        self.operator.check_measurement(y)
        check_batch("y", len(y), self.batch_size)
        largest = float(self.operator.observed(y).abs().max()) if y.numel() else 0.0
        if largest > _LARGEST_VALUE:
            got = f"values up to {largest:g}"
            raise invalid("y", "counts divided by the peak, about [0, 1]", got, "divide it")

    def _stabilised(self, y: Tensor) -> Tensor:
        peak = self._peak(y)
        return 0.5 * peak.rsqrt() * stabilised(peak * self.operator.observed(y))

    def _mean(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the stabilised measurement and its derivative with respect to A x."""
        peak = self._peak(predicted)
        mean, slope = stabilised_mean(peak * predicted)
        return 0.5 * peak.rsqrt() * mean, 0.5 * peak.sqrt() * slope

    def _peak(self, like: Tensor) -> Tensor:
        """The peak of every image, () or (B, 1, ...)."""
        peak = torch.as_tensor(self.peak).to(like)
        return peak.reshape(-1, *(1,) * (like.ndim - 1)) if peak.ndim else peak

    def _kept(self, y: Tensor) -> Tensor:
        """1 where y is observed, else 0."""
        return self.operator.observed(torch.ones_like(y))

    @property
    def _is_pixelwise(self) -> bool:
        return self.operator.kind in _PIXELWISE

    def _cost(
        self, x: Tensor, v: Tensor, gamma: float | Tensor, target: Tensor, kept: Tensor
    ) -> Tensor:
        """The objective: pixel by pixel where it is a sum over pixels, else (B, 1, 1, 1)."""
        misfit = (kept * (self._mean(self.operator.A(x))[0] - target)).square()
        distance = (x - v).square()
        weight = ops.per_image(gamma, v)
        if self._is_pixelwise:
            return 0.5 * (weight * misfit + distance)
        total = misfit.flatten(1).sum(1).reshape(-1, 1, 1, 1)
        return 0.5 * (weight * total + distance.sum(dim=(1, 2, 3), keepdim=True))

    def _linearised(
        self, x: Tensor, v: Tensor, gamma: float | Tensor, target: Tensor, kept: Tensor
    ) -> Tensor:
        """The prox of the model linearised at x: one Gauss-Newton step."""
        with torch.no_grad():
            predicted = self.operator.A(x)
            mean, slope = self._mean(predicted)
            power = kept * slope.square()
            wanted = power * predicted - kept * slope * (mean - target)
        if self._is_pixelwise:
            weight = ops.per_image(gamma, v)
            return (v + weight * wanted) / (1.0 + weight * power)
        back_projected = self.operator.A_adjoint(wanted)

        def normal(u: Tensor) -> Tensor:
            return self.operator.A_adjoint(power * self.operator.A(u))

        return proximal_solve(normal, v, back_projected, gamma, self.tol, self.max_iter)

    def _descend(
        self,
        x: Tensor,
        proposal: Tensor,
        cost: Tensor,
        v: Tensor,
        gamma: float | Tensor,
        target: Tensor,
        kept: Tensor,
    ) -> tuple[Tensor, Tensor, bool]:
        """x + t (proposal - x) with the first t = 1, 1/2, ... that lowers the objective, else x."""
        direction, best, lowest = proposal - x, x, cost
        open_ = torch.ones_like(cost, dtype=torch.bool)
        for halving in range(_NUM_HALVINGS):
            trial = x + 0.5**halving * direction
            value = self._cost(trial, v, gamma, target, kept)
            lower = open_ & (value < cost)
            best, lowest = torch.where(lower, trial, best), torch.where(lower, value, lowest)
            open_ = open_ & ~lower
            if not bool(open_.any()):
                break
        eps = 10.0 * torch.finfo(x.dtype).eps
        moved = bool((best - x).abs().amax() > eps * (1.0 + x.abs().amax()))
        return best, lowest, moved

    def _normal(self, x: Tensor) -> Tensor:
        """A^T A x of the operator behind the photons."""
        return self.operator.A_adjoint(self.operator.A(x))


def _as_peak(peak: float | ArrayLike) -> float | Tensor:
    photons = as_parameter("peak", peak)
    if photons.ndim > 1 or photons.numel() == 0:
        got = f"shape {tuple(photons.shape)}"
        raise invalid("peak", "a number or shape (B,)", got, "give one value per image")
    if float(photons.min()) <= 0:
        remedy = "give the photons of a pixel of brightness 1"
        raise invalid("peak", "finite numbers > 0", f"{float(photons.min()):g}", remedy)
    low, high = _PEAKS
    extreme = photons[(photons < low) | (photons > high)]
    if extreme.numel():
        remedy = "give the photons of a pixel of brightness 1"
        got = f"{float(extreme[0]):g}"
        raise invalid("peak", f"numbers of photons from {low:g} to {high:g}", got, remedy)
    return float(photons) if photons.numel() == 1 else photons


def _stabilised_std(peak: float | Tensor) -> float | Tensor:
    """1 / (2 sqrt(peak)), of the stabilised measurement, a number or (B,)."""
    return 0.5 / (peak.sqrt() if isinstance(peak, Tensor) else math.sqrt(peak))


def _needs_gradient(gamma: float | Tensor) -> bool:
    return isinstance(gamma, Tensor) and gamma.requires_grad
