"""A, A_adjoint and prox of this package beside deepinv's, and beside the least they could take.

    .venv-peers/bin/python -m benchmarks.floors.operators --threads 2 -o operator_floor.csv

All columns of a row are timed in turn in one loop; results are compared before. The floor of an
operator that transforms is torch.fft's own transforms alone, of one that does not a copy of the
image: `transforms` says which and how many.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latino_engine.atomic import atomic_file
from latino_engine.bench.timer import quantile, time_in_turn
from latino_engine.operators import MRI, Blur, Inpainting, SuperResolution
from latino_engine.system.machine import commit, machine_facts

GAMMA, NOISE_STD, BOUND = 3.0, 0.02, 2e-5
FIELDS = (
    "operator", "method", "shape", "threads", "ours_ms", "deepinv_ms", "floor_ms",
    "deepinv_over_ours", "ours_over_floor", "floor", "relative_error", "commit", "cpu",
)  # fmt: skip


def operators(side: int) -> list[tuple[str, Any, int]]:
    """(name, operator, channels of its image)."""
    mask = (torch.rand(side, side, generator=torch.Generator().manual_seed(3)) < 0.5).float()
    return [
        ("Blur", Blur.gaussian(1.6, NOISE_STD, size=13), 3),
        ("SuperResolution", SuperResolution(4, NOISE_STD), 3),
        ("Inpainting", Inpainting(mask, NOISE_STD), 3),
        ("MRI", MRI(mask, NOISE_STD), 2),
    ]


def floor_of(name: str, method: str, x: Tensor, y: Tensor) -> tuple[str, Callable[[], object]]:
    """What the call can't do without, in torch: its transforms, or one pass over the image."""
    if name == "Inpainting":
        return "copy", x.clone
    if name == "MRI":
        image = torch.complex(x[:, 0], x[:, 1])
        if method == "prox":
            return "fft2, ifft2", lambda: torch.fft.ifft2(torch.fft.fft2(image))
        return "fft2", lambda: torch.fft.fft2(image)
    size = x.shape[-2:]

    def there_and_back() -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x), s=size)

    if name == "Blur" and method != "prox":
        return "rfft2, irfft2", there_and_back
    if name == "Blur":
        return "rfft2 of v and y, irfft2", lambda: (torch.fft.rfft2(y), there_and_back())
    if method == "A":
        return "rfft2, irfft2", there_and_back
    spectrum = torch.fft.rfft2(x)

    def from_small() -> object:
        return torch.fft.rfft2(y), torch.fft.irfft2(spectrum, s=size)

    if method == "A_adjoint":
        return "rfft2 of y, irfft2", from_small
    return "rfft2 of v and y, irfft2", lambda: (torch.fft.rfft2(y), there_and_back())


def measure(side: int, batch: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each operator and method."""
    from benchmarks.peers.physics import make_physics

    torch.set_num_threads(threads)
    about = {"commit": commit(), "cpu": machine_facts()["processor"]}
    rows = []
    for name, op, channels in operators(side):
        physics = make_physics(op, (channels, side, side))
        x, v = torch.rand(2, batch, channels, side, side).unbind(0)
        y = op.A(x)
        calls: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "A": (partial(op.A, x), partial(physics.A, x)),
            "A_adjoint": (partial(op.A_adjoint, y), partial(physics.A_adjoint, y)),
            "prox": (partial(op.prox, v, y, GAMMA), partial(physics.prox_l2, v, y, GAMMA)),
        }
        for method, (ours, peer) in calls.items():
            with torch.no_grad():
                expected = peer().double()
                error = float((ours().double() - expected).norm() / expected.norm())
                if not error <= BOUND:
                    raise SystemExit(f"{name}.{method}: relative error {error:.2g}, not timed")
                floor, alone = floor_of(name, method, x, y)
                runs = {"ours": ours, "deepinv": peer, "floor": alone}
                ms = {
                    n: quantile(t, 0.5) for n, t in time_in_turn(runs, repeats, warmup=20).items()
                }
            rows.append(
                {
                    "operator": name,
                    "method": method,
                    "shape": "x".join(map(str, x.shape)),
                    "threads": threads,
                    **{f"{n}_ms": round(t, 4) for n, t in ms.items()},
                    "deepinv_over_ours": round(ms["deepinv"] / ms["ours"], 2),
                    "ours_over_floor": round(ms["ours"] / ms["floor"], 2),
                    "floor": floor,
                    "relative_error": f"{error:.2g}",
                    **about,
                }
            )
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("-o", "--output", type=Path, default=None, help="CSV to write")
    given = parser.parse_args()
    rows = measure(given.side, given.batch, given.threads, given.repeats)
    for row in rows:
        print(
            f"{row['operator'] + '.' + row['method']:26}"
            + "".join(f"{k} {row[k + '_ms']:8.3f}  " for k in ("ours", "deepinv", "floor"))
            + f"deepinv/ours {row['deepinv_over_ours']:5.2f}  ours/floor"
            f" {row['ours_over_floor']:5.2f}"
        )
    if given.output is not None:
        with atomic_file(given.output) as file:
            text = csv.DictWriter(_Text(file), FIELDS, lineterminator="\n")
            text.writeheader()
            text.writerows(rows)


class _Text:
    """A binary file as csv wants it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return int(self._file.write(text.encode()))


if __name__ == "__main__":
    main()
