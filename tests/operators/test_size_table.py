"""The table of an operator: bounded, least recently used, and what streams of a GPU need of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from latino_engine.operators.parts.size_table import SizeTable

DEVICE = torch.device("cuda", 0)


class OnGpu:
    """A tensor of a GPU, as far as the table looks at it."""

    is_cuda, dtype, device = True, torch.float32, DEVICE

    def __init__(self):
        self.streams = []

    def record_stream(self, stream):
        self.streams.append(stream)


@pytest.fixture
def current(monkeypatch):
    """The stream of the caller."""
    waited = []
    stream = SimpleNamespace(name="first", waited=waited)
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda device: SimpleNamespace(
            name=stream.name, synchronize=lambda: waited.append(stream.name)
        ),
    )
    return stream


def test_an_entry_stays_until_every_stream_has_read_it(current):
    """Its memory belongs to the stream that made it, which may write there once it is dropped."""
    table, entry = SizeTable(), (OnGpu(), OnGpu())
    assert table.get("h", (4, 6), OnGpu(), lambda: entry) is entry
    assert current.waited == ["first"]  # it is there before another stream can find it
    for name in ("second", "third"):
        current.name = name
        assert table.get("h", (4, 6), OnGpu(), lambda: pytest.fail("built twice")) is entry
    for tensor in entry:
        assert [stream.name for stream in tensor.streams] == ["second", "third"]
    assert current.waited == ["first"]


def test_on_the_cpu_nothing_waits_and_the_oldest_goes():
    table, like = SizeTable(capacity=2), torch.zeros(1)
    made = []

    def get(width):
        return table.get("h", (1, width), like, lambda: (made.append(width) or torch.ones(width),))

    for width in (1, 2, 1, 3, 1, 2):
        (entry,) = get(width)
        assert entry.shape == (width,)
    assert made == [1, 2, 3, 2] and len(table) == 2
