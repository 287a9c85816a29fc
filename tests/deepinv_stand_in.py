"""Classes with the names and modules of deepinv's, which is not installed here."""

from __future__ import annotations

import torch


def named(name, module, *bases, **content):
    return type(name, bases or (torch.nn.Module,), {"__module__": module, **content})


Physics = named("Physics", "deepinv.physics.forward")
Linear = named("LinearPhysics", "deepinv.physics.forward", Physics)
Gaussian = named("GaussianNoise", "deepinv.physics.noise", sigma=torch.tensor(0.1))


class Halved(Linear):
    """A user's own physics."""

    noise_model = Gaussian()

    def A(self, x):
        return 0.5 * x

    def A_adjoint(self, y):
        return 0.5 * y

    def clone(self):
        return self


class Pair(named("StackedPhysics", "deepinv.physics.forward", Physics)):
    """Two views of one image."""

    def __len__(self):
        return 2

    def __getitem__(self, item):
        return (Halved(), Halved())[item]


class Photons(Halved):
    """Counts that are not normalised."""

    noise_model = named(
        "PoissonNoise",
        "deepinv.physics.noise",
        gain=torch.tensor([0.1]),
        normalize=torch.tensor(False),
    )()
