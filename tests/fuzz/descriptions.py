"""Descriptions of operators, mutated: what the command line and the service take as text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

import latino_engine as le
from latino_engine.operators.builders import EXAMPLES

_SIZES = ((8, 8), (16, 12), (7, 9), (64, 64), (1, 1), None)
_LARGE = ((4096, 4096), (8192, 8192), (2**16, 2**16), (2**40, 2), (0, 4), (-1, 4))
_LEVELS = (0.0, 0.02, 0.5, 1e-30, 1e-12, 1e6, 1e9, 1e30, 1e300, -1.0, float("nan"), float("inf"))
_TEXTS = (
    "\0",
    "\n",
    "\r",
    "\t",
    " ",
    ",",
    ":",
    "=",
    ",,",
    "::",
    "==",
    "é",
    "\ud800",
    "\u202e",
    "%s",
)
_VALUES = (
    "0",
    "1",
    "-1",
    "1e-23",
    "1e308",
    "1e309",
    "nan",
    "inf",
    "9" * 40,
    "0x10",
    "1_0",
    "٣",
    "",
)
_WORDS = (" then ", " and ", "seed=", "noise=", "noise=0.1", "kernel=", "file=", "mask=", "size=")
_FILES = ("a\0b.npy", "/dev/zero", "/", "", ".", "x" * 5000, "nothing.npy", "a\nb.png", "/dev/null")


def mutated(chance: random.Random, text: str) -> str:
    """A few changes of an example: characters, values, keys, files, and two joined."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        kind = chance.randrange(8)
        at = chance.randrange(len(text) + 1)
        if kind == 0:
            text = text[:at] + chance.choice(_TEXTS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + chance.randrange(1, 4) :]
        elif kind == 2 and "=" in text:
            head, _, tail = text.rpartition("=")
            text = f"{head}={chance.choice(_VALUES)}" + (
                tail[tail.find(",") :] if "," in tail else ""
            )
        elif kind == 3:
            text = text + chance.choice((",", " ", "")) + chance.choice(_WORDS)
        elif kind == 4:
            text = text + chance.choice((" then ", " and ")) + chance.choice(EXAMPLES)
        elif kind == 5 and "=" in text:
            text = text.partition("=")[0] + "=" + chance.choice(_FILES)
        elif kind == 6:
            text = (
                text[:at]
                + chr(chance.choice((chance.randrange(128), chance.randrange(0x3000))))
                + text[at:]
            )
        else:
            text = text[at:] + text[:at]
    return text


def a_description_call(
    engine: le.Engine,
) -> Callable[[random.Random], tuple[str, Callable[[], Any]]]:
    """An operator from a description at some size and noise level; where it is small, samples."""

    def make(chance: random.Random) -> tuple[str, Callable[[], Any]]:
        text = chance.choice(EXAMPLES)
        if chance.random() < 0.8:
            text = mutated(chance, text)
        size = chance.choice(_SIZES) if chance.random() < 0.85 else chance.choice(_LARGE)
        level = 0.1 if chance.random() < 0.6 else chance.choice(_LEVELS)
        tried = f"operator({text!r}, {level}, {size})"

        def call() -> Any:
            op = le.operator(text, level, size)
            repr(op)
            if size is None or not 0 < size[0] * size[1] <= 256:
                return None
            x = torch.rand(1, 3, *size)
            y = op.measure(x, seed=1)
            if chance.random() < 0.5 or min(size) < 4:
                return y
            return engine.sample(y, op, 1, seed=2, sampler="latino", steps=2)

        return tried, call

    return make
