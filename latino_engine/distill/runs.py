"""What every training run shares: its folder, its options, Ctrl-C between steps, finite weights."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from latino_engine.atomic import atomic_file, check_writable, is_leftover
from latino_engine.errors import InvalidArgument, OutputNotWritable, TrainingStopped, invalid
from latino_engine.image_io import EXTENSIONS
from latino_engine.image_io.datasets import CHECKPOINT, files_below

_PROBE = "training.probe"  # left by runs of version 0.1 that were killed at once
_KEPT = "the last good average is kept"
#: Options that name files or folders -> the kinds of files that mark a folder.
_PATHS = {"source": EXTENSIONS, "start": (".safetensors",)}
_MARKED_BYTES = 1 << 14  # of each image of a folder
_PIECE_BYTES = 1 << 22

#: (steps done, fraction done in 0..1, loss, images per second)
Report = Callable[[int, float, float, float], None]


@dataclass
class RunState:
    """How far a run is."""

    step: int = 0
    seconds: float = 0.0  # of training, over all sittings
    losses: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """The fields as JSON types, for a checkpoint."""
        return {"step": self.step, "seconds": self.seconds, "losses": self.losses}

    @classmethod
    def of(cls, facts: dict[str, Any]) -> RunState:
        """The state that a checkpoint tells."""
        return cls(int(facts["step"]), float(facts["seconds"]), list(facts["losses"]))

    def write_losses(self, folder: Path) -> None:
        """The curve as loss.csv, whole or as it was."""
        with atomic_file(folder / "loss.csv") as file:
            lines = [f"{n},{loss:.6g}" for n, loss in enumerate(self.losses, start=1)]
            file.write("\n".join(["step,loss", *lines, ""]).encode())


def claim_folder(folder: Path, is_main: bool = True) -> bool:
    """True where a run stands in the folder; otherwise it is new or empty, and stays so.

    Args:
        folder: of the run.
        is_main: this process is the one that writes; the others only look.

    Raises:
        OutputNotWritable: a folder that is something else, or in which nothing can be written.
    """
    stands = (folder / CHECKPOINT).exists()
    if not is_main:
        return stands
    if not stands and (folder.is_file() or (folder.is_dir() and _holds_else(folder))):
        raise OutputNotWritable(
            f"out: expected a new folder, an empty one or that of a run ({CHECKPOINT}), got "
            f"{str(folder)!r}, which is something else; choose another folder"
        )
    check_writable(folder)
    return stands


def _holds_else(folder: Path) -> bool:
    """Whether there is more in it than a run leaves that was killed in its first moments."""
    return any(not is_leftover(p.name) and p.name != _PROBE for p in folder.iterdir())


def check_unchanged(
    folder: Path, mine: dict[str, Any], facts: dict[str, Any], free: Sequence[str], kind: type
) -> None:
    """Raises unless a run is resumed with its own options.

    `source` is the same where its images are the same, wherever they stand and however they are
    spelled. `start` is read once, when a run begins: it is the same where it is spelled as it was,
    too. An option that the checkpoint is too old to know had its default.

    Args:
        folder: of the run.
        mine: `option_facts` of the options given.
        facts: of the checkpoint.
        free: names of the options that may change.
        kind: dataclass of the options.
    """
    given, marks = json.loads(json.dumps(mine["options"])), mine["marks"]
    usual = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    theirs = {**json.loads(json.dumps(usual)), **facts["options"]}
    their_marks = facts.get("marks", {})

    def same(name: str) -> bool:
        spelled_alike = bool(given[name] == theirs.get(name))
        then = their_marks.get(name)
        if then is None or (name == "start" and spelled_alike):
            return spelled_alike
        return bool(marks[name] == then)

    changed = [name for name in given if name not in free and not same(name)]
    if changed:
        raise InvalidArgument(
            f"out: expected the options of the run in {folder.name!r}, got another "
            f"{', '.join(changed)}; use the same options, or another folder"
        )


def option_facts(options: dict[str, Any]) -> dict[str, Any]:
    """The options as given, and what marks the files that they name, for a checkpoint."""
    marks = {name: fingerprint(options.get(name), kinds) for name, kinds in _PATHS.items()}
    return {"options": options, "marks": marks}


def fingerprint(path: Any, kinds: Sequence[str]) -> str | None:
    """SHA-256 of what marks it, None where there is no such file or folder.

    Of a file: all its bytes. Of a folder: names and sizes of the files of these kinds below it
    (others come and go), and of images the first 16 KiB, of others all bytes.
    """
    if not isinstance(path, str):
        return None
    marks = hashlib.sha256()
    try:
        if not Path(path).is_dir():
            _add_bytes(marks, Path(path))
            return marks.hexdigest()
        for file in files_below(Path(path), kinds):
            marks.update(os.fsencode(file.relative_to(path)))  # a name may be any bytes
            marks.update(f"\0{file.stat().st_size}\0".encode())
            _add_bytes(marks, file, _MARKED_BYTES if kinds == EXTENSIONS else None)
    except OSError:
        return None
    return marks.hexdigest()


def _add_bytes(marks: hashlib._Hash, file: Path, most: int | None = None) -> None:
    with file.open("rb") as opened:
        while piece := opened.read(most or _PIECE_BYTES):
            marks.update(piece)
            if most is not None:
                return


#: Signals that end a run after its step: Ctrl-C, and what schedulers send before they kill.
_STOPS = (signal.SIGINT, signal.SIGTERM)


class Interruptible:
    """Lets Ctrl-C and SIGTERM wait for the end of a step, so that weights and counters stay
    together and what a run has learned is written.
    """

    def __init__(self) -> None:
        self._stop = False

    @contextmanager
    def steps(self) -> Iterator[None]:
        """While the block runs, the first Ctrl-C or SIGTERM is kept for `check`; the second acts
        at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def stop(*_: object) -> None:
            self._stop = True
            restore()

        before = {number: signal.getsignal(number) for number in _STOPS}
        for number in _STOPS:
            signal.signal(number, stop)
        try:
            yield
        finally:
            restore()

    def check(self) -> None:
        """Raises KeyboardInterrupt where Ctrl-C or SIGTERM came since the last step."""
        if self._stop:
            raise KeyboardInterrupt


def check_loss(loss: float, norm: float, step: int) -> None:
    """Raises unless loss and gradient norm are finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        remedy = "lower the learning rate, or look at the images"
        got = f"{loss} at step {step}"
        raise stopped("loss", "a finite number with finite gradients", got, remedy)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, ema: float, step: int) -> None:
    """average <- d average + (1 - d) model with d = min(ema, 1 - 1 / (step + 1)).

    A step calls it once its loss and gradients have proved finite, before it changes the weights:
    the average holds only weights that have been judged. Trained parameters alone are averaged;
    buffers are judged, by those of the average, and copied: one that is infinite there, such as a
    mask of -inf, is meant so.

    Args:
        average, model: of one kind.
        ema: the decay, reached gradually.
        step: optimizer steps that `model` has made.

    Raises:
        TrainingStopped: a buffer that is finite no more; the average is as it was.
    """
    buffers = zip(average.buffers(), model.buffers(), strict=True)
    if not _all([(now.isfinite() | ~kept.isfinite()).all() for kept, now in buffers]):
        raise _weights_stopped(step)
    means, news = zip(*_trained(average, model), strict=True)
    torch._foreach_lerp_(means, news, 1.0 - min(ema, 1.0 - 1.0 / (step + 1)))
    for kept, now in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(now)


NetworkT = TypeVar("NetworkT", bound=nn.Module)


def caught_up(average: NetworkT, model: nn.Module, ema: float, step: int) -> NetworkT:
    """A copy of the average that follows the weights of the last step too: what a run gives.

    Where these are not finite, since the step was cut in two, it is the average alone.
    """
    copied = copy.deepcopy(average)
    with suppress(TrainingStopped):
        check_finite(model, step)
        follow(copied, model, ema, step)
    return copied


def check_finite(model: nn.Module, step: int) -> None:
    """Raises unless the trained parameters are finite.

    Raises:
        TrainingStopped: they are not.
    """
    if not all_finite(p for p in model.parameters() if p.requires_grad):
        raise _weights_stopped(step)


def _weights_stopped(step: int) -> TrainingStopped:
    expected = f"finite numbers after {counted(step)}"
    return stopped("weights", expected, "others", "lower the learning rate")


def stopped(name: str, expected: str, got: str, remedy: str) -> TrainingStopped:
    """The sentence for what a step found; `falling_back` knows whether there is an average."""
    return TrainingStopped(f"{name}: expected {expected}, got {got}; {_KEPT}: {remedy}")


def counted(count: int) -> str:
    """So many optimizer steps, in words."""
    return "1 step" if count == 1 else f"{count} steps"


@contextmanager
def falling_back(
    average: nn.Module,
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    step: int,
    restart: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Where the block stops the training: model <- average, and optimizers without their state.

    Args:
        average, model: of one kind.
        optimizers: all of the run.
        step: optimizer steps done before; of none nothing is written, as the sentence then says.
        restart: called last, for what else must begin anew.
    """
    try:
        yield
    except TrainingStopped as error:
        with torch.no_grad():
            for mean, new in _trained(average, model):
                new.copy_(mean)
            for kept, now in zip(average.buffers(), model.buffers(), strict=True):
                now.copy_(kept)
        for optimizer in optimizers:
            optimizer.state.clear()
        restart()
        if step == 0:
            raise TrainingStopped(str(error).replace(_KEPT, "nothing was written")) from error
        raise


def _trained(average: nn.Module, model: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    both = zip(average.parameters(), model.parameters(), strict=True)
    return [(mean, new) for mean, new in both if new.requires_grad]


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """True where no value is NaN or infinite; one transfer from the device for all tensors."""
    return _all([torch.isfinite(tensor).all() for tensor in tensors])


def _all(judged: list[torch.Tensor]) -> bool:
    return not judged or bool(torch.stack(judged).all())


def check_length(minutes: float | None, steps: int | None, steps_name: str) -> None:
    """Raises unless exactly one length is given, above 0 and finite."""
    if (minutes is None) == (steps is None):
        got = "neither" if minutes is None else "both"
        raise invalid(
            f"minutes, {steps_name}", "exactly one of the two", got, "say how long to train"
        )
    length = minutes if steps is None else steps
    if length is None or not 0 < length < math.inf:
        raise invalid(f"minutes, {steps_name}", "a length above 0", length, "say how long to train")


def check_positive(options: object, names: Sequence[str]) -> None:
    """Raises unless each of these attributes is a finite number above 0."""
    for name in names:
        value = getattr(options, name)
        if not 0 < value < math.inf:
            raise invalid(name, "a number above 0", value, "choose another")


def training_device(name: str | None) -> torch.device:
    """The device of this name, or a GPU where there is one.

    Raises:
        InvalidArgument: another name, or a GPU that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise invalid("device", "'cpu' or 'cuda'", repr(name), "choose one of these")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        got = f"{name!r} with {torch.cuda.device_count()} CUDA devices on this machine"
        raise invalid("device", "a device that is there", got, "use 'cpu'")
    return device
