"""setup.py: what its variables take, what it builds without nvcc; a failure stops no install.

Nothing is compiled here but one kernel, by NVRTC; nvcc is a script.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import setuptools
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

from latino_engine.ops import cuda_nvrtc

ROOT = Path(__file__).resolve().parents[2]
Load = Callable[..., Any]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def extension(name: str, sources: list[str], cxx_std: int, **options: Any) -> Extension:
    assert cxx_std == 17
    return Extension(name, sources, **options)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Runs setup.py with these variables, without setuptools' part; gives its module."""
    helpers = ModuleType("pybind11.setup_helpers")
    helpers.Pybind11Extension = extension  # type: ignore[attr-defined]
    helpers.build_ext = build_ext  # type: ignore[attr-defined]
    helpers.ParallelCompile = lambda default: SimpleNamespace(install=int)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pybind11", ModuleType("pybind11"))
    monkeypatch.setitem(sys.modules, "pybind11.setup_helpers", helpers)
    monkeypatch.chdir(ROOT)
    for name in ("LATINO_CPU", "LATINO_CUDA", "LATINO_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)

    def run(**variables: str) -> Any:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found: dict[str, Any] = {}
        monkeypatch.setattr(setuptools, "setup", lambda **options: found.update(options))
        spec = importlib.util.spec_from_file_location("latino_setup", ROOT / "setup.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.built = [ext.name for ext in found["ext_modules"]]  # type: ignore[attr-defined]
        return module

    return run


@pytest.fixture
def toolkit(tmp_path: Path) -> Callable[[str], str]:
    """A toolkit whose nvcc knows 75, 80 and 90 and does this with a source; gives CUDA_HOME."""

    def make(action: str) -> str:
        nvcc = tmp_path / "cuda" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        listed = '[ "$1" = --list-gpu-arch ] && printf "compute_75\\ncompute_80\\ncompute_90\\n"'
        nvcc.write_text(f'#!/bin/sh\n{listed} && exit\n[ "$1" = --dryrun ] && exit\n{action}\n')
        nvcc.chmod(0o755)
        return str(tmp_path / "cuda")

    return make


def prepared(module: Any, folder: Path) -> tuple[Extension, list[str]]:
    """_cuda as it would be compiled, and the warnings."""
    command, warnings = module.OptionalBuild(Distribution()), list[str]()
    command.build_temp, command.warn = str(folder / "build"), warnings.append
    command.prepare_cuda(module.cuda)
    return module.cuda, warnings


ARCHS = "LATINO_CUDA_ARCHS: expected compute capabilities without a dot, such as"


@linux
@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"LATINO_CUDA": "yes"}, "LATINO_CUDA: expected auto, 0 or 1, got yes; unset it for auto"),
        *(
            (
                {"LATINO_CUDA_ARCHS": value},
                f'{ARCHS} "80;90", got "{value}"; unset it for 80;90;100;120',
            )
            for value in ("sm_90", "8.0", "80,90", "80;;90", "9")
        ),
    ],
    ids=str,
)
def test_wrong_variables(load: Load, variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(SystemExit) as caught:
        load(**variables)
    assert str(caught.value) == sentence


def test_what_is_built(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = "latino_engine._cpu", "latino_engine._cuda"
    monkeypatch.setattr(sys, "platform", "linux")
    assert load().built == [cpu, cuda]
    assert load(LATINO_CUDA="1").built == [cpu, cuda]
    assert load(LATINO_CUDA="0", LATINO_CUDA_ARCHS="unread").built == [cpu]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert load(LATINO_CUDA="auto").built == [cpu]
    with pytest.raises(SystemExit) as caught:
        load(LATINO_CUDA="1")
    assert str(caught.value) == "LATINO_CUDA: expected auto or 0 on darwin, got 1; use Linux"


@linux
def test_nvcc_compiles_for_what_it_knows(
    load: Load, toolkit: Callable[[str], str], tmp_path: Path
) -> None:
    home = toolkit(f'echo "$@" >> {tmp_path}/calls; for last; do :; done; touch "$last"')
    ext, warnings = prepared(load(CUDA_HOME=home), tmp_path)
    assert not warnings and len(ext.extra_objects) == 5 and "cudart_static" in ext.libraries
    assert ("LATINO_OLDEST_ARCHITECTURE", "80") in ext.define_macros
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 5  # those of ARCHITECTURES that this nvcc knows
    assert all("-gencode=arch=compute_80,code=[sm_80,sm_90,compute_80]" in call for call in calls)
    ext, _ = prepared(load(CUDA_HOME=home, LATINO_CUDA_ARCHS="90; 75"), tmp_path)
    assert ("LATINO_OLDEST_ARCHITECTURE", "75") in ext.define_macros
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "-gencode=arch=compute_75,code=[sm_90,sm_75,compute_75]" in calls[-1]
    with pytest.raises(SystemExit) as caught:
        prepared(load(CUDA_HOME=home, LATINO_CUDA_ARCHS="90;120"), tmp_path)
    assert str(caught.value) == (
        f"LATINO_CUDA_ARCHS: expected some of 75;80;90, which {home}/bin/nvcc knows, got 90;120; "
        "install another CUDA toolkit, or leave out what is missing"
    )


@linux
def test_without_nvcc_the_kernels_are_compiled_at_run_time(
    load: Load, toolkit: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit("exit 1")
    for variables, problem in (({"CUDA_HOME": home}, f"{home}/bin/nvcc failed"), ({}, "no nvcc")):
        module = load(**variables)
        if not variables:
            monkeypatch.setattr(module, "find_nvcc", lambda: None)
        ext, warnings = prepared(module, tmp_path)
        assert warnings == [
            f"{problem}: latino_engine._cuda will compile its kernels at run time by NVRTC"
        ]
        assert not ext.extra_objects and ext.libraries == ["dl"] and not ext.define_macros
        assert ext.include_dirs[0] == "csrc/driver"
        names = {Path(source).name for source in ext.sources}
        assert {"driver_launch.cpp", "fourier.cpp", "quads.cpp"} <= names
        monkeypatch.delenv("CUDA_HOME", raising=False)
    for variables, sentence in (
        ({"CUDA_HOME": home}, f"LATINO_CUDA=1: {home}/bin/nvcc failed, its messages are above"),
        ({}, "LATINO_CUDA=1 needs nvcc; put it on the path or set CUDA_HOME"),
    ):
        module = load(LATINO_CUDA="1", **variables)
        if not variables:
            monkeypatch.setattr(module, "find_nvcc", lambda: None)
        with pytest.raises(SystemExit) as caught:
            prepared(module, tmp_path)
        assert str(caught.value) == sentence
        monkeypatch.delenv("CUDA_HOME", raising=False)


@linux
def test_without_a_compiler_the_package_is_installed(
    load: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: Any) -> None:
        raise CompileError("command 'g++' failed: No such file or directory")

    monkeypatch.setattr(build_ext, "build_extension", fails)
    module = load()
    monkeypatch.setattr(module, "find_nvcc", lambda: None)
    command, warnings = module.OptionalBuild(Distribution()), list[str]()
    command.build_temp, command.warn = str(tmp_path), warnings.append
    command.compiler = SimpleNamespace(compiler_type="unix")
    for ext in (module.cpu, module.cuda):
        command.build_extension(ext)
        assert warnings[-1] == (
            f"{ext.name} was not built (command 'g++' failed: No such file or directory): "
            "latino_engine works without it, in torch; for the faster native path install a C++17 "
            "compiler and install the package again"
        )
        variable = f"LATINO_{ext.name.rpartition('_')[2].upper()}=0"  # told before the failure
        (told,) = capsys.readouterr().out.splitlines()
        assert told.startswith(f"compiling {ext.name}: ") and variable in told and "minute" in told
        names = load(**dict([variable.split("=")])).built
        assert names == [other for other in module.built if other != ext.name]
        monkeypatch.delenv(variable.split("=")[0])


def test_an_unknown_wish_for_the_cpu_is_one_sentence(load: Load) -> None:
    with pytest.raises(SystemExit, match="LATINO_CPU: expected auto or 0, got 1; unset it"):
        load(LATINO_CPU="1")


def test_the_sources_for_nvrtc_are_installed(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every header that the kernels include, and they compile from there."""
    module = load()
    monkeypatch.setattr(module.build_py, "run", lambda self: None)
    command = module.BuildWithSources(Distribution())
    command.build_lib, command.editable_mode = str(tmp_path), False
    command.run()
    installed, checkout = tmp_path / "latino_engine" / "csrc", cuda_nvrtc.source_folder()
    assert checkout is not None
    assert cuda_nvrtc._headers(installed) == cuda_nvrtc._headers(checkout)
    if cuda_nvrtc.missing() is not None:
        pytest.skip(str(cuda_nvrtc.missing()))
    monkeypatch.setattr(cuda_nvrtc, "source_folder", lambda: installed)
    image, symbols = cuda_nvrtc.compile_kernels(["combine_anchors"], "sm_90")
    assert symbols["combine_anchors"].encode() in image
