"""Plans for GPUs: from a prior to one TensorRT plan for each architecture, checked and recorded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latino_engine.accuracy import BOUNDS, check_accuracy, probe_sigmas, relative_errors
from latino_engine.atomic import atomic_folder
from latino_engine.audit import audit_layers, exact_graph, named, probe_sides, typed_errors
from latino_engine.errors import AccuracyError, UserError
from latino_engine.manifest import ENGINE_FILES, damaged_plans, read_manifest, write_manifest
from latino_engine.priors.folder import pixel_prior
from latino_engine.priors.prior import Prior
from latino_engine.runtimes import runtime_module
from latino_engine.runtimes.tensorrt import fitting_plan, inspected_types, open_plan, plan_name
from latino_engine.runtimes.tensorrt_build import BuildOptions, build_plan, make_profiles
from latino_engine.runtimes.tensorrt_package import (
    Gpu,
    load_package,
    local_gpu,
    package_version,
    resolve_architectures,
)
from latino_engine.typed_graph import to_typed

_OWN_FIELDS = ("files", "format_version")  # write_manifest adds them
_NO_PLAN_RUN = "typed graph by onnxruntime on the CPU, its low-precision tensors rounded"


def build_for_gpus(
    prior: Prior,
    folder: Path,
    precision: str,
    sigmas: Sequence[float],
    packages: dict[str, str],
    size: tuple[int, int] | None,
    max_batch: int,
) -> dict[str, Any]:
    """Write one plan for each architecture; returns what the manifest says of this runtime.

    Where the GPU of one of the plans is here, that plan is compared with float32 torch at every
    noise level; else the typed graph is, by onnxruntime, and `measured_on` says so.

    Args:
        prior: with its adapter merged.
        folder: the engine's.
        precision: "fp32", "fp16" or "bf16".
        sigmas: noise levels of the gate.
        packages: architecture -> the TensorRT package that builds for it.
        size: height and width the plans are tuned for, or None.
        max_batch: the most images that go through the network together.

    Raises:
        AccuracyError: above the bound of the precision; the worst layers are named.
        BackendNotAvailable: TensorRT refuses the graph.
    """
    exact = exact_graph(prior)
    errors = typed_errors(prior, exact, precision, sigmas)
    graph = to_typed(exact, precision).SerializeToString(deterministic=True)
    profiles = make_profiles(size, max_batch, prior.spec.size_multiple)
    plans: dict[str, dict[str, Any]] = {}
    for architecture, package in packages.items():
        name = plan_name(architecture, precision)
        options = BuildOptions(architecture, package, profiles)
        plans[name] = build_plan(graph, options, folder / name)
    record: dict[str, Any] = {
        "version": _versions(plans),
        "bound": BOUNDS[precision],
        "error_by_sigma": errors,
        "measured_on": _NO_PLAN_RUN,
        "plans": plans,
    }
    _measure_here(prior, folder, precision, sigmas, record)
    try:
        record["relative_error"] = check_accuracy("tensorrt", precision, record["error_by_sigma"])
    except AccuracyError as error:
        if precision == "fp32":  # the audit compares with it
            raise
        layers = named(audit_layers(prior, exact, precision, sigmas))
        raise AccuracyError(f"{error} (worst layers: {layers})") from None
    return record


def rebuild_plans(folder: str | Path, architectures: Sequence[str] | None = None) -> dict[str, Any]:
    """Build plans into an engine that exists, in its precision; plans for other GPUs stay.

    Plans that are damaged or missing are built again along.

    Args:
        folder: the engine's; replaced at the very end.
        architectures: such as ["sm_89"], by default the GPU of this machine.

    Returns:
        The new manifest.

    Raises:
        ValueError: a damaged engine, no TensorRT here, an architecture that it does not build for,
            or what `build_for_gpus` raises.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, plans=False)
    runtime_module("tensorrt")
    prior = pixel_prior(folder)
    damaged = damaged_plans(folder, manifest)
    packages = resolve_architectures(_asked(architectures, manifest, damaged), local_gpu())
    size = manifest["image_size"]
    sigmas = _gate_sigmas(manifest, prior)
    with atomic_folder(folder, ours=ENGINE_FILES) as partial:
        for name in set(manifest["files"]) - set(damaged):
            shutil.copyfile(folder / name, partial / name)
        record = build_for_gpus(
            prior,
            partial,
            manifest["precision"],
            sigmas,
            packages,
            None if size is None else tuple(size),
            manifest["max_batch"],
        )
        before = manifest["runtimes"].get("tensorrt", {}).get("plans", {})
        record["plans"] = {**before, **record["plans"]}
        record["version"] = _versions(record["plans"])
        manifest["runtimes"]["tensorrt"] = record
        built = (facts["architecture"] for facts in record["plans"].values())
        manifest["gpu_architectures"] = sorted(built)
        kept = {key: value for key, value in manifest.items() if key not in _OWN_FIELDS}
        write_manifest(partial, kept)
    return read_manifest(folder)


def rebuild_unfit_plans(folder: str | Path, backend: str | None) -> None:
    """Build again what `load` would refuse: damaged or missing plans, and the one for this
    machine's GPU where the engine has none that TensorRT can load here.

    Raises:
        ValueError: as `rebuild_plans`.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, plans=False)
    damaged = damaged_plans(folder, manifest)
    chosen = manifest["backend"] if backend in (None, "auto") else backend
    gpu = local_gpu() if chosen == "tensorrt" else None
    if gpu is not None and not _has_plan_for(gpu, folder, manifest):
        rebuild_plans(folder, [gpu.architecture])
    elif damaged:
        rebuild_plans(folder, _architectures(manifest, damaged))


def _has_plan_for(gpu: Gpu, folder: Path, manifest: dict[str, Any]) -> bool:
    plans = manifest["runtimes"].get("tensorrt", {}).get("plans", {})
    try:
        name = fitting_plan(plans, manifest["precision"], gpu, package_version, folder)
        open_plan(folder / name, plans[name])
    except (OSError, UserError):
        return False
    return name not in damaged_plans(folder, manifest)


def _asked(
    architectures: Sequence[str] | None, manifest: dict[str, Any], damaged: Sequence[str]
) -> Sequence[str] | None:
    """The architectures that were named, or the GPU here, and those of the damaged plans."""
    again = _architectures(manifest, damaged)
    gpu = local_gpu()
    if not again or isinstance(architectures, str):
        return architectures
    here = [] if gpu is None else [gpu.architecture]
    return [*(here if architectures is None else architectures), *again]


def _architectures(manifest: dict[str, Any], names: Sequence[str]) -> list[str]:
    plans = manifest["runtimes"]["tensorrt"]["plans"] if names else {}
    return [plans[name]["architecture"] for name in names]


def _gate_sigmas(manifest: dict[str, Any], prior: Prior) -> list[float]:
    """Noise levels at which the engine's runtimes were compared when it was compiled."""
    for record in manifest["runtimes"].values():
        if record.get("error_by_sigma"):
            return [float(sigma) for sigma in record["error_by_sigma"]]
    return probe_sigmas(prior)


def _versions(plans: dict[str, dict[str, Any]]) -> str:
    return ", ".join(sorted({f"{facts['package']} {facts['version']}" for facts in plans.values()}))


def _measure_here(
    prior: Prior, folder: Path, precision: str, sigmas: Sequence[float], record: dict[str, Any]
) -> None:
    """The plan itself against float32 torch, where its GPU is in this machine."""
    gpu = local_gpu()
    if gpu is None:
        return
    name = plan_name(gpu.architecture, precision)
    if name not in record["plans"]:
        return
    facts = record["plans"][name]
    runtime = open_plan(folder / name, facts)
    trt = load_package(facts["package"])
    facts["inspected_types"] = inspected_types(runtime.engine, trt.LayerInformationFormat.JSON)
    facts["gpu"] = {"name": gpu.name, "architecture": gpu.architecture, "driver": gpu.driver}
    record["measured_on"] = gpu.name
    record["error_by_sigma"] = relative_errors(runtime, prior, sigmas, *probe_sides(prior))
