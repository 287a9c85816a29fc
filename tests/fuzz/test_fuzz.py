"""Calls, descriptions and files made at random end in values or in the documented errors.

A short run of the same seed each time; `make fuzz` asks for 10,000 by LATINO_FUZZ.
"""

from __future__ import annotations

import os

import pytest
import torch
from arguments import a_sample_call, an_operator_call
from descriptions import a_description_call
from files import a_file_call, make_targets
from outcomes import asked, fault, no_sentence, report, tally
from tiny import tiny_prior

import latino_engine as le
from latino_engine.errors import InvalidArgument

SEED = int(os.environ.get("LATINO_FUZZ_SEED", "0"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "a.engine"
    return le.compile(tiny_prior(3), folder, backend="torch", threads=1)


def test_operators_of_any_arguments():
    report("operators", *tally(an_operator_call, asked(250), SEED))


def test_sample_of_any_arguments(engine):
    report("sample", *tally(a_sample_call(engine), asked(60), SEED))


def test_any_description(engine):
    report("descriptions", *tally(a_description_call(engine), asked(150), SEED))


def test_any_file(tmp_path):
    targets = make_targets(tmp_path)
    report("files", *tally(a_file_call(targets, tmp_path), asked(60), SEED))


def test_what_a_fault_is():
    def raises(error):
        raise error

    assert fault(lambda: torch.ones(3)) == ("value", None)
    assert fault(lambda: raises(InvalidArgument("x: expected a, got b; c")))[1] is None
    wrong = (
        lambda: torch.tensor([1.0, float("nan")]),
        lambda: raises(KeyError("a")),
        lambda: raises(InvalidArgument("two\nlines")),
        lambda: raises(InvalidArgument("")),
    )
    assert all(fault(call)[1] is not None for call in wrong)
    assert no_sentence("a\0b") and no_sentence("a" * 6000) and no_sentence("a sentence") is None
