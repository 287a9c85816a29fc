"""`compile` exports, checks against float32 torch, times the runtimes and writes the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from latino_engine.atomic import atomic_folder
from latino_engine.compilation.accuracy import (
    BOUNDS,
    check_accuracy,
    examine,
    median_time_ms,
    probe_sides,
    probe_sigmas,
    relative_errors,
)
from latino_engine.compilation.latent import compile_latent
from latino_engine.compilation.plans import build_for_gpus
from latino_engine.compilation.ranges import check_half, largest_half
from latino_engine.engine import Engine
from latino_engine.errors import (
    AccuracyError,
    BackendNotAvailable,
    RuntimeFailed,
    invalid,
    two_sides,
    whole_number,
)
from latino_engine.export.denoiser import export_denoiser
from latino_engine.export.graph_memory import memory_of
from latino_engine.export.sizes import check_sizes, example_sides, is_foreign, keeps_its_size
from latino_engine.loading import load
from latino_engine.manifest import ENGINE_FILES, write_manifest
from latino_engine.priors.adapters import Adapter, adapter_for
from latino_engine.priors.folder import FORMAT_VERSION as PRIOR_FORMAT
from latino_engine.priors.folder import write_prior
from latino_engine.priors.latent.prior import LatentPrior
from latino_engine.priors.loading import load_prior
from latino_engine.priors.precision import PRECISIONS
from latino_engine.priors.prior import Prior
from latino_engine.runtimes import (
    AHEAD_OF_TIME,
    DenoiserRuntime,
    installed,
    runtime_module,
)
from latino_engine.runtimes.latent import NAMED
from latino_engine.runtimes.tensorrt_package import (
    PlanOptions,
    local_gpu,
    resolve_architectures,
)
from latino_engine.sampling.checks import check_threads
from latino_engine.sampling.threads import torch_threads
from latino_engine.system.machine import limited_cores, machine, versions

_TIMING_SIDE = 128  # where the caller names no size


def compile(
    prior: Prior | str | Path,
    path: str | Path,
    backend: str = "auto",
    precision: str = "fp32",
    adapter: Adapter | str | Path | None = "auto",
    image_size: int | tuple[int, int] | None = None,
    max_batch: int = 8,
    threads: int | None = None,
    gpu_architectures: Sequence[str] | None = None,
    tensorrt_package: str | None = None,
    tf32: bool = False,
    workspace_mib: int | None = None,
) -> Engine:
    """Compile a prior to an engine folder and load it.

    Every runtime that is installed here is checked against float32 torch at each noise level of the
    schedules; one above its bound is refused. "auto" then takes the fastest on this machine. The
    figures and the choice stand in engine.json. An engine that exists already under this name is
    replaced, at the very end.

    Args:
        prior: a `Prior`, a shipped name or a prior's folder.
        path: the folder to write, by custom named *.engine.
        backend: "auto", "onnxruntime", "torch", "openvino" or "tensorrt".
        precision: of the convolutions and linear layers: "fp32", "fp16" or "bf16"; normalisation
            statistics and the sums around the network stay float32.
        adapter: "auto" takes the shipped adapter of a shipped prior and none for another prior;
            "none" is zero-shot LATINO; or an `Adapter`, a shipped name or an adapter's folder. Its
            changes are merged into the weights, and its schedule becomes the engine's
            `sampler="auto"`. `repr(engine)` and `info` say which one it is.
        image_size: side or (height, width) at which the runtimes are timed, 128 by default; engines
            serve every size.
        max_batch: the most images that go through the network together; more are cut into chunks.
        threads: as in `load`.
        gpu_architectures: for "tensorrt": the GPUs to build plans for, such as ["sm_89",
            "sm_120"], by default the one of this machine. Building needs no GPU.
        tensorrt_package: for "tensorrt": "tensorrt_rtx" (TensorRT for RTX, which builds anywhere)
            or "tensorrt" (for the GPU of this machine alone); None takes the first of the two that
            is installed and builds for the GPU.
        tf32: for "tensorrt" in "fp32": let products round their factors to 10 bits. The error bound
            is then 2e-2 instead of 1e-5.
        workspace_mib: for "tensorrt": most scratch memory of a layer, MiB; None takes
            TensorRT's own limit.

    Raises:
        ValueError, TypeError: an argument that cannot be used, a runtime above its error bound.
        OutputNotWritable: the folder cannot be written, or holds something that is not an engine.
    """
    prior = prior if isinstance(prior, Prior) else load_prior(prior)
    size = _check_options(precision, image_size, max_batch, prior)
    check_threads(threads)
    threads = limited_cores() if threads is None else threads
    options = PlanOptions(tensorrt_package, tf32, workspace_mib)
    options.check(precision)
    if backend != "auto":
        runtime_module(backend)
    if backend not in AHEAD_OF_TIME:
        _check_no_plans(gpu_architectures, options)
    if isinstance(prior, LatentPrior):
        none = None if adapter == "auto" else adapter_for(adapter, prior)
        return _compile_latent(
            prior, path, backend, precision, none, image_size, size, max_batch, threads
        )
    adapter = adapter_for(adapter, prior)
    packages = {}
    if backend in AHEAD_OF_TIME:
        packages = resolve_architectures(gpu_architectures, local_gpu(), options.package)
    identity = prior.content_hash()
    prior = prior if adapter is None else adapter.merge(prior)
    with atomic_folder(path, ours=ENGINE_FILES) as partial:
        write_prior(prior, partial)
        check_sizes(prior, *probe_sides(prior.spec))
        key = export_denoiser(prior, precision, partial / "denoiser.onnx")
        with torch_threads(threads):
            sigmas = probe_sigmas(prior, None if adapter is None else adapter.schedule)
            if precision == "fp16":
                _check_range(prior, partial, sigmas)
            runtimes = _examine(prior, sigmas, partial, backend, precision, size, threads)
            if packages:
                tuned = None if image_size is None else size
                runtimes["tensorrt"] = build_for_gpus(
                    prior, partial, precision, sigmas, packages, tuned, max_batch, options
                )
        chosen = _choose(backend, runtimes)
        write_manifest(
            partial,
            {
                "prior": {"format": PRIOR_FORMAT, **prior.spec.to_json()},
                "prior_sha256": identity,
                "adapter_sha256": None if adapter is None else adapter.content_hash(),
                "adapter": None if adapter is None else _about(adapter),
                "export_key": key,
                "precision": precision,
                "image_size": None if image_size is None else list(size),
                "max_batch": int(max_batch),
                "memory": memory_of([partial / "denoiser.onnx"], prior.spec.size_multiple),
                "backend": chosen,
                "runtimes": runtimes,
                "sampler": _default_sampler(prior, adapter),
                "gpu_architectures": list(packages),
                "versions": versions(),
                "machine": machine(),
            },
        )
    return load(path, threads=threads)


def _compile_latent(
    prior: LatentPrior,
    path: str | Path,
    backend: str,
    precision: str,
    adapter: Adapter | None,
    image_size: int | tuple[int, int] | None,
    size: tuple[int, int],
    max_batch: int,
    threads: int | None,
) -> Engine:
    if adapter is not None:
        remedy = "give a LoRA of the U-Net to load_prior(folder, lora=...)"
        raise invalid("adapter", "None for a latent prior", adapter.name, remedy)
    if backend in AHEAD_OF_TIME:
        raise BackendNotAvailable(
            f"backend: expected 'auto', {NAMED} for a latent prior, got {backend!r}; choose one of "
            "these"
        )
    named = None if image_size is None else size
    compile_latent(prior, path, backend, precision, named, size, max_batch, threads, choose=_choose)
    return load(path, threads=threads)


def _check_no_plans(architectures: Sequence[str] | None, options: PlanOptions) -> None:
    """Raises `InvalidArgument` if an option of plans is given and no plans are built."""
    given = {
        "gpu_architectures": (None, architectures),
        "tensorrt_package": (None, options.package),
        "tf32": (False, options.tf32),
        "workspace_mib": (None, options.workspace_mib),
    }
    for name, (default, value) in given.items():
        if value != default:
            raise BackendNotAvailable(
                f"{name}: expected {default}, got {value!r}; neither onnxruntime nor torch builds "
                "for a GPU ahead of time, use backend='tensorrt'"
            )


def _about(adapter: Adapter) -> dict[str, Any]:
    """What an engine must know to run the adapter's own schedule."""
    return {
        "name": adapter.name,
        "init": adapter.init,
        "noise_std": adapter.noise_levels,
        "hole_radius": adapter.hole_radius,
        "schedule": adapter.schedule.to_json(),
    }


def _default_sampler(prior: Prior, adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {"name": "latino", "nfe": prior.spec.latino_steps}
    return {"name": "adapter", "nfe": adapter.schedule.nfe}


def _check_options(
    precision: str, image_size: int | tuple[int, int] | None, max_batch: int, prior: Prior
) -> tuple[int, int]:
    if precision not in PRECISIONS:
        known = ", ".join(repr(name) for name in PRECISIONS)
        raise invalid("precision", f"one of {known}", repr(precision), "choose one of these")
    if whole_number("max_batch", max_batch) < 1:
        raise invalid("max_batch", "at least 1", max_batch, "choose the largest chunk")
    multiple = prior.spec.size_multiple
    side = -(-_TIMING_SIDE // multiple) * multiple if image_size is None else image_size
    height, width = two_sides("image_size", side)
    if min(height, width) < multiple:
        remedy = f"the prior wants sides of at least {multiple}"
        raise invalid("image_size", "one side, or (height, width)", image_size, remedy)
    return (height + -height % multiple, width + -width % multiple)


def _examine(
    prior: Prior,
    sigmas: Sequence[float],
    folder: Path,
    backend: str,
    precision: str,
    size: tuple[int, int],
    threads: int | None,
) -> dict[str, dict[str, Any]]:
    x = torch.zeros(1, prior.channels, *size)
    level = torch.tensor([0.5 * (prior.spec.sigma_min + prior.spec.sigma_max)])
    height, width = probe_sides(prior.spec)

    def probe(name: str, record: dict[str, Any]) -> None:
        runtime = _open(name, folder, precision, threads)
        try:
            errors = relative_errors(runtime, prior, sigmas, height, width)
        except RuntimeFailed as error:
            raise keeps_its_size(prior, f"{name} at {height} x {width}", error) from error
        record["error_by_sigma"] = errors
        try:
            record["relative_error"] = check_accuracy(name, precision, errors)
        except AccuracyError as error:
            if is_foreign(prior) and _passes_where_exported(runtime, prior, sigmas, precision):
                raise keeps_its_size(prior, f"{name} at {height} x {width}", error) from error
            raise
        record["time_ms"] = median_time_ms(lambda: runtime(x, level))
        record["timed_at"] = [1, prior.channels, *size]

    names = [name for name in installed() if name not in AHEAD_OF_TIME]
    return examine(names, backend, precision, probe)


def _passes_where_exported(
    runtime: DenoiserRuntime, prior: Prior, sigmas: Sequence[float], precision: str
) -> bool:
    errors = relative_errors(runtime, prior, sigmas, *example_sides(prior))
    return max(errors.values()) <= BOUNDS[precision]


def _check_range(prior: Prior, folder: Path, sigmas: Sequence[float]) -> None:
    """Raises `AccuracyError` where a tensor of the fp16 network leaves its range."""
    import onnx

    graph = onnx.load(str(folder / "denoiser.onnx"))
    check_half(largest_half(graph, prior, sigmas, probe_sides(prior.spec)))


def _open(name: str, folder: Path, precision: str, threads: int | None) -> DenoiserRuntime:
    module = runtime_module(name)
    if precision not in module.PRECISIONS:
        expected = f"one of {', '.join(module.PRECISIONS)} for the backend {name!r}"
        raise invalid("precision", expected, precision, "choose another precision or backend")
    return module.open_runtime(folder, precision, None, threads)


def _choose(backend: str, runtimes: dict[str, dict[str, Any]]) -> str:
    if backend != "auto":
        return backend
    passed = {name: r["time_ms"] for name, r in runtimes.items() if "relative_error" in r}
    if not passed:
        reasons = "; ".join(f"{name}: {r['refused']}" for name, r in runtimes.items())
        raise AccuracyError(f"backend: expected one runtime that passes, got none ({reasons})")
    return min(passed, key=lambda name: passed[name])
