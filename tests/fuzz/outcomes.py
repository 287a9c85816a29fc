"""What became of a call that was made at random: a value, one of the documented errors, a fault."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latino_engine.errors import UserError

#: A call may take so long on a machine of its own; LATINO_FUZZ_SECONDS for a busy one.
SECONDS = float(os.environ.get("LATINO_FUZZ_SECONDS", "10"))
_CONTROL = {chr(n) for n in (*range(32), 127)}


class Hang(BaseException):
    """A call that took too long; no `except Exception` stops it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `Hang` in the block after so much time of the processor."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fault(call: Callable[[], Any]) -> tuple[str, str | None]:
    """(the name of what came, None or what was wrong with it).

    Right are: finite values; a `UserError` or a `MemoryError` of one sentence, on one line, in
    printable characters. Everything else is a fault, warnings of other libraries apart.
    """
    begun = time.process_time()
    try:
        with limited(4 * SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = call()
            wrong = not_finite(value)
        name = "value"
    except Hang:
        return "hang", "did not end:\n" + traceback.format_exc(limit=-4)
    except (UserError, MemoryError) as error:
        name, wrong = type(error).__name__, no_sentence(str(error))
    except Exception as error:
        name, wrong = "raw", traceback.format_exc(limit=-5)
        del error
    seconds = time.process_time() - begun
    if wrong is None and seconds > SECONDS:
        wrong = f"took {seconds:.1f} s"
    return name, wrong


def no_sentence(text: str) -> str | None:
    """What keeps a text from being one sentence for a user."""
    if not text.strip():
        return "an error without words"
    if _CONTROL & set(text):
        return f"control characters in {text!r}"
    if len(text) > 5000:
        return f"{len(text)} characters: {text[:200]!r}"
    return None


def not_finite(value: Any) -> str | None:
    """Where a result holds NaN or infinity."""
    if isinstance(value, Tensor):
        plain = value.dequantize() if value.is_quantized else value
        plain = plain.to_dense() if plain.layout is not torch.strided else plain
        if plain.is_meta or bool(torch.isfinite(plain).all()):
            return None
        return f"values that are not finite, shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
        return None if np.isfinite(value).all() else "values that are not finite"
    if isinstance(value, (tuple, list)):
        return next((wrong for wrong in map(not_finite, value) if wrong), None)
    if dataclasses.is_dataclass(value) and hasattr(value, "mean") and hasattr(value, "std"):
        several = getattr(value, "num_samples", 1) > 1  # one sample has no standard deviation
        parts = [value.mean, value.std if several else None, getattr(value, "samples", None)]
        return not_finite(parts)
    return None


def tally(
    make: Callable[[random.Random], tuple[str, Callable[[], Any]]], count: int, seed: int
) -> tuple[Counter[str], list[str]]:
    """(how many of each outcome, the faults in words) of so many calls, the same for a seed.

    Args:
        make: from a source of chance to a call and its description.
        count: calls.
        seed: call n is made from (seed, n) alone, so that each can be made again by itself.
    """
    outcomes: Counter[str] = Counter()
    faults = []
    for n in range(count):
        words, call = make(random.Random(f"{seed} {n}"))
        name, wrong = fault(call)
        outcomes[name if wrong is None else "fault"] += 1
        if wrong is not None:
            faults.append(f"call {n} of seed {seed}: {words}\n{wrong}")
    return outcomes, faults


def asked(few: int) -> int:
    """How many calls: `few`, or what the environment asks for (`make fuzz`)."""
    return int(os.environ.get("LATINO_FUZZ", few))


def report(what: str, outcomes: Counter[str], faults: list[str]) -> None:
    """Prints the counts, and fails with the first faults."""
    print(json.dumps({what: dict(outcomes)}), file=sys.stderr)
    assert not faults, f"{len(faults)} of {sum(outcomes.values())}:\n" + "\n".join(faults[:12])
