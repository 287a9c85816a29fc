"""Files that are almost right: values of other types, damaged bytes, pipes, deep nesting.

Where a file carries a hash of itself, the hash is made anew: what is tried is the reader behind it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blobs import blob_images, prior_training
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_prior
from tiny_adapters import make_adapter

import latino_engine as le
from latino_engine.distill.checkpoint import read_facts
from latino_engine.distill.prior_training import train_prior
from latino_engine.operators import Denoising
from latino_engine.operators.serialisation import load_operator

_STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 10**6, 2**31, 2**63, 10**40, 10**400),
    *(0.0, 0.5, -1.5, 1e-300, 1e300, float("nan"), float("inf")),
    *("", "a", "1", "\0", "x" * 5000, "../secret", "é"),
    *([], [0], ["a"], [[]], [1, 2, 3], {}, {"a": 1}, {"name": "unet"}),
)
_MOST_READ = 60_000  # bytes: a text that nests deeply


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, below in inner:
        found += _places(below, (*path, key))
    return found


def mutated_json(chance: random.Random, value: Any) -> Any:
    """A copy with one to three places that hold something else, or nothing."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path = chance.choice(_places(value))
        if not path:
            return chance.choice(_STRANGE) if chance.random() < 0.3 else value
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        kind = chance.randrange(6)
        if kind == 0:
            del owner[path[-1]]
        elif kind == 1:
            owner[path[-1]] = [owner[path[-1]]]
        elif kind == 2 and isinstance(owner, dict):
            owner[chance.choice(("", "a", "name", "\0"))] = owner.pop(path[-1])
        else:
            owner[path[-1]] = chance.choice(_STRANGE)
    return value


def mutated_text(chance: random.Random, text: bytes) -> bytes:
    """Text that is no JSON any more, or nests deeply."""
    kind, at = chance.randrange(5), chance.randrange(len(text) + 1)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
    if kind == 2:
        return b"[" * chance.choice((50, 500, 5000, _MOST_READ))
    if kind == 3:
        return b'{"a":' * 3000 + text + b"}" * 3000
    return text[:at] + text[at:][::-1]


def signed(fields: Any) -> bytes:
    """engine.json with the hash that its reader asks for."""

    def serialised(value: Any) -> bytes:
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    if not isinstance(fields, dict):
        return serialised(fields)
    body = {key: value for key, value in fields.items() if key != "sha256"}
    return serialised(body | {"sha256": hashlib.sha256(serialised(body)).hexdigest()})


class Target:
    """A folder or file that is right, the file in it that is mutated, and what reads it."""

    def __init__(self, right: Path, name: str, read: Callable[[Path], Any]) -> None:
        self.right, self.name, self.read = right, name, read

    def mutate(self, chance: random.Random, place: Path) -> str:
        """Damages the file in a copy of the right one; says how."""
        path = place / self.name if self.name else place
        kind = chance.random()
        if kind < 0.02:
            path.unlink()
            os.mkfifo(path)
            return "a pipe"
        if kind < 0.04:
            path.unlink()
            path.mkdir()
            return "a folder"
        raw = path.read_bytes()
        if path.suffix == ".json":
            if kind < 0.15:
                new = mutated_text(chance, raw)
            else:
                fields = mutated_json(chance, json.loads(raw))
                new = signed(fields) if path.name == "engine.json" else json.dumps(fields).encode()
            path.write_bytes(new)
            return repr(new[:300])
        if path.name == "training.safetensors" and kind < 0.8:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["checkpoint"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            facts = mutated_json(chance, facts)
            save_file(tensors, path, metadata={"checkpoint": json.dumps(facts)})
            return repr(json.dumps(facts)[:300])
        return self._damaged(chance, path, raw)

    def _damaged(self, chance: random.Random, path: Path, raw: bytes) -> str:
        kind, at = chance.randrange(4), chance.randrange(max(1, min(len(raw), 4096)))
        if kind == 0:
            new = raw[:at]
        elif kind == 1:
            new = raw[:at] + bytes(chance.randrange(256) for _ in range(8)) + raw[at + 8 :]
        elif kind == 2:
            at = chance.randrange(len(raw))
            new = raw[:at] + bytes([raw[at] ^ (1 << chance.randrange(8))]) + raw[at + 1 :]
        else:
            new = raw[: len(raw) // 2] * 2
        path.write_bytes(new)
        return f"bytes, kind {kind} at {at} of {len(raw)}"


def _load_and_sample(folder: Path) -> Any:
    engine = le.load(folder, threads=1)
    return engine.sample(torch.rand(1, 3, 8, 8), Denoising(0.1), 1, steps=1, sampler="latino")


def _denoise(folder: Path) -> Any:
    prior = le.load_prior(folder)
    prior.denoise(torch.rand(1, prior.channels, 8, 8), 0.5)
    # Weights carry no hash: damaged ones may be huge, and what the bare network makes of them is
    # not judged here. `sample` refuses it (`NotFinite`).


def _resume(folder: Path) -> Any:
    read_facts(folder / "training.safetensors")
    options = prior_training(folder.parent / "blobs.npy", steps=1, batch=2)
    train_prior(options, folder, device="cpu")


def make_targets(home: Path) -> tuple[Target, ...]:
    """One of every kind of file that this package reads, small."""
    prior = tiny_prior(3)
    le.save_prior(prior, home / "prior")
    le.save_adapter(make_adapter(prior), home / "adapter")
    le.compile(prior, home / "a.engine", backend="torch", adapter=make_adapter(prior), threads=1)
    np.save(home / "blobs.npy", blob_images(4))
    options = prior_training(home / "blobs.npy", steps=1, batch=2)
    train_prior(options, home / "run", device="cpu")
    engine = le.load(home / "a.engine", threads=1)
    post = engine.sample(torch.rand(1, 3, 8, 8), Denoising(0.1), 2, steps=1, sampler="latino")
    post.save(home / "posterior")
    post.save(home / "posterior.npz")
    pipeline = home / "pipeline"
    pipeline.mkdir()
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "LCM"]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    return (
        Target(home / "a.engine", "engine.json", _load_and_sample),
        Target(home / "a.engine", "engine.json", _load_and_sample),
        Target(home / "prior", "prior.json", _denoise),
        Target(home / "prior", "prior.json", _denoise),
        Target(home / "prior", "model.safetensors", _denoise),
        Target(home / "adapter", "adapter.json", le.load_adapter),
        Target(home / "adapter", "adapter.json", le.load_adapter),
        Target(home / "adapter", "adapter.safetensors", le.load_adapter),
        Target(home / "run", "training.safetensors", _resume),
        Target(home / "posterior", "posterior.json", le.Posterior.load),
        Target(home / "posterior", "mean.npy", le.Posterior.load),
        Target(home / "posterior.npz", "", le.Posterior.load),
        Target(home / "posterior.npz", "", load_operator),
        Target(home / "pipeline", "model_index.json", le.load_prior),
    )


def a_file_call(
    targets: tuple[Target, ...], home: Path
) -> Callable[[random.Random], tuple[str, Callable[[], Any]]]:
    """One of the targets, copied, damaged and read."""

    def make(chance: random.Random) -> tuple[str, Callable[[], Any]]:
        target = chance.choice(targets)
        place = home / "tried" / target.right.name
        shutil.rmtree(place.parent, ignore_errors=True)
        place.parent.mkdir()
        shutil.copyfile(home / "blobs.npy", place.parent / "blobs.npy")
        if target.right.is_dir():
            shutil.copytree(target.right, place)
        else:
            shutil.copyfile(target.right, place)
        how = target.mutate(chance, place)
        return f"{target.right.name} {target.name}: {how}", lambda: target.read(place)

    return make
