"""What stands before every request: its size, its origin, its token."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from latino_engine.serving.failures import Refused
from latino_engine.serving.settings import Settings, is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Answered without a token: they hold nothing of anybody.
OPEN = ("/health", "/ready", "/", "/page.js", "/page.css")


class Guard:
    """An ASGI application around another one.

    A browser names the page that asks (Origin) and the host that it believes to talk to (Host):
    both must be this service, so that no other site can use one that listens at loopback.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        refused = self._refusal(scope["path"], {k: v.decode("latin-1") for k, v in headers.items()})
        if refused is not None:
            await _answer(send, *refused)
            return
        received = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._settings.max_body_bytes:  # a body in pieces states no length
                raise Refused(413, self._too_large("more"))
            return message

        await self._app(scope, counted, send)

    def _refusal(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._settings.token and not is_loopback(_name(f"//{host}")):
            return 403, "host: expected a loopback address, got another one; open 127.0.0.1"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "origin: expected this service's own page, got another site; ask directly"
        if not self._allowed(path, headers.get("authorization", "")):
            return (
                401,
                "authorization: expected the bearer token of this service, got none; send it",
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._settings.max_body_bytes:
            return 413, self._too_large(f"{length[:20]}")
        return None

    def _allowed(self, path: str, given: str) -> bool:
        token = self._settings.token
        if not token or path in OPEN:
            return True
        return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

    def _too_large(self, got: str) -> str:
        most = self._settings.max_body_bytes
        return f"body: expected at most {most} bytes, got {got}; send a smaller image"


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": {"class": "Refused", "sentence": sentence}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
