"""Latent priors from folders: diffusers' text-to-image pipelines, and our own layout.

Everything is read from the disk: no network, no pickle.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latino_engine.errors import BackendNotAvailable, OutputNotWritable, PriorInvalid
from latino_engine.priors.importers.checkpoint import check_bytes, check_size
from latino_engine.priors.latent.pipeline_files import (
    MAX_PIPELINE_BYTES,
    PIPELINES,
    check_libraries,
    files_of,
    latent_pipeline,
    weights_of,
)
from latino_engine.priors.latent.prior import ARCHITECTURE, Conditioning, LatentModel, LatentPrior
from latino_engine.priors.prior import PriorSpec
from latino_engine.system.quiet import quiet

_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
PROMPT_FILE = "prompt.safetensors"


def load_latent_prior(
    folder: str | Path,
    prompt: str | None = None,
    lora: str | Path | None = None,
    keep_half: bool = False,
    max_bytes: int = MAX_PIPELINE_BYTES,
) -> LatentPrior:
    """Load Stable Diffusion, SDXL or a latent consistency model from a folder of diffusers.

    Args:
        folder: with model_index.json, unet, vae, scheduler, tokenizer and text_encoder (SDXL: two
            of the last), weights as safetensors.
        prompt: what the images show; None is the empty prompt. It is embedded here, once.
        lora: safetensors file of low-rank changes of the U-Net (LCM, DMD2), in kohya's, peft's or
            diffusers' layout, merged here.
        keep_half: keep float16 and bfloat16 weights as they are on file, and take the fp16 files
            where a network has both; else float32.
        max_bytes: largest size of the files that are read, of all together and of the LoRA.

    Raises:
        PriorInvalid: a folder, a file or a LoRA that cannot be used, in one sentence.
        BackendNotAvailable: diffusers or transformers is not installed.
    """
    folder = Path(folder)
    name = latent_pipeline(folder)
    if name is None:
        raise PriorInvalid(
            f"prior: expected model_index.json of {', '.join(PIPELINES)} in {folder.name!r}, got "
            "none; save the pipeline by diffusers' save_pretrained"
        )
    _require_diffusers()
    parts = ("unet", "vae", "scheduler", *PIPELINES[name])
    check_libraries(folder, parts)
    files = [
        file for p in parts for file in files_of(folder, p, keep_half and p in ("unet", "vae"))
    ]
    check_bytes(folder, sum(file.stat().st_size for file in files), max_bytes, "prior")
    with quiet():  # progress bars and advice about the folder's age
        from diffusers import AutoencoderKL, UNet2DConditionModel

        unet = _read_network(UNet2DConditionModel, folder / "unet", keep_half)
        vae = _read_network(AutoencoderKL, folder / "vae", keep_half)
        if lora is not None:
            from latino_engine.priors.latent.latent_lora import merge_lora

            merge_lora(unet, Path(lora), max_bytes)
        conditioning, scheduler = _embed(folder, name, prompt or "")
    spec = _specification(folder, name, prompt or "", unet, vae, scheduler)
    return assemble(spec, unet, vae, conditioning)


def assemble(
    spec: PriorSpec, unet: nn.Module, vae: nn.Module, conditioning: Conditioning
) -> LatentPrior:
    """The prior of these networks, in evaluation mode, without gradients for their weights."""
    model = LatentModel(unet, vae, spec.architecture).eval().requires_grad_(False)
    return LatentPrior(spec, model, conditioning)


def write_latent_weights(prior: LatentPrior, folder: Path) -> None:
    """Write model.safetensors, each weight in its own dtype, and prompt.safetensors."""
    weights = {k: v.detach().contiguous() for k, v in prior.denoiser.state_dict().items()}
    prompt = {"prompt": prior.conditioning.prompt.float().contiguous()}
    if prior.conditioning.pooled is not None:
        prompt["pooled"] = prior.conditioning.pooled.float().contiguous()
    for name, tensors in (("model.safetensors", weights), (PROMPT_FILE, prompt)):
        try:
            save_file(tensors, folder / name, metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            raise OutputNotWritable(
                f"out: expected a folder with room for {name}, got {error}; free some space or "
                "choose another folder"
            ) from error


def read_latent_prior(
    spec: PriorSpec, folder: Path, max_bytes: int = MAX_PIPELINE_BYTES
) -> LatentPrior:
    """The prior that `write_latent_weights` wrote, `spec` from the prior.json beside it."""
    _require_diffusers()
    with quiet():
        from diffusers import AutoencoderKL, UNet2DConditionModel

    weights = _read_tensors(folder / "model.safetensors", max_bytes)
    networks = []
    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    for part, kind in kinds.items():
        with torch.device("meta"):
            network = kind.from_config(dict(spec.architecture[part]))
        own = {k.removeprefix(f"{part}."): weights.pop(k) for k in list(weights) if _of(k, part)}
        _check_names(network, own, part)
        network.load_state_dict(own, strict=True, assign=True)
        networks.append(network)
    return assemble(spec, networks[0], networks[1], read_conditioning(folder))


def read_conditioning(folder: Path) -> Conditioning:
    """The embedded prompt of an engine or a saved latent prior."""
    found = _read_tensors(folder / PROMPT_FILE, MAX_PIPELINE_BYTES)
    return Conditioning(found["prompt"], found.get("pooled"))


def _of(key: str, part: str) -> bool:
    return key.startswith(f"{part}.")


def _require_diffusers() -> None:
    for package in ("diffusers", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise BackendNotAvailable(
                f"prior: expected {package} for a latent prior, got an installation without it; "
                "install it with: pip install 'latino-engine[diffusers]'"
            )


def _read_network(kind: Any, folder: Path, keep_half: bool) -> Any:
    """A network of diffusers; every weight must be there, in its shape."""
    variant, files = weights_of(folder, keep_half)
    dtype = _dtype_on_file(folder, files[0]) if keep_half else torch.float32
    try:
        network, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant=variant,
            torch_dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, TypeError) as error:
        raise _refused(folder, error) from error
    missing, extra = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    extra = [key for key in extra if not key.endswith("position_ids")]  # 0, 1, .. in old files
    if missing or extra:
        raise PriorInvalid(
            f"{folder.name}: expected the weights of its config.json, got "
            + _difference(missing, extra)
            + "; use the config.json that belongs to these weights"
        )
    return network


def _refused(folder: Path, error: BaseException) -> PriorInvalid:
    first = " ".join(str(error).split())[:200]
    return PriorInvalid(
        f"{folder.name}: expected a network that diffusers can read, got one that it refuses "
        f"({first}); copy the folder again from its source"
    )


def _dtype_on_file(folder: Path, path: Path) -> torch.dtype:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            kinds = {file.get_slice(name).get_dtype() for name in names} & set(_FLOATS)
    except (SafetensorError, OSError) as error:
        raise _refused(folder, error) from error
    return _FLOATS[kinds.pop()] if len(kinds) == 1 else torch.float32


def _read_tensors(path: Path, max_bytes: int) -> dict[str, Tensor]:
    try:
        check_size(path, max_bytes, path.name)
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PriorInvalid(
            f"{path.name}: expected a safetensors file, got one that cannot be read ({error}); "
            "copy the file again from its source"
        ) from error


def _check_names(network: nn.Module, found: Mapping[str, Tensor], part: str) -> None:
    expected = network.state_dict()
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    other = [k for k in expected if k in found and expected[k].shape != found[k].shape]
    if missing or extra or other:
        raise PriorInvalid(
            f"model.safetensors: expected the weights of {part} in prior.json, got "
            + (_difference(missing, extra) or f"{other[0]} of another shape")
            + "; use the prior.json that belongs to these weights"
        )


def _difference(missing: list[str], extra: list[str]) -> str:
    parts = []
    if missing:
        near = difflib.get_close_matches(missing[0], extra, n=1, cutoff=0.8)
        nearest = f" (nearest: {near[0]})" if near else ""
        parts.append(f"{len(missing)} missing such as {missing[0]}{nearest}")
    if extra:
        parts.append(f"{len(extra)} unexpected such as {extra[0]}")
    return "; ".join(parts)


def _embed(folder: Path, name: str, prompt: str) -> tuple[Conditioning, Any]:
    """The prompt through the pipeline's own text encoders, and its scheduler."""
    import diffusers
    import transformers

    absent: dict[str, Any] = {"unet": None, "vae": None}
    if name != "StableDiffusionXLPipeline":
        absent |= {"safety_checker": None, "feature_extractor": None}
    for part in PIPELINES[name]:
        if part.startswith("text_encoder"):  # the pipeline would fill missing weights at random
            kind = "CLIPTextModel" if part == "text_encoder" else "CLIPTextModelWithProjection"
            absent[part] = _read_network(getattr(transformers, kind), folder / part, False)
    try:
        pipeline = getattr(diffusers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32, **absent
        )
        with torch.no_grad():
            found = pipeline.encode_prompt(
                prompt,
                device=torch.device("cpu"),
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        first = " ".join(str(error).split())[:200]
        raise PriorInvalid(
            f"prior: expected tokenizers and text encoders that diffusers can read in "
            f"{folder.name!r}, got ones that it refuses ({first}); copy the folder again"
        ) from error
    pooled = found[2].float() if len(found) > 2 else None
    return Conditioning(found[0].float(), pooled), pipeline.scheduler


def _specification(
    folder: Path, name: str, prompt: str, unet: Any, vae: Any, scheduler: Any
) -> PriorSpec:
    alpha_bar = getattr(scheduler, "alphas_cumprod", None)
    config = scheduler.config
    kind = config.get("prediction_type", "epsilon")
    kind_of = type(scheduler).__name__
    if alpha_bar is None or kind not in _PREDICTIONS:
        raise PriorInvalid(
            f"scheduler: expected one with alphas_cumprod and a prediction type of "
            f"{', '.join(_PREDICTIONS)}, got {kind_of} with {kind!r}; save the pipeline with an "
            "LCMScheduler or a DDIMScheduler"
        )
    alpha_bar = torch.as_tensor(alpha_bar).double().clamp_min(1e-8)
    table = ((1.0 - alpha_bar) / alpha_bar).sqrt()
    if vae.config.get("latents_mean") is not None:
        raise PriorInvalid(
            "vae: expected latents that are scaled by one factor, got latents_mean for each "
            "channel; use an autoencoder of Stable Diffusion or SDXL"
        )
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    deep = 2 ** (len(unet.config.block_out_channels) - 1)
    facts = {
        "name": ARCHITECTURE,
        "pipeline": name,
        "channels": int(vae.config.latent_channels),
        "factor": factor,
        "scaling_factor": float(vae.config.scaling_factor),
        "shift_factor": float(vae.config.get("shift_factor") or 0.0),
        "prediction_type": kind,
        "timestep_scaling": (
            float(config["timestep_scaling"]) if kind_of == "LCMScheduler" else None
        ),
        "prompt": prompt,
        "unet": _plain(unet.config),
        "vae": _plain(vae.config),
    }
    return PriorSpec(
        name=folder.resolve().name,
        channels=int(vae.config.in_channels),
        size_multiple=factor * deep,
        data_range=(0.0, 1.0),
        sigma_min=float(table[0]),
        sigma_max=float(table[-1]),
        architecture=facts,
        preconditioning={"name": "latent-consistency"},
        sigma_table=tuple(float(sigma) for sigma in table),
        sampler={"steps": 8.0},
    )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON types, without the path that it came from."""
    kept = {k: v for k, v in config.items() if k not in ("_name_or_path", "_use_default_values")}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain
