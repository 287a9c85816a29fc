"""engine.json: what an engine is, with the SHA-256 of every file, checked whenever it is read."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from latino_engine.atomic import recover
from latino_engine.errors import EngineInvalid
from latino_engine.system.cache import file_sha256
from latino_engine.system.described import (
    Count,
    Finite,
    Name,
    NotAsDescribed,
    Positive,
    Sha256,
    described,
    parse_json,
    regular_bytes,
)

FORMAT_VERSION = 1
MANIFEST = "engine.json"
#: Names that an engine folder may hold: the first marks a folder as an engine.
ENGINE_FILES = (
    MANIFEST,
    "denoiser.*",
    "prior.json",
    "model.safetensors",
    "encoder.*",
    "decoder.*",
    "prompt.safetensors",
)

_PLAN = ".plan"  # denoiser.<runtime>.<architecture>.<precision>.plan
_REMEDY = "compile the engine again (latino-engine compile)"
_Side = Annotated[int, Meta(ge=1, le=1 << 20)]
_Level = Annotated[float, Meta(ge=0.0, le=1e30)]
_NumBytes = Annotated[int, Meta(ge=0, le=1 << 62)]


class _FileFacts(Struct):
    sha256: Sha256
    bytes: _NumBytes


class _Memory(Struct):
    """What `memory_model` found, or for a latent prior what its networks take for an image."""

    per_pixel: Positive  # batches are cut by dividing by it
    per_pixel_squared: _Level


class _AdapterFacts(Struct):
    name: Name
    init: Literal["regularised", "measurement", "network"]
    schedule: dict[str, Any]  # described by `learned_schedule`
    noise_std: tuple[_Level, _Level] | None = None


class _RuntimeFacts(Struct):
    """Of one runtime: its error, or why it does not serve; plans of TensorRT beside it."""

    relative_error: Finite | None = None
    refused: str | None = None
    plans: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {}


class _SamplerFacts(Struct):
    name: Name
    nfe: Count


class _EngineFile(Struct):
    """engine.json, apart from `format_version` and its own hash; more fields may stand beside."""

    prior: dict[str, Any]  # described by `priors.folder`
    prior_sha256: Sha256
    adapter: _AdapterFacts | None
    precision: Literal["fp32", "fp16", "bf16"]
    image_size: tuple[_Side, _Side] | None
    max_batch: Count
    memory: _Memory
    backend: Name
    runtimes: dict[str, _RuntimeFacts]
    sampler: _SamplerFacts
    gpu_architectures: list[str]
    versions: dict[str, str | None]
    machine: dict[str, Any]
    files: dict[str, _FileFacts]


def write_manifest(folder: Path, fields: dict[str, Any]) -> None:
    """Write engine.json with the hashes of the files beside it, and its own."""
    files = {
        path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    body = {"format_version": FORMAT_VERSION, **fields, "files": files}
    body = json.loads(json.dumps(body))
    (folder / MANIFEST).write_bytes(_serialised(body | {"sha256": _digest(body)}))


def read_manifest(folder: Path, plans: bool = True) -> dict[str, Any]:
    """Read engine.json and check it, and every file it names, byte for byte.

    Args:
        folder: the engine's.
        plans: False leaves out the plans, which can be built again.

    Raises:
        EngineInvalid: not an engine, another format version, a missing or damaged file.
    """
    raw = _read_bytes(folder)
    try:
        fields = parse_json(raw)
        version = fields["format_version"]
    except (NotAsDescribed, KeyError, TypeError, IndexError) as error:
        raise EngineInvalid(
            f"{MANIFEST}: expected the manifest of an engine, got a file that cannot be read as "
            f"one in {folder.name!r}; {_REMEDY}"
        ) from error
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        remedy = "update latino-engine" if newer else _REMEDY
        raise EngineInvalid(
            f"{MANIFEST}: expected format version {FORMAT_VERSION}, got {repr(version)[:40]}; "
            f"{remedy}"
        )
    recorded = fields.pop("sha256", None)
    if recorded != _digest(fields) or raw != _serialised(fields | {"sha256": recorded}):
        raise EngineInvalid(
            f"{MANIFEST}: expected the manifest as it was written, got an edited or damaged one in "
            f"{folder.name!r}; {_REMEDY}"
        )
    try:
        described(fields, _EngineFile)
    except NotAsDescribed as error:
        raise EngineInvalid(f"{MANIFEST}: expected {error}; {_REMEDY}") from error
    names = fields["files"] if plans else (n for n in fields["files"] if not is_plan(n))
    for name in names:
        _check_file(folder, name, fields["files"][name])
    return cast(dict[str, Any], fields)


def engine_sha256(manifest: dict[str, Any]) -> str:
    """The hash of an engine as its manifest was read: that of the manifest, which names those of
    all files.
    """
    return _digest(manifest)


def is_plan(name: str) -> bool:
    """Whether a file of an engine was built for one GPU."""
    return name.endswith(_PLAN)


def damaged_plans(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the plans that are missing, or not as they were written."""
    found = []
    for name in filter(is_plan, manifest["files"]):
        try:
            _check_file(folder, name, manifest["files"][name])
        except EngineInvalid:
            found.append(name)
    return found


def rebuild_command(folder: Path) -> str:
    """What a shell takes to build plans into an engine."""
    return f"latino-engine rebuild {shlex.quote(str(folder))}"


def rebuild_remedy(folder: Path, architecture: str) -> str:
    """Which command builds a plan that does not fit."""
    command = f"{rebuild_command(folder)} --gpu {architecture}"
    return f"build it by: {command}, or load the engine with --rebuild (rebuild=True in Python)"


def _read_bytes(folder: Path) -> bytes:
    recover(folder)
    if not folder.exists():
        raise EngineInvalid(
            f"engine: expected the folder of an engine, got {str(folder)!r}, which does not exist; "
            "make one by: latino-engine compile photo-small -o a.engine"
        )
    try:
        return regular_bytes(folder / MANIFEST)
    except (OSError, NotAsDescribed) as error:
        raise EngineInvalid(
            f"engine: expected a folder with {MANIFEST}, got {str(folder)!r} without a readable "
            "one; make one by: latino-engine compile photo-small -o a.engine"
        ) from error


def _check_file(folder: Path, name: str, facts: dict[str, Any]) -> None:
    path = folder / name
    again = rebuild_remedy(folder, name.split(".")[2]) if is_plan(name) else _REMEDY
    if "\0" in name or Path(name).name != name or not path.is_file():
        raise EngineInvalid(
            f"{name}: expected a file of the engine {folder.name!r}, got none; {again}"
        )
    if path.stat().st_size != facts["bytes"] or file_sha256(path) != facts["sha256"]:
        raise EngineInvalid(
            f"{name}: expected the contents that {MANIFEST} records, got other ones in "
            f"{folder.name!r}; copy the engine again from its source, or {again}"
        )


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_serialised(fields)).hexdigest()


def _serialised(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()
