"""Names that others import stay where they are."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from importlib import metadata

import pytest

import latino_engine as le
from latino_engine import image_io, ops
from latino_engine.errors import BackendNotAvailable

OPS = (
    *("MAX_IMAGE_ID", "Backend", "backend_of", "check_ids", "check_seed", "per_image"),
    *("alias_prox", "alias_prox_noise", "combine_anchors", "convolve", "convolved_spectrum"),
    *("fourier_mask_prox", "fourier_mask_prox_noise", "fourier_prox", "fourier_prox_noise"),
    *("gaussian_noise", "keep_observed", "kspace_adjoint", "kspace_forward", "langevin_noise"),
    *("masked_prox", "masked_prox_noise", "observed_prox", "reverse_step", "running_moments"),
    "transforms_of",
)
FILES = ("read_image", "read_kernel", "read_mask", "write_image", "write_npy")
ELSEWHERE = (
    ("interop.physics", "from_physics"),
    ("distill.distillation", "distill"),
    ("distill.options", "Distillation"),
    ("export.whole_sampler", "whole_sampler_inputs"),
    ("cli", "main"),
)


def test_the_names_of_the_package():
    assert len(le.__all__) == 39 and set(dir(le)) == set(le.__all__)
    assert all(getattr(le, name) is not None for name in le.__all__)


def test_the_operations_and_the_files():
    assert set(ops.__all__) == set(OPS)
    assert all(hasattr(ops, name) for name in OPS)
    assert all(callable(getattr(image_io, name)) for name in FILES)


@pytest.mark.parametrize(("module", "name"), ELSEWHERE)
def test_a_name_of_a_page(module, name):
    assert callable(getattr(importlib.import_module(f"latino_engine.{module}"), name))


def test_deepinv_is_asked_for_by_name():
    if importlib.util.find_spec("deepinv") is None:
        with pytest.raises(BackendNotAvailable, match="pip install deepinv"):
            importlib.import_module("latino_engine.interop.deepinv")
        return
    module = importlib.import_module("latino_engine.interop.deepinv")
    assert callable(module.Reconstructor) and callable(module.to_physics)


def test_the_kernels_and_the_extensions_keep_their_names():
    assert importlib.import_module("latino_engine.kernels").__name__ == "latino_engine.kernels"
    for name in ("_cpu", "_cuda"):
        found = importlib.util.find_spec(f"latino_engine.{name}")
        assert found is None or found.name == f"latino_engine.{name}"


def test_the_program_starts_at_main():
    (entry,) = metadata.entry_points(group="console_scripts", name="latino-engine")
    assert entry.value == "latino_engine.cli:main"
    told = subprocess.run(
        [sys.executable, "-m", "latino_engine", "--version"], capture_output=True, text=True
    )
    assert told.stdout == f"latino-engine {le.__version__}\n"
