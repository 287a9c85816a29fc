"""compile for a latent prior: three networks, each checked against float32 torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latino_engine import ops
from latino_engine.atomic import atomic_folder
from latino_engine.compilation.accuracy import (
    BOUNDS,
    examine,
    median_time_ms,
    probe_images,
    probe_sides,
)
from latino_engine.errors import AccuracyError
from latino_engine.export.denoiser import EXPORTER_VERSION, OPSET
from latino_engine.export.graph_memory import memory_of
from latino_engine.export.latent import export_latent
from latino_engine.manifest import ENGINE_FILES, write_manifest
from latino_engine.priors.folder import FORMAT_VERSION as PRIOR_FORMAT
from latino_engine.priors.folder import write_prior
from latino_engine.priors.latent.latent_schedule import DEFAULT_STEPS, latent_times
from latino_engine.priors.latent.prior import (
    LatentModel,
    LatentPrior,
    denoiser_inputs,
    latent_in_precision,
)
from latino_engine.runtimes.latent import BACKENDS, NETWORKS, LatentRuntime, open_latent
from latino_engine.sampling.threads import torch_threads
from latino_engine.system.machine import machine, versions

if TYPE_CHECKING:
    from collections.abc import Callable

_PROBE_SEED = 20_250_312


def compile_latent(
    prior: LatentPrior,
    path: str | Path,
    backend: str,
    precision: str,
    image_size: tuple[int, int] | None,
    timed_at: tuple[int, int],
    max_batch: int,
    threads: int | None,
    choose: Callable[[str, dict[str, dict[str, Any]]], str],
) -> None:
    """Write the engine of a latent prior, all or nothing; see `latino_engine.compile`.

    Args:
        timed_at: image size, a multiple of the prior's, at which the runtimes are timed.
        choose: (backend as asked, runtimes) -> the backend to load.
    """
    with atomic_folder(path, ours=ENGINE_FILES) as partial:
        write_prior(prior, partial)
        identity = prior.content_hash()
        parts = [identity, precision, OPSET, EXPORTER_VERSION, torch.__version__]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        export_latent(prior, latent_in_precision(prior.model, precision), partial, key)
        with torch_threads(threads):
            reference = latent_in_precision(prior.model, "fp32")

            def probe(name: str, record: dict[str, Any]) -> None:
                runtime = open_latent(name, partial, precision, None, threads)
                errors = latent_errors(runtime, prior, reference)
                record["error_by_network"] = errors
                record["relative_error"] = _check(name, precision, errors)
                record["time_ms"] = _step_time_ms(runtime, prior, timed_at)
                record["timed_at"] = [1, prior.channels, *timed_at]

            runtimes = examine(BACKENDS, backend, precision, probe)
        write_manifest(
            partial,
            {
                "prior": {"format": PRIOR_FORMAT, **prior.spec.to_json()},
                "prior_sha256": identity,
                "adapter_sha256": None,
                "adapter": None,
                "export_key": key,
                "precision": precision,
                "image_size": None if image_size is None else list(timed_at),
                "max_batch": int(max_batch),
                "memory": memory_of(
                    [partial / name for name in NETWORKS], prior.spec.size_multiple
                ),
                "backend": choose(backend, runtimes),
                "runtimes": runtimes,
                "sampler": {"name": "latino", "nfe": DEFAULT_STEPS},
                "gpu_architectures": [],
                "versions": versions(),
                "machine": machine(),
            },
        )


@torch.no_grad()
def latent_errors(
    runtime: LatentRuntime, prior: LatentPrior, model: LatentModel
) -> dict[str, float]:
    """||out - ref|| / ||ref|| of each network, the U-Net's the largest over the published times."""
    spec = prior.spec
    x = probe_images(spec.channels, *probe_sides(spec))
    z = model.encode(x)
    errors = {
        "encoder": _distance(runtime.encode(x), z),
        "decoder": _distance(runtime.decode(z), model.decode(z)),
        "denoiser": 0.0,
    }
    assert spec.sigma_table is not None
    eps = ops.gaussian_noise(_PROBE_SEED, [0, 1], [0, 0], 0, tuple(z.shape))
    conditioning = prior.conditioning.take(torch.zeros(2, dtype=torch.int64))
    for moment in latent_times(None):
        level = spec.sigma_table[moment]
        sigma = torch.full((2,), level, dtype=torch.float64)
        inputs = denoiser_inputs(spec, z + level * eps, sigma, conditioning)
        error = _distance(runtime.denoise(*inputs), model.denoise(*inputs))
        errors["denoiser"] = max(errors["denoiser"], error, key=lambda e: (e != e, e))
    return errors


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float((found.cpu().double() - expected).norm() / expected.norm())


def _check(name: str, precision: str, errors: dict[str, float]) -> float:
    network, worst = max(errors.items(), key=lambda item: (item[1] != item[1], item[1]))
    if not worst <= BOUNDS[precision]:
        raise AccuracyError(
            f"precision: expected a relative error of at most {BOUNDS[precision]:g} against "
            f"float32 torch, got {worst:.3g} from the {network} of {name} in {precision}; choose a "
            "higher precision or another backend"
        )
    return worst


def _step_time_ms(runtime: LatentRuntime, prior: LatentPrior, size: tuple[int, int]) -> float:
    """Milliseconds of one step: encode, denoise, decode."""
    x = torch.zeros(1, prior.channels, *size)
    sigma = torch.tensor([prior.spec.sigma_max], dtype=torch.float64)
    one = prior.conditioning.take(torch.zeros(1, dtype=torch.int64))

    def step() -> None:
        inputs = denoiser_inputs(prior.spec, runtime.encode(x), sigma, one)
        runtime.decode(runtime.denoise(*inputs))

    with torch.no_grad():
        return median_time_ms(step)
