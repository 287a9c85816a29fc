"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """One registry for each service, so that several live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "latino_requests",
            "Requests by engine and status",
            ("engine", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "latino_request_seconds", "Arrival to answer", registry=registry, buckets=_SECONDS
        )
        self.waiting_seconds = Histogram(
            "latino_queue_seconds", "Arrival to the engine", registry=registry, buckets=_SECONDS
        )
        self.batch = Histogram(
            "latino_batch_images", "Images a call", registry=registry, buckets=(1, 2, 4, 8, 16, 32)
        )
        self.evaluations = Counter(
            "latino_evaluations", "Images through the network", ("engine",), registry=registry
        )
        self.samples = Counter("latino_samples", "Samples drawn", ("engine",), registry=registry)
        self.errors = Counter(
            "latino_errors", "Requests without an answer, by class", ("kind",), registry=registry
        )
        self.queue = Gauge(
            "latino_queue_length", "Requests that wait", ("engine",), registry=registry
        )

    def drawn(self, engine: str) -> Callable[[int, int, int], None]:
        """The function that a batcher tells of its calls: (images, evaluations, samples each)."""

        def tell(images: int, evaluations: int, samples: int) -> None:
            self.batch.observe(images)
            self.evaluations.labels(engine).inc(evaluations)
            self.samples.labels(engine).inc(images * samples)

        return tell

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self.registry)
