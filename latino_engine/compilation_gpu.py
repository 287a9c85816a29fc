"""Plans for GPUs: from a prior to one TensorRT plan for each architecture, checked and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latino_engine.accuracy import BOUNDS, check_accuracy, relative_errors
from latino_engine.audit import exact_graph, probe_sides, typed_errors
from latino_engine.priors.prior import Prior
from latino_engine.runtimes.tensorrt import inspected_types, open_plan, plan_name
from latino_engine.runtimes.tensorrt_build import BuildOptions, build_plan, make_profiles
from latino_engine.runtimes.tensorrt_package import load_package, local_gpu
from latino_engine.typed_graph import to_typed

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
    versions = sorted({f"{facts['package']} {facts['version']}" for facts in plans.values()})
    record: dict[str, Any] = {
        "version": ", ".join(versions),
        "bound": BOUNDS[precision],
        "error_by_sigma": errors,
        "measured_on": _NO_PLAN_RUN,
        "plans": plans,
    }
    _measure_here(prior, folder, precision, sigmas, record)
    record["relative_error"] = check_accuracy("tensorrt", precision, record["error_by_sigma"])
    return record


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
    record["gpu"] = {"name": gpu.name, "architecture": gpu.architecture, "driver": gpu.driver}
    record["measured_on"] = gpu.name
    record["error_by_sigma"] = relative_errors(runtime, prior, sigmas, *probe_sides(prior))
