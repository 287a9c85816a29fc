"""What the engine, the command line and the benchmarks ask of an operator: the whole contract.

`Operator` is the one base. It needs a noise level and A; with `A_adjoint` the data step is there
too, by conjugate gradients. Every other member has a default, and an operator that knows better
overrides it. Nobody looks for a member by its name or asks for a class: what differs between
operators stands here.

| member | what it says | default |
|---|---|---|
| `noise_std` | the noise level, public units, a number or (B,) | none: it must be set |
| `A(x)` | the noise-free measurement | none: it must be written |
| `A_adjoint(y)` | the adjoint | raises: `prox` is written then |
| `prox(v, y, gamma)` | the data step of one call | `data_step(y)(v, gamma)` |
| `data_step(y)` | the same with what depends on y done once | `prox` if written, else by CG |
| `initial_estimate(y)` | a regularised inverse | one prox from a multiple of A_adjoint(y) |
| `measure(x, seed)` | A x + noise | Gaussian noise, 0 where nothing is observed |
| `observed(y)` | y with 0 where nothing was observed | y |
| `num_observed(y)` | real numbers observed per image | those of y |
| `residual(x, y)` | what chi-square sums | observed(A x) - y |
| `take(index)` | the operator of some images | itself, where nothing differs by image |
| `for_grey()` | the operator of real, one-channel images | itself |
| `for_measurement(y)` | the operator with what only y tells of it | itself |
| `with_noise_std(noise_std)` | the same model with another noise level | a copy |
| `estimate_noise_std(y)` | the noise level of y | by wavelets, of an image with white noise |
| `as_result(x)` | what is returned of a drawn x | x |
| `as_state(image)` | the x of an image as it is returned | the image |
| `join(parts)`, `split(y)` | several measurements as one y | one part |
| `measured_shape(shape)` | (C, H, W) of an image -> shape of its y | that of A of zeros |
| `check_measurement(y)` | raises for a y of another shape | (B, ...), of an image (B, C, H, W) |
| `check_model(y)` | raises where A contradicts A_adjoint | nothing |
| `words()` | what the command line reads as this operator | None: words do not tell it all |
| `spec(file)` | the words that make it again, arrays in a file | of this package's own classes |
| `measurement_picture(y)` | y as an image to look at | y |
| `enlarged(y)` | a smaller y on the grid of x | y |
| `cost(call, shape)` | operations and bytes of a call | None: not counted |
| `kind` | the class, by name, for tables | "own" |
| `family` | what it does to an image, for learned step sizes | "unknown" |
| `is_linear` | A is linear | True |
| `batch_size` | B of the parameters, None where shared | None |
| `measures_image` | y is an image in the range of x | False |
| `measured_channels` | channels of such a y, None where those of x | None |
| `wraps` | what lies outside of the image is its other side | False |
| `takes_complex` | y may be complex | False |
| `diagonal` | where A^T A is diagonal | () |
| `first_radius` | r of UD2M's untrained steps | 1.0 |
| `tol`, `max_iter` | where conjugate gradients stop | 1e-6, 500 |
"""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from latino_engine.atomic import PathLike
from latino_engine.errors import invalid
from latino_engine.operators.parts.checks import (
    Unknown,
    check_anchor,
    check_finite,
    check_gamma,
    check_image,
    check_measured,
    starting_gamma,
)
from latino_engine.operators.parts.conjugate_gradients import best_scale, proximal_solve
from latino_engine.operators.parts.cost import Call, Count
from latino_engine.operators.parts.noise_estimate import wavelet_noise_std
from latino_engine.operators.parts.simulation import add_measurement_noise

#: (v, gamma) -> argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2 for one fixed y.
DataStep: TypeAlias = Callable[[Tensor, "float | Tensor"], Tensor]

#: What a measurement does to an image, whichever class does it.
Family: TypeAlias = Literal[
    "deblurring",
    "super-resolution",
    "inpainting",
    "colorization",
    "denoising",
    "jpeg",
    "tomography",
    "mri",
    "phase",
    "compressed-sensing",
    "unknown",
]
#: A^T A is a product pixel by pixel, or frequency by frequency.
Basis: TypeAlias = Literal["pixels", "frequencies"]


class Operator(ABC):
    """A forward model y = A x + noise, in the public range; frozen and pure.

    x: (B, C, H, W); y: (B, ...). Parameters that differ from image to image are stored with a
    leading axis B, whose length is `batch_size`. The table of this module lists all members. A
    class that does not derive from this one is taken as well, see `as_operator`.
    """

    #: Standard deviation of the measurement noise, public units, a number or (B,).
    noise_std: float | Tensor
    #: B of the parameters that differ from image to image, None where all are shared.
    batch_size: int | None = None
    #: True where A(a x + b z) = a A(x) + b A(z).
    is_linear: bool = True

    #: The class by its name, under which tables of other rooms list it.
    kind: str = "own"
    #: What it does to an image; it chooses among learned step sizes.
    family: Family = "unknown"
    #: True where y is an image in the range of x, so that its values and its picture can be judged.
    measures_image: bool = False
    #: Channels of such an image where they are not those of x.
    measured_channels: int | None = None
    #: True where the model takes an image for one period of an endless one.
    wraps: bool = False
    #: True where y may hold complex numbers.
    takes_complex: bool = False
    #: Where A is diagonal or picks entries, so that A^T A is diagonal, of a chain of such too.
    diagonal: tuple[Basis, ...] = ()
    #: r of UD2M's steps that no adapter learned.
    first_radius: float = 1.0
    #: Relative residual and number of iterations at which conjugate gradients stop.
    tol: float = 1e-6
    max_iter: int = 500

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The noise-free measurement of x."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The adjoint: <A x, y> = <x, A_adjoint y>. Raises where there is none."""
        remedy = "use prox instead" if self._writes("prox", "data_step") else "write A_adjoint"
        raise invalid("A_adjoint", "a linear operator", type(self).__name__, remedy)

    def prox(self, v: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - v||^2, gamma >= 0 a number or (B,)."""
        return self.data_step(y)(v, gamma)

    def data_step(self, y: Tensor) -> DataStep:
        """The prox for one y, with all that depends on y alone computed once.

        Where neither it nor `prox` is written, conjugate gradients from v solve
        (I + gamma A^T A) x = v + gamma A^T y to a relative residual of `tol`.
        """
        if self._writes("prox"):
            return lambda v, gamma: self.prox(v, y, gamma)
        back_projected = self.A_adjoint(y)
        check_finite(self.observed(y))

        def step(v: Tensor, gamma: float | Tensor) -> Tensor:
            check_anchor(v, tuple(back_projected.shape), back_projected.dtype)
            check_gamma(gamma)
            return proximal_solve(self._normal, v, back_projected, gamma, self.tol, self.max_iter)

        return step

    def initial_estimate(self, y: Tensor) -> Tensor:
        """A regularised inverse of y, (B, C, H, W); never the raw pseudo-inverse.

        By default one prox from the best multiple of A_adjoint(y), gamma = (0.1 / sigma_y)^2.
        """
        back_projected = self.A_adjoint(y)
        start = best_scale(back_projected, self.A(back_projected)) * back_projected
        return self._one_prox(start, y)

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        """A x + noise_std * eps, reproducible by the seed; 0 where nothing is observed."""
        return self.observed(add_measurement_noise(self.A(x), self.noise_std, seed))

    def observed(self, y: Tensor) -> Tensor:
        """y with every entry that the model never observed set to 0 (whatever stood there)."""
        self.check_measurement(y)
        return y

    def num_observed(self, y: Tensor) -> Tensor:
        """(B,) float64: observed real numbers per image (a complex number counts twice)."""
        number = (2.0 if y.is_complex() else 1.0) * y[:1].numel()
        return torch.full(y.shape[:1], number, dtype=torch.float64, device=y.device)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """What is divided by noise_std and squared for chi-square: observed(A x) - y."""
        return self.observed(self.A(x)) - y

    def spec(self, file: PathLike | None = None) -> str:
        """The words with which `latino_engine.operator` and the command line make it again.

        Args:
            file: name of an npz file for its arrays; the words are then `saved:file=NAME`.

        Raises:
            ValueError: arrays without a file, or a class of the user's own.
        """
        # By name: the module knows all operators, and each of them knows this one.
        words = importlib.import_module("latino_engine.operators.serialisation")
        return cast(str, words.spec_of(self, file))

    def words(self) -> str | None:
        """What the command line reads as this operator; None where words do not tell it all."""
        return None

    def take(self, index: Tensor) -> Operator:
        """The operator of the images `index`, 1-D int64; shared parameters are kept."""
        if self.batch_size is None:
            return self
        expected = f"take(index) for {type(self).__name__}, whose parameters differ by image"
        raise invalid("take", expected, "none", "write it")

    def for_grey(self) -> Operator:
        """The operator for real images of one channel, where it has such a form."""
        return self

    def for_measurement(self, y: Tensor) -> Operator:
        """The operator with what only its measurement tells, such as the noise level of a file, or
        that of noise_std="estimate", a number, or (B,) for several images.
        """
        if not isinstance(self.noise_std, Unknown):
            return self
        levels = self.estimate_noise_std(y)
        return self.with_noise_std(float(levels) if len(levels) == 1 else levels)

    def with_noise_std(self, noise_std: float | Tensor) -> Operator:
        """The same model with another noise level, a number or (B,)."""
        other = copy.copy(self)
        object.__setattr__(other, "noise_std", noise_std)
        if isinstance(noise_std, Tensor):
            object.__setattr__(other, "batch_size", len(noise_std))
        return other

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        """The noise level of each y, (B,) float64: by its finest wavelets where y is an image.

        Raises:
            ValueError: y is no image with white noise.
        """
        if not (self.measures_image and self.is_linear):
            expected = f"a number for {self.kind}, whose y is no image with white noise"
            remedy = "measure it where nothing is seen, for instance outside of the object"
            raise invalid("noise_std", expected, "'estimate'", remedy)
        return wavelet_noise_std(y)

    def as_result(self, x: Tensor) -> Tensor:
        """What is returned of a drawn x, (B, C', H, W): x itself, or its luminance."""
        return x

    def as_state(self, image: Tensor) -> Tensor:
        """The x of an image as it is returned, such as a start that the user gives."""
        return image

    def join(self, measurements: Sequence[Tensor]) -> Tensor:
        """y of the measurements in `measurements`, each as its own operator returns it."""
        if len(measurements) != 1:
            expected = "one measurement, as only a Stack has several"
            raise invalid("y", expected, len(measurements), "give one tensor")
        return measurements[0]

    def split(self, y: Tensor) -> list[Tensor]:
        """The measurements that `join` made y from."""
        return [y]

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the measurement, without the batch, of an image (C, H, W)."""
        images = torch.zeros(self.batch_size or 1, *image_shape)
        return tuple(self.A(images).shape[1:])

    def check_measurement(self, y: Tensor) -> None:
        """Raises for a y that this operator cannot have measured, in one sentence."""
        if self.measures_image:
            check_image("y", y, self.batch_size)
        else:
            check_measured("y", y, self.batch_size)

    def check_model(self, y: Tensor) -> None:
        """Raises where the model contradicts itself on this measurement; a user's own may."""
        return None  # the operators of this package are tested against their own definitions

    def measurement_picture(self, y: Tensor) -> Tensor:
        """y (B, ...) as images to look at, (B, C, h, w), [0, 1] where y is no image itself."""
        return y

    def enlarged(self, y: Tensor) -> Tensor:
        """y on the grid of x, to be compared with x where y is a smaller image of it."""
        return y

    def cost(self, call: Call, shape: tuple[int, ...]) -> Count | None:
        """Operations and bytes of a call on images of this shape; None where nobody counted."""
        return None

    def _writes(self, *names: str) -> bool:
        """Whether this operator has its own form of one of these members."""
        mine = (getattr(self, name) for name in names)
        defaults = [getattr(Operator, name) for name in names]
        return any(getattr(member, "__func__", member) not in defaults for member in mine)

    def _normal(self, x: Tensor) -> Tensor:
        """A^T A x."""
        return self.A_adjoint(self.A(x))

    def _one_prox(self, start: Tensor, y: Tensor) -> Tensor:
        """The data step from a first guess, gamma = (0.1 / sigma_y)^2."""
        return self.prox(start, y, starting_gamma(self.noise_std))


#: Every member of the contract, by name.
MEMBERS: tuple[str, ...] = tuple(
    sorted(n for n in {*vars(Operator), *Operator.__annotations__} if not n.startswith("_"))
)
