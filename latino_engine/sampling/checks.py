"""What `load` and `Engine.sample` demand of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.errors import EngineInvalid, invalid, invalid_type, whole_number
from latino_engine.learned_schedule import LearnedSchedule
from latino_engine.manifest import rebuild_command
from latino_engine.operators.parts.checks import as_tensor
from latino_engine.priors.folder import parse_spec
from latino_engine.priors.latent.prior import is_latent
from latino_engine.runtimes import AHEAD_OF_TIME
from latino_engine.sampling.options import Sampling


def check_load(device: str | None, threads: int | None, rebuild: bool, torch_compile: bool) -> None:
    """Raise the sentence for an argument of `load` that cannot be used."""
    check_threads(threads)
    if device not in (None, "cpu", "cuda"):
        raise invalid("device", "None, 'cpu' or 'cuda'", repr(device), "choose one of these")
    _check_boolean("rebuild", rebuild)
    _check_boolean("torch_compile", torch_compile)


def check_served(folder: Path, manifest: dict[str, Any], backend: str) -> None:
    """Raise the sentence where an engine was not compiled for a backend."""
    record = manifest["runtimes"].get(backend, {})
    if "relative_error" in record:
        return
    reason = record.get("refused", "it was not compiled for it")
    if backend in AHEAD_OF_TIME:
        reason += "; " + (
            "use one of those that it was compiled for"
            if is_latent(parse_spec(manifest["prior"]))  # no plans are built for it
            else f"build it by: {rebuild_command(folder)}, or load it with --rebuild"
        )
    raise EngineInvalid(
        f"backend: expected one that the engine {folder.name!r} serves, got {backend!r}; {reason}"
    )


def check_threads(threads: int | None) -> None:
    """Raise the sentence for a thread count that is none."""
    if threads is not None and whole_number("threads", threads) < 1:
        raise invalid("threads", "at least 1", threads, "leave it out to use all cores")


def check_learned(schedule: LearnedSchedule, unfold: int | None) -> None:
    """Raise the sentence where unfold differs from what an adapter was trained with."""
    if unfold not in (None, schedule.unfold):
        expected = f"None or {schedule.unfold}, as the adapter was trained"
        raise invalid("unfold", expected, unfold, "leave it out, or use sampler='ud2m'")


def checked(options: Sampling) -> Sampling:
    """The options with ints for every kind of whole number; raises the sentence for one that is
    none. What suits the sampler and the prior is decided where these are known.
    """
    num_samples = whole_number("num_samples", options.num_samples)
    if num_samples < 1:
        raise invalid("num_samples", "at least 1", num_samples, "ask for one sample or more")
    _check_boolean("keep_samples", options.keep_samples)
    given = {name: getattr(options, name) for name in ("steps", "unfold", "tile", "overlap")}
    whole: dict[str, Any] = {
        name: whole_number(name, n) for name, n in given.items() if n is not None
    }
    return replace(options, num_samples=num_samples, seed=ops.check_seed(options.seed), **whole)


def check_image_ids(image_ids: Sequence[int] | Tensor | None, batch: int) -> Tensor:
    """The identities of B images, 0 .. B - 1 where none are given: (B,) int64."""
    if image_ids is None:
        return torch.arange(batch)
    if isinstance(image_ids, np.ndarray):
        image_ids = as_tensor("image_ids", image_ids)
    return ops.check_ids("image_ids", image_ids, batch, ops.MAX_IMAGE_ID)


def _check_boolean(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise invalid_type(name, "True or False", type(value).__name__, "give a boolean")
