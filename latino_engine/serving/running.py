"""Run a service until it is told to stop."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

import uvicorn

from latino_engine.engine import Engine
from latino_engine.errors import invalid
from latino_engine.serving.logs import log_to_stderr
from latino_engine.serving.service import create_app
from latino_engine.serving.settings import Settings


def serve(
    engines: Mapping[str, Engine],
    settings: Settings,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; what was accepted by then is finished first.

    Args:
        engines: name -> a loaded engine.
        settings: limits, host and port.
        started: told the address once requests are taken.

    Raises:
        UserError: an address that cannot be listened at.
    """
    app = create_app(engines, settings)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log_to_stderr()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.time_limit_s) + 1,
    )
    started(f"http://{shown}:{port}")
    uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, int(settings.port)))
        listener.listen(128)  # a client that finds a port may connect at once
    except (OSError, OverflowError) as error:
        listener.close()
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number).lower() if number else "no such address"
        address = f"{settings.host}:{settings.port}"
        raise invalid("port", f"a free one at {address}", reason, "choose --port 0") from error
    return listener
