"""A stand-in for CUDA at the boundary `Driver`: captured operations really run when replayed.

`capture` watches every operation of torch on the CPU and keeps it with its tensors; `replay` runs
them again, in order, on the same memory. What CUDA forbids inside a capture is an error here too:
reading a tensor on the host, or making one from numbers of the host. Launches that are no operation
of torch go through `launch`.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "item"}
_FROM_HOST = {"lift_fresh"}
_CAPTURING = threading.local()


def launch(function, *args):
    """Run a launch by addresses; while its thread captures, keep it for the replays."""
    out = function(*args)
    if getattr(_CAPTURING, "recorder", None) is not None:
        _CAPTURING.recorder.operations.append((function, args, {}, []))
    return out


class Launching:
    """A compiled extension whose functions are launches: `latino_engine._cuda`, or its shim."""

    def __init__(self, extension):
        self._extension = extension

    def __getattr__(self, name):
        found = getattr(self._extension, name)
        if not callable(found) or name in _QUESTIONS:
            return found
        return lambda *args: launch(found, *args)


_QUESTIONS = {"has_fourier_kernels", "has_alias_kernels", "record_launches", "launches"}


class _Recorder(TorchDispatchMode):
    def __init__(self, memory_bytes):
        super().__init__()
        self.operations, self.left = [], memory_bytes

    def __enter__(self):
        _CAPTURING.recorder = self
        return super().__enter__()

    def __exit__(self, *error):
        _CAPTURING.recorder = None
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in _READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        if name in _FROM_HOST:
            raise RuntimeError("Cannot copy between CPU and CUDA tensors during CUDA graph capture")
        out = func(*args, **(kwargs or {}))
        fresh = func._schema.returns and all(r.alias_info is None for r in func._schema.returns)
        found = out if isinstance(out, tuple | list) else [out]
        outputs = [t for t in found if isinstance(t, torch.Tensor)] if fresh else []
        self.left -= sum(t.numel() * t.element_size() for t in outputs)
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory (the stand-in's)")
        self.operations.append((func, args, kwargs or {}, outputs))
        return out


class Graph:
    def __init__(self, driver, stream, operations):
        self.driver, self.stream, self.operations = driver, stream, operations

    def replay(self):
        assert self.driver.current.stream == self.stream, "replayed on another stream"
        self.driver.log.append(("replay", self.stream))
        for func, args, kwargs, outputs in self.operations:
            found = func(*args, **kwargs)
            found = found if isinstance(found, tuple | list) else [found]
            tensors = [t for t in found if isinstance(t, torch.Tensor)]
            for kept, new in zip(outputs, tensors, strict=False):
                kept.copy_(new)

    def shapes(self):
        return [tuple(t.shape) for *_, outputs in self.operations for t in outputs if t.ndim == 4]

    def names(self):
        return [_name(func) for func, *_ in self.operations]


def _name(func):
    schema = getattr(func, "_schema", None)
    return func.__name__ if schema is None else schema.name.removeprefix("aten::")


class RecordingDriver:
    """What `latino_engine.sampling.cuda_driver.Driver` asks for.

    Attributes:
        log: what was asked, in order.
        graphs: all that were captured.
        memory_bytes: what one capture may allocate.
        free: what `free_bytes` tells.
    """

    def __init__(self):
        self.log, self.graphs = [], []
        self.current = threading.local()
        self.memory_bytes = float("inf")
        self.free = 10**9
        self.time = 0.0
        self._streams = 0
        self._lock = threading.Lock()

    def new_stream(self):
        self._streams += 1
        return self._streams

    @contextmanager
    def on(self, stream):
        before = getattr(self.current, "stream", None)
        self.current.stream = stream
        self.log.append(("enter", stream))
        try:
            yield
        finally:
            self.log.append(("leave", stream))
            self.current.stream = before

    def new_pool(self):
        return object()

    def capture(self, stream, pool, body):
        assert self.current.stream == stream, "captured on another stream"
        with self._lock:
            self.log.append(("capture", stream))
            with _Recorder(self.memory_bytes) as recorder:
                body()
            # A capture executes nothing: what it left in memory must not help a replay.
            for *_, outputs in recorder.operations:
                for tensor in outputs:
                    tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
            self.graphs.append(Graph(self, stream, recorder.operations))
            return self.graphs[-1]

    def event(self):
        self.time += 1.0
        return self.time

    def elapsed_ms(self, first, last):
        self.log.append(("wait", self.current.stream))
        return last - first

    def release(self):
        self.log.append(("release", self.current.stream))

    def free_bytes(self):
        return self.free
