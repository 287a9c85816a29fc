"""What a service may be told, with its defaults."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields

from latino_engine.errors import invalid, invalid_type

_MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Limits of a service.

    Attributes:
        host: the address to listen at; only loopback without a token.
        port: 0 lets the system choose.
        token: what a client sends as `Authorization: Bearer TOKEN`; None for nobody.
        max_batch: images drawn together in one call of the engine.
        max_queue: requests that wait; one more is answered with 429.
        batch_wait_ms: how long the first request waits for others of its kind.
        time_limit_s: from a request's arrival to its answer.
        max_body_bytes: of one request, counted before anything of it is decoded.
        max_pixels: of one uploaded image, read from its header before it is decoded.
        max_samples: of one request.
        max_evaluations: samples times network evaluations, of one request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_batch: int = 8
    max_queue: int = 64
    batch_wait_ms: float = 5.0
    time_limit_s: float = 120.0
    max_body_bytes: int = 32 * _MIB
    max_pixels: int = 2**22
    max_samples: int = 64
    max_evaluations: int = 4096

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("host", "token"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise invalid_type(field.name, "a number", type(value).__name__, "give a number")
            least = 0 if field.name in ("port", "batch_wait_ms") else 1e-3
            if not least <= value < 2**63:
                raise invalid(field.name, f"a number of at least {least:g}", value, "raise it")
        if not is_loopback(self.host) and not self.token:
            remedy = "name a file with --token-file, or listen at 127.0.0.1"
            raise invalid("token", f"a bearer token to listen at {self.host}", None, remedy)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
