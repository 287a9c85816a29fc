"""Requests that wait are drawn together: a bounded queue, and one thread for each engine.

A sample depends on (seed, image id, sample index) alone, so requests with one seed, one schedule
and one shape travel in one call of the engine. Operators of one class with parameters of one shape
are merged to one with a parameter for each image. What a request gets then differs from what it
gets alone by rounding only (about 1e-6 of the range).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from latino_engine.engine import Engine
from latino_engine.errors import InvalidArgument, UserError
from latino_engine.operators.bordered_blur import BorderedBlur
from latino_engine.operators.protocol import Operator
from latino_engine.operators.serialisation import Arrays, record, restored
from latino_engine.posterior import Asked, Posterior
from latino_engine.serving.failures import ClientGone, Closing, QueueFull, TimedOut
from latino_engine.serving.settings import Settings

#: Classes whose parameters may differ from image to image.
_MERGED = ("Blur", "BorderedBlur", "Inpainting", "Denoising", "SuperResolution")
_PER_IMAGE = ("kernel", "mask", "noise_std")


@dataclass(eq=False)
class Job:
    """One request on its way through the queue.

    Attributes:
        y: (1, ...) the measurement.
        op: its operator.
        options: of `Engine.sample`, with the seed and the image's identity.
        deadline: time.monotonic() at which its time is over.
    """

    y: Tensor
    op: Operator
    options: dict[str, Any]
    deadline: float
    image_id: int = 0
    future: Future[Posterior] = field(default_factory=Future)
    gone: threading.Event = field(default_factory=threading.Event)
    arrived: float = field(default_factory=time.monotonic)
    drawn_with: int = 0
    waited_s: float = 0.0
    fields: dict[str, Any] = field(init=False)
    arrays: Arrays = field(init=False)
    key: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.fields, self.arrays = record(self.op)
        merged = self.fields["class"] in _MERGED and self.op.batch_size is None
        # Conjugate gradients end when the slowest image has converged: not as it would alone.
        merged = merged and not (isinstance(self.op, BorderedBlur) and not self.op.is_exact)
        shapes = tuple(sorted((name, a.shape, a.dtype.str) for name, a in self.arrays.items()))
        rest = {k: v for k, v in self.fields.items() if not (merged and k in _PER_IMAGE)}
        # What cannot be merged is drawn together only where nothing differs.
        contents = () if merged else tuple(a.tobytes() for _, a in sorted(self.arrays.items()))
        options = tuple(sorted(self.options.items()))
        self.key = (tuple(self.y.shape), options, repr(rest), shapes, contents)


class Batcher:
    """The queue of one engine and the thread that empties it.

    Args:
        engine: loaded.
        settings: limits.
        drawn: told the number of images, evaluations and samples of every call of the engine.
    """

    def __init__(
        self, engine: Engine, settings: Settings, drawn: Callable[[int, int, int], None]
    ) -> None:
        self.engine = engine
        self._settings = settings
        self._drawn = drawn
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_a_job = 1.0
        self._thread = threading.Thread(target=self._work, name="latino-engine", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> Future[Posterior]:
        """Queue a request.

        Raises:
            QueueFull: as many wait as are kept.
            Closing: the service shuts down.
        """
        with self._changed:
            if self._closing:
                raise Closing
            if len(self._waiting) >= self._settings.max_queue:
                seconds = self._seconds_a_job * len(self._waiting) / self._settings.max_batch
                raise QueueFull(self._settings.max_queue, max(1, round(seconds)))
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish what waits and what runs, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                jobs = self._next()
            self._draw(jobs)

    def _next(self) -> list[Job]:
        """The first request and those of its kind; waits a moment for more of them."""
        first, most = self._waiting[0], self._settings.max_batch
        until = time.monotonic() + 1e-3 * self._settings.batch_wait_ms
        while not self._closing and self._count(first.key) < most:
            left = until - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)
        jobs = [job for job in self._waiting if job.key == first.key][:most]
        for job in jobs:
            self._waiting.remove(job)
        return jobs

    def _count(self, key: tuple[object, ...]) -> int:
        return sum(job.key == key for job in self._waiting)

    def _draw(self, jobs: list[Job]) -> None:
        start = time.monotonic()
        for job in jobs:
            job.waited_s = start - job.arrived
        jobs = self._alive(jobs)
        if not jobs:
            return
        try:
            posts = self._sample(jobs)
        except (_AllGone, TimedOut, ClientGone):
            return
        except UserError as error:
            if len(jobs) == 1:
                _fail(jobs[0], error)
            else:  # the mistake of one is not that of the others
                for job in jobs:
                    self._draw([job])
            return
        except BaseException as error:
            for job in jobs:
                _fail(job, error)
            return
        self._seconds_a_job = 0.7 * self._seconds_a_job + 0.3 * (time.monotonic() - start)
        for job, post in zip(jobs, posts, strict=True):
            job.drawn_with = len(jobs)
            if not job.future.done():
                job.future.set_result(post)

    def _sample(self, jobs: list[Job]) -> list[Posterior]:
        def between_evaluations(done: int, total: int) -> None:
            if not self._alive(jobs):
                raise _AllGone

        y = torch.cat([job.y for job in jobs])
        ids = [job.image_id for job in jobs]
        op = merged_operator(jobs)
        options = jobs[0].options
        post = self.engine.sample(y, op, image_ids=ids, progress=between_evaluations, **options)
        self._drawn(len(jobs), post.nfe * len(jobs) * post.num_samples, post.num_samples)
        return [_one_of(post, i, job) for i, job in enumerate(jobs)]

    def _alive(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that somebody still waits for; the others are told."""
        now = time.monotonic()
        for job in jobs:
            if job.gone.is_set():
                _fail(job, ClientGone())
            elif now > job.deadline:
                _fail(job, TimedOut(self._settings.time_limit_s))
        return [job for job in jobs if not job.future.done()]


class _AllGone(UserError):
    """Nobody waits for this batch any more."""


def _fail(job: Job, error: BaseException) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def merged_operator(jobs: Sequence[Job]) -> Operator:
    """One operator for the images of all jobs, whose keys are equal."""
    first = jobs[0]
    levels = [job.op.noise_std for job in jobs]
    names = [name for name in first.arrays if first.arrays[name].ndim == 4]
    same = all(
        job.fields == first.fields
        and all((job.arrays[n] == first.arrays[n]).all() for n in first.arrays)
        for job in jobs
    )
    if same:
        return first.op
    fields, arrays = dict(first.fields), dict(first.arrays)
    for name in names:
        stacked = [torch.from_numpy(job.arrays[name]) for job in jobs]
        arrays[name] = torch.cat(stacked).numpy()
    if any(level != levels[0] for level in levels):
        fields["noise_std"] = {"array": "noise_std"}
        arrays["noise_std"] = torch.tensor(levels, dtype=torch.float64).numpy()
    return restored(fields, arrays)


def _one_of(post: Posterior, i: int, job: Job) -> Posterior:
    """What one request gets of a posterior that several share."""
    if post.kept is None:
        raise InvalidArgument("keep_samples: expected True, got False; the service keeps samples")
    request = post.about["request"] | {"image_ids": [job.image_id]}
    assert post.asked is not None
    return replace(
        post,
        kept=post.kept[:, i : i + 1],
        residual_chi2=post.residual_chi2[:, i : i + 1],
        about=post.about | {"request": request, "operator": repr(job.op)},
        asked=Asked(post.asked.measurement[i : i + 1], job.op, None),
    )
