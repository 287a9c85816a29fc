"""What is checked of a distillation's choices before anything is loaded."""

from __future__ import annotations

import math

from torch import nn

from latino_engine.distill.batches import check_scale
from latino_engine.distill.options import OBJECTIVES, Distillation
from latino_engine.distill.runs import check_length, check_positive
from latino_engine.errors import invalid
from latino_engine.ops.checks import check_seed


def check_options(options: Distillation, init_network: nn.Module | None) -> None:
    """Raises if an option cannot be used."""
    check_length(options.minutes, options.training_steps, "training_steps")
    if options.objective not in OBJECTIVES:
        expected = f"one of {', '.join(OBJECTIVES)}"
        raise invalid("objective", expected, repr(options.objective), "choose one of these")
    if options.init not in ("regularised", "measurement", "network"):
        expected = "'regularised', 'measurement' or 'network'"
        raise invalid("init", expected, repr(options.init), "choose one of these")
    if (options.init == "network") != (init_network is not None):
        expected = "init='network' and init_network together, which only Python can pass"
        got = "one of them" if init_network is None else f"init={options.init!r}"
        raise invalid("init_network", expected, got, "call distill(..., init_network=...)")
    counts = {"batch": 1, "num_samples": 2, "steps": 1, "unfold": 1, "warmup": 1, "size": 1}
    for name, least in counts.items():
        if getattr(options, name) < least:
            got = getattr(options, name)
            raise invalid(name, f"at least {least}", got, "choose a larger number")
    check_positive(options, ("learning_rate", "checkpoint_minutes"))
    _check_numbers(options)


def _check_numbers(options: Distillation) -> None:
    check_seed(options.seed)
    ranges = {
        "pad": (0, math.inf),
        "ema": (0.0, 1.0),
        "zeta": (0.0, 1.0),
        "step_size_rate": (0.0, math.inf),
        "discriminator_rate": (0.0, math.inf),
        "init_rate": (0.0, math.inf),
        "noise_mse_cutoff": (0.0, math.inf),
    }
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if not (low <= value <= high and math.isfinite(value)):
            expected = f"a number from {low:g} to {high:g}" if high < math.inf else "0 or more"
            raise invalid(name, expected, value, "choose another value")
    check_scale(options.smallest_scale)
    for name in ("exponent", "image_exponent"):
        got = getattr(options, name)
        if got is not None and not 0.0 < got < 2.0:
            raise invalid(name, "a number above 0 and below 2", got, "1 is the energy score")
    if not 0.0 < options.c < math.inf:
        raise invalid("c", "a number above 0", options.c, "1 is the published value")
    if min(options.patches, default=1) < 1:
        raise invalid("patches", "sides of at least 1", options.patches, "choose other sides")
