"""The service: engines behind HTTP. See docs/serving.md for its requests and answers."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from latino_engine.engine import Engine
from latino_engine.errors import UserError, invalid
from latino_engine.posterior import Posterior
from latino_engine.serving import openapi
from latino_engine.serving.answers import answer, figures
from latino_engine.serving.batching import Batcher, Job
from latino_engine.serving.failures import ClientGone, Closing, QueueFull, Refused, TimedOut
from latino_engine.serving.guard import Guard
from latino_engine.serving.metrics import CONTENT_TYPE, Metrics
from latino_engine.serving.requests import Fields, fields_of, job_of, json_fields
from latino_engine.serving.settings import Settings
from latino_engine.version import __version__

log = logging.getLogger("latino_engine.serving")

_PAGE = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_POLICY = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'"


class Service:
    """Engines by name, each with its queue, and what is counted of them."""

    def __init__(self, engines: Mapping[str, Engine], settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engines = dict(engines)
        self.batchers = {
            name: Batcher(engine, settings, self.metrics.drawn(name))
            for name, engine in engines.items()
        }
        for name, batcher in self.batchers.items():
            self.metrics.queue.labels(name).set_function(batcher.__len__)
        self.closing = False
        self._held = 0  # requests whose bodies are in memory
        self._most_held = settings.max_queue + 2 * settings.max_batch * len(self.batchers)

    def close(self) -> None:
        """Finish what was accepted."""
        self.closing = True
        for batcher in self.batchers.values():
            batcher.close()

    def name_of(self, fields: Fields) -> str:
        """The engine that a request names; the first one where it names none."""
        name = fields.engine or next(iter(self.engines))
        if name not in self.engines:
            known = ", ".join(self.engines)
            sentence = f"engine: expected one of {known}, got {name[:80]!r}; see /v1/engines"
            raise Refused(404, sentence)
        return name

    async def draw(self, request: Request, told: dict[str, Any]) -> tuple[Fields, Posterior]:
        """From a request to its posterior; `told` takes what the log says of it."""
        if self.closing:
            raise Closing
        if self._held >= self._most_held:  # before anything of it is read
            raise QueueFull(self.settings.max_queue, 1)
        self._held += 1
        try:
            return await self._drawn(request, told, time.monotonic())
        finally:
            self._held -= 1

    async def _drawn(
        self, request: Request, told: dict[str, Any], arrived: float
    ) -> tuple[Fields, Posterior]:
        try:
            fields = await asyncio.wait_for(_read(request), self.settings.time_limit_s)
        except asyncio.TimeoutError as error:  # not TimeoutError in Python 3.10
            raise TimedOut(self.settings.time_limit_s) from error
        name = told["engine"] = self.name_of(fields)
        told |= {k: fields.values.get(k) for k in ("num_samples", "seed")}
        told["operator"] = str(fields.values.get("operator"))[:200]
        job = await run_in_threadpool(job_of, fields, self.engines[name], self.settings, arrived)
        told["measurement"] = list(job.y.shape)
        self.batchers[name].submit(job)
        post = await self._answered(request, job)
        told |= {"nfe": post.nfe, "drawn_with": job.drawn_with, "wait_ms": 1e3 * job.waited_s}
        self.metrics.waiting_seconds.observe(job.waited_s)
        return fields, post

    async def _answered(self, request: Request, job: Job) -> Posterior:
        """Wait for the posterior, for the end of its time, or until the client is gone."""
        future = asyncio.wrap_future(job.future)
        try:
            while True:
                done, _ = await asyncio.wait({future}, timeout=0.05)
                if done:
                    return future.result()
                if await request.is_disconnected():
                    job.gone.set()
                    raise ClientGone
                if time.monotonic() > job.deadline:
                    raise TimedOut(self.settings.time_limit_s)
        finally:
            if not future.done():
                job.gone.set()
                future.cancel()  # a job in the queue; one that runs ends at its next evaluation


async def _read(request: Request) -> Fields:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            return json_fields(json.loads(await request.body()))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid("body", "JSON", "text that is none", "check it") from error
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        expected = "multipart/form-data or application/json"
        raise Refused(415, f"content-type: expected {expected}, got {kind[:80]!r}; send a form")
    values: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    own: dict[str, bytes] = {}
    async with request.form(max_files=8, max_fields=32, max_part_size=65536) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                values[name] = value
                continue
            files[name] = await value.read()
            if (
                value.filename and name != "image"
            ):  # a description may have the file's own name: kernel=psf.npy
                own[value.filename] = files[name]
    return fields_of(values, files | {k: v for k, v in own.items() if k not in files})


def create_app(engines: Mapping[str, Engine], settings: Settings | None = None) -> Any:
    """The ASGI application of a service.

    Args:
        engines: name -> a loaded engine; the first one answers requests that name none.
        settings: limits; the defaults where None.

    Raises:
        ValueError: no engine.
    """
    if not engines:
        raise invalid("engines", "at least one engine", "none", "name the folder of an engine")
    service = Service(engines, settings or Settings())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    # Its pages of documentation would load scripts from another host.
    app = FastAPI(
        title="latino-engine",
        version=__version__,
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )
    app.state.service = service
    _add_drawing(app, service)
    _add_telling(app, service)
    guarded = Guard(app, service.settings)
    return guarded


def _add_drawing(app: FastAPI, service: Service) -> None:
    @app.post("/v1/sample", **openapi.SAMPLE)
    async def sample(request: Request) -> Response:
        """Draw posterior samples for one measurement."""
        start = time.perf_counter()
        told: dict[str, Any] = {"id": secrets.token_hex(8), "path": "/v1/sample"}
        status, headers = 200, {"X-Request-Id": told["id"]}
        try:
            fields, post = await service.draw(request, told)
            what = fields.values.get("what")
            media, body = await run_in_threadpool(answer, post, fields.format, what)
            headers["Latino-Figures"] = json.dumps(figures(post), separators=(",", ":"))
        except (Exception, asyncio.CancelledError) as error:
            status, more, body = _failure(error, told)
            headers |= more
            media = "application/json"
            service.metrics.errors.labels(told["error"]).inc()
        seconds = time.perf_counter() - start
        service.metrics.requests.labels(told.get("engine", ""), str(status)).inc()
        service.metrics.seconds.observe(seconds)
        told |= {"status": status, "ms": round(1e3 * seconds, 2)}
        log.info("request", extra={"told": told})
        return Response(body, status, headers, media)


def _failure(error: BaseException, told: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request that failed; `told` takes the class of it."""
    told["error"], headers, sentence = type(error).__name__, {}, " ".join(str(error).split())
    if isinstance(error, Refused):
        status, headers = error.status, error.headers
    elif isinstance(error, UserError):
        status = 400
    elif isinstance(error, HTTPException):  # of the reader of forms
        status, sentence = error.status_code, f"body: expected a form, got another: {error.detail}"
    else:
        status = 500
        sentence = f"service: expected to draw, got an error of its own; report {told['id']}"
        log.error("failure", exc_info=error, extra={"told": {"id": told["id"]}})
    return (
        status,
        headers,
        json.dumps(
            {"error": {"class": told["error"], "sentence": sentence, "id": told["id"]}}
        ).encode(),
    )


def _add_telling(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "version": __version__}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        """Whether a request would be taken now: 503 where it would not."""
        most = service.settings.max_queue
        full = [name for name, batcher in service.batchers.items() if len(batcher) >= most]
        taken = not service.closing and not full
        response.status_code = 200 if taken else 503
        return {"ready": taken, "engines": list(service.engines), "full": full}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and histograms, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/engines")
    async def engines() -> dict[str, Any]:
        """What each engine is."""
        return {
            name: {
                "prior": engine.spec.name,
                "channels": engine.spec.channels,
                "size_multiple": engine.spec.size_multiple,
                "sampler": engine.manifest["sampler"],
                "sha256": engine.sha256,
                "backend": engine.backend,
                "device": engine.device,
            }
            for name, engine in service.engines.items()
        }

    for path, name in _PAGE.items():
        _add_file(app, path, name)


def _add_file(app: FastAPI, path: str, name: str) -> None:
    data = resources.files("latino_engine.serving").joinpath("page", name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}

    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(data, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)
