"""An adapter: what distillation learned about one prior, as adapter.json + adapter.safetensors.

It holds low-rank changes of some weights, other weights as a whole, and the schedule that they were
trained for. Reading never unpickles; merging is plain torch.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from latino_engine.atomic import atomic_file, atomic_folder
from latino_engine.errors import AdapterInvalid, invalid_type
from latino_engine.learned_schedule import REMEDY, LearnedSchedule, parse_schedule
from latino_engine.priors.prior import Prior
from latino_engine.system.described import (
    Finite,
    Name,
    NotAsDescribed,
    Sha256,
    described,
    read_json,
)

FORMAT_VERSION = 1
SHIPPED = ("photo-small", "digits-32-2x2", "digits-32-3x3")
ADAPTER_FILES = ("adapter.json", "adapter.safetensors", "init.safetensors")


class _AdapterFile(Struct):
    """adapter.json, apart from its format; `sampler` is described by `learned_schedule`."""

    name: Name
    prior: Name
    prior_sha256: Sha256
    scale: Finite
    init: Literal["regularised", "measurement", "network"]
    sampler: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Adapter:
    """What distillation learned about one prior.

    Attributes:
        name: for people.
        prior_name, prior_sha256: the prior it belongs to, by `Prior.content_hash`.
        schedule: the learned schedule.
        weights: "lora_A.<module>" (r, in, ...) and "lora_B.<module>" (out, r, ...) of the changed
            layers, "full.<parameter>" for parameters replaced as a whole; float32.
        scale: alpha / r of the low-rank changes.
        init: how the chain starts: "regularised", "measurement", or "network" (a restoration
            network, which the caller must give to `sample`).
        training: every choice of the run that made it.
    """

    name: str
    prior_name: str
    prior_sha256: str
    schedule: LearnedSchedule
    weights: Mapping[str, Tensor]
    scale: float
    init: str = "regularised"
    training: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = sum(w.numel() for w in self.weights.values()) / 1e3
        n, k = len(self.schedule.sigmas), self.schedule.unfold
        return (
            f"Adapter({self.name!r} of prior {self.prior_name!r}, {n} x {k} steps, "
            f"{size:.0f} k weights, for {', '.join(sorted(self.schedule.steps))})"
        )

    @property
    def noise_levels(self) -> tuple[float, float] | None:
        """The lowest and highest noise level of its training, public units, where it says so."""
        low, _, high = str(self.training.get("noise_std", "")).partition("..")
        try:
            return float(low), float(high or low)
        except ValueError:
            return None

    @property
    def hole_radius(self) -> int | None:
        """How far hidden pixels of its training were from seen ones, pixels; None where it saw no
        boxes: of pixels that are missing at random none is far.
        """
        side = int(self.training.get("size", 0))
        radii = []
        for text in self.training.get("operators", ()):
            name, _, box = str(text).partition("box")
            if name == "inpaint:":
                numbers = [int(n) for n in re.findall(r"[0-9]+", box)]
                radii.append(max(numbers) // 2 if numbers else side // 4)
        return max(radii, default=None)

    def merge(self, prior: Prior) -> Prior:
        """The prior with W + scale * B A in place of W, and the replaced parameters.

        Raises:
            AdapterInvalid: the prior is another than the one that was adapted, or the names or
                shapes of the weights do not fit it.
        """
        if prior.content_hash() != self.prior_sha256:
            raise AdapterInvalid(
                f"adapter: expected one of the prior {prior.name!r} (sha256 "
                f"{prior.content_hash()[:12]}), got {self.name!r} of {self.prior_name!r} (sha256 "
                f"{self.prior_sha256[:12]}); use the prior that it was distilled from"
            )
        denoiser = copy.deepcopy(prior.denoiser)
        network = cast(nn.Module, denoiser.network)
        state = network.state_dict()
        for name, change in self._changes(state).items():
            state[name] = change(state[name])
        network.load_state_dict(state)
        return Prior(prior.spec, denoiser)

    def _changes(self, state: Mapping[str, Tensor]) -> dict[str, Callable[[Tensor], Tensor]]:
        changes: dict[str, Callable[[Tensor], Tensor]] = {}
        for key, tensor in self.weights.items():
            kind, _, name = key.partition(".")
            target = name if kind == "full" else f"{name}.weight"
            paired = kind == "full" or f"lora_{'B' if kind == 'lora_A' else 'A'}.{name}" in (
                self.weights
            )
            if target not in state or not paired or kind not in ("full", "lora_A", "lora_B"):
                raise AdapterInvalid(
                    "adapter.safetensors: expected changes of the prior's own layers, got "
                    f"{key!r}, which has no place or no partner there; {REMEDY}"
                )
            if kind == "full":
                changes[target] = _replace(key, tensor)
            elif kind == "lora_A":
                changes[target] = _add(key, tensor, self.weights[f"lora_B.{name}"], self.scale)
        return changes

    def content_hash(self) -> str:
        """SHA-256 over the facts and every weight: the identity that an engine records."""
        digest = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _facts(self) -> dict[str, Any]:
        return {
            "format": FORMAT_VERSION,
            "name": self.name,
            "prior": self.prior_name,
            "prior_sha256": self.prior_sha256,
            "scale": self.scale,
            "init": self.init,
            "sampler": self.schedule.to_json(),
            "training": json.loads(json.dumps(dict(self.training))),
        }


def low_rank_change(lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """B A as a change of the layer's weight.

    Linear: A (r, in), B (out, r) -> (out, in). Convolution: A (r, in, kh, kw), B (out, r, 1, 1) ->
    (out, in, kh, kw).

    Source: Hu et al. (2022), arXiv:2106.09685.
    """
    change: Tensor = torch.tensordot(lora_b.reshape(lora_b.shape[0], -1), lora_a, dims=1)
    return change


def load_adapter(source: str | Path) -> Adapter:
    """Load an adapter by its shipped name or from a folder.

    Args:
        source: a shipped name, or a folder with `adapter.json` and `adapter.safetensors`.

    Raises:
        AdapterInvalid: no such name or folder, a missing or damaged file.
    """
    if str(source) in SHIPPED and not Path(source).is_dir():
        assets = resources.files("latino_engine") / "assets" / "adapters" / str(source)
        with resources.as_file(assets) as folder:
            return _read_folder(folder)
    folder = Path(source)
    if not folder.is_dir():
        close = difflib.get_close_matches(str(source), SHIPPED, n=1)
        known = f"shipped adapters: {', '.join(SHIPPED)}"
        raise AdapterInvalid(
            f"adapter: expected a shipped name or a folder with {ADAPTER_FILES[0]} and "
            f"{ADAPTER_FILES[1]}, got {str(source)!r}, which is neither; "
            + (f"did you mean {close[0]!r}?" if close else known)
        )
    return _read_folder(folder)


def adapter_for(choice: Adapter | str | Path | None, prior: Prior) -> Adapter | None:
    """The adapter that a choice names for a prior: "auto", "none" or what `load_adapter` takes.

    "auto" takes the first shipped adapter whose prior has these very weights, and none where there
    is no such adapter. "none" and None take none. A folder named auto or none is given as a `Path`.

    Raises:
        AdapterInvalid: as in `load_adapter`.
        InvalidType: something else was given.
    """
    if choice is None or isinstance(choice, Adapter):
        return choice
    if choice == "none":
        return None
    if choice == "auto":
        return _shipped_for(prior)
    if not isinstance(choice, str | Path):
        expected = "'auto', 'none', an adapter, its name or its folder"
        raise invalid_type("adapter", expected, type(choice).__name__, "use load_adapter")
    return load_adapter(choice)


def _shipped_for(prior: Prior) -> Adapter | None:
    identity = prior.content_hash()
    for name in SHIPPED:
        facts = resources.files("latino_engine") / "assets" / "adapters" / name / "adapter.json"
        if json.loads(facts.read_text(encoding="utf-8"))["prior_sha256"] == identity:
            return load_adapter(name)
    return None


def save_adapter(adapter: Adapter, folder: str | Path, half: bool = False) -> None:
    """Write an adapter as a new folder, whole or not at all; `half` stores float16.

    Raises:
        OutputNotWritable: the folder exists already or cannot be written.
    """
    with atomic_folder(Path(folder)) as partial:
        write_adapter(adapter, partial, half)


def write_adapter(adapter: Adapter, folder: Path, half: bool = False) -> None:
    """Write the two files into an existing folder, each whole or as it was."""
    dtype = torch.float16 if half else torch.float32
    weights = {k: v.detach().cpu().to(dtype).contiguous() for k, v in adapter.weights.items()}
    with atomic_file(folder / "adapter.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_file(folder / "adapter.json") as file:
        file.write((json.dumps(adapter._facts(), indent=1) + "\n").encode())


def _replace(key: str, new: Tensor) -> Callable[[Tensor], Tensor]:
    def change(old: Tensor) -> Tensor:
        _check_shape(key, tuple(new.shape), old)
        return new.to(old.dtype)

    return change


def _add(key: str, a: Tensor, b: Tensor, scale: float) -> Callable[[Tensor], Tensor]:
    def change(old: Tensor) -> Tensor:
        if b[0].numel() != a.shape[0]:
            _check_shape(key, (b.shape[0], *a.shape), old)
        delta = low_rank_change(a.double(), b.double())
        _check_shape(key, tuple(delta.shape), old)
        return (old.double() + scale * delta).to(old.dtype)

    return change


def _check_shape(key: str, shape: tuple[int, ...], old: Tensor) -> None:
    if shape != tuple(old.shape):
        raise AdapterInvalid(
            f"adapter.safetensors: expected {key!r} for a weight of shape {tuple(old.shape)}, got "
            f"one for {shape}; {REMEDY}"
        )


def _read_folder(folder: Path) -> Adapter:
    for name in ADAPTER_FILES[:2]:
        if not (folder / name).is_file():
            raise AdapterInvalid(
                f"adapter: expected {name} in {folder.name!r}, got none; an adapter is a folder "
                "with adapter.json and adapter.safetensors"
            )
    try:
        facts = read_json(folder / "adapter.json")
        weights = load_file(folder / "adapter.safetensors")
    except (NotAsDescribed, OSError, SafetensorError) as error:
        raise AdapterInvalid(
            f"adapter: expected files that can be read in {folder.name!r}, got {error}; {REMEDY}"
        ) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT_VERSION:
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise AdapterInvalid(
            f"adapter.json: expected format {FORMAT_VERSION}, got {repr(found)[:40]}; use the "
            "release of latino-engine that wrote it"
        )
    try:
        told = described(facts, _AdapterFile)
    except NotAsDescribed as error:
        raise AdapterInvalid(f"adapter.json: expected {error}; {REMEDY}") from error
    if any(not bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise AdapterInvalid(
            f"adapter.safetensors: expected finite weights, got NaN or infinite ones; {REMEDY}"
        )
    floats = {name: weight.float() for name, weight in weights.items()}
    schedule = parse_schedule(told.sampler)
    return Adapter(
        told.name,
        told.prior,
        told.prior_sha256,
        schedule,
        floats,
        told.scale,
        told.init,
        told.training,
    )
