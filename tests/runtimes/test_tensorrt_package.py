"""Which package of TensorRT, and for which GPU, without either."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine import runtimes
from latino_engine.errors import BackendNotAvailable
from latino_engine.runtimes import tensorrt, tensorrt_package
from latino_engine.runtimes.tensorrt_package import Gpu


def test_either_package_will_do(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setattr(
            runtimes.importlib.util, "find_spec", lambda package, n=name: package == n or None
        )
        assert runtimes.runtime_module("tensorrt") is tensorrt
        assert tensorrt_package.installed_packages() == [name]
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(BackendNotAvailable, match=r"pip install 'latino-engine\[tensorrt\]'"):
        runtimes.runtime_module("tensorrt")


def test_the_version_of_a_package_without_metadata(monkeypatch):
    """As `pip install tensorrt-cu13` leaves it: a module tensorrt, and no package of that name."""
    fake = type("M", (), {"__version__": "11.2.0"})
    monkeypatch.setattr(tensorrt_package, "installed_packages", lambda: ["tensorrt"])
    monkeypatch.setattr(tensorrt_package, "load_package", lambda name: fake)
    assert tensorrt_package.package_version("tensorrt") == "11.2.0"
    monkeypatch.setattr(tensorrt_package, "installed_packages", lambda: [])
    assert tensorrt_package.package_version("tensorrt") is None


def test_tensorrt_proper_builds_for_the_gpu_that_is_here(monkeypatch):
    monkeypatch.setattr(tensorrt_package, "installed_packages", lambda: ["tensorrt"])
    resolve = tensorrt_package.resolve_architectures
    assert resolve(None, Gpu("sm_90")) == {"sm_90": "tensorrt"}
    with pytest.raises(BackendNotAvailable) as caught:
        resolve(["sm_89"], Gpu("sm_90"))
    assert str(caught.value) == (
        "gpu_architectures: expected some of sm_90, which tensorrt builds for, got 'sm_89'; for "
        "another GPU compile on a machine that has it, with the package tensorrt (pip install "
        "tensorrt)"
    )
    with pytest.raises(BackendNotAvailable) as caught:
        resolve(["sm_89"], None)
    assert str(caught.value) == (
        "gpu_architectures: expected the GPU of this machine, for which alone the package tensorrt "
        "builds, got 'sm_89' on a machine without one; compile on a machine that has it, or with "
        "TensorRT for RTX (pip install tensorrt-rtx), which needs no GPU"
    )


def test_the_driver_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13000, raising=False)
    monkeypatch.setattr(tensorrt_package, "_DRIVER", tmp_path / "version")
    assert tensorrt_package._driver() == "CUDA 13.0"
    (tmp_path / "version").write_text("580.65.06\n")
    assert tensorrt_package._driver() == "580.65.06, CUDA 13.0"


@pytest.mark.parametrize(
    "asked, got",
    [(["89"], "'89'"), (["sm_9"], "'sm_9'"), ([], "an empty list"), ("8.9", "'8.9'"), ([89], "89")],
)
def test_names_that_are_no_architecture(asked, got):
    with pytest.raises(ValueError) as caught:
        tensorrt_package.resolve_architectures(asked, None)
    assert str(caught.value) == (
        f"gpu_architectures: expected names such as 'sm_89', got {got}; write compute capability "
        "8.9 as 'sm_89'"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_compile_asks_for_the_architecture_where_no_gpu_is(monkeypatch, tmp_path):
    monkeypatch.setattr(runtimes, "_present", lambda package: True)
    with pytest.raises(ValueError) as caught:
        le.compile(tiny_prior(), tmp_path / "a.engine", backend="tensorrt")
    assert str(caught.value) == (
        "gpu_architectures: expected at least one architecture, such as ['sm_89'], on a machine "
        "without a GPU, got None; name the GPUs that the engine shall run on"
    )
    assert not list(tmp_path.iterdir())
