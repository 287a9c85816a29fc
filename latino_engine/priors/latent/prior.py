"""A latent prior: an image autoencoder, a consistency U-Net in its latent space, and a prompt."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from latino_engine.errors import invalid
from latino_engine.priors.precision import PRECISIONS
from latino_engine.priors.prior import Prior, PriorSpec, check_image, pad_to_multiple

ARCHITECTURE = "latent"
SIGMA_DATA = 0.5  # of the boundary conditions of latent consistency models


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net is told about the image.

    Attributes:
        prompt: embedding of the prompt's tokens, (1 or B, tokens, width) float32.
        pooled: embedding of the whole prompt, (1 or B, width) float32, for SDXL; else None.
    """

    prompt: Tensor
    pooled: Tensor | None = None

    def take(self, index: Tensor) -> Conditioning:
        """The conditioning of the images `index`, whether there is one for all or one for each."""
        rows = [None if t is None else _rows(t, index) for t in (self.prompt, self.pooled)]
        return Conditioning(cast(Tensor, rows[0]), rows[1])


class LatentModel(nn.Module):
    """The networks of a latent prior behind three functions: encode, denoise, decode.

    The latent is z = scaling_factor * (mean of the encoder - shift_factor), and z0_hat the
    consistency function of Luo et al. (2023), arXiv:2310.04378, eq. 9, in the variance-exploding
    form z + sigma eps.
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae
        self.facts = facts

    def encode(self, x: Tensor) -> Tensor:
        """The mean latent of an image in [-1, 1]: (B, 3, H, W) -> (B, C, H/f, W/f) float32."""
        vae = cast(Any, self.vae)
        mean = vae.encode(x.to(vae.dtype)).latent_dist.mean.float()
        return cast(Tensor, (mean - self.facts["shift_factor"]) * self.facts["scaling_factor"])

    def decode(self, z: Tensor) -> Tensor:
        """The image of a latent, in [-1, 1] but not clamped: (B, 3, H, W) float32."""
        vae = cast(Any, self.vae)
        raw = z / self.facts["scaling_factor"] + self.facts["shift_factor"]
        return cast(Tensor, vae.decode(raw.to(vae.dtype)).sample.float())

    def denoise(
        self,
        z_noisy: Tensor,
        sigma: Tensor,
        time: Tensor,
        prompt: Tensor,
        pooled: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """z0_hat = c_skip sqrt(abar) z + c_out (x0 prediction of the U-Net), z = z0 + sigma eps.

        Without boundary conditions (one-step networks such as DMD2) c_skip = 0 and c_out = 1.

        Args:
            z_noisy: (B, C, h, w) float32.
            sigma, time: (B,) float32: noise level, and its index in the table of the training.
            prompt: (B, tokens, width).
            pooled, time_ids: (B, width) and (B, 6) for SDXL, else None.
        """
        unet = cast(Any, self.unet)
        alpha = torch.rsqrt(1.0 + sigma**2)[:, None, None, None]  # sqrt(abar)
        level = sigma[:, None, None, None]
        extra = None
        if pooled is not None and time_ids is not None:
            extra = {"text_embeds": pooled.to(unet.dtype), "time_ids": time_ids.to(unet.dtype)}
        raw = unet(
            (alpha * z_noisy).to(unet.dtype),
            time,
            encoder_hidden_states=prompt.to(unet.dtype),
            timestep_cond=self._guidance(z_noisy.shape[0]),
            added_cond_kwargs=extra,
        ).sample.float()
        kind = self.facts["prediction_type"]
        if kind == "epsilon":
            z0 = z_noisy - level * raw
        elif kind == "v_prediction":  # v = sqrt(abar) eps - sqrt(1 - abar) z0
            z0 = alpha**2 * z_noisy - level * alpha * raw
        else:
            z0 = raw
        scaling = self.facts["timestep_scaling"]
        if scaling is None:
            return cast(Tensor, z0)
        scaled = (scaling * time)[:, None, None, None]
        c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        c_out = scaled * torch.rsqrt(scaled**2 + SIGMA_DATA**2)
        return cast(Tensor, c_skip * alpha * z_noisy + c_out * z0)

    def _guidance(self, batch: int) -> Tensor | None:
        """The embedded guidance scale of a distilled network, for a scale of 1 (none)."""
        width = cast(Any, self.unet).config.time_cond_proj_dim
        if width is None:
            return None
        # w = 0 in sin and cos of w * 1000 * frequency: zeros, then ones.
        half = torch.zeros(batch, width // 2), torch.ones(batch, width // 2)
        parameter = next(self.unet.parameters())
        padded = torch.cat([*half, torch.zeros(batch, width % 2)], dim=1)
        return padded.to(parameter.device, parameter.dtype)


@dataclass(frozen=True, eq=False)
class LatentPrior(Prior):
    """A prior p(x | c) over images through an autoencoder and a consistency U-Net, c the prompt.

    Attributes:
        spec: sides are multiples of size_multiple, the autoencoder's factor times the U-Net's;
            sigmas are those of the latent.
        denoiser: the `LatentModel`.
        conditioning: the embedded prompt.
    """

    conditioning: Conditioning

    @property
    def model(self) -> LatentModel:
        """The networks."""
        return cast(LatentModel, self.denoiser)

    def __repr__(self) -> str:
        facts = self.spec.architecture
        millions = sum(p.numel() for p in self.denoiser.parameters()) / 1e6
        return (
            f"LatentPrior({self.name!r}, {facts['pipeline']}, {millions:.1f} M parameters, "
            f"{facts['channels']} latent channels, factor {facts['factor']}, "
            f"prompt={facts['prompt']!r})"
        )

    def denoise(self, x_noisy: Tensor, sigma: float | Tensor) -> Tensor:
        """A latent prior has no denoiser of images.

        Raises:
            ValueError: always: noise lives in the latent space here.
        """
        remedy = "use encode, denoise_latent and decode, or compile it and call engine.sample"
        raise invalid("prior", "one that denoises images", f"the latent {self.name!r}", remedy)

    def encode(self, x: Tensor) -> Tensor:
        """E(x), the mean latent of (B, 3, H, W) in [-1, 1]; sides are padded by reflection."""
        check_image("x", x, self.spec)
        with torch.no_grad():
            return self.model.encode(pad_to_multiple(x.float(), self.spec.size_multiple))

    def decode(self, z: Tensor) -> Tensor:
        """D(z), the image of a latent, not clamped."""
        with torch.no_grad():
            return self.model.decode(z)

    def denoise_latent(self, z_noisy: Tensor, sigma: float | Tensor) -> Tensor:
        """z0_hat of z_noisy = z0 + sigma eps under the prompt, (B, C, h, w)."""
        batch = len(z_noisy)
        levels = torch.as_tensor(sigma, dtype=torch.float64).expand(batch)
        levels = levels.clamp(self.spec.sigma_min, self.spec.sigma_max)
        index = torch.zeros(batch, dtype=torch.int64)
        inputs = denoiser_inputs(self.spec, z_noisy, levels, self.conditioning.take(index))
        with torch.no_grad():
            return self.model.denoise(*inputs)

    def content_hash(self) -> str:
        """SHA-256 over the specification, every weight and the prompt's embedding."""
        digest = hashlib.sha256(super().content_hash().encode())
        for tensor in (self.conditioning.prompt, self.conditioning.pooled):
            if tensor is not None:
                digest.update(tensor.float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def latent_in_precision(model: LatentModel, precision: str) -> LatentModel:
    """The networks in a precision; one that has it already is shared, not copied.

    An autoencoder that says force_upcast (SDXL's first) overflows in half precision: it stays
    float32.
    """
    unet, vae = cast(Any, model.unet), cast(Any, model.vae)
    dtype = PRECISIONS[precision]
    vae_dtype = torch.float32 if vae.config.get("force_upcast") else dtype
    unet = unet if unet.dtype == dtype else copy.deepcopy(unet).to(dtype)
    vae = vae if vae.dtype == vae_dtype else copy.deepcopy(vae).to(vae_dtype)
    return LatentModel(unet, vae, model.facts)


def is_latent(spec: PriorSpec) -> bool:
    """Whether the specification is that of a latent prior."""
    return spec.architecture.get("name") == ARCHITECTURE


def time_of(spec: PriorSpec, sigma: Tensor) -> Tensor:
    """The fractional index of sigma in the prior's table, by interpolation of log sigma: float32.

    A sigma of the table gives its whole index.
    """
    table = np.log(np.asarray(spec.sigma_table, dtype=np.float64))
    levels = np.log(sigma.detach().cpu().double().numpy())
    found = np.interp(levels, table, np.arange(len(table), dtype=np.float64))
    return torch.from_numpy(np.atleast_1d(found)).float()


def denoiser_inputs(
    spec: PriorSpec, z: Tensor, sigma: Tensor, conditioning: Conditioning
) -> tuple[Tensor, ...]:
    """The arguments of `LatentModel.denoise` for latents z, float64 levels and B prompts."""
    device = z.device
    time = time_of(spec, sigma)
    given = [z, sigma.float(), time, conditioning.prompt]
    if conditioning.pooled is not None:
        factor = spec.architecture["factor"]
        height, width = factor * z.shape[-2], factor * z.shape[-1]
        # Original size, corner of the crop, target size: the image as it is.
        ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        given += [conditioning.pooled, ids.expand(len(z), 6).contiguous()]
    return tuple(tensor.to(device) for tensor in given)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.expand(len(index), *tensor.shape[1:]) if len(tensor) == 1 else tensor[index]
