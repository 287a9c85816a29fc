"""What a runtime's library raises, as this package's errors: one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from latino_engine.errors import BackendNotAvailable, RuntimeFailed, UserError
from latino_engine.system.memory import is_out_of_memory


@contextmanager
def loading(library: str) -> Iterator[None]:
    """A graph that the library does not take becomes a `BackendNotAvailable`.

    Raises:
        MemoryError: memory ran out.
        BackendNotAvailable: any other failure of the library.
    """
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:  # onnxruntime's derive from Exception alone
        if is_out_of_memory(error):
            raise MemoryError(f"{library} could not allocate: {reason(error)}") from error
        raise BackendNotAvailable(
            f"backend: expected a network that {library} can load, got ({reason(error)}); "
            "choose another backend or precision"
        ) from error


@contextmanager
def running(library: str) -> Iterator[None]:
    """A call that fails becomes a `MemoryError`, which smaller chunks mend, or a `RuntimeFailed`.

    Raises:
        MemoryError: memory ran out.
        RuntimeFailed: any other failure of the library.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(f"{library} could not allocate: {reason(error)}") from error
        raise RuntimeFailed(
            f"backend: expected {library} to run the network, got ({reason(error)}); "
            "load the engine with another backend"
        ) from error


def reason(error: BaseException) -> str:
    """The line of a library's message that says what is wrong.

    OpenVINO begins with its own source files and ends with it, onnxruntime begins with it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0 if lines[0].startswith("[ONNXRuntimeError]") else -1].rstrip(".")
