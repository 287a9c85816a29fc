"""What lies in a folder of diffusers' text-to-image pipelines, before anything of it is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latino_engine.errors import PriorInvalid
from latino_engine.system.described import NotAsDescribed, read_json

_TEXT = ("tokenizer", "text_encoder")
#: Pipeline class of model_index.json -> the folders that it needs besides unet, vae, scheduler.
PIPELINES = {
    "StableDiffusionPipeline": _TEXT,
    "LatentConsistencyModelPipeline": _TEXT,
    "StableDiffusionXLPipeline": (*_TEXT, "tokenizer_2", "text_encoder_2"),
}
#: Of all that is read together: SDXL, the largest, has 13.9 GB in float32.
MAX_PIPELINE_BYTES = 16 * 2**30
_LIBRARIES = ("diffusers", "transformers")
_SHARD = r"(?:-\d+-of-\d+)?"  # stands before or after the variant
_WEIGHTS = re.compile(rf"(?:diffusion_pytorch_)?model{_SHARD}(?:\.(\w+))?{_SHARD}\.safetensors")


def latent_pipeline(folder: Path) -> str | None:
    """The class in model_index.json where that is a text-to-image pipeline, else None.

    Raises:
        PriorInvalid: a text-to-image pipeline of another class than those of `PIPELINES`.
    """
    index = _index(folder)
    if index is None:
        return None
    name = str(index.get("_class_name"))[:100]
    if name in PIPELINES:
        return name
    if "vae" in index or "text_encoder" in index:
        known = ", ".join(PIPELINES)
        raise PriorInvalid(
            f"model_index.json: expected a pipeline of {known}, got {name!r}; "
            "export the prior as one of these, or as an unconditional pipeline"
        )
    return None


def _index(folder: Path) -> dict[str, Any] | None:
    """model_index.json where it is one: an object; what else stands there is nobody's pipeline."""
    try:
        found = read_json(folder / "model_index.json")
    except (OSError, NotAsDescribed):
        return None
    return found if isinstance(found, dict) else None


def check_libraries(folder: Path, parts: tuple[str, ...]) -> None:
    """A part of another library, or of a module in the folder, would run code that is not ours."""
    index = _index(folder) or {}
    for part in parts:
        stated = index.get(part)
        library = stated[0] if isinstance(stated, list) and stated else stated
        if not isinstance(library, str) or library not in _LIBRARIES:
            raise PriorInvalid(
                f"model_index.json: expected {part} from {' or '.join(_LIBRARIES)}, got "
                f"{library!r}; nothing of it was run: save the pipeline by diffusers' "
                "save_pretrained"
            )


def files_of(folder: Path, part: str, keep_half: bool) -> list[Path]:
    """The files that are read for one part of the pipeline."""
    path = folder / part
    if not path.is_dir():
        raise PriorInvalid(
            f"prior: expected the folder {part} in {folder.name!r}, got none; save the whole "
            "pipeline by diffusers' save_pretrained"
        )
    if part in ("tokenizer", "tokenizer_2", "scheduler"):
        return [file for file in path.iterdir() if file.is_file()]
    _, files = weights_of(path, keep_half)
    if not (path / "config.json").is_file() or not files:
        pickled = [p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".ckpt")]
        more = f" (only the pickled {pickled[0]!r}, which is never loaded)" if pickled else ""
        raise PriorInvalid(
            f"prior: expected config.json and a safetensors file in {part}, got none{more}; save "
            "the pipeline with safe_serialization=True"
        )
    return files


def weights_of(folder: Path, keep_half: bool) -> tuple[str | None, list[Path]]:
    """The variant of a network's weights that is read, and its files: fp16 first or last."""
    variants: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        named = _WEIGHTS.fullmatch(file.name)
        if named is not None:
            variants.setdefault(named[1] or "", []).append(file)
    order = ("fp16", "", *variants) if keep_half else ("", *variants)
    for variant in order:
        if variant in variants:
            return variant or None, variants[variant]
    return None, []
