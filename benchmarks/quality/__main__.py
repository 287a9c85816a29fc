"""Score samplers, and write docs/results.md: `make results MNIST=folder PHOTOS=folder`.

    python -m benchmarks.quality digits MNIST        the table of digits, deepinv's methods included
    python -m benchmarks.quality photos PHOTOS_TEST  the table of photographs
    python -m benchmarks.quality ablation MNIST      short trainings, one choice changed at a time
    python -m benchmarks.quality change MNIST        another operator at inference than in training
    python -m benchmarks.quality beyond MNIST PHOTOS_TEST    shipped adapters, other forward models
    python -m benchmarks.quality denoising CBSD68    one evaluation beside the published figures
    python -m benchmarks.quality limits PHOTOS PHOTOS_TEST   what limits the photographs
    python -m benchmarks.quality picture MNIST       four doubtful digits
    python -m benchmarks.quality tables              docs/results.md from all rows on file

MNIST is the folder of the idx files. A row that is on file for the same prior and adapter is not
computed again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.quality import ablation, denoising, limits, pictures, tables
from benchmarks.quality.rows import Problem, Sampler, peer_row, score_row
from latino_engine.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

DIGITS = "digits-32"
PHOTOS = "photo-small"
OPERATORS = ("sr:factor=4", "blur:std=2", "inpaint:box=16")
PHOTO_OPERATORS = ("blur:std=1.6,size=13", "sr:factor=4", "inpaint:random=0.5")
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
_DIGIT_SAMPLERS = (
    Sampler("distilled 3 x 3", DIGITS, "digits-32-3x3", num_samples=10),
    Sampler("distilled 2 x 2", DIGITS, "digits-32-2x2", num_samples=10),
    Sampler("LATINO 8", DIGITS, None, "latino", 8, num_samples=10),
)
#: (operator, noise_std): none that the adapters of digits were trained on; of photographs four
#: inside of the training range and four outside.
_DIGITS_BEYOND = (
    ("blur:std=1", 0.05),
    ("blur:std=3", 0.05),
    ("blur:std=2", 0.02),
    ("blur:std=2", 0.12),
    ("sr:factor=2", 0.05),
    ("inpaint:box=12", 0.05),
    ("inpaint:random=0.5", 0.05),
)
_PHOTOS_BEYOND = (
    ("blur:std=1", 0.01),
    ("blur:std=2.4", 0.04),
    ("sr:factor=2", 0.02),
    ("inpaint:random=0.3", 0.04),
    ("blur:std=4", 0.02),
    ("blur:std=1.6", 0.1),
    ("sr:factor=8", 0.02),
    ("inpaint:box=64", 0.02),
)
_DOCS = Path(__file__).parents[2] / "docs"
_DIGIT_PEERS = (("diffpir", 100, 4), ("ddrm", 100, 4), ("dps", 100, 4))
_PHOTO_PEERS = (("diffpir", 100, 4), ("ddrm", 20, 4))

Folder = Annotated[Path, typer.Argument(help="Folder of the true images.")]
Limit = Annotated[int, typer.Option(help="Images.")]


@app.command()
def digits(mnist: Folder, limit: Limit = 512) -> None:
    """Distilled samplers, zero-shot LATINO, the untrained schedule and deepinv's methods."""
    source = str(mnist / TEST_IMAGES)
    ours = [
        *_DIGIT_SAMPLERS,
        Sampler("LATINO 32", DIGITS, None, "latino", 32, num_samples=10),
        Sampler("LATINO 100", DIGITS, None, "latino", 100, num_samples=4),
        Sampler("UD2M 3 x 3, untrained", DIGITS, None, "ud2m", 3, 3, num_samples=10),
    ]
    for operator in OPERATORS:
        problem = Problem(source, operator, 0.05, 32, 2, limit)
        for sampler in ours:
            _say(operator, sampler.name)
            score_row("digits", problem, sampler)
        for method, steps, count in _DIGIT_PEERS:
            peer_row("digits", problem, DIGITS, method, steps, count)


@app.command()
def photos(
    folder: Folder,
    grid: Annotated[
        Path | None, typer.Option(help="Other photographs, to choose the peers' parameters on.")
    ] = None,
) -> None:
    """One adapter for three problems, zero-shot LATINO and deepinv's methods.

    Without --grid the rows of deepinv's methods are those on file.
    """
    for operator in PHOTO_OPERATORS:
        problem = Problem(str(folder), operator, 0.02, 256, 0, 7)
        for sampler in (
            Sampler("distilled 2 x 2", PHOTOS, PHOTOS, num_samples=8),
            Sampler("distilled 2 x 2, 4 samples", PHOTOS, PHOTOS, num_samples=4),
            Sampler("LATINO 8", PHOTOS, None, "latino", 8, num_samples=8),
        ):
            _say(operator, sampler.name)
            score_row("photos", problem, sampler)
        for method, steps, count in _PHOTO_PEERS if grid is not None else ():
            source = str(grid)
            few = {"grid_limit": 2, "grid_samples": 2, "grid_size": 128, "batch": 4}
            peer_row("photos", problem, PHOTOS, method, steps, count, source, **few)


@app.command("ablation")
def ablation_command(
    mnist: Folder,
    training_steps: Annotated[int, typer.Option(help="Of each short training.")] = 80,
    limit: Limit = 64,
) -> None:
    """N, K, with and without training, targets and rank, start, objective."""
    ablation.choices(mnist, training_steps, limit)


@app.command()
def change(
    mnist: Folder,
    training_steps: Annotated[int, typer.Option(help="Of each short training.")] = 80,
    limit: Limit = 64,
) -> None:
    """Trained on a range of blurs and noises, tested inside and outside of it."""
    ablation.change_of_operator(mnist, training_steps, limit)


@app.command()
def beyond(
    mnist: Folder,
    folder: Annotated[Path, typer.Argument(help="Folder of the test photographs.")],
    limit: Annotated[int, typer.Option(help="Digits; all photographs are taken.")] = 256,
) -> None:
    """Shipped adapters on other forward models, inside and outside of their training range."""
    digits = str(mnist / TEST_IMAGES)
    for operator, noise in _DIGITS_BEYOND:
        for sampler in _DIGIT_SAMPLERS:
            _say(f"{operator}, noise {noise:g}", sampler.name)
            problem = Problem(digits, operator, noise, 32, 2, limit)
            score_row("beyond-digits", problem, sampler)
    for operator, noise in _PHOTOS_BEYOND:
        for sampler in (
            Sampler("distilled 2 x 2", PHOTOS, PHOTOS, num_samples=10),
            Sampler("LATINO 8", PHOTOS, None, "latino", 8, num_samples=10),
        ):
            _say(f"{operator}, noise {noise:g}", sampler.name)
            problem = Problem(str(folder), operator, noise, 256, 0, 7)
            score_row("beyond-photos", problem, sampler)


@app.command("denoising")
def denoising_command(
    folder: Folder,
    prior: Annotated[str, typer.Option(help="Shipped name or folder.")] = PHOTOS,
    curve: Annotated[
        Path | None, typer.Option(help="validation.csv of the prior's training, to be kept.")
    ] = None,
) -> None:
    """Gaussian denoising at 15, 25 and 50 of 255, and docs/prior-training.png."""
    denoising.measure(folder, prior)
    if curve is not None:
        denoising.keep_curve(curve, Path(prior).name)
    denoising.picture(_DOCS / denoising.PICTURE)


@app.command("limits")
def limits_command(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs to train on.")],
    test: Annotated[Path, typer.Argument(help="Folder of the true images.")],
    minutes: Annotated[
        list[float] | None, typer.Option(help="Lengths of the training, growing; 5 and 15.")
    ] = None,
) -> None:
    """docs/photo-limits.png: samples averaged, evaluations, and the posterior mean trained."""
    limits.measure(photos, test, PHOTO_OPERATORS, minutes or [5.0, 15.0])
    limits.picture(_DOCS / limits.PICTURE)


@app.command()
def picture(mnist: Folder) -> None:
    """docs/digits.png."""
    pictures.doubtful_digits(str(mnist / TEST_IMAGES), "digits-32-3x3", _DOCS / "digits.png")


@app.command("tables")
def tables_command() -> None:
    """docs/results.md from the rows on file."""
    tables.write(_DOCS / "results.md")


def _say(problem: str, name: str) -> None:
    print(f"{problem}: {name}", file=sys.stderr)


def main() -> int:
    """Run a command; a user's mistake is one line and status 2."""
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
