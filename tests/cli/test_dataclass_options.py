"""Commands whose options are the fields of a dataclass."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from latino_engine import schedule
from latino_engine.cli import mapping, program, training
from latino_engine.cli.dataclass_options import Flag, described, with_options
from latino_engine.distill.options import Distillation, PriorTraining
from latino_engine.engine import Engine
from latino_engine.evaluation.options import Evaluation
from latino_engine.latent_engine import LatentEngine
from latino_engine.sampling.options import Sampling


@dataclass(frozen=True)
class Choices:
    """Of a test.

    Attributes:
        source: what is read,
            over two lines.
        rate: at its highest.
        sides: in pixels.
        secret: of Python alone.
    """

    source: str
    rate: float = 0.5
    sides: tuple[int, ...] = (1, 2)
    secret: int = 7


def small_program():
    found = []

    @with_options(
        Choices,
        hidden=("secret",),
        source=Flag(argument=True),
        sides=Flag(names=("--side",), annotation=list[int] | None, default=None, parse=tuple),
    )
    def command(options: Choices, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        """Do it."""
        found.append((options, loud))

    app = typer.Typer()
    app.command()(command)
    return app, found


def test_fields_become_options_and_the_dataclass_arrives():
    app, found = small_program()
    arguments = ["here", "--rate", "2", "--side", "3", "--side", "4", "--loud"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert found == [(Choices("here", 2.0, (3, 4), 7), True)]


def test_help_is_the_docstring_and_the_default_that_of_the_field():
    app, _ = small_program()
    text = " ".join(CliRunner().invoke(app, ["--help"], terminal_width=200).output.split())
    assert "What is read, over two lines." in text and "At its highest." in text
    assert "0.5" in text and "secret" not in text


@pytest.mark.parametrize(
    "kind, command, hidden",
    [
        (PriorTraining, training.train_prior, {"attention_heads", "embedding", "groups"}),
        (Distillation, training.distill, {"init_rate"}),
        (Evaluation, training.evaluate, {"keep_samples"}),
        (Sampling, program.sample, {"keep_samples"}),
        (Sampling, mapping.map_command, {"keep_samples"}),
    ],
)
def test_every_choice_is_described_and_stands_on_the_command_line(kind, command, hidden):
    names = [field.name for field in fields(kind)]
    assert list(described(kind)) == names
    shown = set(inspect.signature(command).parameters)
    assert set(names) - shown == hidden


def test_the_share_of_fresh_noise_is_that_of_the_schedule():
    assert Distillation.zeta == schedule.DEFAULT_ZETA


@pytest.mark.parametrize("engine", [Engine, LatentEngine])
def test_the_engine_takes_every_choice_of_sampling_with_its_default(engine):
    parameters = inspect.signature(engine.sample).parameters
    defaults = {name: parameters[name].default for name in Sampling().arguments()}
    assert defaults == Sampling().arguments()


def test_what_is_inherited_comes_after_what_is_new():
    names = [*inspect.signature(training.evaluate).parameters]
    own, taken = names.index("limit"), names.index("sampler")
    assert own < taken and "tile" in names
    assert described(Evaluation)["num_samples"].startswith("S >= 2")
    assert Evaluation("a", "blur").arguments() == Sampling(num_samples=16).arguments()


def test_the_choices_are_there_without_torch():
    code = (
        "import sys, latino_engine.distill.options, latino_engine.evaluation.options; "
        "import latino_engine.sampling.options; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
