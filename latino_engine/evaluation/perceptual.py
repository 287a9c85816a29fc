"""A distance of images that a small shift or blur does not escape, for training.

"lpips": the learned distance of the package of that name, where it and the weights of its network
are installed; nothing is downloaded. "pyramid": its substitute without any weights, the mean
absolute difference of Laplacian pyramids, which weighs every octave of detail alike; unlike LPIPS
it knows nothing of textures. "auto" takes the first where it can be had.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from latino_engine.errors import BackendNotAvailable, invalid

#: (a, b), both (B, C, H, W) in [-1, 1] -> a number
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]

NETWORKS = ("auto", "lpips", "pyramid")
_LEVELS = 4
_LPIPS_SIDE = 32  # its network needs images of at least this side
#: The very file that torchvision looks for, and would fetch where it is not there.
BACKBONE = "alexnet-owt-7be5be79.pth"


def perceptual_distance(name: str) -> tuple[str, Distance]:
    """The distance that is used, and its name: "lpips" or "pyramid".

    Raises:
        InvalidArgument: another name.
        BackendNotAvailable: "lpips" where it is not installed with its weights.
    """
    if name not in NETWORKS:
        expected = f"one of {', '.join(NETWORKS)}"
        raise invalid("perceptual_network", expected, repr(name), "choose one of these")
    missing = lpips_missing()
    if name == "lpips" and missing is not None:
        raise BackendNotAvailable(missing)
    if name == "pyramid" or missing is not None:
        return "pyramid", pyramid_distance
    return "lpips", _lpips()


def lpips_missing() -> str | None:
    """One sentence on what LPIPS lacks here, None where it can be used without a download."""
    for package in ("lpips", "torchvision"):
        if util.find_spec(package) is None:
            return (
                f"perceptual_network: expected the package {package} for 'lpips', got none "
                "installed; install it, or use 'pyramid'"
            )
    if not (Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE).is_file():
        return (
            f"perceptual_network: expected the weights {BACKBONE} in torch's folder of "
            "checkpoints for 'lpips', got none; put them there, or use 'pyramid'"
        )
    return None


def pyramid_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum over octaves of the mean |L_k(a) - L_k(b)|, L_k the k-th level of a Laplacian pyramid.

    Source: Burt & Adelson (1983) for the pyramid.
    """
    rest, total = a - b, torch.zeros((), dtype=a.dtype, device=a.device)
    for _ in range(_LEVELS):
        if min(rest.shape[-2:]) < 4:
            break
        coarse = F.avg_pool2d(rest, 2, ceil_mode=True)
        smooth = F.interpolate(coarse, size=rest.shape[-2:], mode="bilinear", align_corners=False)
        total = total + (rest - smooth).abs().mean()
        rest = coarse
    return total + rest.abs().mean()


def _lpips() -> Distance:
    import lpips

    network: Any = lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        pair = [image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image for image in (a, b)]
        if min(a.shape[-2:]) < _LPIPS_SIDE:
            pair = [F.interpolate(image, size=(64, 64), mode="bilinear") for image in pair]
        found: Tensor = network.to(a.device)(*pair).mean()
        return found

    return distance
