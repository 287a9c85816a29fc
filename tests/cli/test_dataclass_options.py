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
from latino_engine.cli import training
from latino_engine.cli.dataclass_options import Flag, described, with_options
from latino_engine.distill.options import Distillation, PriorTraining
from latino_engine.evaluation.options import Evaluation


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


def program():
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
    app, found = program()
    arguments = ["here", "--rate", "2", "--side", "3", "--side", "4", "--loud"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert found == [(Choices("here", 2.0, (3, 4), 7), True)]


def test_help_is_the_docstring_and_the_default_that_of_the_field():
    app, _ = program()
    text = " ".join(CliRunner().invoke(app, ["--help"], terminal_width=200).output.split())
    assert "What is read, over two lines." in text and "At its highest." in text
    assert "0.5" in text and "secret" not in text


@pytest.mark.parametrize(
    "kind, command, hidden",
    [
        (PriorTraining, training.train_prior, {"attention_heads", "embedding", "groups"}),
        (Distillation, training.distill, {"init_rate"}),
        (Evaluation, training.evaluate, set()),
    ],
)
def test_every_choice_is_described_and_stands_on_the_command_line(kind, command, hidden):
    names = [field.name for field in fields(kind)]
    assert list(described(kind)) == names
    shown = set(inspect.signature(command).parameters)
    assert set(names) - shown == hidden


def test_the_share_of_fresh_noise_is_that_of_the_schedule():
    assert Distillation.zeta == schedule.DEFAULT_ZETA


def test_the_choices_are_there_without_torch():
    code = (
        "import sys, latino_engine.distill.options, latino_engine.evaluation.options; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
