"""A stand-in for TensorRT at its boundary: an engine that reads and writes memory by address, and
computes by onnxruntime.
"""

from __future__ import annotations

import ctypes
import math
import threading

import numpy as np
import onnxruntime
from graph_stand_in import launch


class Engine:
    """What ICudaEngine offers to `TensorRTDenoiser`."""

    def __init__(self, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options)
        self.contexts: list[Context] = []
        self.options: list = []

    def create_execution_context(self, options=None):
        self.contexts.append(Context(self.session))
        self.options.append(options)
        return self.contexts[-1]


class Context:
    """What IExecutionContext offers; its state belongs to one call at a time."""

    def __init__(self, session) -> None:
        self.session = session
        self.shapes, self.addresses, self.launches = {}, {}, []
        self.profile = self.memory = None
        self.works = self.capturable = True
        self._busy = threading.Lock()

    def set_optimization_profile_async(self, index, stream):
        self.profile = (index, stream)
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def is_stream_capturable(self, stream):
        return self.capturable

    def update_device_memory_size_for_shapes(self):
        return math.prod(self.shapes["x"])

    def set_device_memory(self, address, size):
        self.memory = (address, size)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        launch(self._launch, stream, dict(self.shapes), dict(self.addresses), self.memory)
        return self.works

    def _launch(self, stream, shapes, addresses, memory):
        """What a graph keeps: the addresses of now; the shapes must still be the context's."""
        assert self._busy.acquire(blocking=False), "two calls in one context"
        try:
            assert shapes == self.shapes, "the context has changed since the capture"
            assert memory[1] >= self.update_device_memory_size_for_shapes(), "too little memory"
            ctypes.memset(memory[0], 0xFF, memory[1])  # it is the stand-in's to write
            self.launches.append((stream, shapes["x"]))
            feed = {name: _at(addresses[name], shapes[name]) for name in ("x", "sigma")}
            out = self.session.run(None, feed)[0]
            _at(addresses["x0_hat"], shapes["x"])[...] = out
        finally:
            self._busy.release()


def _at(address, shape):
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), shape)
