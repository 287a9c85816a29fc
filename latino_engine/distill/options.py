"""The choices of a training, each said once: the commands take their options from here.

Nothing in this file imports torch, so that the command line is there at once.
"""

from __future__ import annotations

from dataclasses import dataclass

OBJECTIVES = ("energy", "paper", "mse")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class PriorTraining:
    """Every choice of a prior's training; `training.json` in the run's folder holds the same.

    Attributes:
        source: folder of images, idx file (.gz too) or npy file.
        name: of the prior; on the command line the folder's name by default.
        size: side of the squares that are cut from the images.
        pad: black pixels added around the images of an array file.
        flip: mirror squares left to right at random.
        turn: turn squares by a random multiple of 90 degrees.
        smallest_scale: make images smaller by a random factor from here to 1.
        network: "unet" (normalised, with attention) or "resunet" (convolutions alone; its time
            and memory grow with the number of pixels).
        widths: channels per resolution.
        blocks_per_level: residual blocks per resolution, on the way down and up.
        attention_heads: of "unet".
        embedding: width of the noise level's embedding.
        groups: of the group normalisation of "unet".
        down_blocks: of "resunet": blocks per resolution on the way down, such as 1,2,2;
            blocks_per_level if empty.
        up_blocks: the same on the way up.
        minutes: length in minutes of training; give either this or steps.
        steps: length in optimizer steps.
        batch: squares per step.
        learning_rate: at its highest; linear warm-up, in the end a cosine to 0.
        warmup: steps of the warm-up.
        cooldown: part of the run over which the cosine falls: 1 is all of it; with less, a run
            can be made longer at any time before.
        ema: decay of the weights' moving average, reached gradually.
        log_sigma_mean: mean of ln sigma, [-1, 1] units.
        log_sigma_std: standard deviation of ln sigma.
        sigma_max: largest noise level that the prior claims, [-1, 1] units.
        sampler_sigma_max: first noise level of zero-shot LATINO, image range 0 to 1.
        seed: of the weights, the images and the noise, 0 <= seed < 2^64.
        checkpoint_minutes: how often the run is written down.
        half: store the weights as float16 (they are read back as float32).
        licence: of the weights, for prior.json.
        start: prior of the same network, shipped name or folder, whose weights the run begins with.
        validation: images to denoise at every checkpoint; validation.csv then holds the PSNR at
            the noise levels 15, 25 and 50 of 255 over the squares seen.
        precision: "fp32", "bf16" (autocast) or "auto", the faster of the two by a trial at the
            start of each sitting, so that its bits may change from one to the next.
        compiled: compile the step by torch.compile: faster after the first minute.
    """

    source: str
    name: str
    size: int
    pad: int = 0
    flip: bool = False
    turn: bool = False
    smallest_scale: float = 1.0
    network: str = "unet"
    widths: tuple[int, ...] = (32, 64, 128)
    blocks_per_level: int = 2
    attention_heads: int = 4
    embedding: int = 128
    groups: int = 8
    down_blocks: tuple[int, ...] = ()
    up_blocks: tuple[int, ...] = ()
    minutes: float | None = None
    steps: int | None = None
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 100
    cooldown: float = 1.0
    ema: float = 0.998
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.4
    sigma_max: float = 80.0
    sampler_sigma_max: float = 0.3
    seed: int = 0
    checkpoint_minutes: float = 1.0
    half: bool = False
    licence: str = ""
    start: str | None = None
    validation: str | None = None
    precision: str = "fp32"
    compiled: bool = False


@dataclass(frozen=True)
class Distillation:
    """Every choice of a distillation; `adapter.json` holds the same fields.

    Attributes:
        source: true images: folder, idx file (.gz too) or npy file.
        name: of the adapter; on the command line the folder's name by default.
        operators: forward models to draw from, such as blur:std=0.8..3 or sr:factor=2|4; on the
            command line repeatable.
        noise_std: noise level or range, such as 0.01..0.05, image range 0 to 1.
        size: side of the squares that are cut from the images.
        pad: black pixels added around the images of an array file.
        flip: mirror squares left to right at random.
        smallest_scale: make images smaller by a random factor from here to 1.
        steps: N, outer steps.
        unfold: K, inner iterations of each: N K evaluations.
        objective: "energy" or "paper"; "mse" trains the posterior mean, to see its PSNR.
        targets: which weights are trained: "attention", "all-conv" or "full".
        rank: of the low-rank changes.
        alpha: their scale times the rank.
        init: how the chain starts: "regularised", "measurement", or from Python "network".
        minutes: length in minutes of training; give either this or training_steps.
        training_steps: length in optimizer steps.
        batch: measurements per step, over all processes.
        num_samples: energy: S draws per measurement.
        patches: energy: sides of its patches in pixels; on the command line repeatable.
        exponent: energy: of its distances, above 0 and below 2; below 1, small errors count more.
        image_exponent: energy: of its distances between whole images; `exponent` by default.
        adversarial: paper: weight of the term.
        noise_mse: paper: weight of the term.
        perceptual: paper: weight of the term.
        gradient_penalty: paper: weight of the discriminator's penalty.
        noise_mse_cutoff: paper: largest 1 / sigma_n^2 by which the squared error is weighted.
        perceptual_network: paper: "auto", "lpips" or "pyramid".
        learning_rate: of the network's weights at its highest; linear warm-up, cosine to 0.
        step_size_rate: learning rate of log r, log d and log lambda.
        discriminator_rate: paper: learning rate of the discriminator.
        init_rate: of the restoration network, as a share of `learning_rate`.
        warmup: steps of the warm-up.
        ema: decay of the moving average, reached gradually.
        c: noise of an inner iteration: c sigma_delta.
        zeta: share of fresh noise between outer steps, 0 to 1.
        checkpointing: recompute activations instead of keeping them: less memory, a third more
            time.
        autocast: compute the network in bfloat16 (its weights stay float32); up to twice as fast
            where the processor has such instructions.
        compiled: compile the network and its gradient by torch.compile: faster after the first
            minute, which needs a C++ compiler.
        seed: of operators, images and noise, 0 <= seed < 2^64.
        checkpoint_minutes: how often the run is written down.
        half: store the weights as float16.
        start: adapter of the same prior, shipped name or folder, whose weights and step sizes the
            run begins with.
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
    zeta: float = 0.9
    checkpointing: bool = False
    autocast: bool = False
    compiled: bool = False
    seed: int = 0
    checkpoint_minutes: float = 2.0
    half: bool = False
    start: str | None = None
