"""Many requests from several clients against a service on loopback; many samples in one process.

    python -m benchmarks.end_to_end.soak digits.engine --requests 10000 --samples 1000000

Operators, sizes, forms of answers and bad requests are mixed by a seed. It ends by itself and
prints one JSON object: statuses, what was no fault of the client, latency, and the memory of the
service and of this process along the way.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from PIL import Image

import latino_engine as le

_CHECKS = 20
_WRONG = 8  # every so many requests one is bad on purpose
_OPERATORS = (
    "blur:std=1",
    "inpaint:random=0.5,seed=1",
    "denoise",
    "uniform:size=3",
    "jpeg:quality=40",
)
_BAD = (
    ({"operator": "blurr:std=1"}, None, 400),
    ({"operator": "inpaint:mask=/etc/passwd"}, None, 400),
    ({"operator": "denoise", "num_samples": "many"}, None, 400),
    ({"operator": "denoise"}, b"no image", 400),
    ({"operator": "denoise", "engine": "none"}, None, 404),
)


def picture(draw: np.random.Generator, channels: int, multiple: int) -> bytes:
    """A PNG of random pixels, with sides that vary."""
    height, width = (multiple * int(draw.integers(1, 3)) for _ in range(2))
    shape = (height, width) if channels == 1 else (height, width, 3)
    file = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


class Soak:
    """The clients, and what they saw."""

    def __init__(self, url: str, requests: int, channels: int, multiple: int) -> None:
        self.url, self.requests = url, requests
        self.channels, self.multiple = channels, multiple
        self.taken = 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self.lock = threading.Lock()

    def client(self) -> None:
        """Ask until all requests are taken."""
        with httpx.Client(base_url=self.url, timeout=300, trust_env=False) as client:
            while True:
                with self.lock:
                    if self.taken == self.requests:
                        return
                    self.taken += 1
                    number = self.taken
                self.one(client, number)

    def one(self, client: httpx.Client, number: int) -> None:
        """One request, good or bad, and whether the answer is the one that is due."""
        draw = np.random.default_rng(number)
        image = picture(draw, self.channels, self.multiple)
        expected = {200, 429}
        fields: dict[str, Any] = {
            "operator": _OPERATORS[number % len(_OPERATORS)],
            "num_samples": str(1 + number % 3),
            "steps": "2",
            "seed": str(number % 2),
            "simulate": "true",
            "format": ("npz", "json", "png", "npy")[number % 4],
        }
        if number % _WRONG == 0:
            bad, data, status = _BAD[number // _WRONG % len(_BAD)]
            fields |= bad
            image, expected = data or image, {status}
        start = time.perf_counter()
        try:
            answer = client.post("/v1/sample", data=fields, files={"image": ("a.png", image)})
        except httpx.HTTPError as error:
            with self.lock:
                self.wrong.append(f"{number}: {error!r}")
            return
        with self.lock:
            self.seconds.append(time.perf_counter() - start)
            self.statuses[answer.status_code] += 1
            if answer.status_code not in expected:
                self.wrong.append(f"{number}: {answer.status_code} {answer.text[:200]}")
        if answer.status_code == 429:
            time.sleep(float(answer.headers["Retry-After"]))


def soak_service(engine: str, requests: int, clients: int) -> dict[str, Any]:
    """The figures of a service under these clients."""
    spec = le.load(engine, threads=1).spec
    command = [sys.executable, "-m", "latino_engine", "serve", engine, "--port", "0"]
    server = subprocess.Popen(
        [*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        soak = Soak(url, requests, spec.channels, max(16, spec.size_multiple))
        threads = [threading.Thread(target=soak.client) for _ in range(clients)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        memory, process = [], psutil.Process(server.pid)
        while any(thread.is_alive() for thread in threads):
            if len(soak.seconds) >= len(memory) * max(1, requests // _CHECKS):
                memory.append({"requests": len(soak.seconds), "bytes": process.memory_info().rss})
            time.sleep(0.05)
        total = time.perf_counter() - begun
    finally:
        server.terminate()
        server.wait(60)
    p50, p99 = np.percentile(soak.seconds, [50, 99])
    return {
        "requests": requests,
        "clients": clients,
        "seconds": total,
        "statuses": dict(sorted(soak.statuses.items())),
        "not_the_clients_fault": soak.wrong,
        "latency_ms": {"p50": 1e3 * p50, "p99": 1e3 * p99},
        "memory": memory,
    }


def soak_samples(engine: str, samples: int) -> dict[str, Any]:
    """The memory of one process that draws so many samples."""
    loaded = le.load(engine, threads=1)
    spec, process = loaded.spec, psutil.Process()
    side = max(16, spec.size_multiple)
    op = le.Blur.gaussian(1.0, 0.05, size=5)
    y = torch.rand(1, spec.channels, side, side)
    done, memory, each = 0, [], 64
    while done < samples:
        count = min(each, samples - done)
        loaded.sample(y, op, count, seed=done, steps=2, sampler="latino", keep_samples=False)
        done += count
        if done >= len(memory) * max(1, samples // _CHECKS):
            memory.append({"samples": done, "bytes": process.memory_info().rss})
    return {"samples": done, "side": side, "memory": memory}


def main() -> None:
    """Both, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", help="folder of an engine")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1_000_000)
    asked = parser.parse_args()
    found = {}
    if asked.requests:
        found["service"] = soak_service(asked.engine, asked.requests, asked.clients)
    if asked.samples:
        found["samples"] = soak_samples(asked.engine, asked.samples)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
