"""What a change of the code's shape must keep: samples, operations, names, help, frames.

    python tests/record_samples.py --output before.json
    python tests/record_samples.py --check before.json

Hashes are SHA-256 of float32 bytes. They depend on the processor and on torch's version: record and
check on one machine. The frames are those of Python from `Engine.sample`, and from an operator's
`prox`, to the call of the extension, both ends counted; they may fall, and are told, not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["COLUMNS"] = "100"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from frames import depths
from torch import Tensor

import latino_engine as le
from latino_engine import image_io, ops

THREADS = 2
SEED = 11
RUNTIMES = ("torch", "onnxruntime")
SAMPLERS: dict[str, dict[str, Any]] = {
    "auto": {"sampler": "auto"},
    "latino": {"sampler": "latino", "steps": 3},
    "ud2m": {"sampler": "ud2m", "steps": 2, "unfold": 2},
}
COMMANDS = (
    *("", "compile", "sample", "demo", "info", "distill", "train-prior", "evaluate", "bench"),
    *("audit", "rebuild", "export", "import"),
)


def digest(value: Any) -> str:
    """SHA-256 of a tensor, or of several, by shape, type and bytes."""
    made = hashlib.sha256()
    for tensor in value if isinstance(value, tuple | list) else (value,):
        made.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        made.update(tensor.detach().cpu().resolve_conj().contiguous().numpy().tobytes())
    return made.hexdigest()


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Standard normals, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kernel(*shape: int) -> Tensor:
    """Lopsided, sum 1."""
    taps = torch.rand(*shape, generator=torch.Generator().manual_seed(2)) + 0.1
    return taps / taps.sum(dim=(-2, -1), keepdim=True)


def even_kernel() -> Tensor:
    """Its own mirror image in both axes."""
    taps = kernel(5, 3) + kernel(5, 3).flip(0)
    taps = taps + taps.flip(1)
    return taps / taps.sum()


def mask(*shape: int) -> Tensor:
    """Half of the pixels, the middle one among them."""
    m = (noise(*shape, seed=3) > 0).float()
    m[..., shape[-2] // 2, shape[-1] // 2] = 1.0
    return m


def coil_maps(side: int) -> Tensor:
    maps = torch.complex(noise(3, side, side, seed=5), noise(3, side, side, seed=6))
    return maps / 6**0.5


def double(x: Tensor) -> Tensor:
    return 2.0 * x


def operators(channels: int, side: int) -> dict[str, Any]:
    """Every class of operator that takes images of this many channels."""
    two = torch.tensor([0.02, 0.05])
    found: dict[str, Any] = {
        "blur": le.Blur.gaussian(1.5, 0.05),
        "blur_each": le.Blur(kernel(2, 1, 3, 4), two),
        "sr": le.SuperResolution(4, 0.05),
        "sr_gaussian": le.SuperResolution(2, two, kernel="gaussian"),
        "inpainting": le.Inpainting(mask(side, side), 0.05),
        "inpainting_each": le.Inpainting(mask(2, channels, side, side), two),
        "denoising": le.Denoising(0.1),
        "blur_reflect": le.BorderedBlur(even_kernel(), 0.05),
        "blur_replicate": le.BorderedBlur(kernel(3, 4), two, border="replicate"),
        "blur_valid": le.BorderedBlur(kernel(3, 4), 0.05, border="valid"),
        "blur_varying": le.SpatiallyVaryingBlur(kernel(2, 2, 3, 3), 0.05),
        "tomography": le.Tomography(12, (side, side), 0.1),
        "sensing": le.CompressedSensing(0.5, (side, side), 0.05),
        "sensing_sequency": le.CompressedSensing(0.3, (side, side), 0.05, ordering="sequency"),
        "phase": le.PhaseRetrieval(torch.complex(*noise(2, 2, side, side)), 0.05, num_iter=3),
        "poisson": le.PoissonNoise(le.Blur.gaussian(1.0, 0.0), 30.0),
        "poisson_plain": le.PoissonNoise(le.Denoising(0.0), 30.0),
        "linear": le.LinearOperator(double, double, 0.05),
        "compose": le.Compose((le.Blur(kernel(3, 4), 0.0), le.Blur.gaussian(0.7, 0.05))),
        "compose_mask": le.Compose(
            (le.Blur(kernel(3, 4), 0.0), le.Inpainting(mask(side, side), 0.05))
        ),
        "stack_blurs": le.Stack(
            (le.Blur(kernel(3, 4), 0.05), le.Denoising(0.1)), (channels, side, side)
        ),
        "stack_mixed": le.Stack(
            (le.SuperResolution(2, 0.05), le.Denoising(0.1)), (channels, side, side)
        ),
        "jpeg": le.JPEG(30, grey=channels == 1),
    }
    if channels == 1:
        found["mri_real"] = le.MRI(mask(side, side), 0.05, real_image=True)
        found["mri_coils_real"] = le.MRI(mask(side, side), 0.05, coil_maps(side), real_image=True)
    if channels == 3:
        found["demosaicing"] = le.Demosaicing(0.05)
        found["colorization"] = le.Colorization(0.05)
    if channels == 2:
        found["mri"] = le.MRI(mask(side, side), 0.05)
        found["mri_coils"] = le.MRI(mask(side, side), 0.05, coil_maps(side))
    return found


def pictures(channels: int, side: int) -> Tensor:
    """Two smooth images in [0, 1]."""
    rows = torch.linspace(0.0, 3.0, side)
    waves = [torch.outer(torch.sin(rows + k), torch.cos(1.5 * rows - k)) for k in range(6)]
    return (0.5 + 0.4 * torch.stack(waves)).reshape(2, 3, side, side)[:, :channels].contiguous()


def measured(op: Any, x: Tensor) -> Any:
    """The measurement of these images with the noise of one seed."""
    torch.manual_seed(7)
    return op.measure(x, seed=5)


def whole(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def operator_hashes() -> Iterator[tuple[str, str]]:
    """A, its adjoint, the start and the prox, each alone."""
    for channels, side in ((1, 32), (2, 32), (3, 64), (3, 36)):
        x = noise(2, channels, side, side, seed=8)
        for name, op in operators(channels, side).items():
            key = f"{name} {channels}x{side}"
            images = pictures(channels, side)
            yield f"{key} measure", _outcome(measured, op, images)
            if name == "jpeg" and channels == 2:
                continue
            y = measured(op, images)
            for member, arguments in {
                "A": (x,),
                "A_adjoint": (y,),
                "initial_estimate": (y,),
                "prox": (x, y, 3.0),
                "prox each": (x, y, torch.tensor([0.5, 40.0])),
            }.items():
                call = getattr(op, member.split()[0], None)
                if call is not None:
                    yield f"{key} {member}", _outcome(call, *arguments)


def _outcome(call: Callable[..., Any], *arguments: Any) -> str:
    try:
        return digest(whole(call(*arguments)))
    except Exception as error:  # a refusal is kept too
        return f"{type(error).__name__}: {error}"


def operation_hashes() -> Iterator[tuple[str, str]]:
    """Every fused operation, on each backend that the CPU has."""
    identity = (2**63 + 5, [0, 7], [3, 2**32 - 1], 9)
    for side in (64, 12):
        x, x_t = noise(2, 2, 2, side, side)
        m, y = (x[:1, :1] > 0).float(), x_t[:1]
        h = torch.fft.fft2(m / m.sum())
        low = torch.fft.fft2(y[..., ::2, ::2]).repeat(1, 1, 2, 2)
        folded = (h.abs() ** 2).reshape(1, 1, 2, side // 2, 2, side // 2).mean(dim=(-4, -2))
        alias = (h, folded, (h.conj() * low).resolve_conj())
        half = h[..., : side // 2 + 1].contiguous()
        power, back = half.abs() ** 2, (half.conj() * torch.fft.rfft2(y)).resolve_conj()
        anchors, scalars = (x, x_t, 0.4), (torch.tensor([2.0, 3.0]), 0.3)
        calls: dict[str, tuple[Any, ...]] = {
            "gaussian_noise": (*identity, x.shape),
            "langevin_noise": (x, 0.5, *identity),
            "reverse_step": (x, x_t, 0.7, 0.4, 0.9, *identity),
            "running_moments": (x, x_t.abs(), 3, x_t),
            "masked_prox": (x, m, y, 2.0),
            "fourier_prox": (x, power, back, 2.0),
            "alias_prox": (x, *alias, 2.0, 2),
            "convolve": (x, half),
            "convolved_spectrum": (x, half, True),
            "keep_observed": (x, m),
            "observed_prox": (x, m, y, 2.0),
            "kspace_forward": (x, m),
            "kspace_adjoint": (y, m),
            "fourier_mask_prox": (x, m, y, 2.0),
            "fourier_prox_noise": (*anchors, power, back, *scalars, *identity),
            "alias_prox_noise": (*anchors, *alias, *scalars, 2, *identity),
            "masked_prox_noise": (*anchors, m, y, *scalars, *identity),
            "fourier_mask_prox_noise": (*anchors, m, y, *scalars, *identity),
        }
        yield f"combine_anchors {side}", digest(ops.combine_anchors(x, x_t, 0.4))
        for name, arguments in calls.items():
            for backend in ("auto", "torch", "cpu"):
                call = partial(getattr(ops, name), *arguments, backend=backend)
                yield f"{name} {side} {backend}", _outcome(call)


def sample_hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Operators x samplers x runtimes of the two shipped priors, and what else a call can ask."""
    for prior, adapter, channels, side in (
        ("digits-32", "digits-32-2x2", 1, 32),
        ("photo-small", "photo-small", 3, 64),
    ):
        path = folder / f"{prior}.engine"
        le.compile(prior, path, adapter=adapter, image_size=side, threads=THREADS)
        x = pictures(channels, side)
        for runtime in RUNTIMES:
            engine = le.load(path, backend=runtime, threads=THREADS)
            for name, op in operators(channels, side).items():
                y = measured(op, x)
                for sampler, options in SAMPLERS.items():
                    draw = partial(_draw, engine, y, op, num_samples=2, **options)
                    yield f"{prior} {runtime} {name} {sampler}", _outcome(draw)
            blur = operators(channels, side)["blur"]
            y = measured(blur, x)
            for name, more in (
                ("moments", {"keep_samples": False, "num_samples": 3}),
                ("tiles", {"tile": side // 2}),
                ("init measurement", {"init": "measurement"}),
                ("init image", {"init": x}),
                ("image ids", {"image_ids": [9, 4]}),
            ):
                options = {"num_samples": 2, "seed": SEED, **more}
                post = engine.sample(y, blur, **options)
                yield f"{prior} {runtime} blur {name}", digest((post.mean, post.std))


def _draw(engine: Any, y: Any, op: Any, **options: Any) -> tuple[Tensor, Tensor]:
    post = engine.sample(y, op, seed=SEED, **options)
    return post.samples, post.residual_chi2


def latent_hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """The samplers of a text-to-image pipeline."""
    from tiny_pipelines import save_stable_diffusion

    pipeline = save_stable_diffusion(folder / "pipeline")
    prior = le.load_latent_prior(pipeline, prompt="a photo of a cat")
    path = folder / "latent.engine"
    le.compile(prior, path, image_size=32, threads=THREADS)
    x = pictures(3, 32)
    for runtime in RUNTIMES:
        engine = le.load(path, backend=runtime, threads=THREADS)
        for name, op in {
            "blur": le.Blur.gaussian(1.5, 0.05),
            "sr": le.SuperResolution(4, 0.05),
            "inpainting": le.Inpainting(mask(32, 32), 0.05),
        }.items():
            y = measured(op, x)
            for sampler in ("auto", "latino"):
                post = engine.sample(y, op, num_samples=2, seed=SEED, sampler=sampler)
                yield f"latent {runtime} {name} {sampler}", digest(post.samples)
    engine = le.load(path, backend="torch", threads=THREADS)
    op = le.Blur.gaussian(1.5, 0.05)
    options = {"num_samples": 1, "seed": SEED, "sampler": "latino-pro", "prompt_updates": 2}
    post = engine.sample(measured(op, x), op, **options)
    yield "latent torch blur latino-pro", digest(post.samples)


def frames(folder: Path) -> dict[str, dict[str, int]]:
    """The most frames of Python from a public call to each function of the extension."""
    engine = le.load(folder / "photo-small.engine", backend="torch", threads=THREADS)
    made, x = {}, pictures(3, 64)
    for name in ("blur", "sr", "inpainting"):
        op = operators(3, 64)[name]
        y = measured(op, x)
        sample = type(engine).sample.__code__
        made[f"sample {name}"] = depths(lambda y=y, op=op: engine.sample(y, op), sample)
        prox = type(op).prox.__code__
        made[f"prox {name}"] = depths(lambda y=y, op=op: op.prox(x, y, 2.0), prox)
    return made


def names() -> dict[str, list[str]]:
    """What a user may import."""

    files = inspect.getmembers(image_io, inspect.isfunction)
    return {
        "latino_engine": sorted(le.__all__),
        "ops": sorted(ops.__all__),
        "image_io": sorted(
            name
            for name, made in files
            if made.__module__.startswith("latino_engine.image_io") and not name.startswith("_")
        ),
    }


def helps() -> dict[str, str]:
    """The text of --help of each command, and of a command's refusal."""
    made = {}
    for command in COMMANDS:
        words = [sys.executable, "-m", "latino_engine", *command.split(), "--help"]
        ran = subprocess.run(words, capture_output=True, text=True)
        made[command or "latino-engine"] = ran.stdout + ran.stderr
    return made


def record() -> dict[str, Any]:
    """Everything, under the headings of the file."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LATINO_ENGINE_CACHE"] = str(folder / "cache")
        return {
            "names": names(),
            "help": helps(),
            "operations": dict(operation_hashes()),
            "operators": dict(operator_hashes()),
            "samples": dict(sample_hashes(folder)),
            "latent": dict(latent_hashes(folder)),
            "frames": frames(folder),
        }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each entry that is lost, new or another one, but for the frames."""
    lines = []
    for heading in ("names", "help", "operations", "operators", "samples", "latent"):
        old, new = before[heading], after[heading]
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                state = "lost" if key not in new else "new" if key not in old else "changed"
                lines.append(f"{heading}: {key}: {state}")
                if heading == "names" and state == "changed":
                    gone, come = {*old[key]} - {*new[key]}, {*new[key]} - {*old[key]}
                    lines[-1] += f" (lost {sorted(gone)}, new {sorted(come)})"
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--check", type=Path, help="JSON file to compare with")
    asked = parser.parse_args()
    made = record()
    if asked.output:
        asked.output.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    print(json.dumps(made["frames"]))
    if asked.check is None:
        return 0
    before = json.loads(asked.check.read_text())
    found = differences(before, made)
    print("\n".join(found) if found else "no difference")
    print(f"frames before: {json.dumps(before['frames'])}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
