"""The scalars of a sampler's steps as one table on the device, for kernels that index it there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latino_engine.errors import invalid


class StepTable:
    """Scalars of the steps, on the device, and the counter that says which step is next.

    Every operation that is given the table uses its next row; its last launch moves the counter
    on. `position` mirrors the counter for eager calls, which are refused beyond the end; a replayed
    graph is not seen by it, and `check` then asks the device. A launch beyond the end takes the
    last row: no memory outside the table is read.

    A table belongs to one stream and one thread at a time: the blocks of launches that overlap
    would be counted as those of one. Chains that run side by side have a table each.

    Attributes:
        rows: int32 (steps, 1|P, 4), the bits of three floats and the noise step.
        counter: int32 (3,): next row, blocks that have arrived, 1 after a step beyond the end.
        position: the next row, as far as the host knows.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.counter = torch.zeros(3, dtype=torch.int32, device=rows.device)
        self.position = 0

    @classmethod
    def of(cls, columns: Sequence[Tensor], noise_steps: Sequence[int]) -> StepTable:
        """Three float columns, each broadcasting to (steps, 1|P), and a noise step for each row.

        The columns are (x_weight, gamma, scale) or, for reverse steps, (sigma_next, kept, renewed).

        Raises:
            ValueError: no step, not one noise step for each, or one outside [0, 2^32).
        """
        size = np.broadcast_shapes(*(tuple(column.shape) for column in columns))
        num_steps = size[0]
        if num_steps < 1 or len(noise_steps) != num_steps:
            expected = f"one for each of {num_steps} steps, at least one"
            raise invalid("noise_steps", expected, len(noise_steps), "match the columns")
        if not 0 <= min(noise_steps) <= max(noise_steps) < 2**32:
            got = f"{min(noise_steps)}..{max(noise_steps)}"
            raise invalid("noise_steps", "values in [0, 2^32)", got, "count the steps from 0")
        floats = torch.stack([c.to(torch.float32).expand(size) for c in columns], dim=-1)
        signed = [step - 2**32 if step >= 2**31 else step for step in noise_steps]
        last = torch.tensor(signed, dtype=torch.int32, device=floats.device)[:, None, None]
        last = last.expand(num_steps, floats.shape[1], 1)
        return cls(torch.cat((floats.view(torch.int32), last), dim=-1).contiguous())

    @classmethod
    def single(
        cls, device: torch.device, values: Sequence[float | Tensor], noise_step: int
    ) -> StepTable:
        """One step: three scalars, each a number or (1|P,) in any shape."""
        columns = [torch.as_tensor(v, dtype=torch.float32, device=device) for v in values]
        return cls.of([column.reshape(1, -1) for column in columns], [noise_step])

    def __repr__(self) -> str:
        steps, pairs, _ = self.rows.shape
        return f"StepTable({steps} steps, {pairs} pairs, next {self.position})"

    def arguments(self) -> tuple[Tensor, Tensor, int]:
        """What the extension takes."""
        return self.rows, self.counter, self.position

    def rewind(self) -> None:
        """Back to the first row."""
        self.counter.zero_()
        self.position = 0

    def check(self) -> None:
        """Raises IndexError if a launch came after the last row; waits for the device."""
        if int(self.counter[2]):
            raise IndexError(
                f"step: expected at most {self.rows.shape[0]} steps between two rewinds, got more; "
                "call rewind() before the first replay"
            )
