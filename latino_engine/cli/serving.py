"""The commands serve and web: engines behind HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latino_engine.cli.options import Backend, Threads
from latino_engine.errors import invalid

if TYPE_CHECKING:
    from latino_engine.engine import Engine

Host = Annotated[str, typer.Option(help="Address to listen at; others than loopback need a token.")]
Port = Annotated[int, typer.Option(help="Port to listen at; 0: a free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the bearer token; or set LATINO_ENGINE_TOKEN."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    app.command("serve")(serve)
    app.command("web")(web)


def serve(
    engines: Annotated[
        list[Path], typer.Argument(help="Folders of engines; the first by default.")
    ],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    max_batch: Annotated[int, typer.Option(help="Images drawn together.")] = 8,
    max_queue: Annotated[int, typer.Option(help="Requests that wait; then 429.")] = 64,
    batch_wait_ms: Annotated[float, typer.Option(help="Wait for others of a kind.")] = 5.0,
    time_limit: Annotated[float, typer.Option(help="Seconds from arrival to answer.")] = 120.0,
    max_megabytes: Annotated[float, typer.Option(help="Of one request's body.")] = 32.0,
    max_pixels: Annotated[int, typer.Option(help="Of one image.")] = 2**22,
    max_samples: Annotated[int, typer.Option(help="Of one request.")] = 64,
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Answer requests over HTTP: POST /v1/sample, /health, /ready, /metrics, and a page at /."""
    limits = {
        "max_batch": max_batch,
        "max_queue": max_queue,
        "batch_wait_ms": batch_wait_ms,
        "time_limit_s": time_limit,
        "max_body_bytes": int(max_megabytes * 2**20),
        "max_pixels": max_pixels,
        "max_samples": max_samples,
    }
    tools = _tools()
    settings = tools.settings(host=host, port=port, token=_token(token_file), **limits)
    loaded = {}
    for folder in engines:
        name = folder.name.removesuffix(".engine")
        if name in loaded:
            remedy = "rename one of the folders"
            raise invalid("engines", "folders of different names", f"{name} twice", remedy)
        loaded[name] = _load(folder, backend, threads)
    tools.serve(loaded, settings, lambda url: print(f"serving at {url}", flush=True))


def web(
    prior: Annotated[str, typer.Argument(help="Folder of an engine, shipped name, or a prior's.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    adapter: Annotated[
        str, typer.Option(help="auto: that of a shipped prior; none; a shipped name or a folder.")
    ] = "auto",
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Open a page for the browser: drop a photo, choose how it was measured, see the samples.

    A prior is compiled first, and the engine kept in the cache for the next time.
    """
    tools = _tools()
    settings = tools.settings(host=host, port=port, token=_token(token_file), max_batch=4)
    name = Path(prior).name.removesuffix(".engine")
    engine = _engine_of(prior, adapter, backend, threads)
    tools.serve({name: engine}, settings, lambda url: print(f"open {url}", flush=True))


@dataclass(frozen=True)
class _Tools:
    """What the extra [serve] brings."""

    settings: Callable[..., Any]
    serve: Callable[..., None]


def _tools() -> _Tools:
    try:
        import multipart  # noqa: F401 - what FastAPI reads forms with

        from latino_engine.serving.running import serve as run
        from latino_engine.serving.settings import Settings
    except ImportError as error:
        expected, got = "the packages of the extra [serve]", f"no {error.name}"
        remedy = "install them by: pip install 'latino-engine[serve]'"
        raise invalid("serve", expected, got, remedy) from error
    return _Tools(Settings, run)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("LATINO_ENGINE_TOKEN") or None
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        remedy = "write it there, readable for you alone"
        raise invalid("token-file", "a file with a token", str(file), remedy) from error
    if not token or not token.isascii() or not token.isprintable():
        raise invalid("token-file", "one line of ASCII", "another", "write a random word to it")
    return token


def _load(folder: Path, backend: str | None, threads: int | None) -> Engine:
    from latino_engine.loading import load

    return load(folder, backend=backend, threads=threads)


def _engine_of(prior: str, adapter: str, backend: str | None, threads: int | None) -> Engine:
    """The engine of a folder, or the one of a prior in the cache, compiled where it is missing."""
    if (Path(prior) / "engine.json").is_file():
        return _load(Path(prior), backend, threads)
    from latino_engine.compilation.compiler import compile as compile_prior
    from latino_engine.errors import EngineInvalid
    from latino_engine.priors import load_prior
    from latino_engine.priors.adapters import adapter_for
    from latino_engine.system.cache import cache_folder

    loaded = load_prior(prior)
    chosen = adapter_for(adapter, loaded)
    named = "none" if chosen is None else chosen.name
    kept = cache_folder() / "engines" / f"{loaded.spec.name}-{named}.engine"
    try:
        engine = _load(kept, backend, threads)
        wanted = (loaded.content_hash(), None if chosen is None else chosen.content_hash())
        if (engine.manifest["prior_sha256"], engine.manifest["adapter_sha256"]) == wanted:
            return engine
    except EngineInvalid:  # none yet, or one of an older version
        pass
    compile_prior(loaded, kept, adapter=chosen, threads=threads)
    return _load(kept, backend, threads)
