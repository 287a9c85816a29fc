"""load: from the folder of an engine to an engine."""

from __future__ import annotations

import copyreg
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latino_engine.engine import Engine
from latino_engine.errors import invalid
from latino_engine.manifest import read_manifest
from latino_engine.priors.folder import parse_spec
from latino_engine.priors.latent.prior import is_latent
from latino_engine.runtimes import runtime_module
from latino_engine.runtimes.torch import TorchDenoiser
from latino_engine.sampling.checks import (
    check_load,
    check_served,
)
from latino_engine.sampling.cuda_driver import CudaDriver
from latino_engine.system.machine import limited_cores

#: Engines whose network goes through torch.compile, as those of their pickles shall.
_COMPILED: weakref.WeakSet[Engine] = weakref.WeakSet()


def load(
    path: str | Path,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    rebuild: bool = False,
    torch_compile: bool = False,
) -> Engine:
    """Open an engine folder, checking every file of it.

    Args:
        path: the folder that `compile` wrote; it may have been moved.
        backend: "onnxruntime", "torch", "openvino" or "tensorrt"; None or "auto" takes the one
            that was chosen at compilation.
        device: "cpu" (default) or "cuda".
        threads: of the network and the data step; None: as many as this process may keep busy.
        rebuild: build TensorRT plans again that do not fit: damaged or missing ones, and the one
            for this machine's GPU where there is none or one of another TensorRT; with the package,
            TF32 and workspace that the engine was compiled with.
        torch_compile: for the backend "torch": run the network through torch.compile, which takes
            a minute or more for every new kind of shape.

    Raises:
        ValueError: a damaged, incomplete or newer engine, an unknown or missing backend, a missing
            GPU.
    """
    folder = Path(path)
    check_load(device, threads, rebuild, torch_compile)
    threads = limited_cores() if threads is None else threads
    if rebuild:
        from latino_engine.compilation.plans import rebuild_unfit_plans

        rebuild_unfit_plans(folder, backend)
    manifest = read_manifest(folder)
    chosen = manifest["backend"] if backend in (None, "auto") else backend
    assert isinstance(chosen, str)
    module = runtime_module(chosen)
    latent = is_latent(parse_spec(manifest["prior"]))
    check_served(folder, manifest, chosen)
    if torch_compile and (latent or chosen != "torch"):
        what = "a latent prior" if latent else f"the backend {chosen!r}"
        remedy = "leave it out" if latent else "leave it out, or load with backend='torch'"
        raise invalid("torch_compile", f"False for {what}", True, remedy)
    if latent:
        from latino_engine.latent_engine import open_latent_engine

        opened = open_latent_engine(folder, manifest, chosen, device, threads)
        copyreg.pickle(type(opened), _reduce_latent)
        return opened
    runtime = module.open_runtime(folder, manifest["precision"], device, threads)
    if isinstance(runtime, TorchDenoiser) and torch_compile:
        runtime = runtime.compiled()
    driver = CudaDriver() if runtime.device == "cuda" else None
    engine = Engine(folder, manifest, chosen, runtime, threads, driver)
    if torch_compile:
        _COMPILED.add(engine)
    engine.warm_up()
    return engine


def _reopen(
    folder: str, sha256: str, backend: str, device: str, threads: int | None, torch_compile: bool
) -> Engine:
    """The engine of a pickle: loaded again from its folder, which must be the same still."""
    engine = load(folder, backend, device, threads, torch_compile=torch_compile)
    if engine.sha256 != sha256:
        remedy = "load the engine again, and pickle that"
        expected = f"the one that was pickled, {sha256[:12]}"
        raise invalid("engine", expected, f"{engine.sha256[:12]} in {folder!r}", remedy)
    return engine


def _reduce(engine: Engine) -> tuple[Callable[..., Engine], tuple[object, ...]]:
    folder = str(engine.folder.resolve())
    where = (engine.backend, engine.device, engine.threads, engine in _COMPILED)
    return _reopen, (folder, engine.sha256, *where)


def _reduce_latent(engine: Any) -> tuple[Any, ...]:
    """As `_reduce`, with the prompt and the step size that the caller may have changed."""
    return (*_reduce(engine), {"conditioning": engine.conditioning, "delta": engine.delta})


copyreg.pickle(
    Engine, _reduce
)  # weights and sessions stay where they are: a path and a hash travel
