"""The scalars of the current step, read on the device, so that one captured graph serves all steps.

A table is (num_steps, P|1, 4) float32: three scalars a row. The noise steps are (num_steps,)
integers with any stride: they may be the fourth words of the same table. The counter is int32 (3,):
next row, programs that have arrived, 1 after a step beyond the end.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read_step(step_table, noise_steps, counter, num_steps, table_pairs, noise_stride, pair):
    """(step, noise step, three scalars) of the pair; past the end those of the last row."""
    step = tl.load(counter, volatile=True)  # the graph's previous launch wrote it
    # As unsigned words: a negative counter is beyond the end, too.
    row = tl.minimum(step.to(tl.uint32), (num_steps - 1).to(tl.uint32)).to(tl.int64)
    noise_step = tl.load(noise_steps + row * noise_stride)
    if table_pairs != 1:
        step_table += pair * 4
    scalars = step_table + row * table_pairs * 4
    return step, noise_step, tl.load(scalars), tl.load(scalars + 1), tl.load(scalars + 2)


@triton.jit
def finish_step(counter, step, num_steps):
    """Moves the counter on when every program of the launch has arrived here."""
    tl.debug_barrier()  # all threads of the program have read the counter
    arrived = tl.atomic_add(counter + 1, 1, sem="acq_rel")
    last = arrived == tl.num_programs(0) - 1
    tl.store(counter + 1, 0, mask=last)
    tl.store(counter, step + 1, mask=last)
    tl.store(counter + 2, 1, mask=last & (step.to(tl.uint32) >= num_steps.to(tl.uint32)))
