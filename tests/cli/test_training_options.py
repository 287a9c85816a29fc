"""Every option of a training has a flag."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from latino_engine.cli import program, training
from latino_engine.distill.options import Distillation
from latino_engine.distill.prior_training import PriorTraining

#: Options without a flag of their name -> the flag, or None for what only Python can pass.
OTHER_FLAGS = {
    "operators": "operator",
    "patches": "patch",
    "compiled": "torch_compile",
    "init_rate": None,
    "attention_heads": None,
    "embedding": None,
    "groups": None,
}


#: Values that a number above the default would not do for.
NAMED_OTHERWISE = ("widths", "down_blocks", "up_blocks", "operators", "patches", "compiled")


OTHER_VALUES = {
    "widths": "16,32",
    "down_blocks": "1,2,1",
    "up_blocks": "2,1,1",
    "operators": "sr:factor=2",
    "patches": "2",
    "noise_std": "0.2",
}


def other_value(field):
    if field.name in OTHER_VALUES:
        return OTHER_VALUES[field.name]
    if isinstance(field.default, int | float):
        return type(field.default)(field.default + 1)
    return "other" if "str" in str(field.type) else 3


@pytest.mark.parametrize(
    ("command", "options", "runner"),
    [
        ("distill", Distillation, "latino_engine.distill.distillation.distill"),
        ("train-prior", PriorTraining, "latino_engine.distill.prior_training.train_prior"),
    ],
)
def test_every_option_has_a_flag_that_arrives(command, options, runner, monkeypatch):
    """Each flag has the option's default, and another value reaches the training."""
    seen = []

    def keep(*arguments, **_):
        seen.append(next(a for a in arguments if isinstance(a, options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, keep)
    flags = inspect.signature(getattr(training, command.replace("-", "_"))).parameters
    base = [command, *(["digits-32"] if command == "distill" else []), "images", "-o", "nowhere"]
    needed = [] if command == "train-prior" else ["--operator", "blur:std=2"]
    program.run([*base, *needed])
    for field in fields(options):
        flag = OTHER_FLAGS.get(field.name, field.name)
        if field.name == "source" or flag is None:
            continue
        if field.name not in (*NAMED_OTHERWISE, "name", "size"):
            assert flags[flag].default == field.default, field.name
        value = other_value(field)
        given = [f"--{flag.replace('_', '-')}"]
        if not isinstance(field.default, bool):
            given.append(str(value))
        program.run([*base, *(needed if flag != "operator" else []), *given])
        assert getattr(seen[-1], field.name) != getattr(seen[0], field.name), field.name
