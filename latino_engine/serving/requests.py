"""From the fields of a request to a job for the engine: forms and JSON, checked alike."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latino_engine import ops
from latino_engine.engine import Engine
from latino_engine.errors import about, invalid
from latino_engine.image_io import read_image
from latino_engine.image_io.arrays import read_kspace
from latino_engine.operators.parts.checks import Unknown
from latino_engine.operators.spec import REAL_BORDER, image_size_behind, operator_of_picture
from latino_engine.serving.batching import Job
from latino_engine.serving.failures import Refused
from latino_engine.serving.settings import Settings
from latino_engine.serving.uploads import check_sizes, clean_name, on_disk, with_uploads

FORMS = ("npz", "json", "png", "npy")
_NUMBERS: dict[str, type] = {
    **dict.fromkeys(("num_samples", "seed", "steps", "unfold", "tile", "overlap", "image_id"), int),
    "noise_std": float,
}
_WORDS = ("operator", "sampler", "engine", "format", "what")
_OPTIONS = ("num_samples", "seed", "sampler", "steps", "unfold", "tile", "overlap")
NAMES = (*_NUMBERS, *_WORDS, "simulate")


@dataclass(frozen=True)
class Fields:
    """A request as it was sent.

    Attributes:
        values: the fields that are no files, of their types.
        files: name -> contents; the measurement is called "image".
    """

    values: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def engine(self) -> str | None:
        """The name of the engine, where one is given."""
        return self.values.get("engine")

    @property
    def format(self) -> str:
        """How the answer is written."""
        return str(self.values.get("format", "npz"))


def fields_of(values: Mapping[str, Any], files: Mapping[str, bytes]) -> Fields:
    """The fields of a form, or of a JSON object, with their types.

    Raises:
        InvalidArgument: an unknown field, or a value of another type.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == "":
            continue
        if name not in NAMES:
            expected = f"one of {', '.join(NAMES)}, or a file"
            raise invalid("field", expected, repr(name[:80]), "leave it out")
        found[name] = _typed(name, value)
    if found.get("format", "npz") not in FORMS:
        known = ", ".join(FORMS)
        raise invalid("format", f"one of {known}", repr(found["format"][:80]), "choose one")
    return Fields(found, {clean_name(name): data for name, data in files.items()})


def json_fields(body: Any) -> Fields:
    """The fields of a JSON object; its files are base64 under "image" and in "files".

    Raises:
        InvalidArgument: another JSON value, or text that is no base64.
    """
    if not isinstance(body, dict):
        got = type(body).__name__
        raise invalid("body", "a JSON object", got, 'send {"image": ..., "operator": ...}')
    values = dict(body)
    files = values.pop("files", {})
    if not isinstance(files, dict):
        raise invalid("files", "an object of name: base64", type(files).__name__, "send one")
    if "image" in values:
        files = {"image": values.pop("image"), **files}
    return fields_of(values, {name: _decoded(name, text) for name, text in files.items()})


def _decoded(name: str, text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise invalid(name, "base64", "other text", "encode the file's bytes") from error


def _typed(name: str, value: Any) -> Any:
    if name == "simulate":
        if value in (True, "true", "True", "1", "on"):
            return True
        if value in (False, "false", "False", "0", "off"):
            return False
        raise invalid(name, "true or false", repr(value)[:80], "send one of them")
    kind = _NUMBERS.get(name)
    if kind is None:
        if not isinstance(value, str):
            raise invalid(name, "text", type(value).__name__, "send a string")
        return value
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        expected = "a whole number" if kind is int else "a number"
        raise invalid(name, expected, repr(value)[:80], "send it in digits") from error


def job_of(fields: Fields, engine: Engine, settings: Settings, arrived: float) -> Job:
    """Decode a request and make the job of it.

    Raises:
        InvalidArgument, ImageUnreadable: what cannot be used, in one sentence.
        Refused: 413, more pixels, samples or evaluations than the service takes.
    """
    values = fields.values
    if "image" not in fields.files:
        raise invalid("image", "a file", "none", "send the measurement as the file 'image'")
    if "operator" not in values:
        raise invalid("operator", "a description", "none", "send e.g. operator=blur:std=1.6")
    check_sizes(fields.files, settings.max_pixels)
    options = {name: values[name] for name in _OPTIONS if name in values}
    _check_work(options, settings)
    seed = ops.check_seed(options.setdefault("seed", 0))
    options.setdefault("num_samples", 4)
    text = values["operator"]
    with on_disk(fields.files) as paths:
        described = with_uploads(text, paths)
        simulate = bool(values.get("simulate"))
        kspace = text.strip().startswith("mri") and not simulate
        picture = read_kspace(paths["image"]) if kspace else read_image(paths["image"])
        size = (picture.shape[-2], picture.shape[-1])
        if not simulate:
            size = image_size_behind(described, size)
            if size[0] * size[1] > settings.max_pixels:
                sentence = f"image: expected one that is restored to at most {settings.max_pixels}"
                raise Refused(413, f"{sentence} pixels, got {size[0]} x {size[1]}; crop it")
        level = values.get("noise_std", 0.02)
        border = "wrap" if simulate else REAL_BORDER
        channels = (engine.spec.channels if kspace else picture.shape[1], engine.spec.channels)
        op = operator_of_picture(described, level, size, seed, channels, border)
    with about(f"operator {text}"):
        y = op.measure(picture, seed=seed) if simulate else picture
        if isinstance(op.noise_std, Unknown):
            op = op.for_measurement(y)
    deadline = arrived + settings.time_limit_s
    image_id = int(values.get("image_id", 0))
    return Job(y, op, options, deadline, image_id=image_id)


def _check_work(options: dict[str, Any], settings: Settings) -> None:
    count = options.get("num_samples", 4)
    if not 1 <= count <= settings.max_samples:
        raise invalid("num_samples", f"1 to {settings.max_samples}", count, "ask several times")
    evaluations = count * max(1, options.get("steps", 8)) * max(1, options.get("unfold", 1))
    if evaluations > settings.max_evaluations:
        most = settings.max_evaluations
        raise invalid("steps", f"at most {most} evaluations in all", evaluations, "ask for fewer")
