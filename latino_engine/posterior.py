"""What `Engine.sample` returns: samples of p(x | y) and what follows from them."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latino_engine.atomic import atomic_file, atomic_folder, recover
from latino_engine.errors import InvalidArgument, PosteriorInvalid, invalid
from latino_engine.image_io import write_image, write_npy
from latino_engine.operators.protocol import Operator
from latino_engine.operators.serialisation import record, restored
from latino_engine.system.json_values import finite
from latino_engine.system.machine import versions

#: Names that a saved posterior may hold: the first marks a folder as one.
POSTERIOR_FILES = ("posterior.json", "*.npy", "*.npz", "*.png")
FORMAT_VERSION = 1
#: Arrays of a posterior besides those of its operator.
_ARRAYS = ("samples", "mean", "squares", "residual_chi2", "prompt_embedding", "measurement", "init")


class Repeats(Protocol):
    """An engine, as far as `Posterior.repeat` needs it."""

    @property
    def sha256(self) -> str:
        """The hash of what it was compiled from."""

    @property
    def sample(self) -> Callable[..., Posterior]:
        """(y, operator, ...) -> draws from p(x | y)."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a posterior was asked with: y and the operator as the sampler saw them, and the start.

    Attributes:
        measurement: y, public units, float32, entries that were not observed are 0.
        operator: the forward model; None where it held functions, which no file can hold.
        init: as given to `sample`; a network is kept in memory alone.
    """

    measurement: Tensor
    operator: Operator | None
    init: Any = None


def init_name(init: Any) -> str | None:
    """A start as JSON has it: None, its word, "an image" or "a network"."""
    if init is None or isinstance(init, str):
        return init
    return "an image" if isinstance(init, Tensor | np.ndarray) else "a network"


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws from p(x | y), public units, nominally in the prior's data range, not clamped.

    Attributes:
        residual_chi2: (S, B) float64, ||A x - y||^2 / (m sigma_y^2); exact posterior samples
            average about 1, zero-shot LATINO, which ends on a prox, lies below.
        nfe: network evaluations per sample.
        time_ms: wall time of the whole call.
        stages_ms: its split: prox, noise, denoise, other.
        num_samples: S.
        about: what was asked and what ran, as JSON types: the engine's hash, the operator, the
            schedule with all its numbers, the arguments of `sample` and versions among them.
        asked: measurement and operator, with which `repeat` draws again.
        prompt_embedding: (B, tokens, width): the prompts that LATINO-PRO found, else None.
    """

    residual_chi2: Tensor
    nfe: int
    time_ms: float
    stages_ms: dict[str, float]
    num_samples: int
    about: dict[str, Any]
    kept: Tensor | None
    running: tuple[Tensor, Tensor] | None
    prompt_embedding: Tensor | None = None
    asked: Asked | None = None

    @property
    def samples(self) -> Tensor:
        """(S, B, C, H, W) float32.

        Raises:
            ValueError: the call said keep_samples=False.
        """
        if self.kept is None:
            raise InvalidArgument(
                "samples: expected a posterior with its samples, got one that kept only mean and "
                "std; call sample(..., keep_samples=True)"
            )
        return self.kept

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W): mean over the samples."""
        return self.samples.mean(dim=0) if self.running is None else self.running[0]

    @property
    def std(self) -> Tensor:
        """(B, C, H, W): standard deviation over the samples, divisor S - 1; NaN for one sample."""
        if self.num_samples == 1:
            return torch.full_like(self.mean, torch.nan)
        if self.running is None:
            return self.samples.std(dim=0)
        return (self.running[1] / (self.num_samples - 1)).sqrt()

    def quantile(self, q: float | Tensor) -> Tensor:
        """Per-pixel quantile over the samples, linear between order statistics.

        Args:
            q: in [0, 1], a number -> (B, C, H, W), or (Q,) -> (Q, B, C, H, W).

        Raises:
            ValueError: q outside [0, 1], or samples that were not kept.
        """
        levels = torch.as_tensor(q, dtype=torch.float32)
        if levels.ndim > 1 or not bool(((levels >= 0) & (levels <= 1)).all()):
            raise invalid("q", "one number, or a list, in [0, 1]", q, "give probabilities")
        # torch.quantile refuses large inputs; sorting S values per pixel has no such limit.
        ordered = self.samples.sort(dim=0).values
        place = levels.to(ordered.device).reshape(-1) * (self.num_samples - 1)
        below = place.floor().long()
        above = (below + 1).clamp(max=self.num_samples - 1)
        share = (place - below).reshape(-1, *([1] * (ordered.ndim - 1)))
        found = torch.lerp(ordered[below], ordered[above], share)
        return found[0] if levels.ndim == 0 else found

    def __repr__(self) -> str:
        shape = tuple(self.mean.shape)
        return (
            f"Posterior({self.num_samples} samples of {shape}, nfe={self.nfe}, "
            f"{self.time_ms:.0f} ms, chi2={float(self.residual_chi2.mean()):.2f})"
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one npz file, or to a folder with npy and PNG files; all or nothing.

        A name that ends on .npz is a file with the arrays samples, or mean and squares (the sum of
        squared deviations) where samples were not kept, residual_chi2, measurement, those of the
        operator, and `about` and `operator` as JSON. `latino_engine.operator("saved:file=NAME")`
        reads the operator of it. A folder holds samples.npy, mean.npy, std.npy, a PNG of each image
        (8 bits, clamped to the public range, for 1 or 3 channels), measurement.npy, operator.npz
        and posterior.json. Without two samples the std is left out. Floats are unclamped float32.

        Raises:
            OutputNotWritable: the path cannot be written, or holds other things than a posterior.
        """
        if Path(path).suffix.lower() == ".npz":
            with atomic_file(path) as file:
                self.write_npz(file)
            return
        with atomic_folder(path, ours=POSTERIOR_FILES) as partial:
            self.write_into(partial)

    def write_npz(self, file: BinaryIO) -> None:
        """Write the npz file of `save` into an open file."""
        np.savez(file, **self._arrays(), **self._texts())

    @classmethod
    def load(cls, path: str | Path) -> Posterior:
        """The posterior that `save`, or the command `sample`, wrote: a file or a folder.

        Raises:
            PosteriorInvalid: a file that is missing, damaged or of another version.
        """
        place = Path(path)
        recover(place)
        try:
            if place.is_dir():
                arrays: Mapping[str, NDArray[Any]] = _folder_arrays(place)
                return cls._restored(json.loads((place / "posterior.json").read_text()), arrays)
            with np.load(place, allow_pickle=False) as stored:
                return cls._restored(json.loads(str(stored["about"])), stored)
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            if isinstance(error, PosteriorInvalid):
                raise
            found = "no such file" if not place.exists() else "another or a damaged one"
            raise PosteriorInvalid(
                f"{place}: expected a posterior that was saved, got {found}; "
                "name the npz file or the folder that Posterior.save wrote"
            ) from error

    def repeat(self, engine: Repeats) -> Posterior:
        """Draw the same samples again, with the measurement and the arguments that are kept here.

        The engine must be the one that drew them, by its hash. On the same machine with the same
        versions the samples are equal to the last bit; other versions are told in a warning.

        Raises:
            ValueError: another engine, an operator or a start that was a function.
        """
        if self.about["engine_sha256"] != engine.sha256:
            expected = f"the engine {self.about['engine_sha256'][:12]} that drew the samples"
            remedy = "load that engine; its hash is the sha256 in its engine.json"
            raise invalid("engine", expected, engine.sha256[:12], remedy)
        if self.asked is None or self.asked.operator is None:
            remedy = "call sample with the operator again"
            raise invalid("operator", "one that a file can hold", "a model of functions", remedy)
        request = dict(self.about["request"])
        if request["init"] in ("an image", "a network"):
            request["init"] = self.asked.init
            if self.asked.init is None:  # read from a file, which holds no network
                remedy = "call sample with it again"
                raise invalid("init", "a word or an image", "a network", remedy)
        if self.about["versions"] != versions():
            warnings.warn(
                "repeat: the versions differ from those that drew the samples; "
                "see about['versions']",
                stacklevel=2,
            )
        return engine.sample(self.asked.measurement, self.asked.operator, **request)

    def write_into(
        self, folder: Path, bits: Literal[8, 16] = 8, alpha: Tensor | None = None
    ) -> None:
        """Write the files of `save` into an existing folder.

        Args:
            folder: where to.
            bits: of the pictures, for each channel.
            alpha: (H, W) in [0, 1], the transparency of samples and mean; None: opaque.
        """
        images = {"mean": self.mean[None]}
        if self.num_samples > 1:
            images["std"] = self.std[None]
        if self.kept is not None:
            images["sample"] = self.kept
        for name, stack in images.items():
            array = stack.cpu().numpy()
            write_npy(
                folder / f"{name}{'s' if name == 'sample' else ''}.npy",
                array if name == "sample" else array[0],
            )
            opacity = None if name == "std" else alpha
            self._write_pictures(folder, name, stack, bits, opacity)
        arrays, texts = self._arrays(), self._texts()
        for name in ("squares", "residual_chi2", "prompt_embedding", "measurement", "init"):
            if name in arrays:
                write_npy(folder / f"{name}.npy", arrays[name])
        if "operator" in texts:
            kept = {name: array for name, array in arrays.items() if name not in _ARRAYS}
            np.savez(folder / "operator.npz", operator=texts["operator"], **kept)
        text = json.dumps(self.summary(), indent=1, allow_nan=False)
        (folder / "posterior.json").write_text(text + "\n")

    def _arrays(self) -> dict[str, Any]:
        asked = self.asked
        kept = {
            "samples": self.kept,
            "mean": None if self.running is None else self.running[0],
            "squares": None if self.running is None else self.running[1],
            "residual_chi2": self.residual_chi2,
            "prompt_embedding": self.prompt_embedding,
            "measurement": None if asked is None else asked.measurement,
        }
        arrays = {name: t.detach().cpu().numpy() for name, t in kept.items() if t is not None}
        if asked is not None and init_name(asked.init) == "an image":
            arrays["init"] = torch.as_tensor(asked.init).detach().cpu().numpy()
        if asked is not None and asked.operator is not None:
            arrays |= _recorded(asked.operator)[1]
        return arrays

    def _texts(self) -> dict[str, Any]:
        texts: dict[str, Any] = {"about": np.array(json.dumps(self.summary(), allow_nan=False))}
        if self.asked is not None and self.asked.operator is not None:
            fields, _ = _recorded(self.asked.operator)
            if fields is not None:
                texts["operator"] = np.array(json.dumps(fields))
        return texts

    @classmethod
    def _restored(cls, about: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Posterior:
        if about["format_version"] != FORMAT_VERSION:
            raise PosteriorInvalid(
                f"posterior: expected format version {FORMAT_VERSION}, got "
                f"{about['format_version']!r}; update latino-engine"
            )

        def tensor(name: str) -> Tensor | None:
            return torch.from_numpy(np.array(arrays[name])) if name in arrays else None

        kept = tensor("samples")
        mean, squares = (None, None) if kept is not None else (tensor("mean"), tensor("squares"))
        chi2, measurement = tensor("residual_chi2"), tensor("measurement")
        if chi2 is None or (kept is None and (mean is None or squares is None)):
            raise KeyError("samples")
        operator = None
        if "operator" in arrays:
            operator = restored(json.loads(str(arrays["operator"])), arrays)
        own = ("format_version", "num_samples", "nfe", "time_ms", "stages_ms", "residual_chi2")
        return cls(
            residual_chi2=chi2,
            nfe=int(about["nfe"]),
            time_ms=float(about["time_ms"]),
            stages_ms=about["stages_ms"],
            num_samples=int(about["num_samples"]),
            about={name: value for name, value in about.items() if name not in own},
            kept=kept,
            running=None
            if kept is not None or mean is None or squares is None
            else (mean, squares),
            prompt_embedding=tensor("prompt_embedding"),
            asked=None if measurement is None else Asked(measurement, operator, tensor("init")),
        )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            **self.about,
            "num_samples": self.num_samples,
            "nfe": self.nfe,
            "time_ms": self.time_ms,
            "stages_ms": self.stages_ms,
            "residual_chi2": finite(self.residual_chi2.tolist()),
        }

    def _write_pictures(
        self, folder: Path, name: str, stack: Tensor, bits: Literal[8, 16], alpha: Tensor | None
    ) -> None:
        if stack.shape[2] not in (1, 3):
            return
        low, high = self.about["data_range"]
        shown = stack / (high - low) if name == "std" else (stack - low) / (high - low)
        for s, images in enumerate(shown):
            for b, image in enumerate(images):
                parts = [name]
                parts += [f"{s:03d}"] if name == "sample" else []
                parts += [f"image{b:03d}"] if len(images) > 1 else []
                path = folder / ("_".join(parts) + ".png")
                write_image(path, image, bits=bits, alpha=alpha)


def _recorded(op: Operator) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The record of an operator; none for one of the user's own functions."""
    try:
        return record(op, "operator.")
    except InvalidArgument:
        return None, {}


def _folder_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    arrays = {
        name: np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in _ARRAYS
        if (folder / f"{name}.npy").is_file()
    }
    if (folder / "operator.npz").is_file():
        with np.load(folder / "operator.npz", allow_pickle=False) as stored:
            arrays |= {name: stored[name] for name in stored.files}
    return arrays
