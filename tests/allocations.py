"""What torch allocates on the CPU, counted and not read from the resident set of the process.

The resident set depends on what malloc kept from the tests before; the sum of what torch's CPU
allocator gave out and took back doesn't. Not counted: workspaces of compiled extensions, of oneDNN
and of onnxruntime, and what other threads allocate.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_allocated(call: Callable[[], object], folder: Path) -> int:
    """The most bytes of tensors that `call` held at once, those from before it not counted."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    trace = folder / "allocations.json"
    recorded.export_chrome_trace(str(trace))
    events = [
        event
        for event in json.loads(trace.read_text())["traceEvents"]
        if event.get("name") == "[memory]"
    ]
    assert events, "the profiler recorded no allocation"
    held = most = 0
    for event in sorted(events, key=lambda event: float(event["ts"])):
        held += int(event["args"]["Bytes"])
        most = max(most, held)
    return most
