"""Many images on many machines: one engine in each process of a Ray cluster, or all in this one.

A sample is a function of (seed, image id, sample index), and each image is drawn in a call of its
own: which process drew it, in which order, and how often it was tried leaves no trace in its bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latino_engine.atomic import atomic_file
from latino_engine.engine import Engine
from latino_engine.errors import BackendNotAvailable, UserError, invalid
from latino_engine.image_io import EXTENSIONS, read_image
from latino_engine.loading import load
from latino_engine.operators.parts.checks import as_noise_std
from latino_engine.operators.spec import REAL_BORDER, image_size_behind, operator_of_picture
from latino_engine.posterior import Posterior
from latino_engine.sampling.options import Sampling
from latino_engine.system.progress import progress_bar

Batch = dict[str, Any]
_MOST_IMAGES = 2**22  # identities in the random stream


@dataclass(frozen=True)
class Request(Sampling):
    """What is asked for every image: how it was measured, and how its posterior is drawn.

    Attributes:
        operator: how it was measured, as on the command line, e.g. "blur:std=1.6".
        noise_std: level of its noise, public units.
        simulate: the images are clean; each is measured first, with the seed and its identity.
    """

    operator: str
    noise_std: float = 0.02
    simulate: bool = False


@dataclass(eq=False)
class Sampler:
    """One engine in one process; a callable class for `ray.data.Dataset.map_batches`.

    Called with a batch of rows, a dict of equally long columns: `image_id`, and `path` (a file) or
    `bytes` (its contents) for the image. Returns the columns `image_id`, `path`, `mean` and `std`
    (C, H, W), `samples` (S, C, H, W) where they are kept, `residual_chi2` (S,) and `error`: the
    sentence for an image that cannot be used, and "" for all others. With `out` each posterior is
    written there, as NAME.npz, instead of being returned with its arrays.

    Args:
        engine: folder, one that every machine of the cluster sees at this path.
        request: what is asked for every image.
        out: folder to write to, or None.
        sha256: the engine that is expected, as `Engine.sha256`; None for any.
        backend, device, threads: as in `latino_engine.load`; one thread, so that processes side by
            side do not wait for each other, and bits do not depend on the machine's cores.
    """

    engine: str
    request: Request
    out: str | None = None
    sha256: str | None = None
    backend: str | None = None
    device: str | None = None
    threads: int | None = 1
    loaded: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.loaded = load(self.engine, self.backend, self.device, self.threads)
        if self.sha256 not in (None, self.loaded.sha256):
            got = self.loaded.sha256[:12]
            remedy = "copy the engine to every machine again"
            raise invalid("engine", f"the one of hash {str(self.sha256)[:12]}", got, remedy)

    def __call__(self, batch: Batch) -> Batch:
        """The rows of the posteriors, in the order of the batch."""
        rows = [
            self._row({name: column[i] for name, column in batch.items()})
            for i in range(len(batch["image_id"]))
        ]
        return {name: _column([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def draw(self, path: Path, image_id: int) -> Posterior:
        """The posterior of one image.

        Raises:
            UserError: an image that cannot be used, in one sentence.
        """
        asked, spec = self.request, self.loaded.spec
        picture = read_image(path)
        size = (picture.shape[-2], picture.shape[-1])
        size = size if asked.simulate else image_size_behind(asked.operator, size)
        border = "wrap" if asked.simulate else REAL_BORDER
        level, channels = as_noise_std(asked.noise_std), (picture.shape[1], spec.channels)
        op = operator_of_picture(asked.operator, level, size, asked.seed, channels, border)
        # The identity is part of the seed of the noise that is simulated, which takes no other.
        y = op.measure(picture, seed=asked.seed + image_id) if asked.simulate else picture
        return self.loaded.sample(y, op, image_ids=[image_id], **asked.arguments())

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        image_id, name = int(row["image_id"]), str(row.get("path", ""))
        found: dict[str, Any] = {"image_id": image_id, "path": name, "error": ""}
        try:
            post = (
                self._of_bytes(row, image_id) if "bytes" in row else self.draw(Path(name), image_id)
            )
        except UserError as error:
            return found | {"error": " ".join(str(error).split())}
        if self.out is not None:
            post.save(Path(self.out) / str(row.get("name", f"{image_id:07d}.npz")))
            return found
        arrays = {"mean": post.mean[0], "std": post.std[0]}
        if self.request.keep_samples:
            arrays["samples"] = post.samples[:, 0]
        chi2 = {"residual_chi2": post.residual_chi2[:, 0].numpy()}
        return found | {key: value.cpu().numpy() for key, value in arrays.items()} | chi2

    def _of_bytes(self, row: dict[str, Any], image_id: int) -> Posterior:
        suffix = Path(str(row.get("path", ""))).suffix.lower()
        with tempfile.TemporaryDirectory(prefix="latino-") as folder:
            path = Path(folder) / f"image{suffix if suffix in EXTENSIONS else '.png'}"
            path.write_bytes(row["bytes"])
            return self.draw(path, image_id)


def _column(values: list[Any]) -> Any:
    shapes = {np.shape(value) for value in values}
    if len(shapes) == 1:
        return np.stack([np.asarray(value) for value in values])
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def map_images(
    engine: str | Path,
    images: str | Path,
    out: str | Path,
    request: Request,
    *,
    ray: str | None = None,
    actors: int | None = None,
    gpus_per_actor: float = 0.0,
    batch: int = 8,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """Draw the posterior of every image below a folder; one npz file each, as `Posterior.save`.

    The identity of an image is its place in the sorted list of all of them. What stands in `out`
    already is not drawn again: a run that was stopped goes on, and with the same engine, request
    and list of images its files are those of a run that was not.

    Args:
        engine: folder of an engine.
        images: folder with images.
        out: folder to write to; A/B.png becomes A/B.png.npz.
        request: what is asked for every image.
        ray: None for this process alone, "auto" for the cluster that this machine belongs to, or
            an address; every machine sees the three folders at the same paths.
        actors: processes with an engine each; as many as the cluster has CPUs, or GPUs.
        gpus_per_actor: 1, or a share of one; 0 for CPUs.
        batch: images that an actor is given at once.
        backend, device, threads: of each engine, as in `latino_engine.load`.
        progress: True for a bar on stderr.

    Returns:
        How many were drawn, how many stood there already, and the failures: path -> sentence.

    Raises:
        UserError: no images, too many, another request in `out`, or Ray that is not installed.
    """
    source, target = Path(images), Path(out)
    names = list_images(source)
    target.mkdir(parents=True, exist_ok=True)
    loaded = load(engine, backend, device, threads)  # checked once, before any process is started
    rows = [
        {"image_id": i, "path": str((source / name).resolve()), "name": f"{name}.npz"}
        for i, name in enumerate(names)
        if not (target / f"{name}.npz").is_file()
    ]
    arguments: dict[str, Any] = {
        "engine": str(Path(engine).resolve()),
        "request": request,
        "out": str(target.resolve()),
        "sha256": loaded.sha256,
        "backend": backend,
        "device": device,
        "threads": threads,
    }
    _check_same(target, loaded.sha256, request, names)
    del loaded
    pieces: Iterator[Batch]
    if ray is None:
        pieces = _here(rows, Sampler(**arguments), batch)
    else:
        pieces = _on_ray(rows, arguments, ray, actors, gpus_per_actor, batch)
    failures: dict[str, str] = {}
    done = 0
    bar = progress_bar("sampling") if progress else nullcontext(lambda done, total: None)
    with bar as tell:
        for piece in pieces:
            done += len(piece["image_id"])
            failures |= {
                str(path): str(error)
                for path, error in zip(piece["path"], piece["error"], strict=True)
                if error
            }
            tell(done, len(rows))
    drawn = len(rows) - len(failures)
    return {"drawn": drawn, "kept": len(names) - len(rows), "failures": failures}


def _check_same(out: Path, engine: str, request: Request, names: Sequence[str]) -> None:
    """Note what is asked in a new folder; refuse one that was begun with something else."""
    listed = hashlib.sha256("\n".join(names).encode()).hexdigest()
    asked = {"engine_sha256": engine, "request": asdict(request), "images_sha256": listed}
    note = out / "map.json"
    if not note.exists():
        with atomic_file(note) as file:
            file.write((json.dumps(asked, indent=1) + "\n").encode())
        return
    try:
        before = json.loads(note.read_text())
    except (OSError, ValueError):
        before = {}
    differs = [name for name, value in asked.items() if before.get(name) != value]
    if differs:
        expected = "a new folder, or one begun with this engine, request and list of images"
        got = f"{out} with another {', '.join(name.removesuffix('_sha256') for name in differs)}"
        raise invalid("out", expected, got, "choose another folder")


def list_images(folder: Path) -> list[str]:
    """The names of the images below a folder, relative to it, sorted.

    Raises:
        InvalidArgument: no folder, no images, or more than there are identities.
    """
    if not folder.is_dir():
        raise invalid("images", "a folder with images", str(folder), "name a folder")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )
    if not 0 < len(names) <= _MOST_IMAGES:
        expected = f"1 to {_MOST_IMAGES} images ({', '.join(EXTENSIONS)})"
        raise invalid("images", expected, len(names), "divide them into several folders")
    return names


def _here(rows: Sequence[dict[str, Any]], sampler: Sampler, batch: int) -> Iterator[Batch]:
    for first in range(0, len(rows), batch):
        yield sampler(_columns(rows[first : first + batch]))


def _columns(rows: Sequence[dict[str, Any]]) -> Batch:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _on_ray(
    rows: Sequence[dict[str, Any]],
    arguments: dict[str, Any],
    address: str,
    actors: int | None,
    gpus: float,
    batch: int,
) -> Iterator[Batch]:
    ray = ray_package()
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError) as error:
            remedy = "start one by: ray start --head"
            raise invalid("ray", "the address of a cluster", address, remedy) from error
    try:
        if not rows:
            return
        available = ray.cluster_resources()
        most = int(available.get("GPU", 0) / gpus) if gpus else int(available.get("CPU", 1))
        count = max(1, min(actors or most, -(-len(rows) // batch)))
        data = ray.data.from_items(list(rows), override_num_blocks=max(1, -(-len(rows) // batch)))
        drawn = data.map_batches(
            Sampler,
            fn_constructor_kwargs=arguments,
            batch_size=batch,
            concurrency=count,
            num_gpus=gpus or None,
            num_cpus=None if gpus else 1,
            max_restarts=-1,  # a process that dies is started again, and its rows are drawn again
            max_task_retries=-1,
        )
        yield from drawn.iter_batches(batch_size=None, batch_format="numpy")
    finally:
        if ours:
            ray.shutdown()


def ray_package() -> Any:
    """Ray with its data, its usage statistics off.

    Raises:
        BackendNotAvailable: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendNotAvailable(
            f"ray: expected the packages of the extra [ray], got no {error.name}; "
            "install them by: pip install 'latino-engine[ray]', or leave --ray out"
        ) from error
    return ray
