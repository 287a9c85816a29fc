"""A service on loopback for the tests, and an engine whose calls can be held back."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from latino_engine.serving.service import create_app
from latino_engine.serving.settings import Settings


class Held:
    """An engine that waits in `sample` until it is let go, then runs; it counts its calls."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.go = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.ended: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def sample(self, y: Any, op: Any, **options: Any) -> Any:
        self.batches.append(len(y))
        self.entered.set()
        try:
            until = time.monotonic() + 60
            while not self.go.wait(0.01) and time.monotonic() < until:
                options["progress"](0, 1)  # what the engine tells between two evaluations
            return self._engine.sample(y, op, **options)
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise


@contextmanager
def running(engines: dict[str, Any], **limits: Any) -> Iterator[httpx.Client]:
    """A client of a service with these engines."""
    app = create_app(engines, Settings(port=0, **limits))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    token = limits.get("token")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(
            base_url=address, timeout=120, headers=headers, trust_env=False
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Returns once the condition holds; fails after a generous time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.01)


def png(pixels: Any) -> bytes:
    """8 bits of an array (H, W) or (H, W, 3) in [0, 1]."""
    file = io.BytesIO()
    Image.fromarray((255 * np.asarray(pixels)).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def npy(array: Any) -> bytes:
    """The bytes of np.save."""
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()
