"""A prior: a denoiser with what one must know to use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latino_engine.errors import axes_remedy, channels_last, convert_remedy, invalid, invalid_type
from latino_engine.schedule import log_spaced


@dataclass(frozen=True)
class PriorSpec:
    """What a prior states about itself; `prior.json` holds the same fields.

    Attributes:
        name: for people.
        channels: image channels.
        size_multiple: the network wants sides divisible by this; other sides are padded by
            reflection.
        data_range: (low, high) of the public images; the network itself works in [-1, 1].
        sigma_min, sigma_max: noise levels the network was trained for, in [-1, 1] units.
        architecture: what rebuilds the network: {"name": "unet", ...its arguments}.
        preconditioning: {"name": "edm", "sigma_data": ...}.
        sigma_table: sigma of each training time, increasing, or None: linear betas are then
            assumed.
        sampler: defaults of the zero-shot sampler, public units: {"sigma_max", "sigma_min",
            "steps"}.
        licence: of the weights.
    """

    name: str
    channels: int
    size_multiple: int
    data_range: tuple[float, float]
    sigma_min: float
    sigma_max: float
    architecture: dict[str, Any]
    preconditioning: dict[str, Any]
    sigma_table: tuple[float, ...] | None = None
    sampler: dict[str, float] = field(default_factory=dict)
    licence: str = ""

    @property
    def scale(self) -> float:
        """a of internal = a public + b: a public sigma becomes a * sigma."""
        return 2.0 / (self.data_range[1] - self.data_range[0])

    @property
    def offset(self) -> float:
        """b of internal = a public + b."""
        return -1.0 - self.scale * self.data_range[0]

    @property
    def latino_steps(self) -> int:
        """Network evaluations of zero-shot LATINO where the caller names no number."""
        return int(self.sampler.get("steps", 8))

    def latino_sigmas(self, steps: int | None = None) -> list[float]:
        """Noise levels of zero-shot LATINO, internal units, the largest first."""
        first = self.scale * self.sampler.get("sigma_max", 0.3)
        last = self.scale * self.sampler.get("sigma_min", 0.02)
        return log_spaced(first, last, self.latino_steps if steps is None else steps)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return cast(dict[str, Any], json.loads(json.dumps(asdict(self))))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """x padded by reflection at the right and the bottom, so that its sides are multiples of
    `multiple`.
    """
    pad_h, pad_w = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, pad_w, 0, pad_h), mode="reflect") if pad_h or pad_w else x


def on_padded(
    network: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, multiple: int
) -> Tensor:
    """network(x, sigma) of an image with any sides: padded before it, and cut back after it."""
    height, width = x.shape[-2:]
    return network(pad_to_multiple(x, multiple), sigma)[..., :height, :width]


@dataclass(frozen=True, eq=False)
class Prior:
    """A diffusion prior in the sigma contract.

    Attributes:
        spec: what it states about itself.
        denoiser: module (x (B, C, H, W), sigma (B,)) -> x0_hat, float32, sides multiples of
            size_multiple.
    """

    spec: PriorSpec
    denoiser: nn.Module

    @property
    def name(self) -> str:
        """The prior's name."""
        return self.spec.name

    @property
    def channels(self) -> int:
        """Image channels."""
        return self.spec.channels

    @property
    def data_range(self) -> tuple[float, float]:
        """(low, high) of the public images."""
        return self.spec.data_range

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.denoiser.parameters()) / 1e6
        return (
            f"Prior({self.name!r}, channels={self.channels}, {millions:.2f} M parameters, "
            f"sigma {self.spec.sigma_min:g}..{self.spec.sigma_max:g})"
        )

    def denoise(self, x_noisy: Tensor, sigma: float | Tensor) -> Tensor:
        """x0_hat = E[x_0 | x_0 + sigma eps = x_noisy], as the network has learned it.

        Args:
            x_noisy: (B, C, H, W) float32 in the internal range [-1, 1] (plus noise); never clipped.
            sigma: noise standard deviation in the same units, a number or (B,); clamped to the
                prior's [sigma_min, sigma_max].

        Returns:
            (B, C, H, W) float32, not clamped.

        Raises:
            ValueError, TypeError: another rank, channel count, dtype, or a side below
                size_multiple.
        """
        check_image("x_noisy", x_noisy, self.spec)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x_noisy.device)
        if levels.ndim > 1 or (levels.ndim == 1 and levels.shape[0] != x_noisy.shape[0]):
            expected = f"a number or shape ({x_noisy.shape[0]},)"
            remedy = "give one noise level for each image"
            raise invalid("sigma", expected, f"shape {tuple(levels.shape)}", remedy)
        levels = levels.clamp(self.spec.sigma_min, self.spec.sigma_max).expand(x_noisy.shape[0])
        return on_padded(self.denoiser, x_noisy, levels, self.spec.size_multiple)

    def content_hash(self) -> str:
        """SHA-256 over the specification and every weight: the identity that an engine records."""
        digest = hashlib.sha256(json.dumps(self.spec.to_json(), sort_keys=True).encode())
        for name, tensor in sorted(self.denoiser.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(data.numpy().tobytes())
        return digest.hexdigest()


def check_image(name: str, x: Tensor, spec: PriorSpec) -> None:
    """Raise the sentence for an image that the prior cannot take."""
    if not isinstance(x, Tensor):
        raise invalid_type(name, "a torch tensor", type(x).__name__, convert_remedy(x))
    if not x.is_floating_point():
        raise invalid_type(name, "a floating-point image", x.dtype, "convert it by .float()")
    if x.ndim != 4 or channels_last(x.shape, spec.channels):
        expected, got = f"(B, {spec.channels}, H, W)", tuple(x.shape)
        raise invalid(name, expected, got, axes_remedy(x.shape))
    if x.shape[1] != spec.channels:
        remedy = (
            f"repeat the grey image: x.repeat(1, {spec.channels}, 1, 1)"
            if x.shape[1] == 1
            else "use a prior with as many channels as the image"
        )
        expected = f"{spec.channels} channels, as the prior {spec.name!r} has"
        raise invalid(name, expected, x.shape[1], remedy)
    if min(x.shape[-2:]) < spec.size_multiple:
        expected = f"sides of at least {spec.size_multiple}"
        remedy = "pad or enlarge the image"
        raise invalid(name, expected, tuple(x.shape[-2:]), remedy)
