"""How a request fails: a status, and the sentence that goes with it."""

from __future__ import annotations

from latino_engine.errors import UserError


class Refused(UserError):
    """A request that is answered with a status of its own.

    Args:
        status: of HTTP.
        sentence: what was expected, what came, the remedy.
        headers: besides the usual ones, such as Retry-After.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers or {}


class QueueFull(Refused):
    """More requests wait than the service keeps."""

    def __init__(self, waiting: int, seconds: int) -> None:
        sentence = f"queue: expected fewer than {waiting} waiting requests, got as many; try again"
        super().__init__(429, f"{sentence} in {seconds} s", {"Retry-After": str(seconds)})


class TimedOut(Refused):
    """A request whose time was over before its answer."""

    def __init__(self, seconds: float) -> None:
        remedy = "ask for fewer samples, fewer steps or a smaller image"
        super().__init__(504, f"time: expected an answer within {seconds:g} s, got none; {remedy}")


class ClientGone(Refused):
    """A request whose client closed the connection; nobody reads the answer."""

    def __init__(self) -> None:
        super().__init__(499, "client: expected to wait for the answer, got a closed connection; -")


class Closing(Refused):
    """The service is shutting down."""

    def __init__(self) -> None:
        sentence = "service: expected one that runs, got one that shuts down; try again later"
        super().__init__(503, sentence, {"Retry-After": "10"})
