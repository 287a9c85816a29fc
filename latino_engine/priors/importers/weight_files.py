"""Where a folder of diffusers keeps a model's weights: whole or in shards, in any variant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from latino_engine.errors import PriorInvalid
from latino_engine.priors.importers.checkpoint import check_bytes, read_checkpoint

_STEM = r"(?:diffusion_pytorch_)?model"
#: model.fp16.safetensors
_WHOLE = re.compile(rf"{_STEM}(?:\.(?P<variant>\w+))?\.(?P<kind>safetensors|bin)")
#: model.safetensors.index.fp16.json, and the older model.fp16.safetensors.index.json
_INDEX = re.compile(
    rf"{_STEM}(?:\.(?P<first>\w+))?\.(?P<kind>safetensors|bin)\.index(?:\.(?P<last>\w+))?\.json"
)
_KINDS = ("safetensors", "bin")


def weight_files(home: Path) -> list[Path]:
    """The files with a model's weights, several where they are sharded.

    Full precision comes before fp16 and that before any other variant (non_ema, ...), safetensors
    before torch's own files, whole files before shards.

    Raises:
        PriorInvalid: none there; an index that is damaged, or names files that are not there or
            lie outside of the folder.
    """
    found: list[tuple[tuple[Any, ...], Path]] = []
    for path in sorted(home.iterdir()):
        whole, index = _WHOLE.fullmatch(path.name), _INDEX.fullmatch(path.name)
        named = whole or index
        if named is None or not path.is_file():
            continue
        groups = named.groupdict()
        variant = groups.get("variant") or groups.get("first") or groups.get("last") or ""
        place = ("", "fp16").index(variant) if variant in ("", "fp16") else 2
        kind = _KINDS.index(groups["kind"])
        found.append(((place, kind, index is not None, variant), path))
    if not found:
        others = sorted(p.name for p in home.iterdir() if p.suffix in (".safetensors", ".bin"))
        got = f"{others[0]!r} alone" if others else "none"
        raise PriorInvalid(
            "folder: expected diffusion_pytorch_model.safetensors or .bin, whole or shards with "
            f"their index.json, in {home.name!r}, got {got}; save the model by save_pretrained"
        )
    path = min(found, key=lambda one: one[0])[1]
    return _shards(path) if path.suffix == ".json" else [path]


def read_weights(files: list[Path], max_bytes: int) -> dict[str, Any]:
    """The mapping in one file, or of all shards together; torch's files without running code.

    Raises:
        PriorInvalid: a file that cannot be read, more bytes than allowed, a name in two shards.
    """
    check_bytes(files[0], sum(file.stat().st_size for file in files), max_bytes)
    weights: dict[str, Any] = {}
    for file in files:
        found = read_checkpoint(file, max_bytes)
        if len(files) == 1:
            return found
        twice = sorted(set(found) & set(weights))
        if twice:
            raise PriorInvalid(
                f"{file.name}: expected each weight in one shard, got {twice[0]!r} in two; "
                "copy the folder again from its source"
            )
        weights |= found
    return weights


def _shards(index: Path) -> list[Path]:
    remedy = "copy the folder again from its source"
    try:
        stated = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in stated.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PriorInvalid(
            f"{index.name}: expected a weight_map of names to shards, got {error!r}; {remedy}"
        ) from error
    kind = index.name.partition(".index")[0].rpartition(".")[2]
    for name in names:
        plain = Path(name).name == name and "\\" not in name
        if not plain or not name.endswith(f".{kind}") or not (index.parent / name).is_file():
            got = f"{name!r}, which is not there" if plain else f"{name!r}"
            raise PriorInvalid(
                f"{index.name}: expected {kind} files of its own folder, got {got}; {remedy}"
            )
    if not names:
        raise PriorInvalid(f"{index.name}: expected shards, got an empty weight_map; {remedy}")
    return [index.parent / name for name in names]
