"""The choices of a distillation, and what is checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from latino_engine.distill.batches import check_scale
from latino_engine.distill.runs import check_length, check_positive
from latino_engine.errors import invalid
from latino_engine.ops.checks import check_seed
from latino_engine.schedule import DEFAULT_ZETA

OBJECTIVES = ("energy", "paper", "mse")


@dataclass(frozen=True)
class Distillation:
    """Every choice of a run; `adapter.json` holds the same fields.

    Attributes:
        source: folder, idx or npy file of true images.
        name: of the adapter.
        operators: forward models to draw from, as in `operator_draws`.
        noise_std: noise level, or a range "low..high", public units.
        size: side of the squares that are cut from the images.
        pad: black pixels added around the images of an array file.
        flip: mirror squares left to right at random.
        smallest_scale: images are made smaller by a random factor from here to 1.
        steps: N, outer steps.
        unfold: K, inner iterations of each.
        objective: "energy" or "paper"; "mse" trains the posterior mean, to see its PSNR.
        targets, rank, alpha: which weights are trained, as in `lora.adapt`.
        init: how the chain starts: "regularised", "measurement", or "network".
        minutes, training_steps: how long, in wall time or optimizer steps; exactly one is given.
        batch: measurements per step, over all processes.
        num_samples: S per measurement, of the energy score.
        patches: sides of its patches in pixels.
        exponent: of its distances, above 0 and below 2; below 1, small errors count more.
        image_exponent: of its distances between whole images; None takes `exponent`.
        adversarial, noise_mse, perceptual, gradient_penalty: weights of the paper's terms.
        noise_mse_cutoff: the largest 1 / sigma_n^2 by which the squared error is weighted.
        perceptual_network: "auto", "lpips" or "pyramid".
        learning_rate: of the network's weights at its highest; linear warm-up, cosine to 0.
        step_size_rate: of the logarithms of r, d and lambda.
        discriminator_rate: of the discriminator.
        init_rate: of the restoration network, as a share of `learning_rate`.
        warmup: steps of the warm-up.
        ema: decay of the moving average, reached gradually.
        c, zeta: of the schedule.
        checkpointing: recompute the network's activations instead of keeping them.
        autocast: compute the network in bfloat16 (its weights stay float32); up to twice as fast
            where the processor has such instructions.
        seed: of operators, images and noise.
        checkpoint_minutes: how often the run is written down.
        half: store the weights as float16.
        start: adapter of the same prior (shipped name or folder) whose weights and step sizes the
            run begins with, None to begin with the prior.
    """

    source: str
    name: str
    operators: tuple[str, ...]
    noise_std: str = "0.05"
    size: int = 64
    pad: int = 0
    flip: bool = False
    smallest_scale: float = 1.0
    steps: int = 3
    unfold: int = 3
    objective: str = "energy"
    targets: str = "attention"
    rank: int = 5
    alpha: float = 5.0
    init: str = "regularised"
    minutes: float | None = None
    training_steps: int | None = None
    batch: int = 16
    num_samples: int = 2
    patches: tuple[int, ...] = (1, 4, 8)
    exponent: float = 1.0
    image_exponent: float | None = None
    adversarial: float = 0.1
    noise_mse: float = 1.0
    perceptual: float = 0.1
    gradient_penalty: float = 1.0
    noise_mse_cutoff: float = 10.0
    perceptual_network: str = "auto"
    learning_rate: float = 5e-4
    step_size_rate: float = 1e-2
    discriminator_rate: float = 2e-4
    init_rate: float = 0.1
    warmup: int = 20
    ema: float = 0.99
    c: float = 1.0
    zeta: float = DEFAULT_ZETA
    checkpointing: bool = False
    autocast: bool = False
    seed: int = 0
    checkpoint_minutes: float = 2.0
    half: bool = False
    start: str | None = None


def check_options(options: Distillation, init_network: nn.Module | None) -> None:
    """Raise the sentence for an option that cannot be used."""
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
