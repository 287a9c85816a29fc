"""Networks that keep a size of their own: seen when they are exported, told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latino_engine.errors import PriorInvalid
from latino_engine.priors.assembly import MODULE
from latino_engine.priors.prior import Prior

_REMEDY = (
    "let forward take sizes from x.shape as they are: int(x.shape[2]), range, `if` and numbers "
    "of Python fix them"
)


def example_sides(prior: Prior) -> tuple[int, int]:
    """Height and width of the images with which a network is exported: no two sizes alike."""
    return 4 * prior.spec.size_multiple, 6 * prior.spec.size_multiple


def is_foreign(prior: Prior) -> bool:
    """True for a module that somebody else wrote."""
    return prior.spec.architecture.get("name") == MODULE


def check_sizes(prior: Prior, height: int, width: int) -> None:
    """Refuses somebody's module that fails on images of another size than the export's.

    Raises:
        PriorInvalid: the sentence names the size.
    """
    if not is_foreign(prior):
        return
    x = torch.zeros(2, prior.channels, height, width)
    try:
        with torch.no_grad():
            prior.denoiser(x, torch.full((2,), prior.spec.sigma_min))
    except Exception as error:  # the module is the user's: anything may come
        raise keeps_its_size(prior, f"it at {height} x {width}", error) from error


def keeps_its_size(prior: Prior, what: str, error: BaseException) -> PriorInvalid:
    """The error of a network that runs at the size of the export and not at another one."""
    multiple, (height, width) = prior.spec.size_multiple, example_sides(prior)
    return PriorInvalid(
        f"prior: expected a network for all sides that are multiples of {multiple}, got one that "
        f"keeps the size {height} x {width} with which it was examined ({what}: "
        f"{_reason(error)}); {_REMEDY}"
    )


@contextmanager
def exporting(prior: Prior) -> Iterator[None]:
    """What torch.export cannot trace for every size becomes a `PriorInvalid`.

    Raises:
        PriorInvalid: the sentence names the size.
    """
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise keeps_its_size(prior, "torch.export", cause) from error


def _reason(error: BaseException) -> str:
    """What a library says of a size, in one line."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "specializ" in line or "size" in line.lower()]
    return (telling or lines or [type(error).__name__])[0][:200].rstrip(".")
