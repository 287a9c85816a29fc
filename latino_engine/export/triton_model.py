"""The Python model of a Triton Inference Server: requests in, posteriors out.

`triton_repository` copies this file beside an engine. The server calls `initialize` once for each
instance and `execute` with the requests that wait; a mistake of a request is its own sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

import latino_engine as le
from latino_engine.errors import UserError, invalid
from latino_engine.operators.spec import files_named


class TritonPythonModel:
    """What the server looks for by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that lies beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"] / "engine"
        device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
        self.engine = le.load(folder, device=device)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in their order."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            post = self._draw(request)
        except UserError as error:
            return pb_utils.InferenceResponse(
                output_tensors=[], error=pb_utils.TritonError(" ".join(str(error).split()))
            )
        arrays = {
            "samples": post.samples[:, 0].numpy(),
            "mean": post.mean[0].numpy(),
            "std": post.std[0].numpy(),
            "residual_chi2": post.residual_chi2[:, 0].numpy(),
        }
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(a)) for name, a in arrays.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _draw(self, request: Any) -> le.Posterior:
        def number(name: str, default: float | int) -> Any:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy().reshape(-1)[0].item()

        measured = pb_utils.get_input_tensor_by_name(request, "measurement").as_numpy()
        text = pb_utils.get_input_tensor_by_name(request, "operator").as_numpy().reshape(-1)[0]
        text = text.decode() if isinstance(text, bytes) else str(text)
        if files_named(text):
            remedy = "describe it in numbers, or call the engine in Python"
            raise invalid("operator", "one without files", repr(text), remedy)
        y = torch.from_numpy(np.array(measured, dtype=np.float32))[None]
        seed, size = int(number("seed", 0)), self._size(text, y)
        channels = self.engine.spec.channels
        level = float(number("noise_std", 0.02))
        op = le.operator(text, level, size, seed, channels, border="reflect")
        return self.engine.sample(
            y,
            op,
            int(number("num_samples", 4)),
            seed,
            image_ids=[int(number("image_id", 0))],
        )

    @staticmethod
    def _size(text: str, y: torch.Tensor) -> tuple[int, int]:
        from latino_engine.operators.spec import image_size_behind

        if y.ndim != 4:
            remedy = "send one image"
            raise invalid("measurement", "(C, H, W)", tuple(y.shape[1:]), remedy)
        return image_size_behind(text, (y.shape[2], y.shape[3]))
