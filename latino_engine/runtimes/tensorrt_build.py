"""From a typed ONNX graph to a TensorRT plan: profiles, types, progress, cache. No GPU needed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latino_engine.atomic import atomic_file
from latino_engine.errors import BackendNotAvailable, OutputNotWritable
from latino_engine.runtimes.tensorrt_package import load_package, package_version
from latino_engine.system.cache import cache_folder, file_sha256
from latino_engine.system.progress import progress_bar

BUILDER_VERSION = 1  # raise it when the plan of the same graph changes: part of the cache's key

_LARGEST_SIDE = 1024  # of the profile for any size
_USUAL_SIDE = 256  # for which that profile is tuned where the caller names no size
_SCRATCH = re.compile(r"Scratch Memory: ([0-9]+) bytes")
_TYPED_LAYERS = frozenset(
    {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "NORMALIZATION", "SOFTMAX"}
)


@dataclass(frozen=True)
class Profile:
    """Sizes that one optimisation profile serves: each (smallest, tuned for, largest)."""

    batch: tuple[int, int, int]
    height: tuple[int, int, int]
    width: tuple[int, int, int]

    def serves(self, batch: int, height: int, width: int) -> bool:
        """Whether these sizes lie within."""
        pairs = zip((batch, height, width), (self.batch, self.height, self.width), strict=True)
        return all(low <= size <= high for size, (low, _, high) in pairs)

    def shapes(self, channels: int) -> list[tuple[int, int, int, int]]:
        """Shapes of x: smallest, tuned for, largest."""
        sizes = zip(self.batch, self.height, self.width, strict=True)
        return [(batch, channels, height, width) for batch, height, width in sizes]


@dataclass(frozen=True)
class BuildOptions:
    """What shapes a plan besides its graph.

    Attributes:
        architecture: such as "sm_89".
        package: "tensorrt_rtx" or "tensorrt".
        profiles: the first one that serves a call's sizes runs it.
        tf32: let float32 products round their factors to 10 bits (relative error about 1e-3).
        workspace_bytes: most scratch memory of a layer; None leaves it to TensorRT.
    """

    architecture: str
    package: str
    profiles: tuple[Profile, ...]
    tf32: bool = False
    workspace_bytes: int | None = None


def make_profiles(
    size: tuple[int, int] | None, max_batch: int, multiple: int
) -> tuple[Profile, ...]:
    """Single images first, then batches; at the named size first, then at any size up to 1024.

    Args:
        size: (height, width), multiples of `multiple`, or None.
        max_batch: the most images that go through the network together.
        multiple: the prior's size_multiple.
    """
    usual = size or (max(multiple, _USUAL_SIDE // multiple * multiple),) * 2
    any_size = [(multiple, side, max(side, _LARGEST_SIDE // multiple * multiple)) for side in usual]
    single, many = (1, 1, 1), (1, max_batch, max_batch)
    if size is None:
        profiles = [Profile(batch, any_size[0], any_size[1]) for batch in (single, many)]
    else:
        height, width = ((side, side, side) for side in size)
        profiles = [Profile(batch, height, width) for batch in (single, many)]
        profiles.append(Profile(many, any_size[0], any_size[1]))
    return tuple(dict.fromkeys(profiles))


def build_plan(graph: bytes, options: BuildOptions, target: Path) -> dict[str, Any]:
    """Write the plan of a typed ONNX graph, from the cache where the same was built before.

    Returns:
        What the manifest says of it: package, version, profiles, types of the layers as the
        strongly typed network holds them, scratch memory, whether it came from the cache.

    Raises:
        BackendNotAvailable: the parser or the builder refuses the graph.
    """
    key = plan_key(graph, options)
    folder = cache_folder() / "plans"
    cached, facts_file = folder / f"{key}.plan", folder / f"{key}.json"
    with suppress(OSError, ValueError, KeyError):
        facts = json.loads(facts_file.read_text())
        if facts["sha256"] == file_sha256(cached):
            target.write_bytes(cached.read_bytes())
            return {**facts, "from_cache": True}
    plan, facts = _build(graph, options)
    target.write_bytes(plan)
    facts |= {"key": key, "sha256": hashlib.sha256(plan).hexdigest()}
    # A cache that cannot be written costs the next build its time, not this one its result.
    with suppress(OSError, OutputNotWritable):
        for path, content in ((cached, plan), (facts_file, json.dumps(facts).encode())):
            with atomic_file(path) as file:
                file.write(content)
    return {**facts, "from_cache": False}


def plan_key(graph: bytes, options: BuildOptions) -> str:
    """SHA-256 over all that shapes a plan: graph, options, package version."""
    parts = [asdict(options), package_version(options.package), BUILDER_VERSION]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    digest.update(graph)
    return digest.hexdigest()


def _build(graph: bytes, options: BuildOptions) -> tuple[bytes, dict[str, Any]]:
    trt = load_package(options.package)
    log = _logger(trt)
    builder = trt.Builder(log)
    network, parser = _parse(trt, builder, graph, log, options)  # the parser owns the weights
    config = _configure(trt, builder, network, options)
    timing = _load_timing(trt, config, options)
    with progress_bar(f"TensorRT, {options.architecture}") as update:
        monitor = config.progress_monitor = _monitor(trt, update)
        plan = builder.build_serialized_network(network, config)
    del parser
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise _refusal(options, log.errors)
    _keep_timing(config, timing)
    limit = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
    facts = {
        "package": options.package,
        "version": package_version(options.package),
        "architecture": options.architecture,
        "profiles": [asdict(profile) for profile in options.profiles],
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "workspace_limit_bytes": int(limit),
        "scratch_bytes": log.scratch_bytes,
        "layer_types": network_types(network),
        "layer_types_from": "strongly typed network",
        "node_coverage": _coverage(trt, builder, graph, log),
    }
    return bytes(plan), json.loads(json.dumps(facts))


def network_types(network: Any) -> dict[str, dict[str, int]]:
    """How many layers of each kind work in which type, from the network that was built.

    A strongly typed network leaves the builder no choice of types.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name in _TYPED_LAYERS:
            counts[layer.type.name.lower(), layer.get_output(0).dtype.name.lower()] += 1
    found: dict[str, dict[str, int]] = {}
    for (kind, dtype), count in sorted(counts.items()):
        found.setdefault(kind, {})[dtype] = count
    return found


def _parse(
    trt: Any, builder: Any, graph: bytes, log: Any, options: BuildOptions
) -> tuple[Any, Any]:
    network = _empty_network(trt, builder)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        found = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise _refusal(options, found or log.errors)
    return network, parser


def _empty_network(trt: Any, builder: Any) -> Any:
    # TensorRT 11 knows strongly typed networks only and may drop the flag.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _coverage(trt: Any, builder: Any, graph: bytes, log: Any) -> float:
    """Share of the graph's nodes that the parser takes."""
    import onnx

    network = _empty_network(trt, builder)  # the parser holds no reference of its own
    parser = trt.OnnxParser(network, log)
    parser.supports_model_v2(graph)
    taken = sum(
        len(parser.get_subgraph_nodes(i))
        for i in range(parser.num_subgraphs)
        if parser.is_subgraph_supported(i)
    )
    return taken / len(onnx.load_model_from_string(graph).graph.node)


def _configure(trt: Any, builder: Any, network: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    change = config.set_flag if options.tf32 else config.clear_flag
    change(trt.BuilderFlag.TF32)  # on by default
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.package == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        number = options.architecture.removeprefix("sm_")
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{number}"), 0)
    channels = network.get_input(0).shape[1]
    for sizes in options.profiles:
        profile = builder.create_optimization_profile()
        shapes = sizes.shapes(channels)
        profile.set_shape("x", *shapes)
        profile.set_shape("sigma", *(shape[:1] for shape in shapes))
        config.add_optimization_profile(profile)
    return config


def _load_timing(trt: Any, config: Any, options: BuildOptions) -> Path | None:
    """TensorRT's own measurements of earlier builds; TensorRT for RTX measures nothing."""
    if options.package != "tensorrt":
        return None
    name = f"{package_version(options.package)}-{options.architecture}.timing"
    path = cache_folder() / "plans" / name
    known = b""
    with suppress(OSError):
        known = path.read_bytes()
    config.set_timing_cache(config.create_timing_cache(known), False)
    return path


def _keep_timing(config: Any, path: Path | None) -> None:
    if path is None:
        return
    with suppress(OSError, OutputNotWritable), atomic_file(path) as file:
        file.write(bytes(config.get_timing_cache().serialize()))


def _refusal(options: BuildOptions, reasons: Sequence[str]) -> BackendNotAvailable:
    reason = " ".join(reasons[0].split())[:200] if reasons else "no reason given"
    version = package_version(options.package)
    larger = "" if options.workspace_bytes is None else "a larger workspace_mib, "
    return BackendNotAvailable(
        f"backend: expected a graph that {options.package} {version} builds for "
        f"{options.architecture}, got its refusal ({reason}); choose {larger}another precision or "
        "backend"
    )


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps the errors and the scratch memory; prints nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.scratch_bytes = 0

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            elif found := _SCRATCH.search(message):
                self.scratch_bytes = max(self.scratch_bytes, int(found[1]))

    return Logger()


def _monitor(trt: Any, update: Callable[[int, int], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Steps done of the steps announced so far; Ctrl-C ends the build."""

        def __init__(self) -> None:
            super().__init__()
            self.done = self.total = 0
            self.interrupted = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.total += steps

        def step_complete(self, name: str, step: int) -> bool:
            try:
                self.done += 1
                update(self.done, max(self.done, self.total))
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()
