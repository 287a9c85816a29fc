"""Fixtures that run backend="cuda" on the shim; a test asks for them by `name`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cuda_shim import build

from latino_engine.ops import cuda_extension


def shim_folder(config: pytest.Config) -> Path:
    """Where compiled objects are kept between runs."""
    assert config.cache is not None
    return Path(config.cache.mkdir("cuda_shim"))


@pytest.fixture(name="shim", scope="session")
def compiled_shim(request: pytest.FixtureRequest) -> ModuleType:
    """The extension's functions on host memory, compiled from the same .cu files."""
    if "not cuda_compile" in request.config.option.markexpr:
        pytest.fail("a test that runs on the shim lacks the marker cuda_compile")
    problem = build.missing()
    if problem is not None:
        pytest.skip(problem)
    return build.load(build.build_library(shim_folder(request.config)))


@pytest.fixture(name="device")
def shim_as_device(shim: ModuleType) -> Iterator[str]:
    """backend="cuda" runs on the shim; gives the device of tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_extension, "_load", lambda: (shim, None))
        shim.set_order(2, 1)
        yield "cpu"
