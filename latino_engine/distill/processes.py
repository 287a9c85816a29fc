"""Several processes that share each batch, by accelerate; one process needs nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latino_engine.distill.runs import training_device
from latino_engine.errors import BackendNotAvailable, invalid


class Processes:
    """Who computes which part of a batch, and how the parts are put together.

    Args:
        device: "cpu", "cuda" or None for a GPU where there is one.
        batch: measurements per step, over all processes.

    Raises:
        InvalidArgument: a device that is not there, or a batch that the processes cannot
            share evenly.
        BackendNotAvailable: several processes without the package accelerate.
    """

    def __init__(self, device: str | None, batch: int) -> None:
        chosen = training_device(device)
        self._accelerator = _accelerator(device) if _several() else None
        if self._accelerator is None:
            self.device, self.count, self.rank = chosen, 1, 0
        else:
            self.device = self._accelerator.device
            self.count = int(self._accelerator.num_processes)
            self.rank = int(self._accelerator.process_index)
        if batch % self.count:
            expected = f"a multiple of the {self.count} processes"
            raise invalid("batch", expected, batch, "choose another batch size")
        self._batch = batch

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def share(self) -> Tensor:
        """The images of the batch that this process computes: (batch / processes,) int64."""
        size = self._batch // self.count
        return torch.arange(self.rank * size, (self.rank + 1) * size)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self._accelerator is None:
            return
        for parameter in parameters:
            if parameter.grad is None:
                continue  # not used by this batch, in no process: all draw the same operator
            parameter.grad = self._accelerator.reduce(parameter.grad, reduction="mean")

    def share_weights(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of the main one."""
        if self._accelerator is None:
            return
        from accelerate.utils import broadcast

        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.copy_(broadcast(tensor.data))

    def mean(self, value: Tensor) -> float:
        """The mean of a number over the processes."""
        if self._accelerator is None:
            return float(value)
        return float(self._accelerator.reduce(value, reduction="mean"))

    def agree(self, value: float) -> float:
        """The mean of a number over the processes, the same in each."""
        return self.mean(torch.tensor(value, device=self.device))

    def wait(self) -> None:
        """Until every process is here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _accelerator(device: str | None) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise BackendNotAvailable(
            "distill: expected the package accelerate for several processes, got none installed; "
            "install it by: pip install 'latino-engine[distill]'"
        ) from error
    return Accelerator(cpu=device == "cpu")
