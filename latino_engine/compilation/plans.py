"""Plans for GPUs: from a prior to one TensorRT plan for each architecture, checked and recorded."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine.atomic import atomic_folder
from latino_engine.compilation.accuracy import (
    BOUNDS,
    check_accuracy,
    probe_sides,
    probe_sigmas,
    relative_errors,
)
from latino_engine.compilation.audit import (
    audit_layers,
    named,
    typed_errors,
)
from latino_engine.errors import AccuracyError, BackendNotAvailable, UserError, invalid
from latino_engine.export.denoiser import exact_graph
from latino_engine.export.mixed_precision import to_typed
from latino_engine.manifest import ENGINE_FILES, damaged_plans, read_manifest, write_manifest
from latino_engine.priors.folder import parse_spec
from latino_engine.priors.latent.prior import is_latent
from latino_engine.priors.loading import pixel_prior
from latino_engine.priors.prior import Prior
from latino_engine.runtimes import runtime_module
from latino_engine.runtimes.tensorrt import fitting_plan, inspected_types, open_plan, plan_name
from latino_engine.runtimes.tensorrt_build import BuildOptions, build_plan, make_profiles
from latino_engine.runtimes.tensorrt_package import (
    Gpu,
    PlanOptions,
    load_package,
    local_gpu,
    package_version,
    resolve_architectures,
)

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
    options: PlanOptions,
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
        options: TF32, which has a bound of its own, and workspace.

    Raises:
        AccuracyError: above the bound of the precision; the worst layers are named.
        BackendNotAvailable: TensorRT refuses the graph.
    """
    computed = "tf32" if options.tf32 else precision
    exact = exact_graph(prior)
    record: dict[str, Any] = {
        "bound": BOUNDS[computed],
        "error_by_sigma": typed_errors(prior, exact, computed, sigmas),
        "measured_on": _NO_PLAN_RUN,
        "options": asdict(options),
    }
    graph = to_typed(exact, precision).SerializeToString(deterministic=True)
    profiles = make_profiles(size, max_batch, prior.spec.size_multiple)
    plans: dict[str, dict[str, Any]] = {}
    for architecture, package in packages.items():
        name = plan_name(architecture, precision)
        shaped = (profiles, options.tf32, options.workspace_bytes)
        built = build_plan(graph, BuildOptions(architecture, package, *shaped), folder / name)
        plans[name] = built | _measured(record)
    record |= {"version": _versions(plans), "plans": plans}
    here = _measure_here(prior, folder, precision, sigmas, record)
    try:
        record["relative_error"] = check_accuracy("tensorrt", computed, record["error_by_sigma"])
    except AccuracyError as error:
        if computed == "fp32":  # the audit compares with it
            raise
        layers = named(audit_layers(prior, exact, computed, sigmas))
        raise AccuracyError(f"{error} (worst layers: {layers})") from None
    if here is not None:
        plans[here] |= _measured(record)
    return record


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    """What the gate found, for one plan."""
    worst = max(record["error_by_sigma"].values())
    facts = {name: record[name] for name in ("bound", "measured_on")}
    return {**facts, "relative_error": worst}


def rebuild_plans(
    folder: str | Path,
    architectures: Sequence[str] | None = None,
    tensorrt_package: str | None = None,
    tf32: bool | None = None,
    workspace_mib: int | None = None,
) -> dict[str, Any]:
    """Build plans into an engine that exists, in its precision; intact plans for other GPUs stay.

    Damaged or missing plans for other GPUs are built again along, or leave the engine where nothing
    here builds for their GPU: an engine with a damaged file cannot be loaded.

    Args:
        folder: the engine's; replaced at the very end.
        architectures: such as ["sm_89"]; by default the GPU of this machine, without one those of
            the damaged plans.
        tensorrt_package, tf32, workspace_mib: as in `compile`; None: as the engine has them.

    Returns:
        The new manifest.

    Raises:
        ValueError: a damaged engine, a latent one, no TensorRT here, an architecture that it does
            not build for, or what `build_for_gpus` raises.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, plans=False)
    if is_latent(parse_spec(manifest["prior"])):
        got, remedy = f"the latent {folder.name!r}", "load it with backend='onnxruntime' or 'torch'"
        raise invalid("engine", "one whose prior denoises images, for a plan", got, remedy)
    given = {"package": tensorrt_package, "tf32": tf32, "workspace_mib": workspace_mib}
    options = _options(manifest, given)
    prior = pixel_prior(folder)
    runtime_module("tensorrt")
    damaged = damaged_plans(folder, manifest)
    packages = _packages(architectures, _architectures(manifest, damaged), options)
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
            options,
        )
        before = manifest["runtimes"].get("tensorrt", {}).get("plans", {})
        kept_plans = {name: facts for name, facts in before.items() if name not in damaged}
        record["plans"] = {**kept_plans, **record["plans"]}
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


def _options(manifest: dict[str, Any], given: dict[str, Any]) -> PlanOptions:
    """Those of the plans that were built last, where none are given."""
    before = manifest["runtimes"].get("tensorrt", {}).get("options", {})
    named = {name: value for name, value in given.items() if value is not None}
    options = PlanOptions(**{**before, **named})
    options.check(manifest["precision"])
    return options


def _packages(
    architectures: Sequence[str] | None, damaged: Sequence[str], options: PlanOptions
) -> dict[str, str]:
    """Architecture -> package: those that were named, or the GPU here; then the damaged plans'."""
    gpu = local_gpu()
    if architectures is None and gpu is None and damaged:
        return resolve_architectures(damaged, gpu, options.package)
    packages = resolve_architectures(architectures, gpu, options.package)
    for architecture in damaged:
        try:
            packages |= resolve_architectures([architecture], gpu, options.package)
        except BackendNotAvailable:
            warnings.warn(
                f"the damaged plan for {architecture} is taken out of the engine: nothing here "
                "builds for that GPU",
                stacklevel=3,
            )
    return packages


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
) -> str | None:
    """The plan itself against float32 torch, where its GPU is in this machine; its file name."""
    gpu = local_gpu()
    name = "" if gpu is None else plan_name(gpu.architecture, precision)
    if gpu is None or name not in record["plans"]:
        return None
    facts = record["plans"][name]
    runtime = open_plan(folder / name, facts)
    facts["gpu"] = {"name": gpu.name, "architecture": gpu.architecture, "driver": gpu.driver}
    record["measured_on"] = gpu.name
    most = max(profile["batch"][2] for profile in facts["profiles"])

    def in_chunks(x: Tensor, sigma: Tensor) -> Tensor:
        pieces = (slice(start, start + most) for start in range(0, len(x), most))
        return torch.cat([runtime(x[piece], sigma[piece]) for piece in pieces])

    record["error_by_sigma"] = relative_errors(in_chunks, prior, sigmas, *probe_sides(prior.spec))
    trt = load_package(facts["package"])
    facts["inspected_types"] = inspected_types(runtime, trt.LayerInformationFormat.JSON)
    return name
